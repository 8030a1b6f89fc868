"""Taking a backup of a cluster, while it runs or not: its keys in etcd and its journal, into a directory of its own.

Reads as `seonchak verify` does, without the nodes and without their code, and changes nothing. Of every shard it has
all that had been acknowledged when it began.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.attach import Expectation, attach
from cluster.codes import CodeCodec
from cluster.config import ClusterConfig
from cluster.kv import Get, Txn, prefix_end
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Revision, ShardId
from ops.audit import Audit, Kind, Violation
from ops.backup_format import (
    CLUSTER,
    FORMAT_VERSION,
    JOURNAL,
    Backup,
    BackupWriter,
    Counts,
    Manifest,
    encode_keys,
    entries_name,
    read_entries,
    read_keys,
)
from ops.etcd import is_healthy
from ops.etcd_client import etcd_client
from ops.etcd_members import etcd_members
from ops.layout import data_dir_lock, etcd_tls, journal_dir, load_layout, operator
from ops.reread import Unreadable
from ops.reread_etcd import etcd_journal
from ops.reread_file import counted_segments, shard_directories
from ops.verify import NothingToVerify, Source


class BadJournal(Exception):
    """The journal that was copied breaks rules; `violations` says which. There is no backup."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        first = violations[0]
        super().__init__(f"{len(violations)} violations; {first.place}: {first.kind.value}: {first.what}")
        self.violations = violations


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """What stood in etcd at one revision besides journal, nodes and owners."""

    values: dict[str, bytes]
    """By the key without the cluster's prefix."""
    revision: Revision


async def take_backup(source: Source, target: Path, *, audit: bool) -> Manifest:
    """
    Args:
        target: must not exist, or be empty.
        audit: judge what was copied by every rule of `seonchak verify`, and leave nothing if it breaks one.

    Raises:
        BackupExists, BadJournal: nothing was written, or nothing is left of it.
        Unreadable: the journal is corrupt at that place.
        NothingToVerify: a `file` journal, and no directory to read it from.
        ConfigMismatch: etcd holds no cluster. TimeoutError: etcd does not answer.
    """
    keys = Keyspace(source.key_prefix)
    began = datetime.now(UTC)
    async with etcd_client(source.etcd_endpoints, source.tls) as etcd:
        await attach(etcd, keys, Expectation())
        found = await read_cluster_keys(etcd, keys)
        config = ClusterConfig.decode(found.values["cluster/config"])
        if config.journal == "file" and source.journal_dir is None:
            raise NothingToVerify("the cluster's journal is in files: say where, with --data-dir or --journal-dir")
        writer = BackupWriter(target)
        try:
            writer.write(CLUSTER, [encode_keys(found.values)])
            if source.journal_dir is not None and config.journal == "file":
                await _copy_segments(source.journal_dir, config.shards, writer)
            else:
                await _copy_entries(etcd, keys, config.shards, found.revision, writer)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                cluster_id=config.cluster_id,
                journal=config.journal,
                shards=config.shards,
                cluster_incarnation=int(found.values["cluster/incarnation"]),
                code_generation=max(code_keys(found.values)),
                revision=found.revision,
                time=began,
                counts=_counts(writer.root, config, audit=audit),
                files={},
            )
            return writer.finish(manifest)
        finally:
            writer.abandon()


async def back_up_data_dir(data_dir: Path, target: Path, *, audit: bool) -> Manifest:
    """The cluster of a data directory, whether it runs or not.

    Raises:
        LayoutMismatch: there is no cluster. Otherwise as `take_backup`.
        DataDirInUse, EtcdNotFound, ChildFailed: etcd does not run and could not be started.
    """
    layout = load_layout(data_dir)
    source = Source(layout.etcd_endpoints, journal_dir=journal_dir(data_dir), tls=operator(layout, data_dir))
    if await is_healthy(layout.etcd_endpoints[0], etcd_tls(layout, data_dir)):
        return await take_backup(source, target, audit=audit)
    with data_dir_lock(data_dir):
        async with etcd_members(layout, data_dir):
            return await take_backup(source, target, audit=audit)


def audited(backup: Backup) -> Audit:
    """Every entry of a backup, judged."""
    config = ClusterConfig.decode(backup.keys()["cluster/config"])
    return _audit(backup.root, config)


async def read_cluster_keys(etcd: EtcdClient, keys: Keyspace) -> ClusterKeys:
    """All at one revision. Keys under a lease are nobody's configuration."""
    everything = prefix_end(keys.prefix)
    beside = (
        Get(keys.prefix, keys.journals),
        Get(prefix_end(keys.journals), keys.nodes),
        Get(keys.topology[1], everything),
    )
    read = await etcd.read(Txn((), beside))
    values = {kv.key.removeprefix(keys.prefix): kv.value for kvs in read.ranges for kv in kvs if not kv.lease_id}
    return ClusterKeys(values, read.revision)


def code_keys(values: dict[str, bytes]) -> dict[int, bytes]:
    """By generation."""
    prefix = "cluster/code-keys/"
    return {
        int(key.removeprefix(prefix)): bytes.fromhex(value.decode())
        for key, value in values.items()
        if key.startswith(prefix)
    }


async def _copy_entries(
    etcd: EtcdClient, keys: Keyspace, shards: int, revision: Revision, writer: BackupWriter
) -> None:
    """What stood at `revision`. An entry is written once and stays, so it is what stands now less what came later: no
    compaction gets in the way."""
    for shard in map(ShardId, range(shards)):
        with writer.open(entries_name(shard)) as file:
            async with aclosing(etcd_journal(etcd, keys, shard)) as kvs:
                async for kv in kvs:
                    if kv.mod_revision > revision:
                        break
                    file.append_entry(kv.value)


async def _copy_segments(root: Path, shards: int, writer: BackupWriter) -> None:
    for shard in shard_directories(root):
        if shard >= shards:
            raise Unreadable(str(root / f"shard-{shard:04}"), f"the cluster has {shards} shards")
        for name, data in counted_segments(root, shard):
            writer.write(f"{JOURNAL}/shard-{shard:04}/{name}", [data])
        await asyncio.sleep(0)  # the session with etcd goes on between two shards


def _counts(root: Path, config: ClusterConfig, *, audit: bool) -> Counts:
    """Of what was written, read again. Raises Unreadable, BadJournal."""
    if audit:
        judged = _audit(root, config)
        if judged.violations:
            raise BadJournal(tuple(judged.violations))
        return Counts(entries=judged.entries, campaigns=len(judged.campaigns), coupons=judged.coupons)
    entries = campaigns = coupons = 0
    for shard in range(config.shards):
        for _, entry in read_entries(root, config.journal, shard):
            entries += 1
            for event in entry.events:
                campaigns += event.HasField("created")
                coupons += len(event.granted.codes)
    return Counts(entries=entries, campaigns=campaigns, coupons=coupons)


def _audit(root: Path, config: ClusterConfig) -> Audit:
    audit = Audit(config.shards, CodeCodec(code_keys(read_keys(root))))
    for shard in range(config.shards):
        try:
            for place, entry in read_entries(root, config.journal, shard):
                audit.entry(shard, place, entry)
        except Unreadable as unreadable:
            audit.violated(Kind.UNREADABLE, unreadable.place, unreadable.what)
    return audit
