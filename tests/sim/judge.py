"""What is looked at when a run is over: the journal, read twice (by the node's own code, and by the second reader), and
held against all that anybody was told."""

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chaos.checker import check
from chaos.history import Call, History
from chaos.journal import Journal
from cluster.kv import Get, prefix_end
from cluster.session import EtcdClient
from cluster.types import Epoch, Revision, ShardId
from node.entries import MalformedEntry
from node.events import LedgerViolation
from node.journal.base import CorruptJournal
from node.journal.file import FileJournal
from node.ledger import Ledger
from node.replay import Replayer
from ops.audit import Audit, Kind
from ops.reread import Unreadable
from ops.reread_etcd import etcd_entries
from ops.reread_file import file_entries
from tests.fakes.disk import BASE
from tests.sim.processes import ETCD_ENDPOINTS, KEYS

if TYPE_CHECKING:
    from tests.sim.world import World

LAST_EPOCH = Epoch(1_000_000, Revision(1))


async def judge(world: "World", calls: list[Call], reads: list[Call]) -> None:
    """Call when every process has ended. Tells the world of every violation."""
    audit = await _reread(world, sorted({call.campaign_id for call in calls if call.campaign_id}))
    await _replay(world, audit)
    journal = Journal.of_audit(audit.campaigns.values(), audit.violations)
    verdict = check(History(tuple(calls)), journal, reads)
    for violation in verdict.violations:
        world.violated(f"{violation.kind}: {violation.campaign_id}: {violation.what}")
        for line in violation.proof:
            world.note("proof", line=line)
    world.totals["coupons"] += audit.coupons
    world.totals["entries"] += audit.entries


async def _reread(world: "World", campaign_ids: list[str]) -> Audit:
    """By the reader that shares nothing with the nodes."""
    from tests.sim.world import CODEC

    audit = Audit(world.shape.shards, CODEC, campaign_ids)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        if world.shape.kind == "file":
            _unload(world, root)
        etcd = EtcdClient(ETCD_ENDPOINTS, partial(world.etcd.connect, client="judge"), rng=world.rng)
        for shard in map(ShardId, range(world.shape.shards)):
            try:
                if world.shape.kind == "file":
                    for place, entry in file_entries(root / "journal", shard):
                        audit.entry(shard, place.removeprefix(directory), entry)
                else:
                    async for place, entry in etcd_entries(etcd, KEYS, shard, world.cluster_incarnation):
                        audit.entry(shard, place, entry)
            except Unreadable as unreadable:
                audit.violated(Kind.UNREADABLE, unreadable.place.removeprefix(directory), unreadable.what)
    return audit


def _unload(world: "World", root: Path) -> None:
    for path, content in world.disk.files().items():
        file = root / path.relative_to(BASE)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


async def _replay(world: "World", audit: Audit) -> None:
    """By the node's own code, as the next owner would."""
    from tests.sim.world import CODEC

    world.disk.intercept = None
    for shard in map(ShardId, range(world.shape.shards)):
        entries: list[bytes] = []
        ledger = Ledger(shard, CODEC)
        replayer = Replayer(ledger)
        try:
            if world.shape.kind == "etcd":
                prefix = KEYS.journal(shard)
                entries += [kv.value for kv in world.etcd.store.get(Get(prefix, prefix_end(prefix))).kvs]
            else:
                journal = FileJournal(BASE / "journal", world.disk.seen_by("judge"))
                await (await journal.open(shard, LAST_EPOCH, entries.append)).close()
            for entry in entries:
                replayer.feed(entry)
            ledger.check_invariants()
        except (CorruptJournal, MalformedEntry, LedgerViolation) as error:
            world.violated(f"shard {shard}: {type(error).__name__}: {error}")
            continue
        world.journals.holds(shard, entries, "at the end")
        for campaign in (found for found in audit.campaigns.values() if found.shard == shard):
            replayed = ledger.campaign(campaign.campaign_id)
            both = (campaign.total, campaign.issued)
            if replayed is None or (replayed.total, replayed.issued) != both:
                world.violated(f"{campaign.campaign_id}: re-read {both}, replayed {replayed}")
