"""A disk in memory that forgets what was not synced, and can say what it might remember after a power cut.

Keeps the real semantics: readers see the page cache; a file's bytes are durable after its own sync, its name after its
directory's; after a sync that failed the cache goes on showing bytes that are not on the disk, and the next sync
succeeds. Several processes may look at one disk, each through `seen_by`. Knows nothing of journals.
"""

import copy
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from node.journal.disk import Disk, DiskFile, NotALocalDisk

BASE = Path("/disk")
"""Exists, durably, on every new disk."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a process asked the disk to do."""

    process: str
    kind: str
    """The name of the method of Disk or DiskFile."""
    path: Path
    nth: int = 0
    """How many operations of this kind the same open file has had before."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The operation raises OSError and does nothing. After a sync that fails the pages count as clean, and their bytes
    are not on the disk."""

    errno: int


@dataclass(frozen=True, slots=True)
class Short:
    """An append writes only so many bytes."""

    length: int


@dataclass(frozen=True, slots=True)
class Skip:
    """The operation returns and has done nothing: what a program would do that had forgotten it."""


Fault = Fail | Short | Skip

Interceptor = Callable[[Operation], Awaitable[Fault | None]]
"""Asked before each operation: may wait, for as long as it likes, and says what goes wrong."""

Done = Callable[[object], None]
"""Takes what the process learnt from its operation."""

Image = tuple[tuple[str, bytes | None], ...]
"""What is on a disk: each directory (None) and file (its bytes) with its path."""

Tear = Callable[[bytes], Iterable[bytes]]
"""Of one unsynced write: what else than nothing or all of it may be on the disk after a power cut."""


def torn_in_half(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]


def torn_every_way(data: bytes) -> Iterator[bytes]:
    """Cut at the places that matter, as zeros where only the file's length was written, in the wrong order."""
    for length in sorted({1, 4, 7, 8, 9, len(data) // 2, len(data) - 1} & set(range(len(data)))):
        yield data[:length]
    half = len(data) // 2
    yield bytes(len(data))
    yield data[:half] + bytes(len(data) - half)
    yield bytes(half) + data[half:]


def _write(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


@dataclass(slots=True)
class _File:
    cache: bytearray = field(default_factory=bytearray)
    on_disk: bytearray = field(default_factory=bytearray)
    dirty: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes that are in the cache only, oldest first."""

    def append(self, data: bytes) -> None:
        self.dirty.append((len(self.cache), data))
        self.cache += data

    def sync(self) -> None:
        for offset, data in self.dirty:
            _write(self.on_disk, offset, data)
        self.dirty.clear()

    def fail_to_sync(self) -> None:
        self.dirty.clear()

    def drop_cache(self) -> None:
        length = len(self.cache)
        self.cache = bytearray(self.on_disk)
        for offset, data in self.dirty:
            _write(self.cache, offset, data)
        # The length is not of a page: it stays, and what is missing reads as zeros.
        self.cache.extend(bytes(length - len(self.cache)))

    def images(self, tear: Tear) -> set[bytes]:
        choices = [[b"", data, *tear(data)] for _, data in self.dirty]
        images = set()
        for choice in itertools.product(*choices):
            content = bytearray(self.on_disk)
            for (offset, _), data in zip(self.dirty, choice, strict=True):
                if data:
                    _write(content, offset, data)
            images.add(bytes(content))
        return images

    def power_cut(self, rng: random.Random) -> None:
        for offset, data in self.dirty:
            left = rng.choice((b"", data, data[: rng.randrange(len(data) + 1)], bytes(len(data))))
            if left:
                _write(self.on_disk, offset, left)
        self.dirty.clear()
        self.cache = bytearray(self.on_disk)

    def state(self) -> object:
        return bytes(self.cache), bytes(self.on_disk), tuple(self.dirty)


@dataclass(slots=True)
class _Directory:
    entries: "dict[str, _File | _Directory]" = field(default_factory=dict)
    durable: set[str] = field(default_factory=set)
    """The names that survive a power cut."""

    def images(self, path: str, tear: Tear) -> Iterator[Image]:
        choices: list[list[Image]] = []
        for name, node in sorted(self.entries.items()):
            inner = f"{path}/{name}"
            if isinstance(node, _File):
                choice: list[Image] = [((inner, content),) for content in sorted(node.images(tear))]
            else:
                choice = list(node.images(inner, tear))
            choices.append(choice if name in self.durable else [(), *choice])
        for chosen in itertools.product(*choices):
            yield ((path, None), *itertools.chain.from_iterable(chosen))

    def power_cut(self, rng: random.Random) -> None:
        for name in sorted(self.entries.keys() - self.durable):
            if rng.random() < 0.5:
                del self.entries[name]
        self.durable = set(self.entries)
        for _, node in sorted(self.entries.items()):
            node.power_cut(rng)

    def state(self) -> object:
        return tuple((name, name in self.durable, node.state()) for name, node in sorted(self.entries.items()))


class MemoryDisk:
    def __init__(self) -> None:
        self.history: list[tuple[Operation, object]] = []
        """All operations that ended, oldest first, each with what its process learnt from it (hashable)."""
        self.intercept: Interceptor | None = None
        self.open_files = 0
        self.network = False
        """As if everything were on a network file system."""
        self._top = _Directory()
        self._make(BASE)
        self._top.durable.add(BASE.name)

    def seen_by(self, process: str) -> Disk:
        return _View(self, process)

    def copy(self) -> "MemoryDisk":
        """The same disk and cache, as the processes that run see it; without interceptor."""
        twin = MemoryDisk()
        twin._top = copy.deepcopy(self._top)
        return twin

    def state(self) -> object:
        """Equal for disks that cannot be told apart, now or later. Can be hashed."""
        return self._top.state()

    def crash_images(self, tear: Tear = torn_in_half) -> Iterator[Image]:
        """Everything that a power cut at this moment may leave."""
        base = self._top.entries[BASE.name]
        assert isinstance(base, _Directory)
        return base.images(str(BASE), tear)

    def power_cut(self, rng: random.Random) -> None:
        """Becomes one of `crash_images` (some tears more): what the machine finds when it starts again."""
        self._top.power_cut(rng)

    @classmethod
    def of_image(cls, image: Image) -> "MemoryDisk":
        """The disk of a machine that starts again."""
        disk = cls()
        for path, content in image:
            if content is None:
                if Path(path) != BASE:
                    disk._make(Path(path))
            else:
                file = disk.write_file(Path(path), content)
                file.sync()
            disk._directory(Path(path).parent).durable.add(Path(path).name)
        return disk

    def write_file(self, path: Path, content: bytes) -> _File:
        """Put a file there as if by another program; over what was there."""
        file = _File()
        file.append(content)
        self._directory(path.parent).entries[path.name] = file
        return file

    def remove_file(self, path: Path) -> None:
        """As if by another program, for good."""
        del self._directory(path.parent).entries[path.name]
        self._directory(path.parent).durable.discard(path.name)

    def is_durable(self, path: Path) -> bool:
        """Whether the path, from BASE on, survives a power cut."""
        try:
            return all(p.name in self._directory(p.parent).durable for p in (path, *path.parents[: -len(BASE.parts)]))
        except FileNotFoundError:
            return False

    def read_file(self, path: Path) -> bytes:
        return bytes(self._file(path).cache)

    def files(self) -> dict[Path, bytes]:
        """Every file's bytes, as processes that run see them."""

        def walk(path: Path, directory: _Directory) -> Iterator[tuple[Path, bytes]]:
            for name, node in directory.entries.items():
                if isinstance(node, _File):
                    yield path / name, bytes(node.cache)
                else:
                    yield from walk(path / name, node)

        return dict(walk(Path("/"), self._top))

    def _directory(self, path: Path) -> _Directory:
        node: _File | _Directory = self._top
        for name in path.parts[1:]:
            if not isinstance(node, _Directory) or name not in node.entries:
                raise FileNotFoundError(str(path))
            node = node.entries[name]
        assert isinstance(node, _Directory)
        return node

    def _file(self, path: Path) -> _File:
        node = self._directory(path.parent).entries.get(path.name)
        if not isinstance(node, _File):
            raise FileNotFoundError(str(path))
        return node

    def _make(self, path: Path) -> None:
        self._directory(path.parent).entries.setdefault(path.name, _Directory())

    async def _begin(self, operation: Operation) -> tuple[Done, Fault | None]:
        fault = await self.intercept(operation) if self.intercept is not None else None
        if isinstance(fault, Fail) and operation.kind != "sync":
            self.history.append((operation, fault))
            raise OSError(fault.errno, os.strerror(fault.errno), str(operation.path))
        return lambda learnt: self.history.append((operation, learnt)), fault


class _View:
    """The disk as one process sees it. Implements node.journal.disk.Disk."""

    def __init__(self, disk: MemoryDisk, process: str) -> None:
        self._disk = disk
        self._process = process

    def require_local(self, directory: Path) -> None:
        if self._disk.network:
            raise NotALocalDisk(str(directory))

    async def make_directory(self, directory: Path) -> None:
        done, _ = await self._begin("make_directory", directory)
        self._disk._make(directory)
        done(None)

    async def list_directory(self, directory: Path) -> list[str]:
        done, _ = await self._begin("list_directory", directory)
        names = sorted(self._disk._directory(directory).entries)
        done(tuple(names))
        return names

    async def sync_directory(self, directory: Path) -> None:
        done, fault = await self._begin("sync_directory", directory)
        if fault is None:
            node = self._disk._directory(directory)
            node.durable.update(node.entries)
        done(None)

    async def create(self, path: Path) -> DiskFile:
        done, _ = await self._begin("create", path)
        entries = self._disk._directory(path.parent).entries
        done(path.name in entries)
        if path.name in entries:
            raise FileExistsError(str(path))
        entries[path.name] = file = _File()
        return _OpenFile(self._disk, self._process, path, file)

    async def open(self, path: Path) -> DiskFile:
        done, _ = await self._begin("open", path)
        done(None)
        return _OpenFile(self._disk, self._process, path, self._disk._file(path))

    async def _begin(self, kind: str, path: Path) -> tuple[Done, Fault | None]:
        return await self._disk._begin(Operation(self._process, kind, path))


class _OpenFile:
    """Implements node.journal.disk.DiskFile."""

    def __init__(self, disk: MemoryDisk, process: str, path: Path, file: _File) -> None:
        self._disk = disk
        self._process = process
        self._path = path
        self._file = file
        self._counts: dict[str, int] = {}
        self._closed = False
        disk.open_files += 1

    async def append(self, data: bytes) -> int:
        done, fault = await self._begin("append")
        if isinstance(fault, Short):
            data = data[: fault.length]
        self._file.append(data)
        done(len(data))
        return len(data)

    async def read(self, offset: int, length: int) -> bytes:
        done, _ = await self._begin("read")
        data = bytes(self._file.cache[offset : offset + length])
        done(data)
        return data

    async def sync(self) -> None:
        done, fault = await self._begin("sync")
        done(fault)
        match fault:
            case Fail(errno):
                self._file.fail_to_sync()
                raise OSError(errno, os.strerror(errno), str(self._path))
            case None:
                self._file.sync()

    async def drop_cache(self) -> None:
        done, fault = await self._begin("drop_cache")
        done(fault)
        if fault is None:
            self._file.drop_cache()

    def close(self) -> None:
        assert not self._closed, "closed twice"
        self._closed = True
        self._disk.open_files -= 1

    async def _begin(self, kind: str) -> tuple[Done, Fault | None]:
        assert not self._closed, f"{kind} of a closed file"
        nth = self._counts.get(kind, 0)
        self._counts[kind] = nth + 1
        return await self._disk._begin(Operation(self._process, kind, self._path, nth))
