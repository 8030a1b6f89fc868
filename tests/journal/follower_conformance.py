"""What every follower must do, whatever the journal is made of: one suite, inherited beside `JournalConformance`.

What it has handed on is a prefix of the journal at any time, whoever writes and whatever is cancelled; an open hands on
exactly the rest.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest

from cluster.types import ShardId
from node.journal.base import Fenced, Follower, Journal, OutcomeUnknown, ShardJournal
from tests.journal.conformance import (
    SHARD,
    A,
    B,
    C,
    Harness,
    OpenHarness,
    append_all,
    assert_finished,
    opened,
    read,
    run,
)

GAPS = [1, 2, 27, 28, 29, 56, 1, 28 * 9 + 1, 28 * 10, 300]
"""How many entries a follower is behind: around one page of etcd's, and beyond all that are read side by side."""
LENGTHS = [1, 16_376, 16_377, 1, 32_760, 40_000, 65_528, 7, 100_000, 16_375, 1, 1, 120_000, 90_000, 5]
"""Frames that end with, before and behind the pieces in which a segment is read."""
READ_ENTRIES = 70


class Following:
    """A follower, and what it has handed on."""

    def __init__(self, journal: Journal, shard: ShardId = SHARD) -> None:
        self.entries: list[bytes] = []
        self.follower: Follower = journal.follow(shard, self.entries.append)

    @property
    def position(self) -> int:
        return self.follower.position

    async def advance(self, written: list[bytes]) -> None:
        """Advance behind a writer that stands still having written this. The newest entry may be left out."""
        await self.follower.advance()
        assert self.position == len(self.entries)
        assert self.entries == written[: len(self.entries)], "not a prefix of the journal"
        assert len(self.entries) >= len(written) - 1, "more than the newest entry is left"

    @asynccontextmanager
    async def own(self, h: Harness, process: str) -> AsyncIterator[ShardJournal]:
        """Pass the shard to `process`, to which this follower belongs, open and in the end close."""
        shard_journal = await self.follower.open(await h.own(SHARD, process))
        try:
            yield shard_journal
        finally:
            await shard_journal.close()


def entries_of(number: int, first: int = 0, prefix: str = "") -> list[bytes]:
    return [f"{prefix}{position}".encode() for position in range(first, first + number)]


async def cancelled(follower: Follower, turns: int) -> bool:
    """Cancel an `advance` after so many turns of the event loop; whether it had not ended before."""
    advance = asyncio.create_task(follower.advance())
    for _ in range(turns):
        await asyncio.sleep(0)
    if advance.done():
        await advance
        return False
    advance.cancel()
    with pytest.raises(asyncio.CancelledError):
        await advance
    return True


class FollowerConformance:
    def test_follower_of_an_empty_journal(self, open_harness: OpenHarness) -> None:
        """Nothing is handed on, as often as it is asked; then it opens, and writes the first entry."""

        async def scenario(h: Harness) -> None:
            a, never_opened = Following(h.journal(A)), Following(h.journal(B))
            for following in (a, a, never_opened):
                await following.advance([])
            async with a.own(h, A) as owner:
                assert owner.position == 0
                await never_opened.advance([])
                await owner.append(b"first")
                assert a.position == owner.position == 1
                await never_opened.advance([b"first"])
            assert await read(h) == [b"first"]

        run(open_harness, scenario)

    def test_following_a_writer(self, open_harness: OpenHarness) -> None:
        """Behind each append: every entry once, in order, and never more than the newest is missing."""

        async def scenario(h: Harness) -> None:
            following = Following(h.journal(B))
            async with opened(h, A) as a:
                for number in range(READ_ENTRIES):
                    await a.shard_journal.append(b"%d" % number)
                    await following.advance(entries_of(number + 1))

        run(open_harness, scenario)

    def test_following_in_pages(self, open_harness: OpenHarness) -> None:
        """However many entries the follower is behind."""

        async def scenario(h: Harness) -> None:
            following = Following(h.journal(B))
            written: list[bytes] = []
            async with opened(h, A) as a:
                for gap in GAPS:
                    more = entries_of(gap, len(written))
                    await append_all(a.shard_journal, more)
                    written += more
                    await following.advance(written)
                    await following.advance(written)
            async with following.own(h, B):
                assert following.entries == written

        run(open_harness, scenario)

    def test_following_in_pieces(self, open_harness: OpenHarness) -> None:
        """Whatever the lengths of entries, one by one and several at once; also for who begins at every point."""

        async def scenario(h: Harness) -> None:
            following = Following(h.journal(B))
            late: list[Following] = []
            written: list[bytes] = []
            async with opened(h, A) as a:
                for number, length in enumerate(LENGTHS):
                    written.append(bytes([number + 1]) * length)
                    await a.shard_journal.append(written[-1])
                    await following.advance(written)
                    late.append(Following(h.journal(C)))
                    await late[-1].advance(written)
                for each in late:
                    await each.advance(written)
            for each in late[::5]:
                async with each.own(h, C):
                    assert each.entries == written

        run(open_harness, scenario)

    def test_following_across_owners(self, open_harness: OpenHarness) -> None:
        """Also owners that append nothing, and one that is fenced in the middle of an append."""

        async def scenario(h: Harness) -> None:
            following, seldom = Following(h.journal(C)), Following(h.journal(C))
            written: list[bytes] = []
            for turn, process in enumerate([A, B, B, A, B, A]):
                async with opened(h, process) as owner:
                    await following.advance(written)
                    for number in range(turn % 3):
                        written.append(b"%d.%d" % (turn, number))
                        await owner.shard_journal.append(written[-1])
                        await following.advance(written)
                    if turn % 2:
                        await seldom.advance(written)
                    async with opened(h, "reader"):
                        await following.advance(written)
                        with pytest.raises(Fenced):
                            await owner.shard_journal.append(b"late")
                        await following.advance(written)
            for each in (following, seldom):
                async with each.own(h, C):
                    assert each.entries == written

        run(open_harness, scenario)

    @pytest.mark.parametrize("read_before", [0, 1, 2, 28, 40])
    def test_an_open_hands_on_the_rest(self, open_harness: OpenHarness, read_before: int) -> None:
        """However much was read before: afterwards the whole journal was handed on, each entry once; the new writer
        goes on behind it."""

        async def scenario(h: Harness) -> None:
            following = Following(h.journal(B))
            async with opened(h, A) as a:
                await append_all(a.shard_journal, entries_of(read_before))
                await following.advance(entries_of(read_before))
                await append_all(a.shard_journal, entries_of(40 - read_before, read_before))
                async with following.own(h, B) as b:
                    assert following.entries == entries_of(40)
                    assert following.position == b.position == 40
                    with pytest.raises(Fenced):
                        await a.shard_journal.append(b"late")
                    await b.append(b"40")
                    assert following.entries == entries_of(40), "who writes an entry is not told of it"
                    assert following.position == b.position == 41
            assert await read(h) == entries_of(41)

        run(open_harness, scenario)

    def test_a_follower_that_opens_late_is_fenced(self, open_harness: OpenHarness) -> None:
        """Once a higher epoch has opened, also for who has read everything; the higher one is not disturbed."""

        async def scenario(h: Harness) -> None:
            following = Following(h.journal(A))
            async with opened(h, C) as c:
                await append_all(c.shard_journal, entries_of(3))
                await following.advance(entries_of(3))
                late = await h.own(SHARD, A)
                async with opened(h, B) as b:
                    with pytest.raises(Fenced):
                        await following.follower.open(late)
                    await b.shard_journal.append(b"3")
            assert await read(h) == entries_of(4)

        run(open_harness, scenario)

    def test_following_after_having_owned(self, open_harness: OpenHarness) -> None:
        """Who has written and closed goes on behind what it wrote, reads what others write, and opens again, warm; also
        when it or the others have written nothing."""

        async def scenario(h: Harness) -> None:
            journal: list[bytes] = []
            others: list[bytes] = []
            following = Following(h.journal(A))
            for turn, (mine, theirs) in enumerate([(2, 2), (0, 3), (3, 0), (0, 0), (1, 1), (2, 2)]):
                async with following.own(h, A) as owner:
                    assert following.entries == others
                    assert following.position == owner.position == len(journal)
                    written = entries_of(mine, prefix=f"mine {turn}.")
                    await append_all(owner, written)
                    journal += written
                for _ in range(2):
                    await following.follower.advance()
                    assert following.position == len(journal), "its own entries"
                async with opened(h, B) as b:
                    assert b.entries == journal
                    written = entries_of(theirs, prefix=f"theirs {turn}.")
                    others += written
                    for entry in written:
                        await b.shard_journal.append(entry)
                        journal.append(entry)
                        await following.follower.advance()
                        assert following.entries == others[: len(following.entries)]
                        assert following.position >= len(journal) - 1
            assert await read(h) == journal

        run(open_harness, scenario)

    def test_a_cancelled_advance(self, open_harness: OpenHarness) -> None:
        """Cancelled anywhere, a follower goes on where it was: nothing twice, nothing left out."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                written = entries_of(100) + [bytes([number]) * 50_000 for number in range(8)]
                await append_all(a.shard_journal, written[:30])
                async with opened(h, A) as again:
                    await append_all(again.shard_journal, written[30:])
                    often = Following(h.journal(C))
                    for turns in count():
                        once = Following(h.journal(B))
                        # Real journals need many turns until they hear anything: there the moments are spread.
                        moment = max(turns, turns**3 // 100)
                        if not await cancelled(once.follower, moment):
                            break
                        await cancelled(often.follower, moment)
                        for following in (once, often):
                            assert following.entries == written[: following.position]
                        await once.advance(written)
                    assert turns > 5
                    await often.advance(written)
                async with often.own(h, C):
                    assert often.entries == written

        run(open_harness, scenario)

    def test_a_cancelled_open(self, open_harness: OpenHarness) -> None:
        """Cancelled anywhere, an open has fenced or not, and the next epoch finds the whole journal."""

        async def scenario(h: Harness) -> None:
            async with opened(h, A) as a:
                await append_all(a.shard_journal, entries_of(40))
            for turns in count():
                following = Following(h.journal(B))
                await following.advance(entries_of(40))
                epoch = await h.own(SHARD, B)
                opening = asyncio.create_task(following.follower.open(epoch))
                for _ in range(max(turns, turns**3 // 100)):
                    await asyncio.sleep(0)
                if opening.done():
                    await (await opening).close()
                    break
                opening.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await opening
                assert following.entries == entries_of(40)[: len(following.entries)]
            assert turns > 3
            assert await read(h) == entries_of(40)

        run(open_harness, scenario)

    def test_two_followers(self, open_harness: OpenHarness) -> None:
        """Of one process or of two: each gets every entry, none disturbs the writer, and one may become the owner."""

        async def scenario(h: Harness) -> None:
            followings = [Following(h.journal(process)) for process in (B, B, C)]
            written: list[bytes] = []
            async with opened(h, A) as a:
                for turn in range(12):
                    written.append(b"%d" % turn)
                    await a.shard_journal.append(written[-1])
                    await asyncio.gather(*(each.advance(written) for each in followings[: 1 + turn % 3]))
                    await a.shard_journal.barrier()
            async with followings[0].own(h, B) as b:
                assert followings[0].entries == written
                written.append(b"of another epoch")
                await b.append(written[-1])
                for each in followings[1:]:
                    await each.advance(written)
            async with followings[2].own(h, C):
                assert followings[2].entries == written

        run(open_harness, scenario)

    def test_following_while_it_is_written(self, open_harness: OpenHarness) -> None:
        """Appends that are under way meanwhile: what has been acknowledged before, but for the newest, is handed on."""

        async def scenario(h: Harness) -> None:
            following = Following(h.journal(B))
            acknowledged = 0
            everything = entries_of(400)

            async def write() -> None:
                nonlocal acknowledged
                async with opened(h, A) as a:
                    for entry in everything:
                        await a.shard_journal.append(entry)
                        acknowledged += 1

            writing = asyncio.create_task(write())
            advances = 0
            while not writing.done():
                before = acknowledged
                await following.follower.advance()
                advances += 1
                assert following.entries == everything[: following.position]
                assert following.position >= before - 1
                for _ in range(advances % 7):
                    await asyncio.sleep(0)  # so that it falls behind by more and by less
            await writing
            assert advances > 5
            await following.advance(everything)

        run(open_harness, scenario)

    def test_an_append_in_flight_is_handed_on_only_for_good(self, open_harness: OpenHarness) -> None:
        """Whatever the follower has taken while an append is stopped half-way, an owner that opens then finds."""

        async def scenario(h: Harness) -> None:
            for stage in h.append_stages:
                following = Following(h.journal(C))
                async with opened(h, A) as a:
                    await append_all(a.shard_journal, entries_of(2, prefix=stage))
                    hold = h.hold_append(A, stage)
                    append = asyncio.create_task(a.shard_journal.append(b"in flight at " + stage.encode()))
                    await hold.reached()
                    await following.follower.advance()
                    taken = list(following.entries)
                    async with opened(h, B) as b:
                        assert b.entries[: len(taken)] == taken
                        await following.follower.advance()
                        hold.release()
                        [outcome] = await asyncio.gather(append, return_exceptions=True)
                        assert outcome is None or isinstance(outcome, Fenced | OutcomeUnknown)
                        await following.follower.advance()
                        await b.shard_journal.append(b"after it")
                        await following.advance([*b.entries, b"after it"])
                    if outcome is not None:
                        await assert_finished(a.shard_journal)

        run(open_harness, scenario)
