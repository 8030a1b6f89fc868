"""Which entries the segments of a shard hold, by the top segment's seal. Reads and syncs; never writes.

The rules are in docs/journal-file.md, "Which entries are in the journal".
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from cluster.types import Epoch, ShardId
from node.journal.base import CorruptJournal
from node.journal.disk import Disk
from node.journal.frames import HEADER_BYTES, NotASeal, Seal, SealedSegment, SegmentId, decode_seal
from node.journal.segment_reader import SegmentReader

Replay = Callable[[bytes], None]

_TURN_BYTES = 64 * 1024
"""How much is replayed before others have their turn: some hundred coupons, a few milliseconds."""


@dataclass(frozen=True, slots=True)
class ShardDirectory:
    """Where a shard's segments are."""

    disk: Disk
    shard: ShardId
    path: Path

    def path_of(self, segment: SegmentId) -> Path:
        return self.path / segment.name

    async def names(self) -> list[str]:
        return await self.disk.list_directory(self.path)


class NoLongerThere(Exception):
    """An entry that was taken once is not in the journal any more: somebody has put other files there."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What was taken of one segment."""

    end: int
    """Offset behind the last frame."""
    entries: int
    last_bytes: int
    last_crc: int
    """Of the last frame's payload, to know it again by."""


@dataclass(frozen=True, slots=True)
class _Top:
    """The segment whose seal is believed."""

    reader: SegmentReader
    """Has read the seal."""
    seal: Seal


class EntryReader:
    """Goes on where it stopped, as often as it is asked: each entry is taken once, in order.

    The top is the highest segment with an intact seal. Of the segments that the seal names all counts up to there. Of
    the top segment every frame but the last is in the journal for good: each was synced before the next was written, by
    its writer, which never goes on after a sync that failed. So the last one alone may be missing on the disk.
    """

    def __init__(self, directory: ShardDirectory, replay: Replay) -> None:
        self.directory = directory
        self._replay = replay
        self._taken: dict[Epoch, _Taken] = {}
        self._entries = 0
        self._first_position = 0

    @property
    def position(self) -> int:
        """Of the next entry."""
        return self._first_position + self._entries

    async def read_along(self, epochs: Sequence[Epoch]) -> None:
        """Take what is new and in the journal for good. Makes nothing durable.

        Believes the highest segment with an entry behind its seal. A bare seal may be of an owner that is about to find
        itself fenced, by one that has read less; who writes an entry has looked. And that only the last frame is in
        doubt goes for a segment that is no longer the highest, too: its writer stops at the first look that fails.

        Args:
            epochs: of all segments, lowest first. Somebody may write the highest one meanwhile.

        Raises:
            CorruptJournal, NoLongerThere, OSError.
        """
        async with self._top(epochs, along=True) as top:
            if top is not None:
                await self._take_sealed(top, epochs)
                await self._take_all_but_last(top.reader)
            elif self._taken:
                raise NoLongerThere(f"{self.directory.path}: there is no entry")

    async def read_all(self, epochs: Sequence[Epoch]) -> Seal:
        """Take every entry that is in the journal, having made sure that it is durable.

        Args:
            epochs: of the segments to look at, lowest first. They acknowledge nothing any more.

        Returns:
            The seal that says that these entries, and no others, are in the journal.

        Raises:
            CorruptJournal, NoLongerThere, OSError.
        """
        async with self._top(epochs, along=False) as top:
            if top is None:
                if self._taken:
                    raise NoLongerThere(f"{self.directory.path}: there is no seal")
                return Seal(0, ())
            await self._take_sealed(top, epochs)
            last = await self._take_all_but_last(top.reader)
            await top.reader.require_torn_tail()
            if last is not None and await top.reader.make_last_durable(last):
                self._take(top.reader.segment.epoch, top.reader.end, last)
            taken = self._taken.get(top.reader.segment.epoch)
            rows = (SealedSegment(top.reader.segment.epoch, taken.end, taken.entries),) if taken else ()
            return Seal(top.seal.first_position, top.seal.segments + rows)

    @asynccontextmanager
    async def _top(self, epochs: Sequence[Epoch], *, along: bool) -> AsyncIterator[_Top | None]:
        """Args: along: somebody may be opening or writing at this moment: see `read_along`."""
        # Highest first: whoever wrote a seal has read the lower segments before, so a lower segment that is read after
        # a seal holds all that the seal promises.
        for epoch in reversed(epochs):
            segment = SegmentId(self.directory.shard, epoch)
            path = self.directory.path_of(segment)
            with closing(await self.directory.disk.open(path)) as file:
                reader = SegmentReader(file, path, segment)
                first = await reader.one()
                if first is None:
                    if not along:
                        await reader.require_torn_tail()
                    continue
                try:
                    seal = decode_seal(segment, first)
                except NotASeal as error:
                    raise CorruptJournal(f"{path}:0", str(error)) from error
                if along and not await reader.another():
                    continue
                yield _Top(reader, seal)
                return
        yield None

    async def _take_sealed(self, top: _Top, epochs: Sequence[Epoch]) -> None:
        """All that the lower segments hold. Durable already: the seal was written after that."""
        sealed_epochs = {sealed.epoch for sealed in top.seal.segments}
        for epoch in self._taken:
            if epoch not in sealed_epochs and epoch != top.reader.segment.epoch:
                raise NoLongerThere(f"{self.directory.path}: {top.reader.segment.name} does not know of {epoch}")
        self._first_position = top.seal.first_position
        for sealed in top.seal.segments:
            segment = SegmentId(self.directory.shard, sealed.epoch)
            path = self.directory.path_of(segment)
            if sealed.epoch not in epochs:
                what = f"{top.reader.segment.name} says that it holds entries, and it is missing"
                raise CorruptJournal(f"{path}:0", what)
            taken = self._taken.get(sealed.epoch)
            if taken is not None and (taken.end, taken.entries) == (sealed.length, sealed.entries):
                continue
            with closing(await self.directory.disk.open(path)) as file:
                await self._take_one_sealed(SegmentReader(file, path, segment, limit=sealed.length), path, sealed)

    async def _take_one_sealed(self, reader: SegmentReader, path: Path, sealed: SealedSegment) -> None:
        # The first frame is the segment's seal: it means nothing any more.
        await reader.one()
        await self._skip_taken(reader)
        while entries := await reader.batch():
            await self._take_in_turns(sealed.epoch, reader.end, entries)
        place = f"{path}:{reader.end}"
        if reader.end != sealed.length:
            raise CorruptJournal(place, f"a bad frame; intact ones are sealed up to {sealed.length}")
        taken = self._taken.get(sealed.epoch)
        if taken is None or taken.entries != sealed.entries:
            raise CorruptJournal(place, f"{taken.entries if taken else 0} entries, and {sealed.entries} are sealed")

    async def _take_all_but_last(self, reader: SegmentReader) -> bytes | None:
        """Of the top segment. Returns the last frame's payload, which the reader stands behind; None: there is none."""
        await self._skip_taken(reader)
        entries: list[bytes] = []
        end = reader.end
        while following := await reader.batch():
            await self._take_in_turns(reader.segment.epoch, end, entries)
            entries, end = following, reader.end
        if not entries:
            return None
        last = entries.pop()
        await self._take_in_turns(reader.segment.epoch, end - HEADER_BYTES - len(last), entries)
        return last

    async def _skip_taken(self, reader: SegmentReader) -> None:
        """Go on behind the last frame that was taken of this segment, having seen it once more."""
        taken = self._taken.get(reader.segment.epoch)
        if taken is None:
            return
        start = taken.end - HEADER_BYTES - taken.last_bytes
        reader.go_on_at(start)
        last = await reader.one()
        if last is None or reader.end != taken.end or crc32c(last) != taken.last_crc:
            raise NoLongerThere(f"{self.directory.path_of(reader.segment)}:{start}: another frame than was read before")

    async def _take_in_turns(self, epoch: Epoch, end: int, entries: Sequence[bytes]) -> None:
        """Take entries of consecutive frames that end at `end`, with a turn for others now and then."""
        at = end - len(entries) * HEADER_BYTES - sum(map(len, entries))
        turn = 0
        for entry in entries:
            at += HEADER_BYTES + len(entry)
            self._take(epoch, at, entry)
            turn += len(entry)
            if turn >= _TURN_BYTES:
                turn = 0
                await asyncio.sleep(0)

    def _take(self, epoch: Epoch, end: int, entry: bytes) -> None:
        self._replay(entry)
        self.went_on(epoch, end, entry)

    def went_on(self, epoch: Epoch, end: int, entry: bytes) -> None:
        """Over one entry of the epoch's segment, whose frame ends at `end`: without replaying it, for who wrote it."""
        before = self._taken.get(epoch)
        self._entries += 1
        self._taken[epoch] = _Taken(end, before.entries + 1 if before else 1, len(entry), crc32c(entry))
