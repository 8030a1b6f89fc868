"""The file journal's bytes are those of docs/journal-file.md."""

import re
import struct
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from cluster.types import Epoch, Revision, ShardId
from node.journal.frames import (
    FRAME_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    NotASeal,
    Seal,
    SealedSegment,
    SegmentId,
    decode_seal,
    encode_frame,
    encode_seal,
    epoch_of_name,
    frame_within,
    frames,
    shard_directory,
)
from tests.fakes.disk import MemoryDisk
from tests.journal.owners import ROOT, find

SEGMENT = SegmentId(ShardId(7), Epoch(1, Revision(812)))

epochs = st.builds(Epoch, st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1).map(Revision))


def documented_files() -> dict[str, bytes]:
    """The files of the document's example, from its hexadecimal dumps."""
    text = (Path(__file__).parents[2] / "docs" / "journal-file.md").read_text()
    files: dict[str, bytes] = {}
    name = ""
    for line in text.splitlines():
        if heading := re.match(r"`(shard-\d{4}/[0-9a-f-]{33}\.segment)`, (\d+) bytes", line):
            name = heading[1]
            files[name] = b""
        elif dump := re.match(r"    ([0-9a-f]{4})  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", line):
            assert int(dump[1], 16) == len(files[name])
            files[name] += bytes.fromhex(dump[2])
    return files


def test_the_documents_example() -> None:
    """What the document shows is what is written, byte for byte, and is read as it says."""
    low, high = (SegmentId(ShardId(7), Epoch(1, Revision(r))) for r in (42, 812))
    first = encode_seal(low, Seal(0, ()))
    first += encode_frame(low, len(first), b"first")
    first += encode_frame(low, len(first), b"second")
    second = encode_seal(high, Seal(0, (SealedSegment(low.epoch, len(first), 2),)))
    second += encode_frame(high, len(second), b"third")
    written = {
        f"{shard_directory(ShardId(7))}/{low.name}": first + b"\x9c\x11\x02",
        f"{shard_directory(ShardId(7))}/{high.name}": second,
    }
    assert documented_files() == written
    files = tuple((str(ROOT / name), content) for name, content in sorted(written.items()))
    directories = tuple((str(path), None) for path in (ROOT.parent, ROOT, ROOT / "shard-0007"))
    assert find(MemoryDisk.of_image((*directories, *files))) == (b"first", b"second", b"third")


@given(st.lists(st.binary(min_size=1, max_size=100)), st.integers(0, 2**40), st.binary(max_size=7))
def test_frames_come_back(payloads: list[bytes], offset: int, rest: bytes) -> None:
    """Frames that follow each other are read in order, up to an incomplete one."""
    piece = b""
    for payload in payloads:
        piece += encode_frame(SEGMENT, offset + len(piece), payload)
    assert list(frames(SEGMENT, piece + rest, offset)) == payloads
    if payloads:
        assert list(frames(SEGMENT, piece[:-1], offset)) == payloads[:-1]


@given(st.binary(min_size=1, max_size=50), epochs, st.integers(0, 4095), st.integers(0, 2**63))
def test_a_frame_is_of_one_place(payload: bytes, epoch: Epoch, shard: int, offset: int) -> None:
    """The same bytes at another offset, in another epoch's or shard's segment are no frame."""
    segment = SegmentId(ShardId(shard), epoch)
    frame = encode_frame(segment, offset, payload)
    assert list(frames(segment, frame, offset)) == [payload]
    assert list(frames(segment, frame, offset + 1)) == []
    assert list(frames(SegmentId(ShardId(shard ^ 1), epoch), frame, offset)) == []
    assert (
        list(frames(SegmentId(ShardId(shard), epoch._replace(incarnation=epoch.incarnation ^ 1)), frame, offset)) == []
    )
    other = epoch._replace(revision=Revision(epoch.revision ^ 1))
    assert list(frames(SegmentId(ShardId(shard), other), frame, offset)) == []


def test_payload_lengths() -> None:
    """A payload has 1 to PAYLOAD_BYTES_MAX bytes: zeros are never a frame."""
    longest = bytes(PAYLOAD_BYTES_MAX)
    frame = encode_frame(SEGMENT, 0, longest)
    assert len(frame) == FRAME_BYTES_MAX
    assert list(frames(SEGMENT, frame, 0)) == [longest]
    for wrong in (b"", bytes(PAYLOAD_BYTES_MAX + 1)):
        with pytest.raises(AssertionError):
            encode_frame(SEGMENT, 0, wrong)
    assert list(frames(SEGMENT, bytes(100), 0)) == []
    context = struct.pack("<IIQQQ", 0, SEGMENT.shard, *SEGMENT.epoch, 0)
    assert list(frames(SEGMENT, struct.pack("<II", crc32c(context), 0), 0)) == [], "not even with the right CRC"


@given(st.binary(max_size=30), st.binary(min_size=1, max_size=30))
def test_an_intact_frame_is_found_behind_a_bad_one(bad: bytes, payload: bytes) -> None:
    """Wherever an intact frame stands, a search finds it, unless it begins outside the places searched."""
    offset = 1_000
    at = offset + len(bad)
    piece = bad + encode_frame(SEGMENT, at, payload)
    assert frame_within(SEGMENT, piece, offset, offset, offset + len(piece)) == at
    assert frame_within(SEGMENT, piece, offset, offset, at) is None
    assert frame_within(SEGMENT, piece[:-1], offset, offset, offset + len(piece)) is None


@given(st.lists(epochs, unique=True), st.integers(0, 2**63), epochs)
def test_seals_come_back(lower: list[Epoch], first_position: int, epoch: Epoch) -> None:
    """A seal is read as it was written."""
    segment = SegmentId(ShardId(7), epoch)
    rows = tuple(SealedSegment(e, 56 + i, 1 + i) for i, e in enumerate(sorted(e for e in lower if e < epoch)))
    [payload] = frames(segment, encode_seal(segment, Seal(first_position, rows)), 0)
    assert decode_seal(segment, payload) == Seal(first_position, rows)


@pytest.mark.parametrize("payload", [b"", b"SEONSEAL", b"x" * 48])
def test_what_is_no_seal(payload: bytes) -> None:
    """A payload that is too short, or does not begin like one, is no seal."""
    with pytest.raises(NotASeal):
        decode_seal(SEGMENT, payload)


def test_a_seal_that_contradicts_itself() -> None:
    """Rows that are missing, too many, out of order, or not of lower epochs are refused."""
    low, high = Epoch(1, Revision(1)), Epoch(1, Revision(2))
    [payload] = frames(
        SEGMENT, encode_seal(SEGMENT, Seal(0, (SealedSegment(low, 56, 1), SealedSegment(high, 56, 1)))), 0
    )
    swapped = payload[:48] + payload[80:112] + payload[48:80]
    own = payload[:80] + payload[16:32] + payload[96:]
    for wrong in (payload[:-1], payload[:-32], payload + bytes(32), swapped, own):
        with pytest.raises(NotASeal):
            decode_seal(SEGMENT, wrong)


@given(epochs, epochs)
def test_names_sort_as_epochs_do(one: Epoch, other: Epoch) -> None:
    """A segment's name says its epoch, and names sort as epochs do."""
    names = [SegmentId(ShardId(7), epoch).name for epoch in (one, other)]
    assert [epoch_of_name(name) for name in names] == [one, other]
    assert (names[0] < names[1]) == (one < other)
