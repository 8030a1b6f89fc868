"""What a node counts, and what it says of itself: held against what its callers heard and what it holds."""

import asyncio

import pytest

from cluster.clock import SystemClock
from cluster.config import JournalKind
from cluster.metrics import CAMPAIGNS_MAX
from cluster.placement import preference
from cluster.types import NodeId, ShardId
from node.calls import Outcome, Overloaded
from node.commands import CreateCampaign, IssueCoupon
from node.journal.base import AppendRefused, Fenced, OutcomeUnknown
from node.metrics import NodeMetrics
from node.view import NodeView
from tests.metrics.reading import said
from tests.node.process import Process
from tests.node.test_shard import SHARD, Bench
from tests.node.test_shard import run as run_shard
from tests.node.world import World, run, with_load

both_journals = pytest.mark.parametrize("kind", ["file", "etcd"])


def view_of(process: Process) -> dict[tuple[str, ...], float]:
    return said(NodeView(process.member, process.metrics, lease_ttl_s=3, shard_calls_max=1_000))


def test_every_decided_call_counts_once_and_rounds_are_measured() -> None:
    """By what it was answered; calls that waited for one append are one round."""

    async def main() -> None:
        metrics = NodeMetrics(SystemClock().wall_us)
        bench = Bench(observer=metrics)
        await bench.create(20)
        await bench.issue("ann")
        bench.journal.gated = True
        first = bench.issue("bob")
        await bench.turn()
        others = [bench.issue(user) for user in ("carl", "dora", "ann")]
        bench.journal.appending[0][1].set_result(None)
        await first
        await bench.turn()
        bench.journal.appending[0][1].set_result(None)
        await asyncio.gather(*others)
        bench.journal.gated = False
        await asyncio.gather(*(bench.issue(f"u{n}") for n in range(30)))
        found = said(metrics)
        assert found["node_calls_total", "IssueCoupon", "ISSUED"] == 20
        assert found["node_calls_total", "IssueCoupon", "ALREADY_ISSUED"] == 1
        assert found["node_calls_total", "IssueCoupon", "SOLD_OUT"] == 14
        assert found["node_calls_total", "CreateCampaign", "OK"] == 1
        assert found["node_call_duration_seconds_count",] == found["queue_wait_seconds_count",] == 36
        assert found["round_calls_count",] == found["journal_append_duration_seconds_count",] == 5
        assert found["round_calls_sum",] == 36
        assert found["journal_entry_bytes_sum",] == sum(map(len, bench.journal.entries))
        assert list(metrics.campaigns) == [(SHARD, "c")]
        await bench.end()

    run_shard(main)


@pytest.mark.parametrize(
    ("failure", "outcome", "put_off"),
    [
        (Fenced("x"), "fenced", "unknown"),
        (OutcomeUnknown("x"), "unknown", "unknown"),
        (AppendRefused("x"), "refused", "not_owner"),
        (None, "cancelled", "unknown"),
    ],
)
def test_a_failed_append_is_counted_by_what_is_known_of_it(
    failure: Exception | None, outcome: str, put_off: str
) -> None:
    """And no call of its round counts as decided. One that the shard's end has cut off is nobody's fault: None."""

    async def main() -> None:
        metrics = NodeMetrics(SystemClock().wall_us)
        bench = Bench(observer=metrics)
        await bench.create(5)
        bench.journal.gated = True
        heard = bench.issue("ann")
        await bench.turn()
        if failure is not None:
            bench.journal.appending[0][1].set_exception(failure)
        else:
            bench.running.cancel()
        await heard
        found = said(metrics)
        failures = {key[1]: found[key] for key in found if key[0] == "journal_append_failures_total"}
        assert failures == {"fenced": 0, "unknown": 0, "refused": 0, "cancelled": 0} | {outcome: 1}
        assert found["node_calls_not_decided_total", put_off] == 1
        assert found["journal_append_duration_seconds_count",] == 1
        assert ("node_calls_total", "IssueCoupon", "ISSUED") not in found or not found[
            "node_calls_total", "IssueCoupon", "ISSUED"
        ]
        await asyncio.wait([bench.running])

    run_shard(main)


def test_calls_that_came_too_late_and_into_a_full_line() -> None:
    """Neither is decided; each is counted for what it was."""

    async def main() -> None:
        metrics = NodeMetrics(SystemClock().wall_us)
        bench = Bench(observer=metrics, calls_max=1)
        assert await bench.send(IssueCoupon("c", "ann", ""), timeout_s=0) is Outcome.EXPIRED
        bench.issue("bob")
        with pytest.raises(Overloaded):
            bench.issue("eve")
        metrics.overloaded()  # as the server does
        await bench.end()
        found = said(metrics)
        assert found["node_calls_not_decided_total", "expired"] == 1
        assert found["node_calls_not_decided_total", "overloaded"] == 1

    run_shard(main)


@both_journals
def test_takeovers_are_counted_by_their_cause(kind: JournalKind) -> None:
    """At first nobody owns a shard; a process that is gone leaves them; a newcomer pulls; a living one hands over, to
    whom they belong or because it ends."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        assert sum(takeovers(p, "no_owner") for p in (a, b)) == world.shards
        lost = len([1 for owner, _ in world.owners().values() if owner.node_id == "b"])
        b.crash()
        await world.healthy()
        assert takeovers(a, "owner_gone") == lost
        (c,) = await world.started("c")
        pulled = takeovers(c, "pulled")
        assert pulled == len([1 for owner, _ in world.owners().values() if owner.node_id == "c"]) > 0
        await asyncio.sleep(1.0)
        found = said(a.metrics)
        assert found["handover_duration_seconds_count", "given", "placement"] == pulled
        assert found["handover_duration_seconds_count", "given", "drain"] == 0
        assert found["replay_duration_seconds_count",] == world.shards
        # Renewed every 0.5 s, a lease of 3 s has five sixths left.
        renewed = found["lease_left_at_renewal_ratio_count",]
        assert renewed == found["lease_left_at_renewal_ratio_bucket", "0.9"] > 0
        assert found["lease_left_at_renewal_ratio_bucket", "0.7"] == 0
        left = len([1 for owner, _ in world.owners().values() if owner.node_id == "a"])
        a.drain()
        await world.until(lambda: not a.runs, within_s=30)
        found = said(a.metrics)
        assert found["handover_duration_seconds_count", "given", "placement"] == pulled
        assert found["handover_duration_seconds_count", "given", "drain"] == left > 0

    run(main, lambda: World(kind, shards=16))


def takeovers(process: Process, cause: str) -> float:
    return said(process.metrics)["takeover_duration_seconds_count", cause]


@both_journals
def test_a_node_says_what_it_holds(kind: JournalKind) -> None:
    """Epochs as etcd has them, as many entries as the journal has, its standbys, and no shard twice."""

    async def main(world: World) -> None:
        processes, load = await with_load(world, "a", "b")
        await load.stop()
        await asyncio.sleep(3.0)  # virtual: standbys have read everything
        views = [view_of(process) for process in processes]
        epochs = {key[1]: view[key] for view in views for key in view if key[0] == "shard_epoch"}
        assert epochs == {str(shard): revision for shard, revision in world.epochs().items()}
        entries = {key[1]: view[key] for view in views for key in view if key[0] == "shard_entries"}
        assert entries == {str(shard): len(await world.entries(shard)) for shard in range(world.shards)}
        assert sum(view["shards", "serving"] for view in views) == world.shards
        assert sum(view["standby_shards",] for view in views) == world.shards
        assert {view["standby_shards_without_replica", why] for view in views for why in ("no_room", "lost")} == {0}
        behind = {key[1]: entries[key[1]] - view[key] for view in views for key in view if key[0] == "standby_entries"}
        assert set(behind) == set(entries)
        # Of a file the newest entry may be left for the next time.
        assert set(behind.values()) <= {0, 1}
        assert all(view["node_registered",] == 1 and view["lease_left_seconds",] > 1 for view in views)
        assert all(view["shards_without_owner",] == view["queue_calls",] == 0 for view in views)

    run(main)


def test_a_standby_says_for_how_many_shards_it_has_no_room() -> None:
    """As long as it is so."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        for process in (a, b):
            process.life.standby._coupons_max = 1
        for shard in range(world.shards):
            await world.create(world.campaign(shard), 5)
            for user in ("u1", "u2", "u3"):
                await world.issue(world.campaign(shard), user)
        await asyncio.sleep(3.0)
        lacking = [view_of(process)["standby_shards_without_replica", "no_room"] for process in (a, b)]
        assert lacking == [len(world.epochs()) - view_of(process)["shards", "serving"] for process in (a, b)]

    run(main, lambda: World(shards=6))


def test_a_node_between_two_lives_says_so() -> None:
    """It holds nothing, has no lease and is not ready; then it is again."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        assert a.member.not_ready() == ""
        b.peers.suspect(a.life.me)
        await world.until(lambda: a.member.life is None)
        view = view_of(a)
        assert (view["node_registered",], view["lease_left_seconds",]) == (0, 0)
        assert ("shards", "serving") not in view
        assert a.member.not_ready() == "not registered"
        await world.healthy()
        assert a.member.not_ready() == ""
        assert said(a.metrics)["lives_over_total",] == 1

    run(main)


def test_a_node_is_ready_when_it_serves_what_it_owns() -> None:
    """Not while a shard of it is corrupt, and not while it drains; and whoever waits for that is told each time."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        assert a.ready[-1] == a.member.not_ready() == ""
        await world.corrupt(3)
        b = world.start("b")
        await world.until(lambda: b.member.life is not None)
        a.crash()
        await world.until(lambda: b.member.not_ready() == f"1 of {world.shards} shards that it owns are not served")
        assert view_of(b)["shards", "corrupt"] == 1
        await world.until(lambda: b.ready[-1] == b.member.not_ready())
        b.drain()
        await world.until(lambda: b.ready[-1] == "draining")
        await world.until(lambda: not b.runs, within_s=30)

    run(main, lambda: World(shards=6))


def test_campaigns_of_the_last_hour_have_series_bounded_and_after_a_takeover_too() -> None:
    """Issued, remaining and total, from whoever owns the shard now, though nobody has asked for them since."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        campaign = world.campaign(0)
        await world.create(campaign, 3)
        for user in ("u1", "u2", "u3", "u4"):
            await world.issue(campaign, user)
        owner, other = (a, b) if a.serves(0) else (b, a)
        assert numbers(owner, campaign) == (3, 3, 0)
        assert numbers(other, campaign) is None
        owner.crash()
        await world.healthy()
        assert numbers(other, campaign) == (3, 3, 0)
        view = view_of(other)
        assert view["campaign_info", campaign, "봄", "COMPLETED"] == 1
        other.metrics.campaigns[ShardId(0), campaign] = other.metrics.now() - 3_601
        assert numbers(other, campaign) is None

    run(main)


def numbers(process: Process, campaign: str) -> tuple[float, float, float] | None:
    view = view_of(process)
    if ("campaign_coupons", campaign) not in view:
        return None
    total, issued, remaining = (
        view[f"campaign_{name}", campaign] for name in ("coupons", "issued_coupons", "remaining_coupons")
    )
    return total, issued, remaining


def test_campaigns_are_bounded() -> None:
    """However many there are, the last ones have a series."""

    async def main() -> None:
        metrics = NodeMetrics(SystemClock().wall_us)
        bench = Bench(observer=metrics)
        for number in range(CAMPAIGNS_MAX + 50):
            await bench.send(CreateCampaign(f"c{number}", "봄", 1, 1, None, None))
        assert [key[1] for key in metrics.campaigns] == [f"c{number}" for number in range(50, CAMPAIGNS_MAX + 50)]
        await bench.end()

    run_shard(main)


def test_who_asks_in_vain_pushes_nobody_out() -> None:
    """Ids that there are not, campaigns that are sold out or asked for again, and what cannot be created: only a new
    coupon and a new campaign count."""

    async def main() -> None:
        metrics = NodeMetrics(SystemClock().wall_us)
        bench = Bench(observer=metrics)
        await bench.create(1, campaign="sold-out")
        await bench.issue("ann", campaign="sold-out")
        await bench.create(5)
        await bench.issue("ann")
        for number in range(CAMPAIGNS_MAX):
            await bench.issue("eve", campaign=f"no-such-{number}")
        for _ in range(2):
            await bench.issue("ann", campaign="sold-out")
            await bench.issue("eve", campaign="sold-out")
            await bench.send(CreateCampaign("sold-out", "봄", 7, 1, None, None))
        assert list(metrics.campaigns) == [(SHARD, "sold-out"), (SHARD, "c")]
        await bench.end()

    run_shard(main)


def test_a_takeover_makes_no_campaign_busier() -> None:
    """It is as long ago as it was, by the journal's times and the wall clock: an old one is gone after its hour,
    whoever owns it, and makes nobody go who is busier."""

    async def main() -> None:
        bench = Bench()
        began_us = bench.clock.wall_us()
        for campaign in ("first", "second", "third", "fourth"):
            await bench.create(5, campaign=campaign)
            await asyncio.sleep(1_000)
        await bench.issue("ann", campaign="third")
        metrics = NodeMetrics(lambda: began_us + 5_000_000_000)
        metrics.campaigns.see((ShardId(9), "busy"), 900.0)
        metrics.serving(SHARD, bench.ledger, 0.1, 1_000.0)
        found = {key[1]: round(at_s, 1) for key, at_s in metrics.campaigns.items()}
        assert found == {"fourth": -1_000, "third": 0, "busy": 900}
        assert list(found) == ["fourth", "third", "busy"]
        await bench.end()

    run_shard(main)


def test_recent_campaigns_of_a_ledger() -> None:
    """Since when something has happened, and when that was; older ones and the oldest ones are left out."""

    async def main() -> None:
        bench = Bench()
        for number in range(4):
            await bench.create(5, campaign=f"c{number}")
            await asyncio.sleep(10)
        await bench.issue("ann", campaign="c1")
        created_us = [bench.ledger.recent(0, 100)[f"c{number}"] for number in (0, 2, 3)]
        assert bench.ledger.recent(created_us[2], 100) == {"c3": created_us[2], "c1": created_us[2] + 10_000_000}
        assert list(bench.ledger.recent(created_us[0], 100)) == ["c0", "c1", "c2", "c3"]
        assert list(bench.ledger.recent(created_us[0], 2)) == ["c2", "c3"]
        await bench.end()

    run_shard(main)


def test_an_over_issue_is_found_where_it_can_have_come_from() -> None:
    """A grant, and the opening of a shard, have all that they may have brought looked at, once; what was found is
    looked at again until it is put right, or the shard is another's."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        campaign = world.campaign(0)
        await world.create(campaign, 3)
        views = {
            process: NodeView(process.member, process.metrics, lease_ttl_s=3, shard_calls_max=1_000)
            for process in (a, b)
        }

        def found(process: Process, *, total_less: int) -> float:
            """With so much taken from the total, in memory alone."""
            shard = process.life.keeper.serving(ShardId(0))
            if shard is not None:
                shard.ledger._campaigns[campaign]._total = 3 - total_less
            return said(views[process])["over_issued_coupons",]

        owner, other = (a, b) if a.serves(0) else (b, a)
        await world.issue(campaign, "u1")
        assert found(owner, total_less=0) == found(other, total_less=0) == 0
        assert found(owner, total_less=3) == 0, "looked at a campaign to which nothing has happened"
        assert found(owner, total_less=0) == 0
        await world.issue(campaign, "u2")
        owner.metrics.campaigns.clear()
        assert [found(owner, total_less=less) for less in (2, 3, 0, 3)] == [1, 2, 0, 0]
        assert found(owner, total_less=0) == 0
        await world.issue(campaign, "u3")
        assert found(owner, total_less=1) == 1
        owner.crash()
        await world.healthy()
        assert found(other, total_less=2) == 2, "nobody has asked for it here since the shard was opened"
        newcomer = next(name for name in "cdefghijklmnop" if _first_choice(name, other.name) == name)
        await world.started(newcomer)
        assert found(other, total_less=0) == 0

    run(main, lambda: World(shards=1))


def _first_choice(*names: str) -> str:
    """Who should own the only shard."""
    return preference(ShardId(0), [NodeId(name) for name in names])[0]
