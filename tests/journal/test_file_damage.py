"""A damaged file journal stops its shard, or gives everything; what a power cut may tear is all that it leaves out."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.types import ShardId
from node.journal.base import CorruptJournal, Fenced
from node.journal.file import FileJournal, FileShardJournal
from node.journal.frames import FRAME_BYTES_MAX, Seal, SealedSegment, SegmentId, encode_frame, encode_seal
from tests.fakes.disk import MemoryDisk
from tests.journal.owners import ROOT, SHARD, epoch_of, find, segment_path, with_directory

ENTRIES = (b"one", b"two", b"three", b"four", b"five", b"six", b"seven")


async def open_journal(disk: MemoryDisk, number: int) -> FileShardJournal:
    journal = FileJournal(ROOT, disk.seen_by(f"owner {number}"))
    return await journal.open(SHARD, epoch_of(number), lambda entry: None)


async def write_journal(disk: MemoryDisk) -> None:
    """Epoch 1 with three entries and, behind its seal, one of a fenced append; 2 and 4 without any; 3 and 5 with two
    each, 5 being the top."""
    first = await open_journal(disk, 1)
    for entry in ENTRIES[:3]:
        await first.append(entry)
    await open_journal(disk, 2)
    with pytest.raises(Fenced):
        await first.append(b"fenced")
    for number, entries in ((3, ENTRIES[3:5]), (4, ()), (5, ENTRIES[5:])):
        owner = await open_journal(disk, number)
        for entry in entries:
            await owner.append(entry)


def written() -> dict[Path, bytes]:
    disk = with_directory()
    asyncio.run(write_journal(disk))
    return disk.files()


WRITTEN = written()
TOP = segment_path(5)
TOP_SEAL_LENGTH = 8 + 48 + 2 * 32
LAST_FRAME_LENGTH = 8 + len(ENTRIES[-1])


def disk_with(files: dict[Path, bytes]) -> MemoryDisk:
    disk = with_directory()
    for path, content in files.items():
        disk.write_file(path, content).sync()
    return disk


def found_with(path: Path, content: bytes) -> tuple[bytes, ...] | CorruptJournal:
    return find(disk_with({**WRITTEN, path: content}))


def each_bit(content: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            yield offset, bytes(flipped)


def test_undamaged() -> None:
    """The journal that the tests below damage holds its entries, and is as it is described above."""
    assert find(disk_with(WRITTEN)) == ENTRIES
    assert [path.name[-1 - len(".segment")] for path in sorted(WRITTEN)] == ["1", "2", "3", "4", "5"]
    assert b"fenced" in WRITTEN[segment_path(1)]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_every_bit_flipped(number: int) -> None:
    """With any bit of any segment flipped, either everything is replayed or the shard stops, naming file and offset; a
    flip in the very last frame may lose that frame, which could as well have been torn."""
    path = segment_path(number)
    content = WRITTEN[path]
    stopped = 0
    for offset, flipped in each_bit(content):
        found = found_with(path, flipped)
        if isinstance(found, CorruptJournal):
            stopped += 1
            file, _, place = found.place.rpartition(":")
            assert file == str(path)
            assert int(place) <= offset
        elif path == TOP and offset >= len(content) - LAST_FRAME_LENGTH:
            assert found == ENTRIES[:-1]
        else:
            assert found == ENTRIES, f"bit flipped at {offset}"
    sealed = {
        1: len(content) - 8 - len(b"fenced"),
        2: 0,
        3: len(content),
        4: 0,
        5: len(content) - LAST_FRAME_LENGTH,
    }
    assert stopped == 8 * sealed[number], "every bit that counts is guarded"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_cut_at_every_byte(number: int) -> None:
    """Cut anywhere, a segment that a seal names stops the shard unless all that is sealed is left; the top one gives
    the frames that are left whole."""
    path = segment_path(number)
    content = WRITTEN[path]
    for length in range(len(content)):
        found = found_with(path, content[:length])
        if number == 5:
            whole = sum(
                length >= TOP_SEAL_LENGTH + end
                for end in (8 + len(ENTRIES[5]), 8 + len(ENTRIES[5]) + LAST_FRAME_LENGTH)
            )
            assert found == ENTRIES[: 5 + whole]
        elif number in (2, 4) or (number == 1 and length >= len(content) - 8 - len(b"fenced")):
            assert found == ENTRIES
        else:
            assert isinstance(found, CorruptJournal)
            assert found.place.startswith(f"{path}:")


TORN_TAILS = {
    "one zero": b"\0",
    "half a header of zeros": bytes(7),
    "zeros": bytes(5_000),
    "ones": b"\xff" * 5_000,
    "many small lengths": b"\1\0\0\0" * 300,
    "half a frame": encode_frame(SegmentId(SHARD, epoch_of(5)), len(WRITTEN[TOP]), b"eight")[:-1],
    "frame of another shard": encode_frame(SegmentId(ShardId(8), epoch_of(5)), len(WRITTEN[TOP]), b"eight"),
    "frame of another epoch": encode_frame(SegmentId(SHARD, epoch_of(4)), len(WRITTEN[TOP]), b"eight"),
    "frame for another place": encode_frame(SegmentId(SHARD, epoch_of(5)), len(WRITTEN[TOP]) - 1, b"eight"),
}


@pytest.mark.parametrize("tail", TORN_TAILS.values(), ids=TORN_TAILS.keys())
def test_torn_tail(tail: bytes) -> None:
    """Whatever a torn frame looks like, zeros too, what stands before it is replayed, and later owners go on."""

    async def scenario() -> None:
        disk = disk_with({**WRITTEN, TOP: WRITTEN[TOP] + tail})
        assert find(disk.copy()) == ENTRIES
        owner = await open_journal(disk, 6)
        assert owner.position == len(ENTRIES)
        await owner.append(b"eight")
        assert find(disk) == (*ENTRIES, b"eight")

    asyncio.run(scenario())


def test_torn_seal() -> None:
    """A segment whose seal is torn, at any byte or as zeros, holds nothing and hides nothing."""
    seal = WRITTEN[TOP][:TOP_SEAL_LENGTH]
    del_top = {path: content for path, content in WRITTEN.items() if path != TOP}
    for length in range(len(seal)):
        for torn in (seal[:length], seal[:length] + bytes(len(seal) - length), bytes(length) + seal[length:]):
            if torn != seal:
                assert find(disk_with({**del_top, TOP: torn})) == ENTRIES[:5]


def test_long_tail() -> None:
    """More bytes without an intact frame than one torn frame can be: acknowledged entries may have been there."""
    found = found_with(TOP, WRITTEN[TOP] + bytes(FRAME_BYTES_MAX + 1))
    assert isinstance(found, CorruptJournal)
    assert found.place == f"{TOP}:{len(WRITTEN[TOP])}"


def missing(files: dict[Path, bytes]) -> None:
    del files[segment_path(3)]


def of_another_shard(files: dict[Path, bytes]) -> None:
    disk = MemoryDisk()

    async def other_shard() -> None:
        journal = FileJournal(ROOT, disk.seen_by("owner"))
        await journal.open(ShardId(8), epoch_of(9), lambda entry: None)

    asyncio.run(other_shard())
    [content] = disk.files().values()
    files[segment_path(9)] = content


def renamed(files: dict[Path, bytes]) -> None:
    files[segment_path(9)] = files.pop(TOP)


def of_a_later_format(files: dict[Path, bytes]) -> None:
    segment = SegmentId(SHARD, epoch_of(9))
    payload = bytearray(files[TOP][8:TOP_SEAL_LENGTH])
    payload[8] = 2
    files[segment_path(9)] = encode_frame(segment, 0, bytes(payload))


def not_a_seal(files: dict[Path, bytes]) -> None:
    files[segment_path(9)] = encode_frame(SegmentId(SHARD, epoch_of(9)), 0, b"an entry where the seal should be")


def seal_on_top(files: dict[Path, bytes], sealed: SealedSegment) -> None:
    files[segment_path(9)] = encode_seal(SegmentId(SHARD, epoch_of(9)), Seal(0, (sealed,)))


def sealed_beyond_its_end(files: dict[Path, bytes]) -> None:
    seal_on_top(files, SealedSegment(epoch_of(5), len(files[TOP]) + 1, entries=2))


def sealed_within_a_frame(files: dict[Path, bytes]) -> None:
    seal_on_top(files, SealedSegment(epoch_of(5), len(files[TOP]) - 1, entries=1))


def sealed_with_another_count(files: dict[Path, bytes]) -> None:
    seal_on_top(files, SealedSegment(epoch_of(5), len(files[TOP]), entries=3))


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (missing, "it is missing"),
        (of_another_shard, "a segment of shard 8"),
        (renamed, "a bad frame with|a segment of shard 7"),
        (of_a_later_format, "format version 2"),
        (not_a_seal, "not a seal"),
        (sealed_beyond_its_end, "a bad frame"),
        (sealed_within_a_frame, "a bad frame"),
        (sealed_with_another_count, "2 entries, and 3 are sealed"),
    ],
)
def test_meddled_with(damage: Callable[[dict[Path, bytes]], None], what: str) -> None:
    """Segments that were removed, renamed, moved here or written by something else stop the shard and are named."""
    files = dict(WRITTEN)
    damage(files)
    found = find(disk_with(files))
    assert isinstance(found, CorruptJournal)
    assert any(text in found.what for text in what.split("|")), found


def test_other_files_mean_nothing() -> None:
    """Files with other names are not looked at."""
    directory = TOP.parent
    names = [".segment", "lost+found", f"{segment_path(9).name}~", "f" * 16 + ".segment", TOP.name.upper(), "zzz"]
    disk = disk_with(WRITTEN | {directory / name: b"something" for name in names})
    assert find(disk) == ENTRIES


def test_damage_in_a_journal_of_many_pieces() -> None:
    """Damage is noticed far from the end too, in frames of any length; the last frame alone may be lost."""
    entries = [
        bytes([i + 1]) * length for i, length in enumerate([10, 300_000, 1_000_000, 1, 1_048_576, 700_000, 5, 400_000])
    ]
    disk = with_directory()

    async def write() -> None:
        owner = await open_journal(disk, 1)
        for entry in entries:
            await owner.append(entry)

    asyncio.run(write())
    path = segment_path(1)
    content = disk.read_file(path)
    last = len(content) - 8 - len(entries[-1])
    for offset in [
        0,
        9,
        60,
        300_000,
        1_048_575,
        1_048_576,
        2_000_000,
        3_000_000,
        last - 1,
        last,
        last + 9,
        len(content) - 1,
    ]:
        flipped = bytearray(content)
        flipped[offset] ^= 0x10
        found = find(disk_with({path: bytes(flipped)}))
        if offset < last:
            assert isinstance(found, CorruptJournal)
        else:
            assert found == tuple(entries[:-1])
