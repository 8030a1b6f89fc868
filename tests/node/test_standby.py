"""A standby's replicas over the real `file` journal code and a disk in memory, on virtual time."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from cluster.codes import CodeCodec
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.commands import CreateCampaign, IssueCoupon
from node.entries import Header, encode
from node.events import Event
from node.journal.base import ShardJournal
from node.journal.file import FileJournal
from node.replica import Replica
from node.standby import CATCHING_UP_MAX, LOST_S, READ_S, READ_S_MAX, Copy, Lack, Standby, stopped
from tests.fakes.disk import BASE, Fault, MemoryDisk, Operation
from tests.fakes.etcd_faults import Gate
from tests.fakes.virtual_time import run as run_virtually

ROOT = BASE / "journal"
CODEC = CodeCodec({0: b"k" * 32})
ME = Incarnation(NodeId("a"), LeaseId(1))
NOW_US = 1_800_000_000_000_000
ONE, TWO, THREE = ShardId(1), ShardId(2), ShardId(3)


class Owner:
    """Writes a shard's journal: entries of one coupon each, behind one that makes the campaign."""

    def __init__(self, rig: "Rig", shard: ShardId, replica: Replica, epoch: Epoch, journal: ShardJournal) -> None:
        self._rig = rig
        self._shard = shard
        self._epoch = epoch
        self.replica = replica
        self.journal = journal

    async def grant(self, count: int) -> None:
        if not self.replica.ledger.coupons and not self.journal.position:
            await self._journal(CreateCampaign("spring", "봄", 10_000, 1, None, None))
        for _ in range(count):
            await self._journal(IssueCoupon("spring", f"user-{self.replica.ledger.coupons}", "r"))

    async def _journal(self, command: CreateCampaign | IssueCoupon) -> None:
        ledger = self.replica.ledger
        events: list[Event] = [*ledger.tick(NOW_US), *ledger.handle(command, NOW_US).events]
        await self.journal.append(encode(Header(self._shard, self._epoch, ME), self.journal.position, NOW_US, events))
        ledger.committed()

    async def end(self) -> Replica:
        """As a keeper that has given the shard away."""
        await self.journal.close()
        self.replica.given_away(self._epoch, ME)
        return self.replica


class Rig:
    def __init__(self, tasks: asyncio.TaskGroup, coupons_max: int) -> None:
        self.disk = MemoryDisk()
        self.disk.intercept = self._note
        self.reads: list[tuple[float, str]] = []
        """When the standby looked into which shard's directory."""
        self.held: Gate | None = None
        """What the standby does to the disk waits for it."""
        self.warmed = 0
        self._epochs = 0
        self.standby = Standby(
            FileJournal(ROOT, self.disk.seen_by("standby")),
            CODEC,
            tasks,
            coupons_max=coupons_max,
            rng=random.Random(7),
            on_warm=self._count_warm,
        )

    async def own(self, shard: ShardId, replica: Replica | None = None) -> Owner:
        self._epochs += 1
        epoch = Epoch(1, Revision(self._epochs))
        replica = replica or Replica(FileJournal(ROOT, self.disk.seen_by("owner")), shard, CODEC)
        return Owner(self, shard, replica, epoch, await replica.open(epoch))

    def copies(self) -> dict[ShardId, int]:
        """Of each replica that is kept, its coupons."""
        return {copy.shard: replica.ledger.coupons for copy, replica in self.standby.status()}

    def read_bytes(self) -> int:
        """How much the standby has read of segments so far."""
        return sum(
            len(learnt)
            for operation, learnt in self.disk.history
            if (operation.process, operation.kind) == ("standby", "read") and isinstance(learnt, bytes)
        )

    async def _note(self, operation: Operation) -> Fault | None:
        if operation.process == "standby":
            if operation.kind == "list_directory":
                self.reads.append((asyncio.get_running_loop().time(), operation.path.name))
            if self.held is not None:
                passed = asyncio.Event()
                self.held.enter(passed.set)
                await passed.wait()
        return None

    def _count_warm(self) -> None:
        self.warmed += 1


def run(scenario: Callable[[Rig], Coroutine[Any, Any, None]], *, coupons_max: int = 1_000) -> None:
    async def main() -> None:
        async with asyncio.timeout(1_000), asyncio.TaskGroup() as tasks:
            rig = Rig(tasks, coupons_max)
            await scenario(rig)
            rig.standby.follow(set())
        assert not rig.copies()

    with structlog.testing.capture_logs():
        run_virtually(main())


async def taken(rig: Rig, shard: ShardId) -> Replica | None:
    copy = rig.standby.take(shard)
    assert isinstance(copy, Copy)
    replica = await stopped(copy)
    assert copy.task is None or copy.task.done(), "it may still read"
    return replica


def test_a_followed_shard_becomes_warm_and_stays_close() -> None:
    """Read at once and told once; from then on what is written is there soon, but for the newest entry."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        await owner.grant(10)
        rig.standby.follow({ONE, TWO})
        assert not rig.standby.warm()
        await asyncio.sleep(0.01)
        assert rig.standby.warm() == {ONE, TWO}
        assert rig.warmed == 2
        assert rig.copies() == {ONE: 9, TWO: 0}
        for _ in range(20):
            await owner.grant(5)
            await asyncio.sleep(READ_S_MAX * 1.5 + 0.01)
            assert rig.copies()[ONE] == owner.replica.ledger.coupons - 1
        assert rig.warmed == 2
        rig.standby.follow({TWO})
        assert rig.copies() == {TWO: 0}
        seen = len(rig.reads)
        await asyncio.sleep(10)
        assert {name for _, name in rig.reads[seen:]} == {"shard-0002"}

    run(scenario)


def test_an_idle_journal_is_read_seldom() -> None:
    """Each time after twice as long, up to READ_S_MAX; one that has grown soon again."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        await owner.grant(3)
        rig.standby.follow({ONE})
        await asyncio.sleep(100)
        times = [at for at, _ in rig.reads]
        pauses = [after - before for before, after in itertools.pairwise(times)]
        for nth, pause in enumerate(pauses):
            expected = min(READ_S * 2**nth, READ_S_MAX)
            assert 0.5 * expected <= pause <= 1.5 * expected + 0.001, (nth, pause)
        assert 70 < len(times) < 150
        await owner.grant(2)
        while rig.copies()[ONE] < owner.replica.ledger.coupons - 1:
            await asyncio.sleep(0.01)
        seen = len(rig.reads)
        await asyncio.sleep(READ_S * 1.5 + 0.01)
        assert len(rig.reads) > seen

    run(scenario)


def test_what_is_taken_is_handed_nothing_more() -> None:
    """When `stopped` has returned the replica stands still, and an owner goes on with it exactly where it is."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        for _ in range(8):
            await owner.grant(30)
            rig.standby.follow({ONE})
            for _ in range(rig._epochs % 5):
                await asyncio.sleep(0)
            await owner.grant(10)
            replica = await taken(rig, ONE)
            position = replica.position if replica is not None else 0
            await owner.grant(10)
            await asyncio.sleep(READ_S_MAX * 2)
            written, coupons = owner.journal.position, owner.replica.ledger.coupons
            owner = await rig.own(ONE, replica)
            assert replica is None or position <= replica.position == written
            assert owner.replica.ledger.coupons == coupons

    run(scenario)


def test_what_is_taken_while_it_is_read() -> None:
    """A read under way is given up, not waited for."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        await owner.grant(10)
        rig.held = Gate()
        rig.standby.follow({ONE})
        await rig.held.reached()
        replica = await taken(rig, ONE)
        assert replica is not None
        assert replica.position == 0
        rig.held.open()
        rig.held = None
        await asyncio.sleep(1)
        assert replica.position == 0
        owner = await rig.own(ONE, replica)
        assert replica.ledger.coupons == 10

    run(scenario)


def test_few_are_read_from_the_beginning_at_a_time() -> None:
    """The others wait for their turn, and all become warm."""

    async def scenario(rig: Rig) -> None:
        shards = {ShardId(number) for number in range(7)}
        rig.held = Gate()
        rig.standby.follow(shards)
        await asyncio.sleep(1)
        assert len(rig.reads) == CATCHING_UP_MAX
        assert not rig.standby.warm()
        rig.held.open()
        await asyncio.sleep(1)
        assert rig.standby.warm() == shards

    run(scenario)


# --- room -------------------------------------------------------------------------------------------------------------


def test_no_room() -> None:
    """The replica for which there is no room is given up and counts as warm; it is begun again when there is."""

    async def scenario(rig: Rig) -> None:
        one, two = await rig.own(ONE), await rig.own(TWO)
        await one.grant(11)
        await two.grant(11)
        rig.standby.follow({ONE})
        await asyncio.sleep(1)
        rig.standby.follow({ONE, TWO})
        await asyncio.sleep(5)
        assert rig.copies() == {ONE: 10}
        assert rig.standby.warm() == {ONE, TWO}
        assert rig.standby.lacking() == {Lack.NO_ROOM: 1, Lack.LOST: 0}
        read = rig.read_bytes()
        await asyncio.sleep(100)
        assert {name for at, name in rig.reads if at > 6} == {"shard-0001"}, "it is not tried again and again"
        assert rig.read_bytes() - read < 200_000
        rig.standby.follow({TWO})
        await asyncio.sleep(5)
        assert rig.copies() == {TWO: 10}
        assert rig.standby.lacking() == {Lack.NO_ROOM: 0, Lack.LOST: 0}

    run(scenario, coupons_max=15)


def test_room_that_another_makes() -> None:
    """A replica that outgrows all the room makes room for those that wait."""

    async def scenario(rig: Rig) -> None:
        one, two = await rig.own(ONE), await rig.own(TWO)
        await one.grant(11)
        await two.grant(7)
        rig.standby.follow({ONE})
        await asyncio.sleep(1)
        rig.standby.follow({ONE, TWO})
        await asyncio.sleep(1)
        assert rig.copies() == {ONE: 10}
        await one.grant(10)
        await asyncio.sleep(5)
        assert rig.copies() == {TWO: 6}
        replica = await taken(rig, ONE)
        assert replica is None

    run(scenario, coupons_max=15)


def test_none_is_kept() -> None:
    """With no room at all everything is warm at once and nothing is read, also of what was owned before."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        rig.standby.keep(ONE, await owner.end())
        rig.standby.follow({ONE, TWO})
        assert rig.standby.warm() == {ONE, TWO}
        assert rig.warmed == 2
        await asyncio.sleep(10)
        assert not rig.reads
        assert not rig.copies()
        assert rig.standby.lacking() == {Lack.NO_ROOM: 0, Lack.LOST: 0}, "nobody wants one"
        assert await taken(rig, ONE) is None

    run(scenario, coupons_max=0)


# --- lost -------------------------------------------------------------------------------------------------------------


def test_a_journal_that_is_not_what_it_was() -> None:
    """It counts as warm, so that nobody waits for it, is left alone for a while, and begun anew."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        await owner.grant(10)
        rig.standby.follow({ONE})
        await asyncio.sleep(1)
        assert rig.copies() == {ONE: 9}
        [(path, whole)] = rig.disk.files().items()
        rig.disk.remove_file(path)
        await asyncio.sleep(READ_S_MAX * 1.5)
        assert rig.standby.warm() == {ONE}
        assert not rig.copies()
        assert rig.standby.lacking() == {Lack.NO_ROOM: 0, Lack.LOST: 1}
        assert await taken(rig, ONE) is None
        rig.standby.follow({ONE})
        await asyncio.sleep(10)
        rig.disk.write_file(path, whole).sync()
        await asyncio.sleep(READ_S_MAX * 1.5)
        assert rig.copies() == {ONE: 9}
        rig.disk.write_file(path, whole[:8] + b"?" + whole[9:]).sync()
        await asyncio.sleep(READ_S_MAX * 1.5)
        rig.disk.write_file(path, whole).sync()
        assert not rig.copies()
        await asyncio.sleep(LOST_S * 1.5)
        assert rig.copies() == {ONE: 9}

    run(scenario)


def test_what_no_owner_wrote() -> None:
    """An entry that the ledger does not believe is a corrupt journal: no replica, and warm."""

    async def scenario(rig: Rig) -> None:
        owner = await rig.own(ONE)
        await owner.grant(3)
        await owner.journal.append(b"no entry")
        await owner.journal.append(b"nor this")
        rig.standby.follow({ONE})
        await asyncio.sleep(0.1)
        assert rig.standby.warm() == {ONE}
        assert not rig.copies()
        seen = len(rig.reads)
        await asyncio.sleep(20 * LOST_S)
        assert 20 / 1.5 - 1 <= len(rig.reads) - seen <= 20 * 2 + 1
        assert await taken(rig, ONE) is None

    run(scenario)


# --- what is left of an owner -----------------------------------------------------------------------------------------


def test_what_an_owner_leaves_is_followed() -> None:
    """It goes on behind what it wrote itself, without reading that again, and may own again."""

    async def scenario(rig: Rig) -> None:
        replica = Replica(FileJournal(ROOT, rig.disk.seen_by("standby")), ONE, CODEC)
        owner = await rig.own(ONE, replica)
        await owner.grant(2_000)
        rig.standby.follow({ONE})  # as when the handover is seen before it is over
        rig.standby.keep(ONE, await owner.end())
        read = rig.read_bytes()
        rig.standby.follow({ONE})
        assert rig.copies() == {ONE: 2_000}
        successor = await rig.own(ONE)
        await successor.grant(5)
        await asyncio.sleep(READ_S_MAX * 2)
        assert rig.copies() == {ONE: 2_004}
        assert rig.read_bytes() - read < 200_000, "from the beginning"
        assert await taken(rig, ONE) is replica
        owner = await rig.own(ONE, replica)
        assert replica.ledger.coupons == 2_005
        await owner.grant(1)

    run(scenario, coupons_max=10_000)


def test_what_is_left_is_dropped() -> None:
    """If the shard is not followed, or there is no room for it."""

    async def scenario(rig: Rig) -> None:
        for shard, count in ((ONE, 5), (TWO, 20)):
            owner = await rig.own(shard)
            await owner.grant(count)
            rig.standby.keep(shard, await owner.end())
        rig.standby.follow({TWO})
        await asyncio.sleep(1)
        rig.standby.follow({ONE, TWO})
        assert rig.copies() == {}
        await asyncio.sleep(1)
        assert rig.copies() == {ONE: 4}

    run(scenario, coupons_max=15)


def test_what_is_left_outgrows_the_room() -> None:
    """It is given up like any other."""

    async def scenario(rig: Rig) -> None:
        replica = Replica(FileJournal(ROOT, rig.disk.seen_by("standby")), ONE, CODEC)
        owner = await rig.own(ONE, replica)
        await owner.grant(5)
        rig.standby.keep(ONE, await owner.end())
        rig.standby.follow({ONE})
        assert rig.copies() == {ONE: 5}
        await (await rig.own(ONE)).grant(20)
        await asyncio.sleep(5)
        assert rig.copies() == {}
        assert rig.standby.warm() == {ONE}

    run(scenario, coupons_max=15)
