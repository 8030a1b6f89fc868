"""Putting a backup into an empty etcd and, for a `file` journal, an empty directory: a cluster that goes on from there.

The entries go first, and the cluster's configuration last, in one Txn, with a raised incarnation and a code key of the
next generation: before that there is no cluster that any process could join.
"""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.codes import GENERATIONS_MAX, KEY_BYTES
from cluster.keys import KeyRecord
from cluster.kv import EtcdUnavailable, Get, ModRevisionIs, Put, Txn, prefix_end
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Revision, ShardId
from ops.backup_format import Backup, Counts, Manifest, sync_directory
from ops.certs import make_certs
from ops.etcd_client import etcd_client
from ops.etcd_members import etcd_members
from ops.layout import certs_dir, data_dir_lock, journal_dir, operator, plan_layout
from ops.ports import ReservedPorts
from ops.verify import Report, Source, verify

TXN_ENTRIES_MAX = 100
TXN_BYTES_MAX = 1 << 20
"""etcd takes 128 operations and 1.5 MiB."""
ATTEMPTS_MAX = 30
"""Of a Txn that is not answered: some 10 s of an etcd that is away."""
_API_KEYS = Keyspace("").api_keys
"""As a backup names them: without the cluster's prefix."""


class NotEmpty(Exception):
    """There is something where the cluster is to be restored. Nothing was written."""


class NoGenerationLeft(Exception):
    """Codes of this cluster have been through all generations, or through the one that was asked for."""


class RestoreFailed(Exception):
    """What was restored is not whole: begin again, with an empty etcd."""


@dataclass(frozen=True, slots=True)
class Restored:
    manifest: Manifest
    cluster_incarnation: int
    code_generation: int
    report: Report
    api_keys: dict[str, KeyRecord]
    """Of the backup, by id."""


async def restore(
    backup: Backup, target: Source, *, generation: int | None = None, with_keys: bool = False
) -> Restored:
    """Returns when the restored cluster has been read again and judged. Processes may be started then.

    Args:
        backup: checked here, before anything is written.
        generation: of the codes from now on. None: the one after the backup's.
        with_keys: API keys too, with those that have been revoked since: nothing in the backup says which.

    Raises:
        BackupDamaged, NotEmpty, NoGenerationLeft: nothing was written.
        RestoreFailed, EtcdRefused, EtcdUnavailable: begin again, with an empty etcd and directory.
    """
    backup.check()
    manifest = backup.manifest
    keys = Keyspace(target.key_prefix)
    next_generation = _generation(manifest, generation)
    incarnation = _incarnation(manifest)
    async with etcd_client(target.etcd_endpoints, target.tls) as etcd:
        await _require_empty(etcd, keys, target, manifest)
        if manifest.journal == "file":
            assert target.journal_dir is not None, "required to be there, and empty"
            _restore_segments(backup, target.journal_dir)
        else:
            for shard in map(ShardId, range(manifest.shards)):
                await _restore_entries(etcd, keys, shard, backup)
        kept = backup.keys()
        api_keys = {key: value for key, value in kept.items() if key.startswith(_API_KEYS)}
        if not with_keys:
            kept = {key: value for key, value in kept.items() if key not in api_keys}
        values = kept | {
            "cluster/incarnation": str(incarnation).encode(),
            f"cluster/code-keys/{next_generation}": secrets.token_bytes(KEY_BYTES).hex().encode(),
        }
        await _write_once(etcd, {keys.prefix + key: value for key, value in values.items()})
    report = await verify(target)
    found = Counts(entries=report.entries, campaigns=len(report.campaigns), coupons=report.coupons)
    if found != manifest.counts:
        raise RestoreFailed(f"restored {found}, the backup says {manifest.counts}")
    known = {key.removeprefix(_API_KEYS): KeyRecord.decode(value) for key, value in api_keys.items()}
    return Restored(manifest, incarnation, next_generation, report, known)


async def restore_data_dir(
    backup: Backup,
    data_dir: Path,
    *,
    etcd_members_count: int = 1,
    tls: bool = False,
    generation: int | None = None,
    with_keys: bool = False,
) -> Restored:
    """Into a data directory of `seonchak up`, which must not exist or be empty; `up` continues it.

    Args:
        tls: with a development CA and certificates of its own.

    Raises:
        As `restore`. EtcdNotFound, ChildFailed: etcd could not be started.
    """
    _require_empty_directory(data_dir)
    backup.check()
    manifest = backup.manifest
    (data_dir / "logs").mkdir(parents=True)
    with data_dir_lock(data_dir), ReservedPorts() as ports:
        layout = plan_layout(
            data_dir,
            journal=manifest.journal,
            shards=manifest.shards,
            nodes=3,
            routers=1,
            etcd_members=etcd_members_count,
            port=0,
            ports=ports,
            tls=tls,
        )
        if tls:
            make_certs(certs_dir(data_dir))
        async with etcd_members(layout, data_dir):
            source = Source(layout.etcd_endpoints, journal_dir=journal_dir(data_dir), tls=operator(layout, data_dir))
            restored = await restore(backup, source, generation=generation, with_keys=with_keys)
        layout.save(data_dir)
    return restored


def _generation(manifest: Manifest, asked: int | None) -> int:
    """Counters may repeat after what is lost, so codes need a generation in which no counter was used."""
    least = manifest.code_generation + 1
    generation = least if asked is None else asked
    if not least <= generation < GENERATIONS_MAX:
        what = f"code generation {generation}: it has to be {least} to {GENERATIONS_MAX - 1}"
        raise NoGenerationLeft(f"{what}, the backup's being {manifest.code_generation}")
    return generation


def _incarnation(manifest: Manifest) -> int:
    """Higher than any that a process of the lost cluster has seen, and than that of an earlier restore of the same
    backup: whoever still lives from either must find his epochs void, though etcd counts its revisions from 1 again."""
    return max(manifest.cluster_incarnation + 1, int(time.time()))


async def _require_empty(etcd: EtcdClient, keys: Keyspace, target: Source, manifest: Manifest) -> None:
    found = await etcd.get(Get(keys.prefix, prefix_end(keys.prefix), limit=1, keys_only=True))
    if found.kvs:
        raise NotEmpty(f"etcd is not empty: {found.kvs[0].key}. Restore into a new one, and start nothing before")
    if manifest.journal == "etcd":
        return
    if target.journal_dir is None:
        raise NotEmpty("the backup's journal is in files: say where they go, with --journal-dir")
    _require_empty_directory(target.journal_dir)


def _require_empty_directory(path: Path) -> None:
    if path.exists() and any(path.iterdir()):
        raise NotEmpty(f"{path} is not empty")


def _restore_segments(backup: Backup, root: Path) -> None:
    """Files, and every directory that names them, durable."""
    root.mkdir(parents=True, exist_ok=True)
    for segment in backup.segments():
        directory = root / segment.parent.name
        directory.mkdir(exist_ok=True)
        with segment.open("rb") as source, (directory / segment.name).open("xb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        sync_directory(directory)
    sync_directory(root)
    sync_directory(root.parent)


async def _restore_entries(etcd: EtcdClient, keys: Keyspace, shard: ShardId, backup: Backup) -> None:
    for entries in _batches(backup.entries(shard)):
        await _write_once(etcd, {keys.entry(shard, position): entry for position, entry in entries.items()})


def _batches(entries: Iterator[bytes]) -> Iterator[dict[int, bytes]]:
    """By position, as many as one Txn takes."""
    batch: dict[int, bytes] = {}
    room = TXN_BYTES_MAX
    for position, entry in enumerate(entries):
        if batch and (len(entry) > room or len(batch) == TXN_ENTRIES_MAX):
            yield batch
            batch, room = {}, TXN_BYTES_MAX
        batch[position] = entry
        room -= len(entry)
    if batch:
        yield batch


async def _write_once(etcd: EtcdClient, values: Mapping[str, bytes]) -> None:
    """All of them, none of which may be there. Repeated until it is known to have been done.

    Raises:
        RestoreFailed: somebody else writes there.
    """
    absent = tuple(ModRevisionIs(key, Revision(0)) for key in values)
    first = next(iter(values))
    txn = Txn(absent, tuple(Put(key, value) for key, value in values.items()), (Get(first),))
    sent = 0
    while True:
        try:
            result = await etcd.txn(txn)
        except EtcdUnavailable:
            sent += 1
            if sent == ATTEMPTS_MAX:
                raise
            await asyncio.sleep(etcd.endpoints.pause_s(sent))
            continue
        there = result.ranges[0][0].value if not result.succeeded and result.ranges[0] else None
        if result.succeeded or (sent and there == values[first]):
            return
        raise RestoreFailed(f"{first} or a key after it was written by somebody else meanwhile")
