"""Nodes die or freeze in the middle of issuing, and the campaign is exact."""

import asyncio
from pathlib import Path

import pytest

from cluster.config import JournalKind
from ops.load import LoadSpec
from ops.load_stats import ISSUED
from proto import coupon_pb2
from tests.cluster.support import run, running

pytestmark = pytest.mark.cluster

JOURNALS: list[JournalKind] = ["file", "etcd"]


@pytest.mark.parametrize("journal", JOURNALS)
def test_killing_the_owner_under_load_loses_and_doubles_nothing(tmp_path: Path, journal: JournalKind) -> None:
    """kill -9 of the owner in the middle of a load: issued = total, every acknowledged code is in the journal, no code
    or user twice, and no call fails, because the routers bring it to the successor."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 2_000)
            before = await cluster.owner("launch")
            load = asyncio.create_task(
                cluster.load(LoadSpec("", "launch", requests=3_000, concurrency=50, timeout_s=15.0))
            )
            await cluster.granted(400)
            await cluster.processes.kill_node(before.node)
            after = await cluster.next_owner("launch", before)
            assert after.revision > before.revision
            result = await load
            assert result.outcomes.keys() <= {ISSUED, "SOLD_OUT", "ALREADY_ISSUED"}, result.outcomes
            assert result.outcomes["SOLD_OUT"] == 1_000
            granted_after = [call for call in cluster.calls if call.reason == ISSUED][400:]
            assert len(granted_after) > 500, "the kill came too late to prove anything"
            await cluster.check_exact("launch", 2_000)

    run(main)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_successor_has_read_along(tmp_path: Path, journal: JournalKind) -> None:
    """kill -9 of an owner of coupons: the successor opens the journal with most of it read before, and `status` has
    said who that would be."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 1_000)
            await cluster.load(LoadSpec("", "launch", requests=600, concurrency=5))
            before = await cluster.owner("launch")
            shard = cluster.shard("launch")
            standby = await cluster.standby("launch", lag_max=1)
            assert standby != before.node
            await cluster.processes.kill_node(before.node)
            after = await cluster.next_owner("launch", before)
            assert after.node == standby
            assert (await cluster.issue("launch", "late")).coupon.sequence == 601
            # It may have owned the shard before, while the cluster started.
            *_, opened = (line for line in cluster.logged(after.node, "shard_opened") if line["shard"] == shard)
            assert opened["coupons"] == 600
            assert opened["read_before"] >= opened["entries"] - 1 > 50

    run(main)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_stale_owner_in_the_middle_of_a_load_is_fenced(tmp_path: Path, journal: JournalKind) -> None:
    """SIGSTOP in the middle of issuing, a successor serves, SIGCONT: the sleeper's unfinished round is not doubled."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 1_500)
            before = await cluster.owner("launch")
            load = asyncio.create_task(
                cluster.load(LoadSpec("", "launch", requests=2_000, concurrency=50, timeout_s=20.0))
            )
            await cluster.granted(300)
            cluster.processes.freeze_node(before.node)
            await cluster.next_owner("launch", before)
            await cluster.granted(600)
            cluster.processes.thaw_node(before.node)
            result = await load
            assert result.outcomes.keys() <= {ISSUED, "SOLD_OUT", "ALREADY_ISSUED"}, result.outcomes
            await cluster.check_exact("launch", 1_500)

    run(main)


@pytest.mark.parametrize("journal", JOURNALS)
def test_sigterm_fails_no_call(tmp_path: Path, journal: JournalKind) -> None:
    """A node that is told to stop hands its shards over and exits with 0; no call fails because of it."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 1_000)
            before = await cluster.owner("launch")
            load = asyncio.create_task(
                cluster.load(LoadSpec("", "launch", requests=1_500, concurrency=30, timeout_s=10.0))
            )
            await cluster.granted(200)
            assert await cluster.processes.stop_node(before.node) == 0
            after = await cluster.owner("launch")
            assert after.node != before.node
            result = await load
            assert result.outcomes == {ISSUED: 1_000, "SOLD_OUT": 500}
            await cluster.processes.start_node(before.node)
            await cluster.next_owner("launch", after)  # it is its first choice again: it pulls the shard back
            await cluster.check_exact("launch", 1_000)

    run(main)


@pytest.mark.parametrize("journal", JOURNALS)
def test_everything_dies_at_once_and_comes_back(tmp_path: Path, journal: JournalKind) -> None:
    """kill -9 of all nodes and etcd in the middle of a load: after a restart on the same data directory every
    acknowledged coupon is there, and issuing goes on to exactly the total."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 1_000)
            load = asyncio.create_task(
                cluster.load(LoadSpec("", "launch", requests=1_000, concurrency=30, timeout_s=2.0))
            )
            await cluster.granted(300)
            for child in [*cluster.processes.nodes, *cluster.processes.etcds, *cluster.processes.routers]:
                await child.kill()
            await load
            calls = cluster.calls
        async with running(tmp_path, journal) as cluster:
            cluster.calls += calls
            campaign, coupons = await cluster.read("launch")
            there = {coupon.user_id: coupon.code for coupon in coupons}
            told = {call.user_id: call.grant.code for call in calls if call.grant is not None}
            assert len(told) >= 300
            assert told.items() <= there.items()
            assert campaign.state == coupon_pb2.Campaign.ACTIVE
            await cluster.load(LoadSpec("", "launch", requests=1_200, concurrency=30))
            await cluster.check_exact("launch", 1_000)

    run(main)
