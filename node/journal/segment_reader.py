"""The intact frames of one segment, oldest first. Reads and syncs; never writes."""

import asyncio
from itertools import islice
from pathlib import Path

import structlog

from node.journal.base import CorruptJournal
from node.journal.disk import DiskFile
from node.journal.frames import FRAME_BYTES_MAX, HEADER_BYTES, SegmentId, frame_within, frames, place_of_seal

log = structlog.get_logger()

_PIECE_BYTES = 16 * 1024
_PIECE_BYTES_MAX = 1024 * 1024
"""Pieces grow while one after another is read: who reads along wants a few frames, who opens wants them all."""

_SEARCH_BYTES = 4 * 1024
"""How much of a tail is searched before others have their turn."""


class SegmentReader:
    """The intact frames from a segment's beginning on, in pieces."""

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
        self._piece_bytes = _PIECE_BYTES

    def go_on_at(self, offset: int) -> None:
        """Leave out what is before `offset`, where a frame begins. Not backwards."""
        assert offset >= self.end
        self._rest = self._rest[offset - self.end :]
        self.end = offset
        self._at_end_of_file = self._at_end_of_file and bool(self._rest)

    async def one(self) -> bytes | None:
        """The payload of the next frame; None if what follows is no intact frame."""
        payloads = await self._next(1)
        return payloads[0] if payloads else None

    async def batch(self) -> list[bytes]:
        """The payloads of the next intact frames, at least one; none if what follows is no intact frame."""
        return await self._next(None)

    async def another(self) -> bool:
        """Whether what follows is an intact frame. It stays the next one."""
        return bool(await self._look(1))

    async def _next(self, count_max: int | None) -> list[bytes]:
        payloads = await self._look(count_max)
        length = len(payloads) * HEADER_BYTES + sum(map(len, payloads))
        self._rest = self._rest[length:]
        self.end += length
        return payloads

    async def _look(self, count_max: int | None) -> list[bytes]:
        while True:
            payloads = list(islice(frames(self.segment, self._rest, self.end), count_max))
            # A rest that is longer than any frame begins with a bad one, not with one that is incomplete.
            if payloads or self._at_end_of_file or len(self._rest) > FRAME_BYTES_MAX:
                return payloads
            await self._read_piece()

    async def _read_piece(self) -> None:
        offset = self.end + len(self._rest)
        wanted = self._piece_bytes if self._limit is None else min(self._piece_bytes, self._limit - offset)
        self._piece_bytes = min(2 * self._piece_bytes, _PIECE_BYTES_MAX)
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
