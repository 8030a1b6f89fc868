"""Everything that the file journal asks of a file system, and nothing else: the seam behind which the tests and the
simulation put a disk that loses its cache.

Whatever another process can notice is a coroutine, so that a stand-in can stop in front of it. In the real one only
what blocks for milliseconds leaves the event loop, for threads of its own.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

_Args = TypeVarTuple("_Args")
_T = TypeVar("_T")


class NotALocalDisk(Exception):
    """The directory lies on a network file system. There O_EXCL, directory listings and syncs of several machines do
    not hold together as the journal needs."""


class DiskFile(Protocol):
    """An open file. Errors of the system are OSError."""

    async def append(self, data: bytes) -> int:
        """Write at the file's end: how many bytes, which may be fewer than there are."""
        ...

    async def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer only if the file ends there."""
        ...

    async def sync(self) -> None:
        """fdatasync: what was written by anybody before is durable after it. An error means that it may never be."""
        ...

    async def drop_cache(self) -> None:
        """Forget the pages that need no writing back: the next `read` shows what is on the disk."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """Errors of the system are OSError."""

    def require_local(self, directory: Path) -> None:
        """Raises NotALocalDisk if `directory`, which need not exist yet, is on a network file system."""
        ...

    async def make_directory(self, directory: Path) -> None:
        """Unless it exists. Its parent has to."""
        ...

    async def list_directory(self, directory: Path) -> list[str]:
        """The names in it, in no order: every file that was created before the call."""
        ...

    async def sync_directory(self, directory: Path) -> None:
        """Which names are in it is durable after it."""
        ...

    async def create(self, path: Path) -> DiskFile:
        """A new file, to append to. Raises FileExistsError: atomically, whoever else tries."""
        ...

    async def open(self, path: Path) -> DiskFile:
        """An existing file, to read and to sync."""
        ...


class RealDisk:
    """The disk of this machine (Linux)."""

    def __init__(self, threads: int = 8) -> None:
        """Args: threads: how many syncs and reads may be under way together."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="disk")

    def close(self) -> None:
        self._executor.shutdown()

    def require_local(self, directory: Path) -> None:
        kind = file_system_type(Path("/proc/self/mountinfo").read_text(), directory.resolve())
        if is_network_file_system(kind):
            raise NotALocalDisk(
                f"{directory} is on a network file system ({kind}); the file journal needs a local disk"
            )

    async def make_directory(self, directory: Path) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, mode=0o750)

    async def list_directory(self, directory: Path) -> list[str]:
        return os.listdir(directory)

    async def sync_directory(self, directory: Path) -> None:
        await self.in_thread(_sync_directory, directory)

    async def create(self, path: Path) -> "RealFile":
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return RealFile(self, os.open(path, flags, mode=0o640))

    async def open(self, path: Path) -> "RealFile":
        return RealFile(self, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    async def in_thread(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        """The function's result or exception. A cancelled call ends when the thread is done with it, so that nobody
        closes a descriptor that a system call still uses."""
        call = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        cancelled: asyncio.CancelledError | None = None
        while not call.done():
            try:
                await asyncio.wait({call})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            call.exception()  # Seen, and of no interest any more: for who cancels an outcome is unknown.
            raise cancelled
        return call.result()


class RealFile:
    def __init__(self, disk: RealDisk, descriptor: int) -> None:
        self._disk = disk
        self._descriptor = descriptor

    async def append(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    async def read(self, offset: int, length: int) -> bytes:
        return await self._disk.in_thread(_read, self._descriptor, offset, length)

    async def sync(self) -> None:
        await self._disk.in_thread(os.fdatasync, self._descriptor)

    async def drop_cache(self) -> None:
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """pread may give less than there is; this does not."""
    pieces = []
    while length and (piece := os.pread(descriptor, length, offset)):
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


_NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs",
})  # fmt: skip


def is_network_file_system(kind: str) -> bool:
    """Of FUSE's, only what is known to sit on a local disk is not taken for one: nobody can tell what is behind it."""
    if kind == "fuse" or kind.startswith("fuse."):
        return kind != "fuse.fuse-overlayfs"
    return kind in _NETWORK_FILE_SYSTEMS


def file_system_type(mountinfo: str, path: Path) -> str:
    """The type of the file system that `path` (absolute, without symbolic links) lies on.

    Args:
        mountinfo: the text of /proc/self/mountinfo: "ID PARENT MAJ:MIN ROOT MOUNT-POINT OPTIONS ... - TYPE SOURCE ...".
    """
    best: tuple[int, str] = (-1, "")
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        mount_point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), place.split(" ")[4]))
        if path.is_relative_to(mount_point) and len(mount_point.parts) >= best[0]:
            # Of two mounts on one point the later line is the one that is seen.
            best = (len(mount_point.parts), kind.split(" ")[0])
    assert best[1], "every path lies on a file system"
    return best[1]
