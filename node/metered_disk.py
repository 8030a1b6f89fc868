"""A disk that tells how long its syncs take; else it is the disk that it was given."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics_core import Metric

from cluster.metrics import Histogram, histogram, now_s
from node.journal.disk import Disk, DiskFile


class SyncTimes:
    """Implements cluster.metrics.Source."""

    def __init__(self) -> None:
        self.durations = Histogram()

    def families(self) -> Iterator[Metric]:
        yield histogram(
            "journal_sync_duration_seconds", "Until the disk says that a file is on it: fdatasync.", (), self.durations
        )


class MeteredDisk:
    """Implements node.journal.disk.Disk."""

    def __init__(self, disk: Disk, times: SyncTimes) -> None:
        self._disk = disk
        self._times = times

    def require_local(self, directory: Path) -> None:
        self._disk.require_local(directory)

    async def make_directory(self, directory: Path) -> None:
        await self._disk.make_directory(directory)

    async def list_directory(self, directory: Path) -> list[str]:
        return await self._disk.list_directory(directory)

    async def sync_directory(self, directory: Path) -> None:
        await self._disk.sync_directory(directory)

    async def create(self, path: Path) -> DiskFile:
        return _MeteredFile(await self._disk.create(path), self._times)

    async def open(self, path: Path) -> DiskFile:
        return _MeteredFile(await self._disk.open(path), self._times)


class _MeteredFile:
    def __init__(self, file: DiskFile, times: SyncTimes) -> None:
        self._file = file
        self._times = times

    async def append(self, data: bytes) -> int:
        return await self._file.append(data)

    async def read(self, offset: int, length: int) -> bytes:
        return await self._file.read(offset, length)

    async def sync(self) -> None:
        began_s = now_s()
        await self._file.sync()
        self._times.durations.observe(now_s() - began_s)

    async def drop_cache(self) -> None:
        await self._file.drop_cache()

    def close(self) -> None:
        self._file.close()
