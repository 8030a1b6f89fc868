"""A node's shards: claimed, pulled, handed over, opened again after a failure; no call is lost on the way."""

import asyncio
import errno

import pytest

from cluster.config import JournalKind
from cluster.records import OwnerRecord
from cluster.types import Incarnation, LeaseId, NodeId, Revision
from node.calls import Outcome
from node.commands import CampaignPage, Command, GetCampaign, IssueCoupon, Issued, Reason, Refused
from node.keeper import NotHandedOver, State
from node.pages import PAGES_MAX
from node.peers import HandoverFailed
from node.turns import PAGE_ITEMS
from tests.fakes.disk import Fail, Fault, Operation
from tests.fakes.etcd_faults import Fate, Leg, Loss
from tests.node.process import KEYS
from tests.node.world import World, run, with_load

both_journals = pytest.mark.parametrize("kind", ["file", "etcd"])


@both_journals
def test_three_members_own_everything(kind: JournalKind) -> None:
    """Each shard is owned and served once, by the node that placement names."""

    async def main(world: World) -> None:
        await world.started("a", "b", "c")
        await world.serve_all()
        assert {incarnation.node_id for incarnation, _ in world.owners().values()} == {"a", "b", "c"}

    run(main, lambda: World(kind))


@both_journals
def test_a_member_that_joins_pulls_its_shards_while_callers_go_on(kind: JournalKind) -> None:
    """A handover moves only the newcomer's shards, each once; no call is lost, and none is left in doubt."""

    async def main(world: World) -> None:
        _, load = await with_load(world, "a", "b")
        before = world.owners()
        c = world.start("c")
        await world.healthy()
        moved = {shard for shard, owner in world.owners().items() if owner != before[shard]}
        assert moved == {shard for shard, (owner, _) in world.owners().items() if owner == c.life.me}
        assert moved
        await load.stop()
        assert load.gap_s < 0.2
        assert not world.unknown

    run(main, lambda: World(kind, shards=16))


def test_more_pages_than_wait_for_an_open_shard_are_sent_back() -> None:
    """They came while it was being opened: as many as have room in line are shown, the others come again."""

    async def main(world: World) -> None:
        a = world.start("a")

        def opening() -> bool:
            held = a.member.life.keeper.status() if a.member.life is not None else ()
            return any(one.id == 0 and one.shard is None for one in held)

        await world.until(opening)
        campaign_id = world.campaign(0)
        pages = [world.send(a, GetCampaign(campaign_id, 0, 1), campaign_id) for _ in range(PAGES_MAX + 10)]
        said = [await page.said for page in pages]
        shown = [answer for answer in said if isinstance(answer, Refused)]
        assert [answer.reason for answer in shown] == [Reason.CAMPAIGN_NOT_FOUND] * PAGES_MAX
        assert said[PAGES_MAX:] == [Outcome.NOT_OWNER] * 10
        await world.healthy()

    run(main, lambda: World("etcd"))


def test_the_shards_of_a_node_show_pages_one_after_the_other() -> None:
    """Asked at the same moment, each waits for the pages before his own; who wants a coupon waits for none of them."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        campaigns = [world.campaign(shard) for shard in range(world.shards)]
        for campaign_id in campaigns:
            await world.create(campaign_id, PAGE_ITEMS)
            await asyncio.gather(*(world.issue(campaign_id, f"u{n}") for n in range(PAGE_ITEMS // 2 + 1)))
        loop = asyncio.get_running_loop()

        async def took_s(command: Command, campaign_id: str) -> float:
            began_s = loop.time()
            answer = await world.send(a, command, campaign_id).said
            assert isinstance(answer, CampaignPage | Issued)
            return loop.time() - began_s

        alone_s = await took_s(GetCampaign(campaigns[0], 0, PAGE_ITEMS), campaigns[0])
        assert alone_s > 0
        pages = [took_s(GetCampaign(campaign_id, 0, PAGE_ITEMS), campaign_id) for campaign_id in campaigns]
        coupons = [took_s(IssueCoupon(campaign_id, "late", "r"), campaign_id) for campaign_id in campaigns]
        all_took_s = await asyncio.gather(*pages, *coupons)
        for number, page_s in enumerate(sorted(all_took_s[: len(campaigns)]), 1):
            assert page_s >= number * alone_s * 0.99
        assert max(all_took_s[len(campaigns) :]) < 3 * alone_s

    run(main, lambda: World("etcd", shards=8))


@both_journals
def test_a_drain_hands_everything_over(kind: JournalKind) -> None:
    """`drain` returns when the others serve everything, and no call is lost."""

    async def main(world: World) -> None:
        (a, *_), load = await with_load(world, "a", "b", "c")
        a.drain()
        await world.until(lambda: not a.runs, within_s=3.0)
        await world.healthy(0.2)
        await load.stop()
        assert load.gap_s < 0.2
        assert not world.unknown
        assert "a" not in world.registered()

    run(main, lambda: World(kind))


@both_journals
def test_the_last_member_drains_and_gives_its_lease_back(kind: JournalKind) -> None:
    """With nobody to take over it ends at once, and leaves nothing behind in etcd."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        a.drain()
        await world.until(lambda: not a.runs, within_s=0.5)
        assert not world.owners()
        assert not world.registered()
        assert not world.etcd.store.leases
        await world.started("b")
        await world.serve_all()

    run(main, lambda: World(kind))


def test_members_that_drain_together_end() -> None:
    """Nobody waits for a successor that is leaving too."""

    async def main(world: World) -> None:
        processes = await world.started("a", "b", "c")
        for process in processes:
            process.drain()
        await world.until(lambda: not world.living(), within_s=1.0)
        assert not world.owners()

    run(main)


@pytest.mark.parametrize("fate", [Fate(request=Leg(loss=Loss.BROKEN)), Fate(answer=Leg(loss=Loss.BROKEN))])
@both_journals
def test_a_claim_whose_answer_is_lost(kind: JournalKind, fate: Fate) -> None:
    """Whether it landed the watch tells; then it is opened, or claimed again."""

    async def main(world: World) -> None:
        world.script.next("txn", Fate(), *[fate] * world.shards, client="a")
        await world.started("a")
        await world.serve_all()

    run(main, lambda: World(kind))


@both_journals
def test_an_epoch_that_is_being_given_away_is_not_opened(kind: JournalKind) -> None:
    """A successor may see the owner's new key before the owner does. An epoch whose handover is under way then is never
    opened: it would serve for a moment, and its own handover would leave callers in doubt."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        shard, key = next(
            (shard, KEYS.owner(shard)) for shard, (owner, _) in world.owners().items() if owner == b.life.me
        )
        world.put(key, OwnerRecord(a.life.me, a.address).encode(), a.life.me.lease_id)
        _, revision = world.owners()[shard]
        world.script.next("txn", Fate(request=Leg(delay_s=0.3)), client="a")
        given = await a.handle(a.life.hand_over(shard, revision, b.life.me))
        assert given > revision
        opened = [(line["shard"], line["epoch"]) for line in world.logged("shard_opened")]
        assert (shard, revision) not in opened
        await world.serve_all()

    run(main, lambda: World(kind))


@pytest.mark.parametrize("fate", [Fate(request=Leg(loss=Loss.BROKEN)), Fate(answer=Leg(loss=Loss.BROKEN))])
@both_journals
def test_a_handover_whose_answer_is_lost(kind: JournalKind, fate: Fate) -> None:
    """If it landed the successor has the shard, if not the owner serves on with a new epoch, until it is pulled."""

    async def main(world: World) -> None:
        await world.started("a")
        await world.serve_all()
        world.script.next("txn", *[fate] * world.shards, client="a")
        world.start("b")
        await world.healthy()
        await world.serve_all()

    run(main, lambda: World(kind))


@pytest.mark.parametrize("fate", [Fate(request=Leg(loss=Loss.SILENT)), Fate(answer=Leg(loss=Loss.SILENT))])
def test_a_drain_whose_announcement_is_lost(fate: Fate) -> None:
    """It is announced again: successors that do not hear of it would let the process wait for its last second."""

    async def main(world: World) -> None:
        (a, _), load = await with_load(world, "a", "b")
        world.script.next("txn", fate, client="a")
        a.drain()
        await world.until(lambda: not a.runs, within_s=3.0)
        await load.stop()
        assert load.gap_s < 0.2

    run(main)


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_drain_while_etcd_takes_no_writes(names: tuple[str, ...]) -> None:
    """An entry that can neither be written nor given up does not hold the process for longer than a drain may last."""

    async def main(world: World) -> None:
        (a, *_) = await world.started(*names)
        await world.serve_all()
        world.etcd.store.no_space = True
        shard = next(shard for shard in range(world.shards) if a.serves(shard))
        stuck = asyncio.create_task(world.issue(world.campaign(shard), "late"))
        await asyncio.sleep(1.0)
        a.drain()
        await world.until(lambda: not a.runs, within_s=13.0)
        world.etcd.store.disarm()
        if names == ("a",):
            world.start("c")
        await stuck

    run(main, lambda: World("etcd"))


def test_an_owner_that_vanishes_while_it_is_asked() -> None:
    """A pull from a frozen process is given up when its lease is over, and the shards are claimed."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        world.apart.add(frozenset((a.address, "b:1")))
        b = world.start("b")
        await asyncio.sleep(0.5)
        a.cut()
        await world.healthy(4.0, [b])
        await world.serve_all()
        world.apart.clear()
        a.heal()
        await world.healthy(5.0)

    run(main)


@both_journals
def test_a_successor_that_vanishes(kind: JournalKind) -> None:
    """Who dies while it pulls costs nothing: what it got is claimed again, what it did not get is served on."""

    async def main(world: World) -> None:
        (a,), load = await with_load(world, "a")
        for crash_after_s in [0.02, 0.03, 0.04, 0.05, 0.06]:
            b = world.start("b")
            await asyncio.sleep(crash_after_s)
            b.crash()
            await world.healthy(5.0)
        await load.stop()
        assert a.lives == 1

    run(main, lambda: World(kind))


def test_two_who_pull_one_shard() -> None:
    """The second hears that a handover is under way, and nothing is given twice."""

    async def main(world: World) -> None:
        (a, b) = await world.started("a", "b")
        await world.serve_all()
        shard, (owner, revision) = next(item for item in world.owners().items() if item[1][0] == a.life.me)
        first = asyncio.create_task(b.peers.hand_over(a.address, shard, revision, b.life.me))
        await asyncio.sleep(0.001)
        with pytest.raises(HandoverFailed, match="under way"):
            await b.peers.hand_over(a.address, shard, revision, b.life.me)
        for outdated in (revision, await first):
            with pytest.raises(HandoverFailed):
                await b.peers.hand_over(a.address, shard, outdated, owner)
        with pytest.raises(HandoverFailed, match="not registered"):
            await b.peers.hand_over(a.address, shard, revision, Incarnation(NodeId("x"), LeaseId(1)))
        await world.healthy()

    run(main)


def test_a_member_that_is_asked_for_what_it_pulls() -> None:
    """By a peer that is behind: it refuses, and goes on with its one pull."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        world.apart.add(frozenset((a.address, "b:1")))
        b = world.start("b")
        await world.until(lambda: b.member.life is not None)
        await asyncio.sleep(0.1)
        for shard, (_, revision) in world.owners().items():
            with pytest.raises(NotHandedOver):
                await b.life.hand_over(shard, Revision(revision + 1_000), a.life.me)
        await asyncio.sleep(0.1)
        pulls = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("pull-")]
        assert pulls
        assert len(pulls) == len(set(pulls))
        world.apart.clear()
        await world.healthy()

    run(main)


def test_a_handover_that_outlives_its_life() -> None:
    """Who asked is answered also when the owner's life ends before its watch has shown the handover."""

    async def main(world: World) -> None:
        (a, b) = await world.started("a", "b")
        shard, (_, revision) = next(item for item in world.owners().items() if item[1][0] == a.life.me)
        world.script.next("watch_batch", Fate(answer=Leg(loss=Loss.SILENT)), client="a")
        asked = asyncio.create_task(b.peers.hand_over(a.address, shard, revision, b.life.me))
        await asyncio.sleep(0.1)
        assert not asked.done()
        a.clock.step_us += 1_000_000
        await world.until(lambda: a.member.life is None)
        await world.until(asked.done, within_s=0.1)
        assert asked.result() > revision
        await world.healthy()

    run(main)


# --- warm standby -----------------------------------------------------------------------------------------------------


async def grant(world: World, count: int) -> None:
    """So many coupons of each shard, one after the other: an entry each."""
    for shard in range(world.shards):
        for number in range(count):
            await world.issue(world.campaign(shard), f"more-{world.campaign(shard)}-{number}")


@both_journals
def test_a_crashed_nodes_shards_are_opened_warm(kind: JournalKind) -> None:
    """Who takes over has read along: the open reads a tail, of each shard."""

    async def main(world: World) -> None:
        (a, *_) = await world.started("a", "b", "c")
        await world.serve_all()
        await grant(world, 10)
        await asyncio.sleep(2.0)
        mine = {shard for shard in world.owners() if a.serves(shard)}
        seen = len(world.logs)
        a.crash()
        await world.healthy()
        opened = [line for line in world.logs[seen:] if line["event"] == "shard_opened"]
        assert {line["shard"] for line in opened} == mine
        assert mine
        for line in opened:
            assert line["entries"] > 10
            assert line["read_before"] >= line["entries"] - 1
        await world.serve_all()

    run(main, lambda: World(kind))


class Held:
    """What one process reads of journals waits until it is let go."""

    def __init__(self, process: str) -> None:
        self._process = process
        self.free = asyncio.Event()

    async def __call__(self, operation: Operation) -> Fault | None:
        if operation.process == self._process and operation.kind in ("list_directory", "open", "read"):
            await self.free.wait()
        return None


def test_a_pull_waits_until_it_is_warm() -> None:
    """Meanwhile the owners serve on; then each shard is opened with most of its journal read before."""

    async def main(world: World) -> None:
        _, load = await with_load(world, "a", "b")
        await asyncio.sleep(1.0)
        world.disk.intercept = held = Held("c")
        before = world.owners()
        world.start("c")
        await asyncio.sleep(8.0)
        assert world.owners() == before
        seen = len(world.logs)
        held.free.set()
        await world.healthy()
        await load.stop()
        assert load.gap_s < 0.2
        opened = [line for line in world.logs[seen:] if line["event"] == "shard_opened"]
        assert opened
        # More than a pause's entries were not read at most: the load writes 20 a second.
        assert all(line["read_before"] > line["entries"] - 40 > 40 for line in opened)

    run(main)


@both_journals
def test_who_gives_a_shard_away_is_its_standby(kind: JournalKind) -> None:
    """With what it has, not from the beginning; and takes it over again when the successor dies."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        await grant(world, 40)
        b = world.start("b")
        await world.healthy()
        moved = {shard for shard in world.owners() if b.serves(shard)}
        await asyncio.sleep(2.0)
        kept = {copy.shard: replica.position for copy, replica in a.life.standby.status()}
        assert kept.keys() == moved
        assert min(kept.values()) > 40
        assert a.life.standby.warm() == moved
        await world.serve_all()
        await asyncio.sleep(2.0)
        seen = len(world.logs)
        b.crash()
        await world.healthy()
        opened = [line for line in world.logs[seen:] if line["event"] == "shard_opened"]
        assert {line["shard"] for line in opened} == moved
        assert all(line["read_before"] >= line["entries"] - 1 for line in opened)
        await world.serve_all()

    run(main, lambda: World(kind))


def test_a_drain_does_not_wait_for_ever_for_a_successor_that_cannot_get_warm() -> None:
    """Past the time that a drain may take it ends, and the shards are claimed."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        world.disk.intercept = held = Held("b")
        b = world.start("b")
        await world.until(lambda: b.member.life is not None)
        await asyncio.sleep(1.0)
        a.drain()
        assert await world.until(lambda: not a.runs, within_s=13.0) > 9.0
        assert not any(b.serves(shard) for shard in range(world.shards))
        held.free.set()
        await world.healthy(5.0)
        await world.serve_all()

    run(main)


@both_journals
def test_pulls_go_on_without_room_for_standbys(kind: JournalKind) -> None:
    """A node that may keep nothing takes its shards all the same, and reads them from the beginning."""

    async def main(world: World) -> None:
        world.standby_coupons_max = 0
        await world.started("a")
        await world.serve_all()
        await grant(world, 10)
        b = world.start("b")
        await world.healthy()
        opened = [line for line in world.logged("shard_opened") if b.serves(line["shard"]) and line["entries"] > 5]
        assert opened
        assert all(line["read_before"] == 0 for line in opened)
        await world.serve_all()

    run(main, lambda: World(kind))


class BrokenDisk:
    """Fails what one process does to its disk, in some of the calls."""

    def __init__(self, process: str, kind: str, number: int, every: int = 1) -> None:
        self._process = process
        self._kind = kind
        self._errno = number
        self._every = every
        self._count = 0

    async def __call__(self, operation: Operation) -> Fault | None:
        if (operation.process, operation.kind) != (self._process, self._kind):
            return None
        self._count += 1
        return Fail(self._errno) if self._count % self._every == 0 else None


@pytest.mark.parametrize(
    ("kind", "number", "every"),
    [("append", errno.ENOSPC, 2), ("append", errno.EIO, 2), ("sync", errno.EIO, 2), ("sync", errno.EIO, 3)],
)
def test_a_disk_that_fails(kind: str, number: int, every: int) -> None:
    """After a refused append or a failed sync the shard is opened again with a new epoch; not as fast as it can."""

    async def main(world: World) -> None:
        (a, _), load = await with_load(world, "a", "b")
        world.disk.intercept = BrokenDisk("a", kind, number, every)
        before = world.epochs()
        mine = [shard for shard in before if a.serves(shard)]
        await asyncio.sleep(10.0)
        burnt = [len([path for path in world.disk.files() if f"shard-{shard:04}" in str(path)]) for shard in mine]
        assert min(burnt) > 3, "the fault was not met"
        assert max(burnt) < 50, "it spins"
        assert a.lives == 1
        world.disk.intercept = None
        await world.healthy(1.0)
        await load.stop()
        after = world.epochs()
        assert all((after[shard] == before[shard]) == (shard not in mine) for shard in before)

    run(main)


@pytest.mark.parametrize("kind", ["create", "open", "list_directory", "sync", "sync_directory", "append"])
def test_a_disk_that_is_gone(kind: str) -> None:
    """A node whose disk does nothing any more claims its shards again and again, but does not spin and does not end."""

    async def main(world: World) -> None:
        (a, b), load = await with_load(world, "a", "b")
        world.disk.intercept = BrokenDisk("a", kind, errno.EIO)
        mine = [shard for shard in world.owners() if a.serves(shard)]
        before = world.etcd.store.revision
        for shard in mine:
            a.life.keeper.leave(shard)
        await asyncio.sleep(10.0)
        assert b.lives == a.lives == 1
        assert world.etcd.store.revision - before < 50 * len(mine), "it spins"
        world.disk.intercept = None
        await world.healthy(2.0)
        await load.stop()

    run(main)


@both_journals
def test_corrupt_journals(kind: JournalKind) -> None:
    """A shard whose journal cannot be believed stands, is refused and stays with its owner; however many there are,
    the others are served."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        a.crash()
        corrupt = list(range(10))
        for shard in corrupt:
            await world.corrupt(shard)
        a = world.start("a")
        await world.until(lambda: all(a.serves(shard) for shard in range(10, world.shards)))
        for shard in range(10, world.shards):
            await world.issue(world.campaign(shard), "somebody")
        epochs = world.epochs()
        for shard in corrupt:
            answer = await world.call(GetCampaign(world.campaign(shard), 0, 0), world.campaign(shard))
            assert isinstance(answer, Refused)
            assert answer.reason is Reason.CORRUPT_JOURNAL
        await asyncio.sleep(5.0)
        assert world.epochs() == epochs
        assert {held.id for held in a.life.keeper.status() if held.state is State.CORRUPT} == set(corrupt)
        b = world.start("b")
        await world.until(lambda: all(b.life.keeper.held() for _ in "x") if b.member.life else False)
        b.drain()
        await world.until(lambda: not b.runs, within_s=2.0)
        a.drain()
        await world.until(lambda: not a.runs, within_s=2.0)

    run(main, lambda: World(kind))


def test_a_node_that_was_given_up_for_dead_claims_nothing() -> None:
    """Though it has not heard of it: its peers would neither route to it nor give its shards back."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        world.script.next("watch_batch", Fate(answer=Leg(loss=Loss.SILENT)), client="a")
        world.delete(KEYS.node(NodeId("a")))
        epochs = world.epochs()
        for shard in epochs:
            a.life.keeper.leave(shard)
        await asyncio.sleep(2.0)
        assert a.lives == 1
        assert world.epochs() == epochs

    run(main)
