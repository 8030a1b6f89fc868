"""What every journal must do, whatever it is made of: one suite, inherited once for each journal and each fake of it.

A test module makes the suite its own with a subclass that says how to build a `Harness`:

    class TestFileOnMemoryDisk(JournalConformance):
        @pytest.fixture
        def open_harness(self) -> OpenHarness:
            return OpenHarness(memory_disk_harness, virtual_time.run)

Knows nothing of files or of etcd.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from cluster.types import Epoch, ShardId
from node.journal.base import AppendRefused, Fenced, Journal, OutcomeUnknown, ShardJournal

SHARD = ShardId(7)
A, B, C = "A", "B", "C"


class Hold(Protocol):
    """One append, stopped half-way."""

    async def reached(self) -> None:
        """Returns when the append has come to the point where it is stopped."""
        ...

    def release(self) -> None:
        """Let it go on. Also undoes a hold that nothing has reached."""
        ...


class Harness(Protocol):
    """The journals of some processes of one cluster."""

    @property
    def append_stages(self) -> Sequence[str]:
        """The points at which an append can be held, for instance ("request", "reply")."""
        ...

    def journal(self, process: str) -> Journal:
        """The journal as `process` sees it: always the same object for the same process."""
        ...

    async def own(self, shard: ShardId, process: str) -> Epoch:
        """Pass the shard's ownership to `process` as the real system would: its new epoch, greater than all before."""
        ...

    def hold_append(self, process: str, stage: str) -> Hold:
        """Stop the next append of `process` at `stage`."""
        ...


@dataclass(frozen=True, slots=True)
class OpenHarness:
    """How a test comes to a harness."""

    open: Callable[[], AbstractAsyncContextManager[Harness]]
    run: Callable[[Coroutine[Any, Any, None]], None]
    """asyncio.run; or, for what is made of fakes alone, tests.fakes.virtual_time.run: a machine that stands still for
    a second is then no silence of a second."""


@dataclass(slots=True)
class Opened:
    """An open shard and what its replay gave."""

    shard_journal: ShardJournal
    epoch: Epoch
    entries: list[bytes]


@asynccontextmanager
async def opened(harness: Harness, process: str, shard: ShardId = SHARD) -> AsyncIterator[Opened]:
    """Pass ownership to `process`, open, and close at the end."""
    epoch = await harness.own(shard, process)
    entries: list[bytes] = []
    shard_journal = await harness.journal(process).open(shard, epoch, entries.append)
    try:
        yield Opened(shard_journal, epoch, entries)
    finally:
        await shard_journal.close()


async def read(harness: Harness, shard: ShardId = SHARD) -> list[bytes]:
    """What a further owner finds."""
    async with opened(harness, "reader", shard) as reader:
        assert reader.shard_journal.position == len(reader.entries), "position is the number of entries replayed"
        return reader.entries


async def append_all(shard_journal: ShardJournal, entries: Sequence[bytes]) -> None:
    for entry in entries:
        await shard_journal.append(entry)


async def assert_finished(shard_journal: ShardJournal) -> None:
    """Neither appends nor passes a barrier, for ever."""
    with pytest.raises(Fenced):
        await shard_journal.append(b"after the end")
    with pytest.raises(Fenced):
        await shard_journal.barrier()


def run(open_harness: OpenHarness, scenario: Callable[[Harness], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), open_harness.open() as harness:
            await scenario(harness)

    open_harness.run(main())


class JournalConformance:
    @pytest.fixture
    def open_harness(self) -> OpenHarness:
        raise NotImplementedError("a subclass says how to build its harness")

    def test_empty_journal(self, open_harness: OpenHarness) -> None:
        """A shard that nobody has opened has no entries, and its first entry is at position 0."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                assert a.entries == []
                assert a.shard_journal.position == 0
                await a.shard_journal.barrier()

        run(open_harness, scenario)

    def test_replay_gives_what_was_appended(self, open_harness: OpenHarness) -> None:
        """Entries come back whole and in order, with any bytes in them; positions count them."""
        entries = [b"x", bytes(range(256)), b"\0" * 17, b"\xff" * 1000, b"x"]

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                for position, entry in enumerate(entries):
                    assert a.shard_journal.position == position
                    await a.shard_journal.append(entry)
                assert a.shard_journal.position == len(entries)
            assert await read(h) == entries

        run(open_harness, scenario)

    def test_owners_follow_each_other(self, open_harness: OpenHarness) -> None:
        """Each owner continues where the ones before it ended, also one that appended nothing, also the same again."""

        async def scenario(h: Harness) -> None:
            expected: list[bytes] = []
            for turn, process in enumerate([A, B, B, A, C]):
                async with opened(h, process) as owner:
                    assert owner.entries == expected
                    assert owner.shard_journal.position == len(expected)
                    mine = [f"{turn}.{i}".encode() for i in range(turn % 3)]
                    await append_all(owner.shard_journal, mine)
                    expected += mine
            assert await read(h) == expected

        run(open_harness, scenario)

    def test_entry_of_the_greatest_length(self, open_harness: OpenHarness) -> None:
        """entry_bytes_max is a length that can be appended and read again."""

        async def scenario(h: Harness) -> None:
            entry = b"\xa5" * h.journal(A).entry_bytes_max
            async with opened(h, A) as a:
                await append_all(a.shard_journal, [entry, b"between", entry])
            for _ in range(2):
                assert await read(h) == [entry, b"between", entry]

        run(open_harness, scenario)

    def test_too_long_an_entry_is_refused(self, open_harness: OpenHarness) -> None:
        """An entry that is too long is refused, is never read, and finishes the writer."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                await a.shard_journal.append(b"first")
                with pytest.raises(AppendRefused):
                    await a.shard_journal.append(b"x" * (h.journal(A).entry_bytes_max + 1))
                await assert_finished(a.shard_journal)
            assert await read(h) == [b"first"]

        run(open_harness, scenario)

    def test_many_entries(self, open_harness: OpenHarness) -> None:
        """A journal of many pages of entries comes back complete."""
        entries = [b"%06d" % i * (1 + i % 50) for i in range(1_200)]

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                await append_all(a.shard_journal, entries)
            assert await read(h) == entries

        run(open_harness, scenario)

    def test_much_data(self, open_harness: OpenHarness) -> None:
        """A journal of several MiB comes back complete."""

        async def scenario(h: Harness) -> None:
            length = min(100_000, h.journal(A).entry_bytes_max)
            entries = [bytes([i]) * length for i in range(60)]
            async with opened(h, A) as a:
                await append_all(a.shard_journal, entries)
            assert await read(h) == entries

        run(open_harness, scenario)

    def test_shards_are_independent(self, open_harness: OpenHarness) -> None:
        """Shards share no entries, and fencing the owner of one does nothing to another's."""

        async def scenario(h: Harness) -> None:
            one, two = ShardId(1), ShardId(2)
            async with opened(h, A, one) as a1, opened(h, A, two) as a2:
                await a1.shard_journal.append(b"one")
                await a2.shard_journal.append(b"two")
                async with opened(h, B, one) as b1:
                    assert b1.entries == [b"one"]
                    await a2.shard_journal.append(b"two again")
                    await a2.shard_journal.barrier()
                    with pytest.raises(Fenced):
                        await a1.shard_journal.append(b"late")
            assert await read(h, one) == [b"one"]
            assert await read(h, two) == [b"two", b"two again"]

        run(open_harness, scenario)

    def test_shards_append_at_the_same_time(self, open_harness: OpenHarness) -> None:
        """Appends of several shards of one process may be in flight together."""

        async def scenario(h: Harness) -> None:
            shards = [ShardId(s) for s in range(8)]

            async def write(shard: ShardId) -> None:
                async with opened(h, A, shard) as a:
                    await append_all(a.shard_journal, [b"%d.%d" % (shard, i) for i in range(10)])

            async with asyncio.TaskGroup() as group:
                for shard in shards:
                    group.create_task(write(shard))
            for shard in shards:
                assert await read(h, shard) == [b"%d.%d" % (shard, i) for i in range(10)]

        run(open_harness, scenario)

    def test_append_is_fenced_once_a_higher_epoch_has_opened(self, open_harness: OpenHarness) -> None:
        """After a successor's open returned, the old owner's append raises Fenced and its entry is never read."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                await a.shard_journal.append(b"a1")
                async with opened(h, B) as b:
                    assert b.entries == [b"a1"]
                    with pytest.raises(Fenced):
                        await a.shard_journal.append(b"a2")
                    await assert_finished(a.shard_journal)
                    await b.shard_journal.append(b"b1")
            assert await read(h) == [b"a1", b"b1"]

        run(open_harness, scenario)

    def test_barrier_passes_only_while_the_epoch_stands(self, open_harness: OpenHarness) -> None:
        """The barrier passes for the owner, before and after appends, and raises Fenced once a successor has opened."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                await a.shard_journal.barrier()
                await a.shard_journal.append(b"a1")
                await a.shard_journal.barrier()
                async with opened(h, B) as b:
                    with pytest.raises(Fenced):
                        await a.shard_journal.barrier()
                    await assert_finished(a.shard_journal)
                    await b.shard_journal.barrier()

        run(open_harness, scenario)

    def test_an_owner_that_returns_is_fenced_under_its_old_epoch(self, open_harness: OpenHarness) -> None:
        """A process that lost a shard and got it again writes under its new epoch only."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as first, opened(h, B) as b:
                await b.shard_journal.append(b"b1")
                async with opened(h, A) as again:
                    assert again.entries == [b"b1"]
                    with pytest.raises(Fenced):
                        await first.shard_journal.append(b"old")
                    await again.shard_journal.append(b"new")
            assert await read(h) == [b"b1", b"new"]

        run(open_harness, scenario)

    def test_a_lower_epoch_cannot_open(self, open_harness: OpenHarness) -> None:
        """An owner that opens late, after a higher epoch has opened, is fenced, and the higher one is not disturbed."""

        async def scenario(h: Harness) -> None:
            late = await h.own(SHARD, A)
            async with opened(h, B) as b:
                with pytest.raises(Fenced):
                    await h.journal(A).open(SHARD, late, lambda entry: None)
                await b.shard_journal.append(b"b1")
            assert await read(h) == [b"b1"]

        run(open_harness, scenario)

    def test_an_epoch_opens_once(self, open_harness: OpenHarness) -> None:
        """A second open with an epoch that was used before is refused, and the first writer goes on."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                await a.shard_journal.append(b"a1")
                with pytest.raises(Fenced):
                    await h.journal(A).open(SHARD, a.epoch, lambda entry: None)
                await a.shard_journal.append(b"a2")
            assert await read(h) == [b"a1", b"a2"]

        run(open_harness, scenario)

    def test_an_append_in_flight_does_not_enter_after_a_successors_open(self, open_harness: OpenHarness) -> None:
        """Whatever was in flight when a successor opened is in what the successor replayed, or never in the journal."""

        async def scenario(h: Harness) -> None:
            expected: list[bytes] = []
            for stage in h.append_stages:
                async with opened(h, A) as a:
                    assert a.entries == expected
                    await a.shard_journal.append(b"a before " + stage.encode())
                    expected.append(b"a before " + stage.encode())
                    hold = h.hold_append(A, stage)
                    in_flight = b"a at " + stage.encode()
                    append = asyncio.create_task(a.shard_journal.append(in_flight))
                    await hold.reached()
                    async with opened(h, B) as b:
                        assert b.entries in (expected, [*expected, in_flight])
                        expected = [*b.entries]
                        hold.release()
                        [outcome] = await asyncio.gather(append, return_exceptions=True)
                        if outcome is None:
                            assert in_flight in expected, "acknowledged, and the successor has not replayed it"
                        else:
                            assert isinstance(outcome, Fenced | OutcomeUnknown), outcome
                            await assert_finished(a.shard_journal)
                        await b.shard_journal.append(b"b after " + stage.encode())
                        expected.append(b"b after " + stage.encode())
                assert await read(h) == expected

        run(open_harness, scenario)

    def test_a_cancelled_append_is_unknown(self, open_harness: OpenHarness) -> None:
        """A cancelled append finishes the writer; its entry is there or not, once, and nothing else is harmed."""

        async def scenario(h: Harness) -> None:
            expected: list[bytes] = []
            for stage in h.append_stages:
                async with opened(h, A) as a:
                    assert a.entries == expected
                    await a.shard_journal.append(b"a before " + stage.encode())
                    expected.append(b"a before " + stage.encode())
                    hold = h.hold_append(A, stage)
                    cancelled = b"a at " + stage.encode()
                    append = asyncio.create_task(a.shard_journal.append(cancelled))
                    await hold.reached()
                    append.cancel()
                    hold.release()
                    with pytest.raises(asyncio.CancelledError):
                        await append
                    await assert_finished(a.shard_journal)
                found = await read(h)
                assert found in (expected, [*expected, cancelled])
                expected = found

        run(open_harness, scenario)
