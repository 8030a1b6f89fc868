"""What a follower of the file journal has taken stays in the journal, in every order and after every power cut, and an
owner that has read along answers from the whole journal; and the same with bugs planted, to see them caught."""

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cluster.types import Epoch
from node.journal.base import FollowerLost, OutcomeUnknown
from node.journal.file import FileFollower, FileJournal
from node.journal.frames import Seal, SealedSegment, SegmentId, encode_frame, encode_seal
from node.journal.segment_reader import SegmentReader
from node.journal.segments import EntryReader
from tests.fakes.disk import Fail, Fault, MemoryDisk, Operation
from tests.journal.owners import (
    ROOT,
    SHARD,
    Owner,
    Told,
    Violation,
    World,
    epoch_of,
    explore,
    find,
    find_in_image,
    is_own,
    no_faults,
    segment_path,
    with_directory,
)
from tests.journal.test_file_damage import open_journal
from tests.journal.test_file_faults import failing
from tests.journal.test_file_orders import first_append_is_not_synced, first_seal_is_not_synced

EIO = 5


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    """What was found by planted code is nothing that others should find."""
    find_in_image.cache_clear()
    yield
    find_in_image.cache_clear()


def a_writer_and_a_standby() -> None:
    explore([Owner(1, 2), Owner(2, 1, reads=1)], start=with_directory)


def a_standby_that_reads_often() -> None:
    explore([Owner(1, 3), Owner(2, 0, reads=2)], start=with_directory, switches_max=3)


def two_owners_and_a_standby() -> None:
    explore([Owner(1, 1), Owner(2, 1), Owner(3, 0, reads=1)], start=with_directory, switches_max=2)


def two_owners_and_one_who_only_reads() -> None:
    explore([Owner(1, 1), Owner(2, 1), Owner(9, 0, reads=1, opens=False)], start=with_directory, switches_max=2)


EXPLORATIONS = [
    a_writer_and_a_standby,
    a_standby_that_reads_often,
    two_owners_and_a_standby,
    two_owners_and_one_who_only_reads,
]


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_followers_in_every_order(exploration: Callable[[], None]) -> None:
    """What was read along is a prefix of what anybody finds, now and after a power cut, and is never lost."""
    exploration()


def second_append_is_not_synced(operation: Operation) -> Fault | None:
    if operation.process == "owner 1" and operation.kind == "sync" and is_own(operation) and operation.nth == 2:
        return Fail(EIO)
    return None


def openers_sync_fails(operation: Operation) -> Fault | None:
    """Owner 2 cannot make the last frame of owner 1 durable: the cache shows what is not on the disk."""
    if operation.process == "owner 2" and operation.kind == "sync" and not is_own(operation):
        return Fail(EIO)
    return None


FAILURES = [first_seal_is_not_synced, first_append_is_not_synced, second_append_is_not_synced, openers_sync_fails]


@pytest.mark.parametrize("faults", FAILURES)
def test_followers_and_failed_syncs(faults: Callable[[Operation], Fault | None]) -> None:
    """After a sync that failed the cache shows what is not on the disk: nobody who reads along takes it."""
    explore([Owner(1, 2), Owner(2, 0), Owner(3, 0, reads=1)], start=with_directory, faults=faults, switches_max=1)


def test_a_standby_after_a_power_cut() -> None:
    """Whatever it left, who reads along and opens then goes on from it."""
    before = explore([Owner(1, 2), Owner(2, 0)], start=with_directory, switches_max=1)
    assert len(before.after_power_cuts) > 20
    for (image, _), told in before.after_power_cuts.items():
        start = functools.partial(MemoryDisk.of_image, image)
        explore([Owner(3, 1, reads=1)], start=start, after=told)


class Staged:
    """Owners in one order, each up to a certain operation."""

    def __init__(self, *owners: Owner) -> None:
        self._world = World(owners, with_directory(), Told(), no_faults)

    def until(self, name: str, kind: str, times: int = 1) -> None:
        """Up to the operation of this kind that is the nth from now on."""
        while times:
            self._world.step(name)
            times -= self._world.next[name].kind == kind

    def step(self, name: str) -> None:
        self._world.step(name)

    def to_the_end(self, name: str) -> None:
        while name in self._world.next:
            self._world.step(name)

    def judge(self) -> None:
        self._world.told.judge(find(self._world.disk.copy()), "now")
        self._world.close()


WATCHER = Owner(9, 0, reads=1, opens=False)


def a_bare_seal() -> None:
    """Owner 2 seals what owner 3 did not find, and is fenced; a follower reads before owner 3 has sealed."""
    staged = Staged(Owner(1, 1), Owner(2, 0), Owner(3, 0), WATCHER)
    staged.until("owner 1", "append", times=2)  # it has opened, and is about to write its entry
    staged.until("owner 2", "read")  # has seen no higher epoch
    staged.until("owner 3", "append")  # has read without the entry, and is about to seal
    staged.step("owner 1")
    staged.until("owner 2", "append")
    staged.step("owner 2")  # its seal, with the entry
    staged.to_the_end(WATCHER.name)
    staged.step("owner 3")
    staged.judge()


def a_fenced_entry() -> None:
    """Owner 1 writes behind where owner 2 has sealed it."""
    staged = Staged(Owner(1, 2), Owner(2, 2), WATCHER)
    staged.until("owner 1", "append", times=3)
    staged.to_the_end("owner 2")
    staged.to_the_end("owner 1")
    staged.to_the_end(WATCHER.name)
    staged.judge()


@pytest.mark.parametrize("story", [a_bare_seal, a_fenced_entry])
def test_what_is_not_in_the_journal_is_not_taken(story: Callable[[], None]) -> None:
    """A bare seal may be of an owner that is fenced; behind where a segment is sealed anything may stand."""
    story()


# --- planted bugs -----------------------------------------------------------------------------------------------------


def explore_all() -> None:
    for exploration in EXPLORATIONS:
        exploration()


def test_planted_the_last_frame_is_taken_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be in the cache only."""

    async def read_along(self: EntryReader, epochs: Sequence[Epoch]) -> None:
        async with self._top(epochs, along=True) as top:
            if top is not None:
                await self._take_sealed(top, epochs)
                last = await self._take_all_but_last(top.reader)
                if last is not None:
                    self._take(top.reader.segment.epoch, top.reader.end, last)

    monkeypatch.setattr(EntryReader, "read_along", read_along)
    with pytest.raises(Violation, match="TAKEN"):
        explore_all()


def test_planted_the_seals_limit_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind it may stand what a fenced owner wrote."""

    async def read_along(self: EntryReader, epochs: Sequence[Epoch]) -> None:
        self._take_one_sealed = functools.partial(take_to_the_end, self)  # type: ignore[method-assign]
        await whole(self, epochs)
        del self._take_one_sealed

    async def take_to_the_end(self: EntryReader, reader: SegmentReader, path: Path, sealed: SealedSegment) -> None:
        with closing(await self.directory.disk.open(path)) as file:
            without_limit = SegmentReader(file, path, SegmentId(SHARD, sealed.epoch))
            await without_limit.one()
            await self._skip_taken(without_limit)
            while entries := await without_limit.batch():
                await self._take_in_turns(sealed.epoch, without_limit.end, entries)

    whole = EntryReader.read_along
    monkeypatch.setattr(EntryReader, "read_along", read_along)
    with pytest.raises(Violation, match="TAKEN now"):
        a_fenced_entry()


def test_planted_a_bare_seal_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner may be about to find itself fenced."""

    async def another(self: SegmentReader) -> bool:
        return True

    monkeypatch.setattr(SegmentReader, "another", another)
    with pytest.raises(Violation, match="TAKEN now"):
        a_bare_seal()


def test_planted_a_warm_open_makes_nothing_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Having read along says nothing about the last frame."""

    async def read_all(self: EntryReader, epochs: Sequence[Epoch]) -> Seal:
        if not self._taken:
            return await whole(self, epochs)
        async with self._top(epochs, along=False) as top:
            assert top is not None
            await self._take_sealed(top, epochs)
            last = await self._take_all_but_last(top.reader)
            if last is not None:
                self._take(top.reader.segment.epoch, top.reader.end, last)
            taken = self._taken.get(top.reader.segment.epoch)
            rows = (SealedSegment(top.reader.segment.epoch, taken.end, taken.entries),) if taken else ()
            return Seal(top.seal.first_position, top.seal.segments + rows)

    whole = EntryReader.read_all
    monkeypatch.setattr(EntryReader, "read_all", read_all)
    with pytest.raises(Violation, match="after a power cut"):
        explore_all()


# --- files that somebody has replaced ---------------------------------------------------------------------------------

BEFORE = (b"one", b"two", b"six")


async def written(*entries: bytes) -> MemoryDisk:
    disk = with_directory()
    owner = await open_journal(disk, 1)
    for entry in entries:
        await owner.append(entry)
    return disk


def with_another_entry(disk: MemoryDisk) -> None:
    """All lengths as they were."""
    other = asyncio.run(written(b"one", b"TWO", b"six"))
    disk.write_file(segment_path(1), other.read_file(segment_path(1))).sync()


def cut(disk: MemoryDisk) -> None:
    content = disk.read_file(segment_path(1))
    disk.write_file(segment_path(1), content[: -2 * (8 + len(b"two"))]).sync()


def cut_to_its_seal(disk: MemoryDisk) -> None:
    disk.write_file(segment_path(1), disk.read_file(segment_path(1))[:56]).sync()


def removed(disk: MemoryDisk) -> None:
    disk.remove_file(segment_path(1))


def above(disk: MemoryDisk, *rows: SealedSegment) -> None:
    """A segment that somebody has made up, with one entry."""
    segment = SegmentId(SHARD, epoch_of(2))
    seal = encode_seal(segment, Seal(0, rows))
    disk.write_file(segment_path(2), seal + encode_frame(segment, len(seal), b"made up")).sync()


def sealed_before_what_was_read(disk: MemoryDisk) -> None:
    above(disk, SealedSegment(epoch_of(1), 56 + 8 + len(b"one"), 1))


def sealed_within_what_was_read(disk: MemoryDisk) -> None:
    above(disk, SealedSegment(epoch_of(1), 56 + 8 + len(b"one") + 5, 1))


def sealed_without_it(disk: MemoryDisk) -> None:
    above(disk)


MEDDLING = [
    with_another_entry,
    cut,
    cut_to_its_seal,
    removed,
    sealed_before_what_was_read,
    sealed_within_what_was_read,
    sealed_without_it,
]


def assert_noticed(meddle: Callable[[MemoryDisk], None], *, opens: bool) -> None:
    async def followed(disk: MemoryDisk) -> FileFollower:
        follower = FileJournal(ROOT, disk.seen_by("standby")).follow(SHARD, entries.append)
        await follower.advance()
        return follower

    async def goes_on(follower: FileFollower) -> None:
        if opens:
            await follower.open(epoch_of(3))
        else:
            await follower.advance()

    entries: list[bytes] = []
    disk = asyncio.run(written(*BEFORE))
    follower = asyncio.run(followed(disk))
    assert entries == list(BEFORE[:2])
    meddle(disk)
    with pytest.raises(OutcomeUnknown if opens else FollowerLost):
        asyncio.run(goes_on(follower))
    assert entries == list(BEFORE[:2]), "nothing is handed on behind what was replaced"
    assert disk.open_files == 1, "the writer's alone"


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("meddle", MEDDLING)
def test_replaced_files_are_noticed(meddle: Callable[[MemoryDisk], None], opens: bool) -> None:
    """Who has read what is no longer in the journal is lost; it does not go on behind it, nor open."""
    assert_noticed(meddle, opens=opens)


@pytest.mark.parametrize("opens", [False, True])
def test_planted_what_was_taken_is_not_compared(opens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going on at an offset would do, were the files always those that were read."""

    async def skip_taken(self: EntryReader, reader: SegmentReader) -> None:
        if (taken := self._taken.get(reader.segment.epoch)) is not None:
            reader.go_on_at(taken.end)

    monkeypatch.setattr(EntryReader, "_skip_taken", skip_taken)
    with pytest.raises(pytest.fail.Exception):
        assert_noticed(with_another_entry, opens=opens)


def is_of_kind(kind: str, operation: Operation) -> bool:
    return operation.kind == kind


def test_a_directory_that_cannot_be_read() -> None:
    """The follower is lost, not broken: it may try again, and is where it was."""

    async def scenario() -> None:
        disk = await written(*BEFORE)
        entries: list[bytes] = []
        follower = FileJournal(ROOT, disk.seen_by("standby")).follow(SHARD, entries.append)

        for kind in ("list_directory", "open", "read"):
            disk.intercept = failing(functools.partial(is_of_kind, kind), Fail(EIO))
            with pytest.raises(FollowerLost):
                await follower.advance()
            assert disk.open_files == 1
        disk.intercept = None
        await follower.advance()
        assert entries == list(BEFORE[:2])

    asyncio.run(scenario())
