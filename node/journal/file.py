"""The journal of one machine: a directory per shard, a segment per epoch. docs/journal-file.md describes the bytes.

Nothing but files holds several processes apart. An owner makes its segment's name durable before it reads what is
there, and acknowledges nothing once it sees a higher segment's name; so of two owners either the higher has read an
entry or the lower has not acknowledged it. A segment's seal then says for ever how much of each lower segment the
journal holds, and what a fenced owner still writes stands behind that.

Never deletes, shortens or rewrites anything, and never writes a segment again after a write or sync of it failed.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.types import Epoch, ShardId
from node.journal.base import AppendRefused, Fenced, FollowerLost, OutcomeUnknown
from node.journal.disk import Disk, DiskFile
from node.journal.frames import PAYLOAD_BYTES_MAX, SegmentId, encode_frame, encode_seal, epoch_of_name, shard_directory
from node.journal.segments import EntryReader, NoLongerThere, ShardDirectory

ENTRY_BYTES_MAX = 1024 * 1024

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FileJournal:
    """Implements node.journal.base.Journal."""

    def __init__(self, root: Path | str, disk: Disk, *, entry_bytes_max: int = ENTRY_BYTES_MAX) -> None:
        """Args: root: will hold the shards' directories. It is made if it does not exist; its parent has to.

        Raises:
            NotALocalDisk: root is on a network file system.
        """
        assert 1 <= entry_bytes_max <= PAYLOAD_BYTES_MAX
        self._root = Path(root)
        self._disk = disk
        self._entry_bytes_max = entry_bytes_max
        disk.require_local(self._root)

    @property
    def entry_bytes_max(self) -> int:
        return self._entry_bytes_max

    def follow(self, shard: ShardId, replay: Callable[[bytes], None]) -> "FileFollower":
        directory = ShardDirectory(self._disk, shard, self._root / shard_directory(shard))
        return FileFollower(self, EntryReader(directory, replay))

    async def open(self, shard: ShardId, epoch: Epoch, replay: Callable[[bytes], None]) -> "FileShardJournal":
        return await self.follow(shard, replay).open(epoch)

    async def take_over(self, reader: EntryReader, epoch: Epoch) -> "FileShardJournal":
        """See `Follower.open`."""
        directory = reader.directory
        segment = SegmentId(directory.shard, epoch)
        try:
            file = await self._create(directory, segment)
            try:
                return await self._seal_lower(directory, segment, file, reader)
            except BaseException:
                file.close()
                raise
        except (OSError, NoLongerThere) as error:
            raise OutcomeUnknown(f"{directory.path_of(segment)}: {error}") from error

    async def _create(self, directory: ShardDirectory, segment: SegmentId) -> DiskFile:
        """The epoch's segment, new and empty, with a durable name: lower epochs acknowledge nothing from here on."""
        for made in (self._root, directory.path):
            await self._disk.make_directory(made)
            # Also where it was there before: who made it may have died before syncing its name.
            await self._disk.sync_directory(made.parent)
        try:
            file = await self._disk.create(directory.path_of(segment))
        except FileExistsError as error:
            raise Fenced(f"{directory.path_of(segment)}: this epoch was used before") from error
        try:
            await self._disk.sync_directory(directory.path)
        except BaseException:
            file.close()
            raise
        return file

    async def _seal_lower(
        self, directory: ShardDirectory, segment: SegmentId, file: DiskFile, reader: EntryReader
    ) -> "FileShardJournal":
        names = await directory.names()
        require_highest(directory, segment, names)
        seal = await reader.read_all([epoch for epoch in epochs_of(names) if epoch < segment.epoch])
        frame = encode_seal(segment, seal)
        await _write_whole(file, frame)
        await file.sync()
        # Without this look two owners could open at the same time, the lower one having read less than the higher: the
        # journal would not begin with what the lower one answers from.
        require_highest(directory, segment, await directory.names())
        return FileShardJournal(
            directory,
            segment,
            file,
            reader,
            offset=len(frame),
            entry_bytes_max=self._entry_bytes_max,
        )


class FileFollower:
    """Implements node.journal.base.Follower; made by `follow`."""

    def __init__(self, journal: FileJournal, reader: EntryReader) -> None:
        self._journal = journal
        self._reader = reader

    @property
    def position(self) -> int:
        return self._reader.position

    async def advance(self) -> None:
        directory = self._reader.directory
        try:
            try:
                names = await directory.names()
            except FileNotFoundError:
                names = []  # nobody has opened the shard yet
            await self._reader.read_along(epochs_of(names))
        except (OSError, NoLongerThere) as error:
            raise FollowerLost(f"{directory.path}: {error}") from error

    async def open(self, epoch: Epoch) -> "FileShardJournal":
        return await self._journal.take_over(self._reader, epoch)


class FileShardJournal:
    """Implements node.journal.base.ShardJournal: the one writer of one segment."""

    def __init__(
        self,
        directory: ShardDirectory,
        segment: SegmentId,
        file: DiskFile,
        reader: EntryReader,
        *,
        offset: int,
        entry_bytes_max: int,
    ) -> None:
        self._directory = directory
        self._segment = segment
        self._file = file
        self._offset = offset
        self._reader = reader  # has read the lower segments, and is told of every append
        self._entry_bytes_max = entry_bytes_max
        self._busy = False
        self._finished = False
        self._closed = False

    @property
    def position(self) -> int:
        return self._reader.position

    async def append(self, entry: bytes) -> None:
        assert entry, "an entry is never empty"
        with self._finished_unless_it_returns():
            if len(entry) > self._entry_bytes_max:
                raise AppendRefused(f"an entry of {len(entry)} bytes; at most {self._entry_bytes_max} are taken")
            frame = encode_frame(self._segment, self._offset, entry)
            try:
                await _write_whole(self._file, frame)
            except OSError as error:
                if error.errno in _NO_SPACE:
                    # The system says so only if not one byte was written (a short write is another error, below), so
                    # the file ends where the frame would begin, and nobody writes this segment again. No reader can
                    # ever find the frame. After any other error, and after a short write, bytes of it may be there.
                    raise AppendRefused(f"{self._path}: {error}") from error
                raise OutcomeUnknown(f"{self._path}: {error}") from error
            try:
                await self._file.sync()
                # After the sync, not before: whoever opens after this look finds the entry, and whoever's segment was
                # there before it may have read without it.
                await self._look()
            except OSError as error:
                raise OutcomeUnknown(f"{self._path}: {error}") from error
            self._offset += len(frame)
            self._reader.went_on(self._segment.epoch, self._offset, entry)

    async def barrier(self) -> None:
        with self._finished_unless_it_returns():
            try:
                await self._look()
            except OSError as error:
                raise Fenced(f"{self._path}: cannot see whether a higher epoch is there: {error}") from error

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._finished = True
            self._file.close()

    async def _look(self) -> None:
        require_highest(self._directory, self._segment, await self._directory.names())

    @property
    def _path(self) -> Path:
        return self._directory.path_of(self._segment)

    @contextmanager
    def _finished_unless_it_returns(self) -> Iterator[None]:
        """A call that raises, or is cancelled, is this writer's last."""
        if self._finished:
            raise Fenced(f"{self._path}: this writer is finished")
        assert not self._busy, "one call at a time"
        self._busy = True
        try:
            yield
        except BaseException:
            self._finished = True
            raise
        finally:
            self._busy = False


def epochs_of(names: Iterable[str]) -> list[Epoch]:
    """Of the segments among a directory's names, lowest first."""
    return sorted(epoch for name in names if (epoch := epoch_of_name(name)) is not None)


def require_highest(directory: ShardDirectory, segment: SegmentId, names: Iterable[str]) -> None:
    """Raises Fenced unless the segment is among `names` and none of a higher epoch."""
    found = False
    for name in names:
        if name == segment.name:
            found = True
        # Names sort as epochs do. Every append comes here, and old segments may be many.
        elif name > segment.name and epoch_of_name(name) is not None:
            raise Fenced(f"{directory.path_of(segment)}: {name} is there")
    if not found:
        raise Fenced(f"{directory.path_of(segment)}: somebody has removed it")


async def _write_whole(file: DiskFile, frame: bytes) -> None:
    """In one write. A short one is never completed: who has seen half a frame must not see the other half later."""
    written = await file.append(frame)
    if written != len(frame):
        raise OSError(errno.EIO, f"{written} of {len(frame)} bytes were written")
