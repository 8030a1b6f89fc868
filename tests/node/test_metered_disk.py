"""What is told of a disk's syncs, and that the disk is otherwise the one that it was given."""

import asyncio
import errno
from itertools import count

import pytest

from node.metered_disk import MeteredDisk, SyncTimes
from tests.fakes.disk import BASE, Fail, Fault, MemoryDisk, Operation
from tests.metrics.reading import said


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is a second later than the one before."""
    seconds = count()
    monkeypatch.setattr("node.metered_disk.now_s", lambda: float(next(seconds)))


def test_every_sync_of_a_file_counts_and_nothing_else() -> None:
    """Of one that was made and of one that was opened, and how long it took; what was written is there."""

    async def main() -> None:
        memory, times = MemoryDisk(), SyncTimes()
        disk = MeteredDisk(memory.seen_by("node"), times)
        disk.require_local(BASE)
        await disk.make_directory(BASE / "a")
        made = await disk.create(BASE / "a" / "b")
        assert await made.append(b"bytes") == 5
        await disk.sync_directory(BASE / "a")
        await disk.sync_directory(BASE)
        assert said(times)["journal_sync_duration_seconds_count",] == 0
        await made.sync()
        opened = await disk.open(BASE / "a" / "b")
        await opened.drop_cache()
        assert await opened.read(1, 3) == b"yte"
        assert await disk.list_directory(BASE / "a") == ["b"]
        assert said(times)["journal_sync_duration_seconds_count",] == 1
        await opened.sync()
        for file in (made, opened):
            file.close()
        assert [operation.kind for operation, _ in memory.history].count("sync") == 2
        found = said(times)
        assert found["journal_sync_duration_seconds_count",] == found["journal_sync_duration_seconds_sum",] == 2

    asyncio.run(main())


def test_a_sync_that_fails_does_not_count() -> None:
    """Its error is the journal's matter, and says nothing of how fast the disk is."""

    async def fail(operation: Operation) -> Fault | None:
        return Fail(errno.EIO) if operation.kind == "sync" else None

    async def main() -> None:
        memory, times = MemoryDisk(), SyncTimes()
        memory.intercept = fail
        file = await MeteredDisk(memory.seen_by("node"), times).create(BASE / "a")
        with pytest.raises(OSError, match="Input/output"):
            await file.sync()
        assert said(times)["journal_sync_duration_seconds_count",] == 0

    asyncio.run(main())
