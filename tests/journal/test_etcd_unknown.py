"""Appends whose outcome is unknown, and what is found out about them. Attempts of A meet scripted fates."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cluster.kv import REQUEST_TOO_LARGE, TOO_MANY_REQUESTS
from node.journal.base import AppendRefused, Fenced
from tests.fakes.etcd_faults import Fate, Gate, Leg, Loss
from tests.journal.etcd_cluster import SHARD, FakeWorld, in_fake_world

LOSSES = [Loss.SILENT, Loss.BROKEN]


async def drain() -> None:
    """Everything that is under way arrives."""
    await asyncio.sleep(60)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_request_is_sent_again(loss: Loss) -> None:
    """An append whose request never arrived is sent again, the same bytes for the same position, and lands once."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", Fate(request=Leg(loss=loss)), Fate(), Fate(request=Leg(loss=loss)), client="A")
        await a.append(b"first")
        await a.append(b"second")
        assert await world.values() == [b"first", b"second"]
        first, again, *_ = puts = world.puts("A")
        assert first == again
        assert len(puts) == 4
        assert a.position == 2

    in_fake_world(scenario)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_answer_is_read_back(loss: Loss) -> None:
    """An append that landed though its answer was lost is found by the read-back and not sent again."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", Fate(answer=Leg(loss=loss)), client="A")
        await a.append(b"first")
        assert len(world.puts("A")) == 1
        await a.append(b"second")
        assert await world.values() == [b"first", b"second"]

    in_fake_world(scenario)


def test_the_read_back_is_repeated_until_answered() -> None:
    """While nobody answers the read-back, the append waits and sends nothing."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", *[Fate(answer=Leg(loss=Loss.SILENT))] * 10, client="A")
        await a.append(b"first")
        assert len(world.puts("A")) == 1
        assert await world.values() == [b"first"]

    in_fake_world(scenario)


LateOrder = Callable[[FakeWorld, Gate, Gate, "asyncio.Task[None]"], Awaitable[None]]


async def first_then_second(world: FakeWorld, first: Gate, second: Gate, append: "asyncio.Task[None]") -> None:
    first.open()
    await asyncio.sleep(0.01)
    second.open()
    await append


async def second_then_first(world: FakeWorld, first: Gate, second: Gate, append: "asyncio.Task[None]") -> None:
    second.open()
    await append
    first.open()


async def both_after_the_third(world: FakeWorld, first: Gate, second: Gate, append: "asyncio.Task[None]") -> None:
    await append
    second.open()
    first.open()


async def only_the_first(world: FakeWorld, first: Gate, second: Gate, append: "asyncio.Task[None]") -> None:
    first.open()
    await append


@pytest.mark.parametrize("order", [first_then_second, second_then_first, both_after_the_third, only_the_first])
def test_late_attempts_land_once_in_any_order(order: LateOrder) -> None:
    """A Txn that is late beyond a read-back which found nothing, and the attempt sent after it, land once between them,
    whichever comes first; so does the next entry, while the late ones still arrive."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        await a.append(b"before")
        first, second = Gate(), Gate()
        world.script.next(
            "txn", Fate(request=Leg(gate=first)), Fate(), Fate(request=Leg(gate=second)), Fate(), client="A"
        )
        append = asyncio.create_task(a.append(b"late"))
        await second.reached()  # so the read-back after the first attempt has found nothing
        await order(world, first, second, append)
        assert a.position == 2
        await a.append(b"next")
        first.open()
        second.open()
        await drain()
        assert await world.values() == [b"before", b"late", b"next"]
        await a.append(b"and on")
        await a.barrier()

    in_fake_world(scenario)


def test_a_late_attempt_whose_epoch_is_gone_does_not_land() -> None:
    """A Txn that arrives after a handover is refused, its append is Fenced, and the position is the successor's."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        await a.append(b"a0")
        late = Gate()
        world.script.next("txn", Fate(request=Leg(gate=late)), client="A")
        append = asyncio.create_task(a.append(b"a1"))
        await late.reached()
        b = await world.open("B")
        assert b.entries == [b"a0"]
        late.open()
        with pytest.raises(Fenced):
            await append
        await b.writer.append(b"b1")
        await drain()
        assert await world.values() == [b"a0", b"b1"]
        for call in (a.append(b"a2"), a.barrier()):
            with pytest.raises(Fenced):
                await call

    in_fake_world(scenario)


def test_a_late_attempt_before_the_successor_wrote_does_not_land() -> None:
    """A Txn is refused for its epoch alone: the position is still free, and nobody has written since."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        late = Gate()
        world.script.next("txn", Fate(request=Leg(gate=late)), client="A")
        append = asyncio.create_task(a.append(b"a0"))
        await late.reached()
        await world.cluster.own("B")
        with pytest.raises(Fenced):
            await append
        late.open()
        await drain()
        assert await world.values() == []

    in_fake_world(scenario)


def test_no_owner_is_another_epoch() -> None:
    """When the owner's lease has ended, an attempt in doubt is Fenced, although nobody else owns the shard."""

    async def scenario(world: FakeWorld) -> None:
        lease = await world.client("A").lease_grant(2)
        epoch = await world.cluster.own("A", lease_id=lease.lease_id)
        a = (await world.open("A", epoch)).writer
        late = Gate()
        unanswered = [Fate(answer=Leg(loss=Loss.SILENT))] * 4
        world.script.next("txn", Fate(request=Leg(gate=late)), *unanswered, client="A")
        append = asyncio.create_task(a.append(b"a0"))
        await late.reached()
        with pytest.raises(Fenced):
            await append
        late.open()
        await drain()
        assert await world.values() == []

    in_fake_world(scenario)


def test_an_entry_that_landed_before_the_handover_is_committed() -> None:
    """The read-back of an owner that is fenced by now still finds its entry: the successor has replayed it."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", Fate(answer=Leg(loss=Loss.SILENT)), client="A")
        append = asyncio.create_task(a.append(b"a0"))
        await asyncio.sleep(0.1)
        b = await world.open("B")
        assert b.entries == [b"a0"]
        await append
        with pytest.raises(Fenced):
            await a.append(b"a1")

    in_fake_world(scenario)


def test_too_many_requests_passes_by_itself() -> None:
    """A busy etcd is asked again, with the same bytes, after a pause."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", *[Fate(refusal=TOO_MANY_REQUESTS)] * 5, client="A")
        begin_s = asyncio.get_running_loop().time()
        await a.append(b"first")
        assert await world.values() == [b"first"]
        assert len(world.puts("A")) == 6
        assert asyncio.get_running_loop().time() > begin_s, "it did not pause"

    in_fake_world(scenario)


def test_a_definite_refusal_finishes_the_writer() -> None:
    """What etcd refuses for good, and no earlier attempt is in doubt, is certainly not in the journal."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", Fate(refusal=REQUEST_TOO_LARGE), client="A")
        with pytest.raises(AppendRefused):
            await a.append(b"first")
        await drain()
        assert await world.values() == []
        with pytest.raises(Fenced):
            await a.append(b"second")
        with pytest.raises(Fenced):
            await a.barrier()

    in_fake_world(scenario)


def test_a_refusal_does_not_settle_an_attempt_in_doubt() -> None:
    """While an earlier attempt may still land, a refusal of a later one is no outcome: the entry lands, and is
    acknowledged."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        late = Gate()
        refused = [Fate(refusal=REQUEST_TOO_LARGE), Fate()] * 20
        world.script.next("txn", Fate(request=Leg(gate=late)), Fate(), *refused, client="A")
        append = asyncio.create_task(a.append(b"first"))
        await late.reached()
        await asyncio.sleep(1)
        assert not append.done()
        late.open()
        await append
        assert await world.values() == [b"first"]

    in_fake_world(scenario)


def test_no_space_may_have_been_written() -> None:
    """etcd answers "no space" to the Txn that crosses its quota, and has applied it: it is committed."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", Fate(quota_used_up=True), client="A")
        await a.append(b"first")
        assert await world.values() == [b"first"]
        assert len(world.puts("A")) == 1

    in_fake_world(scenario)


def test_an_append_waits_for_space() -> None:
    """While etcd has no space an append is not given up: it lands when there is some."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.etcd.store.no_space = True
        append = asyncio.create_task(a.append(b"first"))
        await asyncio.sleep(30)
        assert not append.done()
        assert await world.values() == []
        world.etcd.store.disarm()
        await append
        assert await world.values() == [b"first"]

    in_fake_world(scenario)


def test_a_cancelled_append_may_land_but_nothing_follows_it() -> None:
    """The Txn of a cancelled append still lands. The writer is finished, and the next owner finds the entry."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        late = Gate()
        world.script.next("txn", Fate(request=Leg(gate=late)), client="A")
        append = asyncio.create_task(a.append(b"first"))
        await late.reached()
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        with pytest.raises(Fenced):
            await a.append(b"second")
        late.open()
        await drain()
        assert (await world.open("B")).entries == [b"first"]

    in_fake_world(scenario)


def test_a_cancelled_barrier_harms_nothing() -> None:
    """Whoever waits for a barrier may give up; the writer goes on."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        world.script.next("txn", Fate(request=Leg(loss=Loss.SILENT)), client="A")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await a.barrier()
        await a.append(b"first")
        await a.barrier()

    in_fake_world(scenario)


def test_a_barrier_waits_while_nobody_answers() -> None:
    """A barrier neither passes nor fails while etcd cannot be reached."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        [link] = world.etcd.links(client="A")
        link.cut()
        barrier = asyncio.create_task(a.barrier())
        await asyncio.sleep(100)
        assert not barrier.done()
        link.heal()
        await barrier
        link.cut()
        barrier = asyncio.create_task(a.barrier())
        await asyncio.sleep(1)
        await world.cluster.own("B")
        link.heal()
        with pytest.raises(Fenced):
            await barrier

    in_fake_world(scenario)


def test_each_barrier_asks_anew() -> None:
    """A barrier rests on a read that began after its call, never on one that had begun before."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        before = len(world.script.calls)
        await a.barrier()
        await a.barrier()
        assert [call.method for call in world.script.calls[before:]] == ["txn", "txn"]

    in_fake_world(scenario)


def test_the_raised_incarnation_fences() -> None:
    """The owner key is untouched, and only the incarnation was raised: append and barrier are fenced."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        await a.append(b"a0")
        await world.cluster.set_incarnation(2)
        with pytest.raises(Fenced):
            await a.append(b"a1")
        again = (await world.open("A")).writer
        await world.cluster.set_incarnation(3)
        with pytest.raises(Fenced):
            await again.barrier()
        assert await world.values() == [b"a0"]

    in_fake_world(scenario)


def test_an_owner_from_before_a_restore_is_fenced() -> None:
    """After a restore from a snapshot, which takes the revision back and the incarnation up, nothing of an owner from
    before lands, and the journal has no hole."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        for entry in (b"a0", b"a1"):
            await a.append(entry)
        snapshot = world.etcd.snapshot()
        for entry in (b"a2", b"a3"):
            await a.append(entry)
        late = Gate()
        world.script.next("txn", Fate(request=Leg(gate=late)), client="A")
        append = asyncio.create_task(a.append(b"a4"))
        await late.reached()
        world.etcd.restore(snapshot)
        restored = FakeWorld(etcd=world.etcd)
        await restored.cluster.set_incarnation(2)
        late.open()
        with pytest.raises(Fenced):
            await append
        b = await restored.open("B")
        assert b.entries == [b"a0", b"a1"]
        await b.writer.append(b"b2")
        await drain()
        assert await restored.values() == [b"a0", b"a1", b"b2"]

    in_fake_world(scenario)


def test_a_late_append_leaves_no_hole_in_a_restored_etcd() -> None:
    """Before anybody has raised the incarnation the snapshot's owner key still names the old owner: only the guard on
    the entry before keeps its late Txn out."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        await a.append(b"a0")
        snapshot = world.etcd.snapshot()
        await a.append(b"a1")
        late = Gate()
        world.script.next("txn", Fate(request=Leg(gate=late)), client="A")
        append = asyncio.create_task(a.append(b"a2"))
        await late.reached()
        world.etcd.restore(snapshot)
        late.open()
        with pytest.raises(Fenced):
            await append
        await drain()
        assert await FakeWorld(etcd=world.etcd).values() == [b"a0"]

    in_fake_world(scenario)


def test_a_revision_that_went_back_fences() -> None:
    """An owner that hears a revision lower than one it has seen is fenced, whatever it was doing."""

    async def scenario(world: FakeWorld) -> None:
        snapshot = world.etcd.snapshot()
        a, b, c = [await world.open(process) for process in "ABC"]
        world.etcd.restore(snapshot)
        late_open = world.journal("B").open(SHARD, b.epoch, lambda entry: None)
        for call in (a.writer.append(b"a0"), late_open, c.writer.barrier()):
            with pytest.raises(Fenced):
                await call

    in_fake_world(scenario)
