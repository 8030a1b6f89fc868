"""A machine that is not what it should be: a clock that is wrong, a disk that is full or cannot sync. Behind the seams
that the node has for both, `cluster.clock.Clock` and `node.journal.disk.Disk`; everything else is the real one."""

import errno
import os
from pathlib import Path

import structlog

from chaos.control import Control, DiskState
from cluster.clock import Clock
from node.journal.disk import Disk, DiskFile

log = structlog.get_logger()


class SkewedClock:
    """Implements cluster.clock.Clock. Only the wall clock is wrong: the time since boot cannot be set."""

    def __init__(self, clock: Clock, control: Control) -> None:
        self._clock = clock
        self._control = control

    def wall_us(self) -> int:
        return self._clock.wall_us() + self._control.clock_ahead_us

    def boottime_s(self) -> float:
        return self._clock.boottime_s()


class FailingDisk:
    """Implements node.journal.disk.Disk."""

    def __init__(self, disk: Disk, control: Control) -> None:
        self._disk = disk
        self._control = control

    def require_local(self, directory: Path) -> None:
        self._disk.require_local(directory)

    async def make_directory(self, directory: Path) -> None:
        await self._disk.make_directory(directory)

    async def list_directory(self, directory: Path) -> list[str]:
        return await self._disk.list_directory(directory)

    async def sync_directory(self, directory: Path) -> None:
        _require_sync(self._control, directory)
        await self._disk.sync_directory(directory)

    async def create(self, path: Path) -> "FailingFile":
        return FailingFile(await self._disk.create(path), path, self._control, created=True)

    async def open(self, path: Path) -> "FailingFile":
        return FailingFile(await self._disk.open(path), path, self._control)


class FailingFile:
    """Implements node.journal.disk.DiskFile."""

    def __init__(self, file: DiskFile, path: Path, control: Control, *, created: bool = False) -> None:
        self._file = file
        self._path = path
        self._control = control
        self._created = created
        self._synced_bytes = 0

    async def append(self, data: bytes) -> int:
        if self._control.disk is not DiskState.FULL:
            return await self._file.append(data)
        log.info("disk_failed", path=str(self._path), what="full", bytes=len(data))
        # As a file system does: the last block takes what it can, from then on nothing goes in. Which of both comes
        # first depends on how much room the block has.
        if len(data) % 2:
            return await self._file.append(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(self._path))

    async def read(self, offset: int, length: int) -> bytes:
        return await self._file.read(offset, length)

    async def sync(self) -> None:
        if self._created and self._control.disk is DiskState.SYNC_FAILS:
            self._lose_unsynced()
        _require_sync(self._control, self._path)
        written_bytes = self._path.stat().st_size
        await self._file.sync()
        self._synced_bytes = written_bytes

    async def drop_cache(self) -> None:
        await self._file.drop_cache()

    def close(self) -> None:
        self._file.close()

    def _lose_unsynced(self) -> None:
        """What a failed sync leaves behind may be gone. Not where a later segment (names sort by age) is there: its
        owner may have read this one, and has then synced it itself."""
        if not any(name > self._path.name for name in os.listdir(self._path.parent)):
            os.truncate(self._path, self._synced_bytes)


def _require_sync(control: Control, path: Path) -> None:
    if control.disk is DiskState.SYNC_FAILS:
        log.info("disk_failed", path=str(path), what="sync")
        raise OSError(errno.EIO, "Input/output error", str(path))
