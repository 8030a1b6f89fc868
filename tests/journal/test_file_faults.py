"""What the file journal says when the disk fails, and what it leaves behind."""

import asyncio
import errno
from collections.abc import Awaitable, Callable

import pytest

from node.journal.base import AppendRefused, Fenced, OutcomeUnknown
from node.journal.disk import NotALocalDisk
from node.journal.file import FileJournal
from tests.fakes.disk import BASE, Fail, Fault, MemoryDisk, Operation, Short
from tests.journal.conformance import assert_finished
from tests.journal.owners import find, segment_path, with_directory
from tests.journal.test_file_damage import open_journal

FRAME_LENGTH = 8 + len(b"second")


def failing(fails: Callable[[Operation], bool], fault: Fault) -> Callable[[Operation], Awaitable[Fault | None]]:
    async def intercept(operation: Operation) -> Fault | None:
        return fault if fails(operation) else None

    return intercept


def is_second_append(operation: Operation) -> bool:
    """The third write of the segment: the first is the seal's."""
    return operation.kind == "append" and operation.nth == 2


def is_second_sync(operation: Operation) -> bool:
    return operation.kind == "sync" and operation.nth == 2


APPEND_FAULTS: dict[str, tuple[Callable[[Operation], bool], Fault, type[Exception]]] = {
    "no space": (is_second_append, Fail(errno.ENOSPC), AppendRefused),
    "quota": (is_second_append, Fail(errno.EDQUOT), AppendRefused),
    "write fails": (is_second_append, Fail(errno.EIO), OutcomeUnknown),
    "sync fails": (is_second_sync, Fail(errno.EIO), OutcomeUnknown),
    "no space at the sync": (is_second_sync, Fail(errno.ENOSPC), OutcomeUnknown),
    **{f"{n} bytes written": (is_second_append, Short(n), OutcomeUnknown) for n in range(FRAME_LENGTH)},
}


@pytest.mark.parametrize(("fails", "fault", "outcome"), APPEND_FAULTS.values(), ids=APPEND_FAULTS.keys())
def test_a_failed_append(fails: Callable[[Operation], bool], fault: Fault, outcome: type[Exception]) -> None:
    """Refused only if nothing of the entry was written, else unknown; the segment is never written or synced again, and
    the next owner finds what was acknowledged."""

    async def scenario() -> None:
        disk = with_directory()
        owner = await open_journal(disk, 1)
        await owner.append(b"first")
        disk.intercept = failing(fails, fault)
        with pytest.raises(outcome):
            await owner.append(b"second")
        disk.intercept = None
        operations = len(disk.history)
        await assert_finished(owner)
        assert len(disk.history) == operations, "a finished writer leaves the disk alone"
        assert find(disk) == (b"first",)

    asyncio.run(scenario())


def test_a_look_that_fails() -> None:
    """If the directory cannot be listed after the sync, the entry is unknown; it is there for the next owner. A barrier
    does not pass."""

    async def scenario() -> None:
        disk = with_directory()
        owner = await open_journal(disk, 1)
        disk.intercept = failing(lambda operation: operation.kind == "list_directory", Fail(errno.EIO))
        with pytest.raises(OutcomeUnknown):
            await owner.append(b"first")
        await assert_finished(owner)
        disk.intercept = None
        second = await open_journal(disk, 2)
        assert second.position == 1
        disk.intercept = failing(lambda operation: operation.kind == "list_directory", Fail(errno.EMFILE))
        with pytest.raises(Fenced):
            await second.barrier()
        disk.intercept = None
        await assert_finished(second)

    asyncio.run(scenario())


class AtOperation:
    """Interceptor: the nth operation, from 1 on, fails, or never goes on if no fault is given."""

    def __init__(self, nth: int, fault: Fault | None = None) -> None:
        self.reached = asyncio.Event()
        self._operations_left = nth
        self._fault = fault

    async def __call__(self, operation: Operation) -> Fault | None:
        self._operations_left -= 1
        if self._operations_left:
            return None
        self.reached.set()
        if self._fault is None:
            await asyncio.Event().wait()
        return self._fault


OPEN_OPERATIONS = (
    *("make_directory", "sync_directory"),  # the root
    *("make_directory", "sync_directory"),  # the shard's
    *("create", "sync_directory", "list_directory"),
    *("open", "read", "sync", "drop_cache", "read"),  # the earlier segment
    *("append", "sync", "list_directory"),  # the seal
)


async def one_segment() -> MemoryDisk:
    disk = MemoryDisk()
    first = await open_journal(disk, 1)
    await first.append(b"first")
    await first.append(b"second")
    await first.close()
    return disk


def test_operations_of_an_open() -> None:
    """What an open asks of the disk, in this order, when it finds one earlier segment with entries."""

    async def scenario() -> None:
        disk = await one_segment()
        before = len(disk.history)
        await open_journal(disk, 2)
        assert tuple(operation.kind for operation, _ in disk.history[before:]) == OPEN_OPERATIONS

    asyncio.run(scenario())


@pytest.mark.parametrize("nth", range(1, len(OPEN_OPERATIONS) + 1))
def test_an_open_that_fails(nth: int) -> None:
    """Whatever fails in an open, it says so and lets go of its files, and the next epoch finds everything."""

    async def scenario() -> None:
        disk = await one_segment()
        disk.intercept = AtOperation(nth, Fail(errno.EIO))
        with pytest.raises(OutcomeUnknown):
            await open_journal(disk, 2)
        assert disk.open_files == 0
        disk.intercept = None
        assert find(disk) == (b"first", b"second")

    asyncio.run(scenario())


@pytest.mark.parametrize("nth", range(1, len(OPEN_OPERATIONS) + 1))
def test_an_open_that_is_cancelled(nth: int) -> None:
    """Cancelled anywhere, open lets go of its files, and the next epoch finds everything."""

    async def scenario() -> None:
        disk = await one_segment()
        disk.intercept = stop = AtOperation(nth)
        opening = asyncio.create_task(open_journal(disk, 2))
        await stop.reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert disk.open_files == 0
        disk.intercept = None
        assert find(disk) == (b"first", b"second")

    asyncio.run(scenario())


def test_a_short_seal() -> None:
    """A seal that was written in part never counts: open says so, and the next epoch finds everything."""

    async def scenario() -> None:
        disk = await one_segment()
        disk.intercept = failing(lambda operation: operation.kind == "append", Short(50))
        with pytest.raises(OutcomeUnknown):
            await open_journal(disk, 2)
        disk.intercept = None
        assert len(disk.read_file(segment_path(2))) == 50
        assert find(disk) == (b"first", b"second")

    asyncio.run(scenario())


def test_a_failed_sync_and_a_believed_cache() -> None:
    """The next owner does not take in an entry whose sync failed, though the page cache shows it; nor does a power cut
    bring another journal than it answers from."""

    async def scenario() -> None:
        disk = with_directory()
        owner = await open_journal(disk, 1)
        await owner.append(b"first")
        disk.intercept = failing(is_second_sync, Fail(errno.EIO))
        with pytest.raises(OutcomeUnknown):
            await owner.append(b"second")
        disk.intercept = None
        assert b"second" in disk.read_file(segment_path(1)), "the cache lies"
        second = await open_journal(disk, 2)
        assert second.position == 1
        await second.append(b"third")
        for image in disk.crash_images():
            assert find(MemoryDisk.of_image(image)) == (b"first", b"third")

    asyncio.run(scenario())


def test_a_segment_that_was_removed() -> None:
    """An owner whose segment is no longer in the directory acknowledges nothing and passes no barrier."""

    async def scenario() -> None:
        disk = with_directory()
        owner = await open_journal(disk, 1)
        disk.remove_file(segment_path(1))
        with pytest.raises(Fenced):
            await owner.append(b"into the void")
        await assert_finished(owner)

    asyncio.run(scenario())


def test_network_file_systems_are_refused() -> None:
    """No journal is made on a network file system."""
    disk = MemoryDisk()
    disk.network = True
    with pytest.raises(NotALocalDisk):
        FileJournal(BASE / "journal", disk.seen_by("owner"))


def test_replay_gives_way() -> None:
    """While a long journal is replayed, other tasks have their turns: at least one for each 100 KB."""

    async def scenario() -> None:
        disk = with_directory()
        owner = await open_journal(disk, 1)
        for _ in range(200):
            await owner.append(bytes(10_000))
        await owner.close()
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(other())
            await open_journal(disk, 2)
            task.cancel()
        assert turns >= 20

    asyncio.run(scenario())


def test_one_call_at_a_time() -> None:
    """A second call while one is under way is its caller's bug, and says so."""

    async def scenario() -> None:
        disk = with_directory()
        owner = await open_journal(disk, 1)
        disk.intercept = stop = AtOperation(1)
        append = asyncio.create_task(owner.append(b"first"))
        await stop.reached.wait()
        with pytest.raises(AssertionError, match="one call at a time"):
            await owner.barrier()
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append

    asyncio.run(scenario())
