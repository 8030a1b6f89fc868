"""The second reader of the file journal, against files made by hand from docs/journal-file.md."""

import re
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from crc32c import crc32c

from ops.reread import Unreadable
from ops.reread_file import file_entries, shard_directories
from tests.ops.entries import good

DOCUMENT = Path(__file__).parents[2] / "docs" / "journal-file.md"
SHARD = 2
FIRST, SECOND, THIRD = (1, 42), (1, 812), (1, 900)


def frame(payload: bytes, epoch: tuple[int, int], offset: int, shard: int = SHARD) -> bytes:
    context = struct.pack("<IIQQQ", len(payload), shard, *epoch, offset)
    return struct.pack("<II", crc32c(context + payload), len(payload)) + payload


def seal(epoch: tuple[int, int], rows: Iterable[tuple[tuple[int, int], int, int]] = (), shard: int = SHARD) -> bytes:
    rows = list(rows)
    head = b"SEONSEAL" + struct.pack("<IIQQQII", 1, shard, *epoch, 0, len(rows), 0)
    return head + b"".join(struct.pack("<QQQQ", *row, length, count) for row, length, count in rows)


def segment(
    epoch: tuple[int, int], payloads: Iterable[bytes], rows: Iterable[tuple[tuple[int, int], int, int]] = ()
) -> bytes:
    data = b""
    for payload in (seal(epoch, rows), *payloads):
        data += frame(payload, epoch, len(data))
    return data


def write(root: Path, epoch: tuple[int, int], data: bytes) -> Path:
    directory = root / f"shard-{SHARD:04}"
    directory.mkdir(exist_ok=True)
    path = directory / f"{epoch[0]:016x}-{epoch[1]:016x}.segment"
    path.write_bytes(data)
    return path


ENTRIES = [entry.SerializeToString(deterministic=True) for entry in good(SHARD).entries]


def read(root: Path) -> list[bytes]:
    return [placed.entry.SerializeToString(deterministic=True) for placed in file_entries(root, SHARD)]


def two_owners(root: Path) -> tuple[Path, Path]:
    """Six entries under one epoch, two under the next."""
    below = segment(FIRST, ENTRIES[:6])
    first = write(root, FIRST, below)
    second = write(root, SECOND, segment(SECOND, ENTRIES[6:], [(FIRST, len(below), 6)]))
    return first, second


def test_the_documents_example_is_read_as_it_says(tmp_path: Path) -> None:
    """The bytes printed in docs/journal-file.md, frames and seals and CRCs, are what this test's writer writes."""
    text = DOCUMENT.read_text()
    blocks = re.findall(r"((?:    [0-9a-f]{4} (?: [0-9a-f]{2})+.*\n)+)", text)
    lines = [
        [re.match(r" {4}[0-9a-f]{4} ((?: [0-9a-f]{2})+)", line) for line in block.splitlines()] for block in blocks
    ]
    first, second = (b"".join(bytes.fromhex(found[1]) for found in block if found) for block in lines)
    written = frame(seal(FIRST, shard=7), FIRST, 0, 7)
    for payload in (b"first", b"second"):
        written += frame(payload, FIRST, len(written), 7)
    assert first == written + first[-3:]
    top = frame(seal(SECOND, [(FIRST, len(written), 2)], shard=7), SECOND, 0, 7)
    assert second == top + frame(b"third", SECOND, len(top), 7)


def test_entries_come_in_order_across_segments(tmp_path: Path) -> None:
    """What the top's seal names of lower segments, then the top's own."""
    two_owners(tmp_path)
    assert read(tmp_path) == ENTRIES
    assert shard_directories(tmp_path) == [SHARD]


def test_nothing_is_an_empty_journal(tmp_path: Path) -> None:
    """No root, no directory, no segment, a segment without a whole seal: no entries, and nothing wrong."""
    assert read(tmp_path / "nowhere") == []
    assert read(tmp_path) == []
    write(tmp_path, FIRST, b"")
    assert read(tmp_path) == []
    write(tmp_path, FIRST, segment(FIRST, [])[:-1])
    assert read(tmp_path) == []


def test_bytes_behind_a_sealed_length_do_not_count(tmp_path: Path) -> None:
    """A fenced owner's late write into its old segment is not in the journal, intact or not."""
    first, _ = two_owners(tmp_path)
    data = first.read_bytes()
    first.write_bytes(data + frame(b"late", FIRST, len(data)))
    assert read(tmp_path) == ENTRIES


def test_a_lower_segment_without_a_row_holds_nothing(tmp_path: Path) -> None:
    """Whatever is in its file."""
    write(tmp_path, FIRST, segment(FIRST, ENTRIES[:2]))
    write(tmp_path, SECOND, segment(SECOND, ENTRIES))
    assert read(tmp_path) == ENTRIES


def test_a_torn_seal_above_the_top_is_passed_over(tmp_path: Path) -> None:
    """Its process died, or is only just opening: the segment below is the top."""
    two_owners(tmp_path)
    whole = segment(THIRD, [], [(SECOND, 1, 1)])
    for cut in (0, 1, 8, 20, len(whole) - 1):
        write(tmp_path, THIRD, whole[:cut])
        assert read(tmp_path) == ENTRIES


def test_a_torn_last_frame_is_not_in_the_journal(tmp_path: Path) -> None:
    """Cut short anywhere, or zeros: the entries before it are all there is, and nothing is wrong."""
    _, top = two_owners(tmp_path)
    data = top.read_bytes()
    last = len(frame(ENTRIES[-1], SECOND, 0))
    for cut in range(1, last + 1):
        top.write_bytes(data[:-cut])
        assert read(tmp_path) == ENTRIES[:-1]
        top.write_bytes(data[:-cut] + bytes(cut))
        assert read(tmp_path) == ENTRIES[:-1]


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    """A bit flipped anywhere but in the last frame is reported; in the last frame it costs that entry and no other."""
    first, top = two_owners(tmp_path)
    last_begins = len(top.read_bytes()) - len(frame(ENTRIES[-1], SECOND, 0))
    for path in (first, top):
        data = path.read_bytes()
        for place in range(0, len(data), 3):
            broken = bytearray(data)
            broken[place] ^= 1 << place % 8
            path.write_bytes(broken)
            if path == top and place >= last_begins:
                assert read(tmp_path) == ENTRIES[:-1]
            else:
                with pytest.raises(Unreadable):
                    read(tmp_path)
        path.write_bytes(data)


@pytest.mark.parametrize(("longer", "more"), [(3, 0), (-3, 0), (0, 1), (0, -1)])
def test_a_seal_has_to_fit_what_it_seals(tmp_path: Path, longer: int, more: int) -> None:
    """Its row names a length that is no frame's end, or another number of entries."""
    below = segment(FIRST, ENTRIES[:6])
    write(tmp_path, FIRST, below + b"late")
    write(tmp_path, SECOND, segment(SECOND, ENTRIES[6:], [(FIRST, len(below) + longer, 6 + more)]))
    with pytest.raises(Unreadable, match="sealed as"):
        read(tmp_path)


def test_a_missing_segment_is_found(tmp_path: Path) -> None:
    """The seal names it: the journal cannot be read without."""
    first, _ = two_owners(tmp_path)
    first.unlink()
    with pytest.raises(Unreadable, match="missing"):
        read(tmp_path)


def test_a_file_of_another_shard_is_found(tmp_path: Path) -> None:
    """An intact seal for another shard or epoch: the file was moved there."""
    foreign = frame(seal(FIRST, shard=SHARD + 1), FIRST, 0, SHARD + 1)
    write(tmp_path, FIRST, foreign)
    with pytest.raises(Unreadable, match="moved"):
        read(tmp_path)
    write(tmp_path, FIRST, frame(seal(SECOND), SECOND, 0))
    with pytest.raises(Unreadable, match="moved"):
        read(tmp_path)


@pytest.mark.parametrize(
    "payload",
    [
        b"no seal at all",
        seal(FIRST).replace(b"SEONSEAL", b"SEONSEAM"),
        seal(FIRST)[:8] + struct.pack("<I", 2) + seal(FIRST)[12:],
        seal(SECOND),
        seal(FIRST) + b"x",
        seal(FIRST, [(SECOND, 88, 1)]),
        seal(FIRST, [((1, 7), 88, 0)]),
        seal(FIRST, [((1, 9), 88, 1), ((1, 7), 88, 1)]),
        seal(FIRST)[:32] + struct.pack("<Q", 5) + seal(FIRST)[40:],
    ],
    ids=[
        "no seal",
        "magic",
        "version",
        "epoch",
        "length",
        "row above",
        "row empty",
        "rows unordered",
        "dropped prefix",
    ],
)
def test_a_seal_that_cannot_be_is_found(tmp_path: Path, payload: bytes) -> None:
    """An intact first frame that this protocol cannot have written."""
    write(tmp_path, FIRST, frame(payload, FIRST, 0))
    with pytest.raises(Unreadable):
        read(tmp_path)


def test_an_entry_that_does_not_parse_is_found(tmp_path: Path) -> None:
    """An intact frame whose payload is no protobuf."""
    write(tmp_path, FIRST, segment(FIRST, [b"\xff\xff\xff"]))
    with pytest.raises(Unreadable, match="not a journal entry"):
        read(tmp_path)
