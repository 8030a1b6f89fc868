"""The file journal does what every journal must, on a disk in memory and on a real one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.types import Epoch, Revision, ShardId
from node.journal.base import Journal
from node.journal.disk import Disk, DiskFile, RealDisk
from node.journal.file import FileJournal
from tests.fakes import virtual_time
from tests.fakes.disk import BASE, MemoryDisk, Operation
from tests.journal.conformance import Harness, JournalConformance, OpenHarness
from tests.journal.follower_conformance import FollowerConformance


class FileHold:
    """Stops the next append of one process before its write, or before its sync."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self) -> None:
        await self._reached.wait()

    def release(self) -> None:
        self._released.set()

    async def stop(self) -> None:
        self._reached.set()
        await self._released.wait()


class HoldingDisk:
    """A disk, some of whose appends and syncs are held."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.hold: FileHold | None = None

    def require_local(self, directory: Path) -> None:
        self._disk.require_local(directory)

    async def make_directory(self, directory: Path) -> None:
        await self._disk.make_directory(directory)

    async def list_directory(self, directory: Path) -> list[str]:
        return await self._disk.list_directory(directory)

    async def sync_directory(self, directory: Path) -> None:
        await self._disk.sync_directory(directory)

    async def create(self, path: Path) -> DiskFile:
        return HoldingFile(self, await self._disk.create(path))

    async def open(self, path: Path) -> DiskFile:
        return await self._disk.open(path)

    async def stop_at(self, stage: str) -> None:
        if self.hold is not None and self.hold.stage == stage:
            hold, self.hold = self.hold, None
            await hold.stop()


class HoldingFile:
    def __init__(self, disk: HoldingDisk, file: DiskFile) -> None:
        self._disk = disk
        self._file = file
        self.read = file.read
        self.drop_cache = file.drop_cache
        self.close = file.close

    async def append(self, data: bytes) -> int:
        await self._disk.stop_at("write")
        return await self._file.append(data)

    async def sync(self) -> None:
        await self._disk.stop_at("sync")
        await self._file.sync()
        await self._disk.stop_at("look")


class FileHarness:
    append_stages = ("write", "sync", "look")

    def __init__(self, root: Path, disk_of: "dict[str, HoldingDisk]") -> None:
        self._disks = disk_of
        self._journals = {process: FileJournal(root, disk) for process, disk in disk_of.items()}
        self._revision = 0

    def journal(self, process: str) -> Journal:
        return self._journals[process]

    async def own(self, shard: ShardId, process: str) -> Epoch:
        self._revision += 1
        return Epoch(1, Revision(self._revision))

    def hold_append(self, process: str, stage: str) -> FileHold:
        hold = FileHold(stage)
        self._disks[process].hold = hold
        return hold


PROCESSES = ("A", "B", "C", "reader")


async def one_turn(operation: Operation) -> None:
    """Others have a turn before each operation, and whoever waits for it may be cancelled there."""
    await asyncio.sleep(0)


class TestFileOnMemoryDisk(JournalConformance, FollowerConformance):
    @pytest.fixture
    def open_harness(self) -> OpenHarness:
        @asynccontextmanager
        async def harness() -> AsyncIterator[Harness]:
            disk = MemoryDisk()
            disk.intercept = one_turn
            yield FileHarness(BASE / "journal", {p: HoldingDisk(disk.seen_by(p)) for p in PROCESSES})

        return OpenHarness(harness, virtual_time.run)


class TestFileOnRealDisk(JournalConformance, FollowerConformance):
    @pytest.fixture
    def open_harness(self, tmp_path: Path) -> OpenHarness:
        @asynccontextmanager
        async def harness() -> AsyncIterator[Harness]:
            disk = RealDisk()
            try:
                yield FileHarness(tmp_path / "journal", {p: HoldingDisk(disk) for p in PROCESSES})
            finally:
                disk.close()

        return OpenHarness(harness, asyncio.run)
