"""What the harness makes of one node's machine: a few numbers in a file that both processes have mapped, so that a
change is there at once and nobody asks for it.

    offset 0   int64, little-endian: microseconds that the wall clock is ahead of the true one
    offset 8   uint64: a Disk state
"""

import mmap
from enum import IntEnum
from pathlib import Path
from struct import Struct

CONTROL_VARIABLE = "SEONCHAK_CHAOS_CONTROL"
"""Tells a node where its file is."""
_CLOCK = Struct("<q")
_DISK = Struct("<Q")
_BYTES = _CLOCK.size + _DISK.size


class DiskState(IntEnum):
    WELL = 0
    FULL = 1
    """No byte more can be written; what is there can be read, and a new file gets a name."""
    SYNC_FAILS = 2
    """Writes look well; no sync succeeds, and what was not synced is lost."""


class Control:
    """One node's file. The harness makes it and writes; the node opens it and reads."""

    def __init__(self, path: Path) -> None:
        """Opens it, makes it if it is not there: all is well."""
        with path.open("a+b") as file:
            if file.tell() < _BYTES:
                file.truncate(_BYTES)
            self._memory = mmap.mmap(file.fileno(), _BYTES)

    @property
    def clock_ahead_us(self) -> int:
        (ahead_us,) = _CLOCK.unpack_from(self._memory, 0)
        return int(ahead_us)

    @clock_ahead_us.setter
    def clock_ahead_us(self, ahead_us: int) -> None:
        _CLOCK.pack_into(self._memory, 0, ahead_us)

    @property
    def disk(self) -> DiskState:
        (state,) = _DISK.unpack_from(self._memory, _CLOCK.size)
        return DiskState(state)

    @disk.setter
    def disk(self, state: DiskState) -> None:
        _DISK.pack_into(self._memory, _CLOCK.size, state)
