"""A backup as it lies on a disk: docs/backup.md. Writes and reads its files, and believes none before its checksum.

Knows neither etcd nor where a running cluster keeps its journal.
"""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.config import JournalKind
from ops.reread import Placed, Unreadable, parse_entry
from ops.reread_file import file_entries

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_SUM = "manifest.json.sha256"
CLUSTER = "cluster.json"
JOURNAL = "journal"

_LENGTH = struct.Struct("<I")


class BackupExists(Exception):
    """There is something where the backup was to be written."""


class BackupDamaged(Exception):
    """`file` of the backup is not as it was written, or is of a later version."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"{file}: {what}")
        self.file = file
        self.what = what


class FileSum(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Counts(BaseModel):
    """What the journal holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entries: int
    campaigns: int
    coupons: int


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    cluster_id: str
    journal: JournalKind
    shards: int
    cluster_incarnation: int
    """As it was: a restore raises it."""
    code_generation: int
    """The highest: a restore takes the next."""
    revision: int
    """Of etcd, at which the keys, and a journal in etcd, stood so."""
    time: datetime
    """When it was begun."""
    counts: Counts
    files: dict[str, FileSum]
    """Every other file, by its path in the backup, but for the manifest's own checksum."""


class BackupWriter:
    """Writes into a directory beside `target`, which gets its name when everything is on the disk.

    For its owner's eyes only: the code key and the users' ids are in it.
    """

    def __init__(self, target: Path) -> None:
        """Raises BackupExists."""
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise BackupExists(f"{target} exists already")
        self._target = target
        self.root = target.with_name(target.name + ".unfinished")
        if self.root.exists():
            raise BackupExists(f"{self.root} is what an interrupted backup has left: remove it")
        self.root.mkdir(mode=0o700, parents=True)
        self._files: dict[str, FileSum] = {}

    def write(self, name: str, chunks: Iterable[bytes]) -> None:
        """A whole file, durable when this returns."""
        with self.open(name) as file:
            for chunk in chunks:
                file.append(chunk)

    def open(self, name: str) -> "_SummedFile":
        path = self.root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _SummedFile(path, lambda total: self._files.__setitem__(name, total))

    def finish(self, manifest: Manifest) -> Manifest:
        """Write the manifest with all files' checksums, and give the backup its name."""
        whole = manifest.model_copy(update={"files": dict(sorted(self._files.items()))})
        text = whole.model_dump_json(indent=2).encode() + b"\n"
        self.write(MANIFEST, [text])
        self.write(MANIFEST_SUM, [_sum_line(text)])
        for directory in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            sync_directory(directory)
        if self._target.exists():
            self._target.rmdir()  # empty, or it would have been refused
        self.root.rename(self._target)
        sync_directory(self._target.parent)
        return whole

    def abandon(self) -> None:
        """Remove what was written; nothing to do once it is finished."""
        shutil.rmtree(self.root, ignore_errors=True)


class _SummedFile:
    def __init__(self, path: Path, on_close: Callable[[FileSum], None]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._sum = hashlib.sha256()
        self._bytes = 0
        self._on_close = on_close

    def append(self, data: bytes) -> None:
        self._file.write(data)
        self._sum.update(data)
        self._bytes += len(data)

    def append_entry(self, entry: bytes) -> None:
        """One entry of a `.entries` file."""
        self.append(_LENGTH.pack(len(entry)) + entry)

    def __enter__(self) -> "_SummedFile":
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._on_close(FileSum(bytes=self._bytes, sha256=self._sum.hexdigest()))


class Backup:
    """One that was written. `check` first; then what is read is what was written."""

    def __init__(self, root: Path) -> None:
        """Raises BackupDamaged: there is no manifest, or it is not as it was written, or of a later version."""
        self.root = root
        text = _read(root / MANIFEST)
        if _read(root / MANIFEST_SUM) != _sum_line(text):
            raise BackupDamaged(root / MANIFEST, f"its checksum is not the one in {MANIFEST_SUM}")
        version = json.loads(text).get("format_version")
        if version != FORMAT_VERSION:
            what = f"a backup of format version {version}; this program knows {FORMAT_VERSION}"
            raise BackupDamaged(root / MANIFEST, what)
        try:
            self.manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise BackupDamaged(root / MANIFEST, str(error)) from error

    def check(self) -> None:
        """Every file is there, as it was written, and nothing else is.

        Raises:
            BackupDamaged: names the first that is not.
        """
        there = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir()}
        for name, expected in self.manifest.files.items():
            path = self.root / name
            if name not in there:
                raise BackupDamaged(path, "is missing")
            if path.stat().st_size != expected.bytes:
                raise BackupDamaged(path, f"has {path.stat().st_size} bytes, was written with {expected.bytes}")
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    raise BackupDamaged(path, "its checksum is not the one in the manifest")
        for name in sorted(there - self.manifest.files.keys() - {MANIFEST, MANIFEST_SUM}):
            raise BackupDamaged(self.root / name, "is not in the manifest")

    def keys(self) -> dict[str, bytes]:
        """What stood in etcd besides journal, nodes and owners, by the key without the cluster's prefix."""
        return read_keys(self.root)

    def entries(self, shard: int) -> Iterator[bytes]:
        """Of a journal in etcd: one shard's, oldest first. Raises Unreadable."""
        for _, entry in raw_entries(self.root, shard):
            yield entry

    def segments(self) -> Iterator[Path]:
        """Of a `file` journal: all segments, each in its shard's directory."""
        return (self.root / name for name in self.manifest.files if name.endswith(".segment"))


def entries_name(shard: int) -> str:
    return f"{JOURNAL}/shard-{shard:04}.entries"


def read_entries(root: Path, journal: JournalKind, shard: int) -> Iterator[Placed]:
    """One shard's entries, oldest first. Raises Unreadable."""
    if journal == "file":
        yield from file_entries(root / JOURNAL, shard)
        return
    for place, entry in raw_entries(root, shard):
        yield parse_entry(place, entry)


def raw_entries(root: Path, shard: int) -> Iterator[tuple[str, bytes]]:
    """(place, entry) of a `.entries` file. Raises Unreadable."""
    path = root / entries_name(shard)
    data = path.read_bytes()
    offset = 0
    while offset < len(data):
        begin = offset + _LENGTH.size
        length = _LENGTH.unpack_from(data, offset)[0] if begin <= len(data) else 0
        if not 0 < length <= len(data) - begin:
            raise Unreadable(f"{path}@{offset}", "not an entry with its length before it")
        yield f"{path}@{offset}", data[begin : begin + length]
        offset = begin + length


def encode_keys(keys: Mapping[str, bytes]) -> bytes:
    """cluster.json. Bytes that are no UTF-8 pass as lone surrogates."""
    values = {key: value.decode(errors="surrogateescape") for key, value in sorted(keys.items())}
    return json.dumps(values, indent=2).encode() + b"\n"


def read_keys(root: Path) -> dict[str, bytes]:
    values = json.loads((root / CLUSTER).read_bytes())
    return {key: value.encode(errors="surrogateescape") for key, value in values.items()}


def _sum_line(manifest: bytes) -> bytes:
    """What `sha256sum -c` reads."""
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BackupDamaged(path, "is missing: this is no backup, or none that was finished") from None
