"""Reading along in etcd: pages that are read while somebody appends, or on both sides of a restore."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cluster.kv import Delete, Get, Put, Txn, prefix_end
from cluster.records import Keyspace
from node.journal.base import CorruptJournal, FollowerLost, OutcomeUnknown
from node.journal.etcd import EtcdFollower
from node.journal.etcd_reader import PAGES_AHEAD, EntryReader
from tests.fakes.etcd_faults import Fate, Gate, Leg
from tests.journal.etcd_cluster import SHARD, FakeWorld, Opened, in_fake_world

PAGE = 3
KEYS = Keyspace()


def entries_of(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % position for position in range(first, first + count)]


async def write(opened: Opened, count: int) -> None:
    for entry in entries_of(count, opened.writer.position):
        await opened.writer.append(entry)


def follower_of(world: FakeWorld, entries: list[bytes]) -> EtcdFollower:
    return world.journal("B").follow(SHARD, entries.append)


def late_page(page: int) -> Callable[[FakeWorld], Awaitable[None]]:
    """A scenario: one of the pages that are read side by side is read when five more entries are there."""

    async def scenario(world: FakeWorld) -> None:
        a = await world.open("A")
        await write(a, PAGE + 2)
        entries: list[bytes] = []
        follower = follower_of(world, entries)
        gate = Gate()
        world.script.next("get", *[Fate()] * page, Fate(request=Leg(gate=gate)), client="B")
        advance = asyncio.create_task(follower.advance())
        await gate.reached()
        await asyncio.sleep(0.1)
        await write(a, 5)
        gate.open()
        await advance
        assert entries == entries_of(PAGE + 2 + 5)

    return scenario


@pytest.mark.parametrize("page", range(1, PAGES_AHEAD + 1))
def test_pages_that_are_read_at_different_moments(page: int) -> None:
    """A later page may hold entries when one before it is not full, or nothing when that one is: neither is lost."""
    in_fake_world(late_page(page), page_entries=PAGE)


@pytest.mark.parametrize("page", [1, 2])
def test_planted_pages_are_taken_one_after_the_other(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page before held: then the follower is lost, though nothing is wrong."""

    async def read(self: EntryReader, *beside: object) -> None:
        if beside:
            await whole(self, *beside)  # type: ignore[arg-type]
            return
        prefix = KEYS.journal(SHARD)
        first = await self._client.get(self._page_behind(self.cursor.last_key(KEYS, SHARD), prefix_end(prefix)))
        await self._take(first.kvs)
        for kvs in await self._pages_ahead():
            if kvs or page == 1:  # 2: empty ones are known to be no trouble
                await self._take(kvs)

    whole = EntryReader.read
    monkeypatch.setattr(EntryReader, "read", read)
    with pytest.raises(FollowerLost):
        in_fake_world(late_page(page), page_entries=PAGE)


class Restored:
    """A journal of 20 entries in an etcd that will be restored from a snapshot with 7; then others follow."""

    def __init__(self, world: FakeWorld) -> None:
        self._world = world

    async def begin(self) -> None:
        a = await self._world.open("A")
        await write(a, 7)
        self._snapshot = self._world.etcd.snapshot()
        await write(a, 13)

    async def restore(self) -> FakeWorld:
        """The restored etcd has gone on beyond every revision that anybody has seen, so that nobody notices by them."""
        world = self._world
        world.etcd.restore(self._snapshot)
        restored = FakeWorld(etcd=world.etcd, page_entries=PAGE)
        for _ in range(60):
            await restored.client("operator").txn(Txn((), (Put("other", b""),)))
        await restored.cluster.set_incarnation(2)
        opened = await restored.open("C")
        for position in range(7, 30):
            await opened.writer.append(b"other %d" % position)
        return restored


def test_a_restored_journal() -> None:
    """Who has read what the restored journal does not have is lost: when it reads on, and when it opens."""

    async def scenario(world: FakeWorld) -> None:
        journal = Restored(world)
        await journal.begin()
        followers: list[EtcdFollower] = []
        for _ in range(2):
            followers.append(follower_of(world, []))
            await followers[-1].advance()
        restored = await journal.restore()
        with pytest.raises(FollowerLost, match="etcd was restored"):
            await followers[0].advance()
        with pytest.raises(OutcomeUnknown, match="etcd was restored"):
            await followers[1].open(await restored.cluster.own("B"))
        anew: list[bytes] = []
        await (await follower_of(world, anew).open(await restored.cluster.own("B"))).append(b"on")
        assert await restored.values() == [*anew, b"on"]

    in_fake_world(scenario, page_entries=PAGE)


def test_who_has_read_no_more_than_was_kept_goes_on() -> None:
    """A restore takes nothing from a follower whose last entry is in the snapshot."""

    async def scenario(world: FakeWorld) -> None:
        a = await world.open("A")
        await write(a, 7)
        entries: list[bytes] = []
        follower = follower_of(world, entries)
        await follower.advance()
        snapshot = world.etcd.snapshot()
        await write(a, 3)
        world.etcd.restore(snapshot)
        restored = FakeWorld(etcd=world.etcd)
        await restored.cluster.set_incarnation(2)
        for _ in range(10):
            await restored.client("operator").txn(Txn((), (Put("other", b""),)))
        await (await restored.open("C")).writer.append(b"other")
        await follower.advance()
        assert entries == [*entries_of(7), b"other"]

    in_fake_world(scenario, page_entries=PAGE)


@pytest.mark.parametrize("get", range(PAGES_AHEAD + 2))
def test_a_restore_between_two_pages(get: int) -> None:
    """Whichever page is the first that is read of the restored etcd: nothing of it is joined to what only the old one
    had, also when its revisions go on as if nothing had happened."""

    async def scenario(world: FakeWorld) -> None:
        journal = Restored(world)
        await journal.begin()
        entries: list[bytes] = []
        follower = follower_of(world, entries)
        gate = Gate()
        world.script.next("get", *[Fate()] * get, Fate(request=Leg(gate=gate)), client="B")
        advance = asyncio.create_task(follower.advance())
        await gate.reached()
        await asyncio.sleep(0.1)
        restored = await journal.restore()
        gate.open()
        [outcome] = await asyncio.gather(advance, return_exceptions=True)
        now = await restored.values()
        assert entries in (entries_of(len(entries)), now[: len(entries)]), "joined"
        assert isinstance(outcome, FollowerLost) or (outcome is None and entries == now)

    in_fake_world(scenario, page_entries=PAGE)


def test_a_refused_read() -> None:
    """A process that may not read cannot follow, and is where it was."""

    async def scenario(world: FakeWorld) -> None:
        await write(await world.open("A"), 2)
        entries: list[bytes] = []
        follower = follower_of(world, entries)
        world.script.next("get", Fate(refusal="etcdserver: permission denied"), client="B")
        with pytest.raises(FollowerLost, match="permission denied"):
            await follower.advance()
        await follower.advance()
        assert entries == entries_of(2)

    in_fake_world(scenario)


@pytest.mark.parametrize("page", range(1, PAGES_AHEAD + 1))
def test_timeouts_still_end_after_a_refused_page(page: int) -> None:
    """The standby's task goes on after that, and has everything bounded by timeouts. Fails without a task of their own
    for the pages on Python 3.11.0 to 3.11.2 only."""

    async def scenario(world: FakeWorld) -> None:
        await write(await world.open("A"), PAGE * (PAGES_AHEAD + 1) + 1)
        entries: list[bytes] = []
        follower = follower_of(world, entries)
        refused = Fate(refusal="etcdserver: permission denied")
        world.script.next("get", *[Fate()] * page, refused, client="B")
        with pytest.raises(FollowerLost, match="permission denied"):
            await follower.advance()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.Event().wait()

    in_fake_world(scenario, page_entries=PAGE)


def test_a_corrupt_journal() -> None:
    """A hole is found by who reads along, too."""

    async def scenario(world: FakeWorld) -> None:
        await write(await world.open("A"), 9)
        await world.client("vandal").txn(Txn((), (Delete(KEYS.entry(SHARD, 4)),)))
        entries: list[bytes] = []
        with pytest.raises(CorruptJournal) as corrupt:
            await follower_of(world, entries).advance()
        assert corrupt.value.place == KEYS.entry(SHARD, 5)
        assert entries == entries_of(4)

    in_fake_world(scenario, page_entries=PAGE)


def test_reading_along_sends_no_txn() -> None:
    """A follower is cancelled often, and a read-only Txn whose caller is gone makes an etcd before 3.5.7 panic."""

    async def scenario(world: FakeWorld) -> None:
        await write(await world.open("A"), 100)
        await follower_of(world, []).advance()
        sent = {call.method for call in world.script.calls if call.client == "B"}
        assert sent == {"get"}
        requests = [call.request for call in world.script.calls if call.client == "B"]
        assert all(isinstance(request, Get) for request in requests)

    in_fake_world(scenario, page_entries=PAGE)
