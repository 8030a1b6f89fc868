"""The journal in files, read again: docs/journal-file.md. Reads only, also while nodes run.

Yields what is certainly in the journal, oldest entry first, and raises Unreadable where the document calls it corrupt.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from ops.reread import Placed, Unreadable, parse_entry

PAYLOAD_BYTES_MAX = 4 << 20
FORMAT_VERSION = 1

_SHARD_DIRECTORY = re.compile(r"shard-(\d{4})")
_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.segment")
_FRAME = struct.Struct("<II")
_CRC_CONTEXT = struct.Struct("<IIQQQ")
_SEAL = struct.Struct("<8sIIQQQII")
_ROW = struct.Struct("<QQQQ")
_MAGIC = b"SEONSEAL"


@dataclass(frozen=True, slots=True)
class _Segment:
    path: Path
    shard: int
    epoch: tuple[int, int]

    def place(self, offset: int) -> str:
        return f"{self.path}@{offset}"


class _Frame(NamedTuple):
    offset: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + _FRAME.size + len(self.payload)


class _Row(NamedTuple):
    epoch: tuple[int, int]
    length: int
    entries: int


class _Seal(NamedTuple):
    first_position: int
    rows: tuple[_Row, ...]


def shard_directories(root: Path) -> list[int]:
    """The shards that have a directory."""
    if not root.is_dir():
        return []
    found = (_SHARD_DIRECTORY.fullmatch(path.name) for path in root.iterdir())
    return sorted(int(match[1]) for match in found if match)


def file_entries(root: Path, shard: int) -> Iterator[Placed]:
    """The entries of one shard under the journal's root.

    Raises:
        Unreadable: at the first place that docs/journal-file.md calls corrupt.
    """
    for segment, frame in _entry_frames(root, shard):
        yield parse_entry(segment.place(frame.offset), frame.payload)


def _entry_frames(root: Path, shard: int) -> Iterator[tuple[_Segment, _Frame]]:
    segments = {segment.epoch: segment for segment in _segments(root, shard)}
    top, seal = _top(segments)
    if top is None:
        return
    for segment, row in _below(top, seal, segments):
        yield from _sealed(segment, row)
    data = top.path.read_bytes()
    end = 0
    for frame in _frames(top, data):
        if frame.offset:
            yield top, frame
        end = frame.end
    _check_tail(top, data, end)


def counted_segments(root: Path, shard: int) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the segments that count, oldest first, each cut to the whole frames that do: by themselves a
    journal with the same entries.

    Raises:
        Unreadable: as `file_entries`.
    """
    segments = {segment.epoch: segment for segment in _segments(root, shard)}
    top, seal = _top(segments)
    if top is None:
        return
    for segment, row in _below(top, seal, segments):
        for _ in _sealed(segment, row):
            pass
        yield segment.path.name, segment.path.read_bytes()[: row.length]
    data = top.path.read_bytes()
    end = 0
    for frame in _frames(top, data):
        end = frame.end
    _check_tail(top, data, end)
    yield top.path.name, data[:end]


def _below(top: _Segment, seal: _Seal, segments: dict[tuple[int, int], _Segment]) -> Iterator[tuple[_Segment, _Row]]:
    """The segments that the top's seal names, each with its row."""
    if seal.first_position != 0:
        raise Unreadable(top.place(0), f"begins at position {seal.first_position}; nothing may be dropped yet")
    for row in seal.rows:
        segment = segments.get(row.epoch)
        if segment is None:
            raise Unreadable(top.place(0), f"the seal names the segment of epoch {row.epoch}, which is missing")
        yield segment, row


def _segments(root: Path, shard: int) -> Iterator[_Segment]:
    directory = root / f"shard-{shard:04}"
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if found := _SEGMENT_NAME.fullmatch(path.name):
            yield _Segment(path, shard, (int(found[1], 16), int(found[2], 16)))


def _top(segments: dict[tuple[int, int], _Segment]) -> tuple[_Segment | None, _Seal]:
    """The highest segment with an intact seal; what is above it must be torn seals."""
    for _, segment in sorted(segments.items(), reverse=True):
        data = segment.path.read_bytes()
        first = _frame_at(segment, data, 0)
        if first is not None:
            return segment, _seal(segment, first.payload)
        _check_tail(segment, data, 0)
    return None, _Seal(0, ())


def _sealed(segment: _Segment, row: _Row) -> Iterator[tuple[_Segment, _Frame]]:
    """The entries of a segment below the top: exactly what its row counts."""
    data = segment.path.read_bytes()
    end = entries = 0
    for frame in _frames(segment, data):
        if frame.end > row.length:
            break
        if frame.offset:
            entries += 1
            yield segment, frame
        end = frame.end
    if end != row.length or entries != row.entries:
        what = f"{entries} entries in {end} intact bytes, sealed as {row.entries} in {row.length}"
        raise Unreadable(segment.place(end), what)


def _frames(segment: _Segment, data: bytes) -> Iterator[_Frame]:
    """Intact frames from offset 0, one after the other."""
    frame = _frame_at(segment, data, 0)
    while frame is not None:
        yield frame
        frame = _frame_at(segment, data, frame.end)


def _frame_at(segment: _Segment, data: bytes, offset: int) -> _Frame | None:
    """The intact frame at `offset`; None if there is none."""
    return _intact(data, offset, segment.shard, segment.epoch)


def _intact(data: bytes, offset: int, shard: int, epoch: tuple[int, int]) -> _Frame | None:
    begin = offset + _FRAME.size
    if begin > len(data):
        return None
    crc, length = _FRAME.unpack_from(data, offset)
    if not 1 <= length <= PAYLOAD_BYTES_MAX or begin + length > len(data):
        return None
    payload = data[begin : begin + length]
    if crc32c(payload, crc32c(_CRC_CONTEXT.pack(length, shard, *epoch, offset))) != crc:
        return None
    return _Frame(offset, payload)


def _seal(segment: _Segment, payload: bytes) -> _Seal:
    """Raises Unreadable: an intact first frame that is no seal of this segment cannot have been written there."""
    if len(payload) < _SEAL.size or payload[: len(_MAGIC)] != _MAGIC:
        raise Unreadable(segment.place(0), "the first frame is not a seal")
    _, version, shard, incarnation, revision, first_position, count, zero = _SEAL.unpack_from(payload)
    if (version, zero) != (FORMAT_VERSION, 0):
        raise Unreadable(segment.place(0), f"seal of format version {version}")
    if (shard, (incarnation, revision)) != (segment.shard, segment.epoch):
        raise Unreadable(segment.place(0), f"the seal of shard {shard}, epoch {(incarnation, revision)}")
    if len(payload) != _SEAL.size + count * _ROW.size:
        raise Unreadable(segment.place(0), f"a seal of {len(payload)} bytes with {count} rows")
    rows = tuple(_Row((i, r), length, n) for i, r, length, n in _ROW.iter_unpack(payload[_SEAL.size :]))
    epochs = [row.epoch for row in rows]
    if epochs != sorted(set(epochs)) or (epochs and epochs[-1] >= segment.epoch) or any(not r.entries for r in rows):
        raise Unreadable(segment.place(0), f"a seal whose rows cannot be: {rows}")
    return _Seal(first_position, rows)


def _check_tail(segment: _Segment, data: bytes, offset: int) -> None:
    """Raises Unreadable unless what begins at `offset` can be one torn frame, or is nothing."""
    size = len(data) - offset
    if size > _FRAME.size + PAYLOAD_BYTES_MAX:
        raise Unreadable(segment.place(offset), f"a broken frame, and {size} bytes from it to the end of the file")
    for later in range(offset + 1, len(data) - _FRAME.size):
        if _frame_at(segment, data, later) is not None:
            raise Unreadable(segment.place(offset), f"a broken frame, and an intact one after it at {later}")
    if offset == 0 and data[_FRAME.size : _FRAME.size + len(_MAGIC)] == _MAGIC and size >= _FRAME.size + _SEAL.size:
        _, _, shard, incarnation, revision, *_ = _SEAL.unpack_from(data, _FRAME.size)
        if _intact(data, 0, shard, (incarnation, revision)) is not None:
            what = f"the intact seal of shard {shard}, epoch {(incarnation, revision)}: a file that was moved here"
            raise Unreadable(segment.place(0), what)
