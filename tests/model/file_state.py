"""What the world of the file model is made of: one shard's directory, and the openers of its epochs.

Values only; `file_model` says what happens to them.
"""

from enum import IntEnum
from typing import NamedTuple

SOLD_OUT = -1
"""In `State.heard`, beside 0 (nothing heard yet) and the sequence number of a coupon."""


class Grant(NamedTuple):
    """An entry."""

    user: int
    sequence: int


class Row(NamedTuple):
    """How much of an earlier segment the journal holds."""

    epoch: int
    length: int
    """In records, the segment's own seal included."""


class Seal(NamedTuple):
    rows: tuple[Row, ...]


Record = Grant | Seal


class Segment(NamedTuple):
    epoch: int
    named: bool = False
    """Its name survives a power cut."""
    records: tuple[Record, ...] = ()
    """The whole ones, as the page cache shows them."""
    durable: int = 0
    """So many of them survive a power cut for certain."""
    torn: bool = False
    """A record is half written behind them."""
    failed: bool = False
    """A sync has failed: the rest counts as clean, is in the cache alone, and no later sync writes it."""


class Stage(IntEnum):
    """How far the open with an epoch, or what came of it, has got."""

    NOT_BEGUN = 0
    CREATED = 1
    READING = 2
    """The name is durable, and the directory was listed."""
    FOUND = 3
    """The top segment was found and read."""
    READ = 4
    """What was read is durable."""
    SEAL_TORN = 5
    SEAL_WRITTEN = 6
    SEAL_SYNCED = 7
    OPEN = 8
    OVER = 9
    """Fenced, failed or crashed; for ever."""


class Phase(IntEnum):
    LOOKED = 0
    """Only where the look comes before the write."""
    TORN = 1
    WRITTEN = 2
    LOOKED_WRITTEN = 3
    """Only where the look comes between write and sync."""
    SYNCED = 4


class Pending(NamedTuple):
    """The record that is being appended."""

    grant: Grant
    phase: Phase


class Placed(NamedTuple):
    """A grant in the journal, and the epoch whose segment holds it."""

    grant: Grant
    epoch: int


class Opener(NamedTuple):
    """The process that has an epoch, from its open on."""

    stage: Stage = Stage.NOT_BEGUN
    copy: tuple[Placed, ...] = ()
    """What it took as a standby; forgotten when what it has read is durable."""
    listed: tuple[int, ...] = ()
    """Epochs of the segments still to be looked at, in order."""
    read: tuple[tuple[int, tuple[Record, ...]], ...] = ()
    """What was read, by epoch."""
    memory: tuple[Placed, ...] = ()
    """What was replayed or committed."""
    rows: tuple[Row, ...] = ()
    """Of the seal that it will write."""
    pending: Pending | None = None


class Opened(NamedTuple):
    """The highest open that has returned."""

    epoch: int
    memory: tuple[Placed, ...]


class State(NamedTuple):
    segments: tuple[Segment, ...]
    """In order of epoch."""
    openers: tuple[Opener, ...]
    """By epoch, from 1 on."""
    heard: tuple[int, ...]
    """By user: the last answer."""
    opened: Opened
    power_cuts: int
    sync_failures: int
