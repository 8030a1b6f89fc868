"""Opening a shard in etcd: pages, the check at their end, and journals that cannot be believed."""

import asyncio

import pytest

from cluster.kv import Delete, Op, Put, Txn
from cluster.records import Keyspace
from cluster.types import LeaseId
from node.journal.base import CorruptJournal, Fenced, OutcomeUnknown
from node.journal.etcd_reader import PAGES_AHEAD
from tests.fakes.etcd_faults import Fate, Gate, Leg
from tests.journal.etcd_cluster import SHARD, FakeWorld, Opened, in_fake_world

PAGE = 3
KEYS = Keyspace()


async def fill(world: FakeWorld, count: int) -> list[bytes]:
    """A journal of `count` entries."""
    return await fill_on(await world.open("A"), count)


async def fill_on(opened: Opened, count: int) -> list[bytes]:
    """`count` more entries."""
    entries = [b"%d" % position for position in range(opened.writer.position, opened.writer.position + count)]
    for entry in entries:
        await opened.writer.append(entry)
    return entries


@pytest.mark.parametrize("count", [*range(12), PAGE * (PAGES_AHEAD + 1), PAGE * (PAGES_AHEAD + 2) + 1, 100])
def test_every_number_of_entries_comes_back(count: int) -> None:
    """Whatever its length in pages, the replay is complete and in order, and the next append fits on."""

    async def scenario(world: FakeWorld) -> None:
        entries = await fill(world, count)
        b = await world.open("B")
        assert b.entries == entries
        assert b.writer.position == count
        await b.writer.append(b"on")
        assert await world.values() == [*entries, b"on"]

    in_fake_world(scenario, page_entries=PAGE)


def test_the_longest_entries_fit_into_a_page() -> None:
    """A full page of the longest entries is an answer that etcd's clients take."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        entries = [bytes([i]) * world.journal("A").entry_bytes_max for i in range(60)]
        for entry in entries:
            await a.append(entry)
        assert (await world.open("B")).entries == entries

    in_fake_world(scenario)


@pytest.mark.parametrize("read", range(2 + PAGES_AHEAD))
@pytest.mark.parametrize("leg", ["request", "answer"])
def test_a_replay_counts_only_if_the_epoch_stood_at_its_end(read: int, leg: str) -> None:
    """Whichever read of a replay is late, and a successor writes meanwhile: open raises Fenced, or it had read the last
    page while its epoch stood. It never returns without entries that were there when its epoch ended."""

    async def scenario(world: FakeWorld) -> None:
        entries = await fill(world, PAGE * (PAGES_AHEAD + 1) + 1)
        epoch = await world.cluster.own("B")
        gate = Gate()
        is_page_ahead = 0 < read <= PAGES_AHEAD
        fates = [Fate()] * (read - 1 if is_page_ahead else min(read, 1))
        late = Fate(request=Leg(gate=gate)) if leg == "request" else Fate(answer=Leg(gate=gate))
        world.script.next("get" if is_page_ahead else "txn", *fates, late, client="B")
        opening = asyncio.create_task(world.open("B", epoch))
        await gate.reached()
        c = await world.open("C")
        await c.writer.append(b"c")
        gate.open()
        last_page_was_read = not is_page_ahead and read > 0 and leg == "answer"
        if last_page_was_read:
            assert (await opening).entries == entries
        else:
            with pytest.raises(Fenced):
                await opening

    in_fake_world(scenario, page_entries=PAGE)


def test_entries_of_a_predecessor_that_land_during_the_replay_are_in_it() -> None:
    """What the owner before had under way lands before the ownership changes, or never."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        await a.append(b"a0")
        lands, late = Gate(), Gate()
        world.script.next("txn", Fate(request=Leg(gate=lands)), Fate(), Fate(request=Leg(gate=late)), client="A")
        append = asyncio.create_task(a.append(b"a1"))
        await late.reached()
        lands.open()
        await asyncio.sleep(0)
        b = await world.open("B")
        late.open()
        assert b.entries == [b"a0", b"a1"]
        await append

    in_fake_world(scenario)


def test_pages_of_two_lives_of_etcd_are_no_corruption() -> None:
    """A replay that reads on both sides of a restore finds what does not fit: it fails, and nothing is corrupt."""

    async def scenario(world: FakeWorld) -> None:
        async def pass_revisions(of: FakeWorld) -> None:
            for _ in range(30):
                await of.client("operator").txn(Txn((), (Put("other", b""),)))

        await fill(world, 4)
        snapshot = world.etcd.snapshot()
        await pass_revisions(world)
        await fill_on(await world.open("A"), 9)
        epoch = await world.cluster.own("B")
        gate = Gate()
        world.script.next("get", Fate(), Fate(request=Leg(gate=gate)), client="B")
        opening = asyncio.create_task(world.open("B", epoch))
        await gate.reached()
        await asyncio.sleep(0.1)
        world.etcd.restore(snapshot)
        restored = FakeWorld(etcd=world.etcd, page_entries=PAGE)
        await restored.cluster.set_incarnation(2)
        await fill_on(await restored.open("C"), 9)
        await pass_revisions(restored)
        with pytest.raises(OutcomeUnknown, match="etcd was restored"):
            await opening

    in_fake_world(scenario, page_entries=PAGE)


def entry(position: int) -> str:
    return KEYS.entry(SHARD, position)


@pytest.mark.parametrize(
    ("ops", "place"),
    [
        ((Delete(entry(2)),), entry(3)),
        ((Delete(entry(0)),), entry(1)),
        ((Delete(entry(0), entry(5)),), entry(5)),
        ((Put(entry(4), b"written twice"),), entry(4)),
        ((Put(entry(8), b"beyond a hole"),), entry(8)),
        ((Put(KEYS.journal(SHARD), b"no position"),), KEYS.journal(SHARD)),
        ((Put(KEYS.journal(SHARD) + "!", b"before the first"),), KEYS.journal(SHARD) + "!"),
        ((Put(KEYS.journal(SHARD) + "x", b"after the last"),), KEYS.journal(SHARD) + "x"),
        ((Put(entry(2) + "0", b"between"),), entry(2) + "0"),
        ((Put(entry(2) + "\0", b"right after a page"),), entry(2) + "\0"),
        ((Put(KEYS.journal(SHARD) + "000000000000000A", b"no such digit"),), KEYS.journal(SHARD) + "000000000000000A"),
    ],
)
def test_a_journal_that_nobody_can_have_written_is_corrupt(ops: tuple[Op, ...], place: str) -> None:
    """A hole, a key that is no position, an entry written twice: CorruptJournal names the key."""

    async def scenario(world: FakeWorld) -> None:
        await fill(world, 7)
        await world.client("vandal").txn(Txn((), ops))
        with pytest.raises(CorruptJournal) as corrupt:
            await world.open("B")
        assert corrupt.value.place == place

    in_fake_world(scenario, page_entries=PAGE)


def test_a_stray_key_after_the_pages_read_ahead_is_found() -> None:
    """No key lies between the ranges of two pages, whichever way they were read."""

    async def scenario(world: FakeWorld) -> None:
        last = len(await fill(world, PAGE * (PAGES_AHEAD + 1))) - 1
        await world.client("vandal").txn(Txn((), (Put(entry(last) + "\0", b"stray"),)))
        with pytest.raises(CorruptJournal) as corrupt:
            await world.open("B")
        assert corrupt.value.place == entry(last) + "\0"

    in_fake_world(scenario, page_entries=PAGE)


def test_an_entry_under_a_lease_is_corrupt() -> None:
    """An entry that would go when a lease ends is no entry."""

    async def scenario(world: FakeWorld) -> None:
        lease = await world.client("vandal").lease_grant(10)
        await world.client("vandal").txn(Txn((), (Put(entry(0), b"0", LeaseId(lease.lease_id)),)))
        with pytest.raises(CorruptJournal):
            await world.open("B")

    in_fake_world(scenario)


def test_a_corrupt_page_read_ahead_is_found() -> None:
    """A hole deep in a long journal is found too."""

    async def scenario(world: FakeWorld) -> None:
        await fill(world, 40)
        await world.client("vandal").txn(Txn((), (Delete(entry(17)),)))
        with pytest.raises(CorruptJournal) as corrupt:
            await world.open("B")
        assert corrupt.value.place == entry(18)

    in_fake_world(scenario, page_entries=PAGE)


def test_an_error_of_the_replay_ends_the_open() -> None:
    """What `replay` raises, for instance of an entry in an unknown format, leaves open as it is; the epoch can be used
    again."""

    class Unknown(Exception):
        pass

    def refuse(entry: bytes) -> None:
        raise Unknown

    async def scenario(world: FakeWorld) -> None:
        entries = await fill(world, 1)
        epoch = await world.cluster.own("B")
        journal = world.journal("B")
        with pytest.raises(Unknown):
            await journal.open(SHARD, epoch, refuse)
        found: list[bytes] = []
        await journal.open(SHARD, epoch, found.append)
        assert found == entries

    in_fake_world(scenario)


@pytest.mark.parametrize("method", ["txn", "get"])
def test_a_refused_read_is_unknown(method: str) -> None:
    """A process that may not read cannot open."""

    async def scenario(world: FakeWorld) -> None:
        await fill(world, 10)
        epoch = await world.cluster.own("B")
        world.script.next(method, Fate(refusal="etcdserver: permission denied"), client="B")
        with pytest.raises(OutcomeUnknown):
            await world.journal("B").open(SHARD, epoch, lambda entry: None)

    in_fake_world(scenario, page_entries=PAGE)


def test_a_long_replay_lets_others_run() -> None:
    """The event loop gets its turn within a page of long entries."""

    async def scenario(world: FakeWorld) -> None:
        a = (await world.open("A")).writer
        for _ in range(20):
            await a.append(b"x" * world.journal("A").entry_bytes_max)
        turns = 0
        turns_at: list[int] = []

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        epoch = await world.cluster.own("B")
        await world.journal("B").open(SHARD, epoch, lambda entry: turns_at.append(turns))
        other.cancel()
        assert len(set(turns_at)) >= 10

    in_fake_world(scenario)
