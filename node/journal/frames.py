"""The file journal's bytes: names, frames and seals, to bytes and back. Never touches a file.

docs/journal-file.md is the format's documentation, with an example in hexadecimal; it and this file say the same.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from crc32c import crc32c

from cluster.types import Epoch, Revision, ShardId

FORMAT_VERSION = 1

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
"""The longest payload of a frame. Bounds how much a torn tail can be, whatever a writer's own limit was."""

_HEADER = struct.Struct("<II")
"""CRC32C, length of the payload."""

_CONTEXT = struct.Struct("<IIQQQ")
"""Goes through the CRC before the payload and stands nowhere: length, shard, epoch (2), offset of the frame."""

_SEAL = struct.Struct("<8sIIQQQII")
"""Magic, format version, shard, epoch (2), first position, number of rows, zero."""

_ROW = struct.Struct("<QQQQ")
"""Epoch (2), length, entries."""

MAGIC = b"SEONSEAL"
HEADER_BYTES = _HEADER.size
FRAME_BYTES_MAX = HEADER_BYTES + PAYLOAD_BYTES_MAX

_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.segment")


class NotASeal(Exception):
    """The frame is intact and is no seal of this segment in this format. Its text says what it is instead."""


@dataclass(frozen=True, slots=True)
class SegmentId:
    """Which segment a frame is of: part of every frame's CRC."""

    shard: ShardId
    epoch: Epoch

    @property
    def name(self) -> str:
        """The file's name. Names sort as epochs do."""
        return f"{self.epoch.incarnation:016x}-{self.epoch.revision:016x}.segment"


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment's end, as a later seal fixes it."""

    epoch: Epoch
    length: int
    """In bytes, a frame's end. What stands behind it does not count."""
    entries: int
    """How many entries the length holds; at least one."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The first frame of a segment: what the journal held when the segment's epoch opened it."""

    first_position: int
    """The position of the first entry that the segments below still hold. 0 until a checkpointed prefix is dropped."""
    segments: tuple[SealedSegment, ...]
    """In order of epoch. A lower segment that is not named holds nothing."""


def shard_directory(shard: ShardId) -> str:
    return f"shard-{shard:04d}"


def epoch_of_name(name: str) -> Epoch | None:
    """The epoch that a segment's file name claims; None for any other name."""
    match = _SEGMENT_NAME.fullmatch(name)
    return Epoch(int(match[1], 16), Revision(int(match[2], 16))) if match else None


def encode_frame(segment: SegmentId, offset: int, payload: bytes) -> bytes:
    """The frame that holds `payload` (1 to PAYLOAD_BYTES_MAX bytes) at `offset` of the segment."""
    length = len(payload)
    assert 1 <= length <= PAYLOAD_BYTES_MAX, "a frame's payload is never empty: zeros would be a valid frame's length"
    context = _CONTEXT.pack(length, segment.shard, *segment.epoch, offset)
    return _HEADER.pack(crc32c(payload, crc32c(context)), length) + payload


def encode_seal(segment: SegmentId, seal: Seal) -> bytes:
    """The frame that holds `seal`, at offset 0."""
    epochs = [s.epoch for s in seal.segments]
    assert epochs == sorted(set(epochs)), "rows stand in order of epoch"
    assert not epochs or epochs[-1] < segment.epoch, "a seal names lower segments only"
    assert all(s.entries >= 1 and s.length > 0 for s in seal.segments), "a segment without entries is not named"
    head = _SEAL.pack(MAGIC, FORMAT_VERSION, segment.shard, *segment.epoch, seal.first_position, len(epochs), 0)
    return encode_frame(segment, 0, head + b"".join(_ROW.pack(*s.epoch, s.length, s.entries) for s in seal.segments))


def decode_seal(segment: SegmentId, payload: bytes) -> Seal:
    """The seal in the payload of an intact first frame.

    Raises:
        NotASeal: the payload is none, or of another format version.
    """
    if len(payload) < _SEAL.size or not payload.startswith(MAGIC):
        raise NotASeal("the first frame is not a seal")
    _, version, shard, incarnation, revision, first_position, rows, zero = _SEAL.unpack_from(payload)
    if version != FORMAT_VERSION:
        raise NotASeal(f"format version {version}, and this program reads {FORMAT_VERSION}")
    if (shard, incarnation, revision) != (segment.shard, *segment.epoch):
        raise NotASeal(f"the seal is of shard {shard}, epoch {incarnation}.{revision}")
    if zero != 0 or len(payload) != _SEAL.size + rows * _ROW.size:
        raise NotASeal(f"a seal of {rows} rows has another length")
    segments = tuple(
        SealedSegment(Epoch(row[0], Revision(row[1])), length=row[2], entries=row[3])
        for row in _ROW.iter_unpack(payload[_SEAL.size :])
    )
    epochs = [s.epoch for s in segments]
    if epochs != sorted(set(epochs)) or (epochs and epochs[-1] >= segment.epoch):
        raise NotASeal("the seal's rows are not lower segments in order of epoch")
    return Seal(first_position, segments)


def place_of_seal(start: bytes) -> SegmentId | None:
    """The segment that an intact seal at the beginning of a file was written for, whatever the file is called now.

    None: `start` begins with no intact seal. Tells a file that was moved or copied here from a torn one.
    """
    if len(start) < HEADER_BYTES + _SEAL.size or not start.startswith(MAGIC, HEADER_BYTES):
        return None
    _, _, shard, incarnation, revision, *_ = _SEAL.unpack_from(start, HEADER_BYTES)
    segment = SegmentId(ShardId(shard), Epoch(incarnation, Revision(revision)))
    return segment if next(frames(segment, start, 0), None) is not None else None


def frames(segment: SegmentId, piece: bytes, offset: int) -> Iterator[bytes]:
    """Yield the payloads of the intact frames at the beginning of `piece`, up to the first that is bad or incomplete.

    Args:
        offset: of the piece's first byte in the segment; a frame begins there.
    """
    shard = segment.shard
    incarnation, revision = segment.epoch
    unpack_header, pack_context, crc = _HEADER.unpack_from, _CONTEXT.pack, crc32c
    at, end = 0, len(piece)
    while at + HEADER_BYTES <= end:
        checksum, length = unpack_header(piece, at)
        start = at + HEADER_BYTES
        stop = start + length
        if not 1 <= length <= PAYLOAD_BYTES_MAX or stop > end:
            return
        payload = piece[start:stop]
        if crc(payload, crc(pack_context(length, shard, incarnation, revision, offset + at))) != checksum:
            return
        yield payload
        at = stop


def frame_within(segment: SegmentId, piece: bytes, offset: int, first: int, last: int) -> int | None:
    """The offset of the first intact frame that begins in [first, last) of the segment and lies in `piece` whole.

    A frame's CRC covers its offset, so bytes that merely look like a frame are none: what this finds was written there.
    """
    view = memoryview(piece)
    for at in range(first - offset, min(last - offset, len(piece) - HEADER_BYTES)):
        checksum, length = _HEADER.unpack_from(piece, at)
        stop = at + HEADER_BYTES + length
        if not 1 <= length <= PAYLOAD_BYTES_MAX or stop > len(piece):
            continue
        context = _CONTEXT.pack(length, segment.shard, *segment.epoch, offset + at)
        if crc32c(view[at + HEADER_BYTES : stop], crc32c(context)) == checksum:
            return offset + at
    return None
