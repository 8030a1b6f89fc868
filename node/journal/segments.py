"""Which entries the segments of a shard hold, by the top segment's seal. Reads and syncs; never writes.

The rules are in docs/journal-file.md, "Which entries are in the journal".
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from cluster.types import Epoch, ShardId
from node.journal.base import CorruptJournal
from node.journal.disk import Disk, DiskFile
from node.journal.frames import (
    FRAME_BYTES_MAX,
    HEADER_BYTES,
    NotASeal,
    Seal,
    SealedSegment,
    SegmentId,
    decode_seal,
    frame_within,
    frames,
    place_of_seal,
)

log = structlog.get_logger()

Replay = Callable[[bytes], None]

_PIECE_BYTES = 1024 * 1024

_TURN_BYTES = 64 * 1024
"""How much is replayed before others have their turn: some hundred coupons, a few milliseconds."""

_SEARCH_BYTES = 4 * 1024
"""How much of a tail is searched before others have their turn."""


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


async def replay_segments(directory: ShardDirectory, epochs: Sequence[Epoch], replay: Replay) -> Seal:
    """Hand `replay` every entry that is in the journal, oldest first, having made sure that it is durable.

    Args:
        epochs: of the segments to look at, lowest first. They acknowledge nothing any more.

    Returns:
        The seal that says that these entries, and no others, are in the journal.

    Raises:
        CorruptJournal, OSError.
    """
    # Highest first: whoever wrote a seal has read the lower segments before, so a lower segment that is read after a
    # seal holds all that the seal promises.
    for epoch in reversed(epochs):
        segment = SegmentId(directory.shard, epoch)
        path = directory.path_of(segment)
        with closing(await directory.disk.open(path)) as file:
            reader = _SegmentReader(file, path, segment)
            first = await reader.batch()
            if not first:
                await reader.require_torn_tail()
                continue
            try:
                seal = decode_seal(segment, first[0])
            except NotASeal as error:
                raise CorruptJournal(f"{path}:0", str(error)) from error
            for sealed in seal.segments:
                if sealed.epoch not in epochs:
                    missing = directory.path_of(SegmentId(directory.shard, sealed.epoch))
                    raise CorruptJournal(
                        f"{missing}:0", f"{segment.name} says that it holds entries, and it is missing"
                    )
                await _replay_sealed(directory, sealed, replay)
            top = await _replay_top(reader, first[1:], replay)
            return Seal(seal.first_position, seal.segments + ((top,) if top.entries else ()))
    return Seal(0, ())


async def _replay_sealed(directory: ShardDirectory, sealed: SealedSegment, replay: Replay) -> None:
    """Hand over the entries of a segment whose end is fixed. Durable already: the seal was written after that."""
    segment = SegmentId(directory.shard, sealed.epoch)
    path = directory.path_of(segment)
    with closing(await directory.disk.open(path)) as file:
        reader = _SegmentReader(file, path, segment, limit=sealed.length)
        # The first frame is the segment's seal: it means nothing any more.
        entries = (await reader.batch())[1:]
        await _hand_over(entries, replay)
        count = len(entries)
        while entries := await reader.batch():
            await _hand_over(entries, replay)
            count += len(entries)
        if reader.end != sealed.length:
            raise CorruptJournal(f"{path}:{reader.end}", f"a bad frame; intact ones are sealed up to {sealed.length}")
        if count != sealed.entries:
            raise CorruptJournal(f"{path}:{reader.end}", f"{count} entries, and {sealed.entries} are sealed")


async def _replay_top(reader: "_SegmentReader", entries: list[bytes], replay: Replay) -> SealedSegment:
    """Hand over the entries of the segment that no seal ends yet: `entries`, read already, and what follows.

    Each of its frames was synced before the next was written, by its writer, which never goes on after a sync that
    failed. So the last one alone may be missing on the disk.
    """
    count = 0
    while following := await reader.batch():
        await _hand_over(entries, replay)
        count += len(entries)
        entries = following
    await reader.require_torn_tail()
    end = reader.end
    if entries and not await reader.make_last_durable(entries[-1]):
        end -= HEADER_BYTES + len(entries.pop())
    await _hand_over(entries, replay)
    return SealedSegment(reader.segment.epoch, end, count + len(entries))


async def _hand_over(entries: Sequence[bytes], replay: Replay) -> None:
    turn = 0
    for entry in entries:
        replay(entry)
        turn += len(entry)
        if turn >= _TURN_BYTES:
            turn = 0
            await asyncio.sleep(0)


class _SegmentReader:
    """The intact frames at a segment's beginning, in pieces."""

    def __init__(self, file: DiskFile, path: Path, segment: SegmentId, limit: int | None = None) -> None:
        """Args: limit: as if the file ended there."""
        self.segment = segment
        self.end = 0
        """Where the intact frames read so far end."""
        self._file = file
        self._path = path
        self._limit = limit
        self._rest = b""
        """What was read behind `end`."""
        self._at_end_of_file = False

    async def batch(self) -> list[bytes]:
        """The payloads of the next intact frames, at least one; none if what follows is no intact frame."""
        while True:
            payloads = list(frames(self.segment, self._rest, self.end))
            if payloads:
                length = len(payloads) * HEADER_BYTES + sum(map(len, payloads))
                self._rest = self._rest[length:]
                self.end += length
                return payloads
            # A rest that is longer than any frame begins with a bad one, not with one that is incomplete.
            if self._at_end_of_file or len(self._rest) > FRAME_BYTES_MAX:
                return []
            await self._read_piece()

    async def _read_piece(self) -> None:
        offset = self.end + len(self._rest)
        wanted = _PIECE_BYTES if self._limit is None else min(_PIECE_BYTES, self._limit - offset)
        piece = await self._file.read(offset, wanted)
        self._rest += piece
        self._at_end_of_file = len(piece) < wanted or offset + wanted == self._limit

    async def require_torn_tail(self) -> None:
        """After the last batch of a segment without a limit: what follows is nothing, or one frame that is torn.

        Raises:
            CorruptJournal: it is something else, so acknowledged entries may be among it.
        """
        if not self._rest:
            return
        place = f"{self._path}:{self.end}"
        if len(self._rest) > FRAME_BYTES_MAX:
            raise CorruptJournal(place, "a bad frame with more behind it than one torn frame can be")
        for start in range(self.end + 1, self.end + len(self._rest), _SEARCH_BYTES):
            intact = frame_within(self.segment, self._rest, self.end, start, start + _SEARCH_BYTES)
            if intact is not None:
                raise CorruptJournal(place, f"a bad frame with an intact one behind it, at {intact}")
            await asyncio.sleep(0)
        if self.end == 0 and (elsewhere := place_of_seal(self._rest)) is not None:
            raise CorruptJournal(place, f"a segment of shard {elsewhere.shard}: {elsewhere.name}")
        log.warning("torn_frame_ignored", shard=self.segment.shard, place=place, bytes=len(self._rest))

    async def make_last_durable(self, payload: bytes) -> bool:
        """After the last batch: sync the last frame, which holds `payload`; whether it is on the disk now.

        The page cache is not believed. After a sync that failed, the writer's or the kernel's own, the pages count as
        clean: the next sync succeeds and writes nothing.
        """
        offset = self.end - HEADER_BYTES - len(payload)
        await self._file.sync()
        await self._file.drop_cache()
        on_disk = await self._file.read(offset, HEADER_BYTES + len(payload))
        if list(frames(self.segment, on_disk, offset)) == [payload]:
            return True
        log.error("page_cache_was_wrong", shard=self.segment.shard, place=f"{self._path}:{offset}")
        return False
