"""The second opinion: a whole cluster's journal, read again without the nodes and held against the rules.

Imports neither node nor router: a mistake there would otherwise be repeated here. Writes nothing. It may run beside the
cluster; it then judges, of every shard, what was there when it came to it.
"""

import asyncio
from collections.abc import Collection
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.attach import Cluster, Expectation, attach
from cluster.config import JournalKind
from cluster.kv import Get, prefix_end
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.tls import TlsIdentity
from cluster.types import ShardId
from ops.audit import Audit, AuditedCampaign, Kind, Violation
from ops.etcd import is_healthy
from ops.etcd_client import etcd_client
from ops.etcd_members import etcd_members
from ops.layout import data_dir_lock, etcd_tls, journal_dir, load_layout, operator
from ops.reread import Unreadable
from ops.reread_etcd import etcd_entries
from ops.reread_file import file_entries, shard_directories
from ops.times import from_us


class NothingToVerify(Exception):
    """There is no journal where it was said to be."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a cluster's journal is."""

    etcd_endpoints: tuple[str, ...]
    key_prefix: str = "seonchak/"
    journal_dir: Path | None = None
    """Root of the `file` journal; unused where the journal is in etcd."""
    tls: TlsIdentity | None = None


@dataclass(frozen=True, slots=True)
class Report:
    cluster_id: str
    journal: str
    shards: int
    entries: int
    coupons: int
    campaigns: tuple[AuditedCampaign, ...]
    violations: tuple[Violation, ...]
    violations_left_out: int
    """More were found than are kept."""

    @property
    def ok(self) -> bool:
        return not self.violations

    def campaign(self, campaign_id: str) -> AuditedCampaign | None:
        return next((campaign for campaign in self.campaigns if campaign.campaign_id == campaign_id), None)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "cluster_id": self.cluster_id,
            "journal": self.journal,
            "shards": self.shards,
            "entries": self.entries,
            "coupons": self.coupons,
            "campaigns": [_campaign_json(campaign) for campaign in self.campaigns],
            "violations": [asdict(violation) for violation in self.violations],
            "violations_left_out": self.violations_left_out,
        }


def _campaign_json(campaign: AuditedCampaign) -> dict[str, Any]:
    first_grant = from_us(campaign.first_grant_us).isoformat() if campaign.first_grant_us else None
    return {
        "campaign_id": campaign.campaign_id,
        "name": campaign.name,
        "shard": campaign.shard,
        "state": campaign.state,
        "total": campaign.total,
        "issued": campaign.issued,
        "users": len(campaign.user_counts),
        "per_user_limit": campaign.per_user_limit,
        "first_grant_time": first_grant,
    }


async def verify(source: Source, collect: Collection[str] = ()) -> Report:
    """Read and judge everything. A shard that cannot be read is a violation, and the others are judged.

    Args:
        collect: the campaigns whose coupons the report keeps.

    Raises:
        NothingToVerify: a `file` journal, and no directory to read it from.
        ConfigMismatch: etcd holds no cluster. TimeoutError: etcd does not answer.
    """
    keys = Keyspace(source.key_prefix)
    async with etcd_client(source.etcd_endpoints, source.tls) as etcd:
        cluster = await attach(etcd, keys, Expectation())
        config = cluster.config
        audit = Audit(config.shards, cluster.codec, collect)
        if config.journal == "etcd":
            await _audit_etcd(audit, etcd, keys, cluster)
        elif source.journal_dir is None:
            raise NothingToVerify("the cluster's journal is in files: say where, with --data-dir or --journal-dir")
        else:
            await _audit_files(audit, source.journal_dir, config.shards)
    return report_of(audit, config.cluster_id, config.journal)


def report_of(audit: Audit, cluster_id: str, journal: JournalKind) -> Report:
    """What an audit that has seen everything has come to."""
    return Report(
        cluster_id,
        journal,
        audit.shards,
        audit.entries,
        audit.coupons,
        tuple(audit.campaigns.values()),
        tuple(audit.violations),
        audit.violations_left_out,
    )


async def _audit_etcd(audit: Audit, etcd: EtcdClient, keys: Keyspace, cluster: Cluster) -> None:
    shards = cluster.config.shards
    for shard in map(ShardId, range(shards)):
        try:
            async with aclosing(etcd_entries(etcd, keys, shard, cluster.incarnation)) as entries:
                async for place, entry in entries:
                    audit.entry(shard, place, entry)
        except Unreadable as unreadable:
            audit.violated(Kind.UNREADABLE, unreadable.place, unreadable.what)
    beyond = keys.journal(ShardId(shards))
    strays = await etcd.get(Get(beyond, prefix_end(keys.journals), limit=1, keys_only=True))
    for kv in strays.kvs:
        audit.violated(Kind.UNREADABLE, kv.key, f"the cluster has {shards} shards")


async def _audit_files(audit: Audit, root: Path, shards: int) -> None:
    for shard in shard_directories(root):
        if shard >= shards:
            audit.violated(Kind.UNREADABLE, str(root / f"shard-{shard:04}"), f"the cluster has {shards} shards")
            continue
        try:
            for placed in file_entries(root, shard):
                audit.entry(shard, *placed)
        except Unreadable as unreadable:
            audit.violated(Kind.UNREADABLE, unreadable.place, unreadable.what)
        await asyncio.sleep(0)  # the callers' other tasks go on between two shards


async def verify_data_dir(data_dir: Path, collect: Collection[str] = ()) -> Report:
    """The cluster of a data directory, whether it runs or not: etcd's members are started for it if need be.

    Raises:
        LayoutMismatch: there is no cluster. Otherwise as `verify`.
        TlsUnusable: it has TLS, and no operator's certificate.
        DataDirInUse, EtcdNotFound, ChildFailed: etcd does not run and could not be started.
    """
    layout = load_layout(data_dir)
    source = Source(layout.etcd_endpoints, journal_dir=journal_dir(data_dir), tls=operator(layout, data_dir))
    if await is_healthy(layout.etcd_endpoints[0], etcd_tls(layout, data_dir)):
        return await verify(source, collect)
    with data_dir_lock(data_dir):
        async with etcd_members(layout, data_dir):
            return await verify(source, collect)
