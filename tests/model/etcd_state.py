"""What the world of the etcd model is made of: one shard, its keys in etcd, the lives that want it, Txns on their way.

Values only; `etcd_model` says what happens to them.
"""

from enum import IntEnum
from typing import NamedTuple

SOLD_OUT = -1
"""In `State.heard`, beside 0 (nothing heard yet) and the sequence number of a coupon."""


class Epoch(NamedTuple):
    incarnation: int
    revision: int


class Entry(NamedTuple):
    """One grant. As the real bytes, it says who wrote it, in which epoch and where: nobody else's is equal."""

    user: int
    sequence: int
    position: int
    epoch: Epoch
    life: int


class Stored(NamedTuple):
    """An entry's key in etcd."""

    entry: Entry
    revision: int
    """Its mod_revision."""


class Owner(NamedTuple):
    """The shard's owner key."""

    life: int
    revision: int
    """Its mod_revision."""
    created: int
    """Its create_revision."""


class Store(NamedTuple):
    """What etcd holds."""

    revision: int
    """Counts the writes: all of them where a restore may turn it back, else those of the owner key alone, since then
    revisions are compared with nothing else."""
    incarnation: int
    owner: Owner | None
    journal: tuple[Stored | None, ...]
    """By position; None is a hole."""


class Mode(IntEnum):
    IDLE = 0
    """The shard is not in hand here."""
    OPENING = 1
    OPEN = 2


class Pending(NamedTuple):
    """An append whose outcome its owner does not know yet, or which has to wait for one before it."""

    entry: Entry
    previous: int
    """The mod_revision that the entry before it had."""
    durable: bool = False


class Life(NamedTuple):
    """One incarnation of a node, as far as the shard goes."""

    mode: Mode
    incarnation: int
    """The cluster incarnation that it read when it began."""
    registered: bool = True
    spent: int = 0
    """The revision of its last epoch that has ended."""
    revision: int = 0
    """Of the epoch in hand."""
    reopened: bool = False
    """It had opened this very epoch before (only where it may)."""
    memory: tuple[Entry, ...] = ()
    """What was replayed or committed."""
    last_revision: int = 0
    """mod_revision of the last entry in memory."""
    pending: tuple[Pending, ...] = ()
    refused: frozenset[int] = frozenset()
    """Users whose SOLD_OUT waits for what is pending, as in one round."""
    barrier: bool = False
    """A barrier that began earlier has passed (only where reads may join one)."""
    outdated: bool = False
    """What it has in hand is from before the restore: what it says without asking etcd is nobody's fault."""

    @property
    def epoch(self) -> Epoch:
        return Epoch(self.incarnation, self.revision)


class Append(NamedTuple):
    """The Txn that writes an entry, sent and not executed yet. All attempts at one entry are one message: they have the
    same bytes and guards, and at most one of them lands."""

    life: int
    reopened: bool
    entry: Entry
    previous: int
    """Guard: mod_revision of the entry before."""
    denied: bool = False
    """Its caller was told that it certainly was not done."""
    outdated: bool = False
    """Sent before the restore, or by an owner from before it."""


class Opened(NamedTuple):
    """The highest open that has returned."""

    epoch: Epoch
    life: int
    reopened: bool


class Copy(NamedTuple):
    """What a standby has read."""

    entries: tuple[Entry, ...] = ()
    last_revision: int = 0
    """mod_revision of the last of them."""
    outdated: bool = False
    """Not held against the journal since the restore: until then what it holds is nobody's fault."""


class State(NamedTuple):
    store: Store
    lives: tuple[Life, ...]
    """In the order in which they first owned; others have no state."""
    network: frozenset[Append]
    heard: tuple[int, ...]
    """By user: the last answer."""
    opened: Opened | None
    owner_puts: int
    """How many claims and handovers etcd has executed."""
    snapshot: Store | None
    restored: bool
    copy: Copy = Copy()
    """One is enough for any number of standbys: whoever opens may have let go on with it at any moment."""
