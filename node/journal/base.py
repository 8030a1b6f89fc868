"""What a journal is. `etcd` and `file` implement it; one conformance suite (tests/journal) holds for both.

A shard's journal is a sequence of entries; each position is written once, by the highest epoch that opened it. A
journal knows nothing of campaigns: entries are bytes.
"""

from collections.abc import Callable
from typing import Protocol

from cluster.types import Epoch, ShardId


class Fenced(Exception):
    """A higher epoch has, or may have, opened the shard. Nothing may be answered from this owner's memory.

    Of an append: the entry is not in the journal *as far as this owner can tell*: its callers hear *unknown*, never
    *failed*.
    """


class OutcomeUnknown(Exception):
    """The entry may or may not be in the journal, and this writer can never find out. It is finished: open again,
    with a new epoch."""


class AppendRefused(Exception):
    """The entry is certainly not in the journal and will not come into it (no space, entry too large). The writer is
    finished: open again, with a new epoch."""


class CorruptJournal(Exception):
    """What was read cannot have been written by this protocol. The shard stops, loudly, until an operator has looked.

    `place` names it for the operator: a file and a byte offset, or a key.
    """

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}")
        self.place = place
        self.what = what


class FollowerLost(Exception):
    """A follower cannot go on: the journal cannot be read, or what was handed on is no longer in it, as after a
    restore. Throw away what it fed and begin with a new one."""


class ShardJournal(Protocol):
    """An open shard: the right to append, for one epoch. One call at a time.

    A writer that is finished stays so: every later append and barrier raises Fenced.
    """

    @property
    def position(self) -> int:
        """The position of the next entry: how many there are."""
        ...

    async def append(self, entry: bytes) -> None:
        """Make `entry` durable at `position`. Returns only if it is in the journal for good, and if at some moment
        after the call the epoch still stood: so it is a barrier as well.

        An outcome that can be found out is found out before this returns, however long it takes; cancelling it leaves
        the entry unknown, and the writer finished.

        Raises:
            Fenced, OutcomeUnknown, AppendRefused: and the writer is finished.
        """
        ...

    async def barrier(self) -> None:
        """Return if at some moment after the call the epoch still stood. Waits while nobody can tell.

        Raises:
            Fenced: it does not; the writer is finished.
        """
        ...

    async def close(self) -> None:
        """Let go of files and the like. Writes nothing."""
        ...


class Follower(Protocol):
    """Reads along a shard's journal, whoever owns it: what a standby does, and in the end an owner.

    Whatever it handed to its `replay` is in the journal for good, also after a call that was cancelled or failed. One
    call at a time.
    """

    @property
    def position(self) -> int:
        """Of the next entry to hand on: how many there were."""
        ...

    async def advance(self) -> None:
        """Hand on what is certainly in the journal by now. The newest entry may be left for the next time.

        Gives way to the event loop at least every 50 ms or so. What `replay` raises comes through.

        Raises:
            FollowerLost
            CorruptJournal: the journal cannot be believed.
        """
        ...

    async def open(self, epoch: Epoch) -> ShardJournal:
        """Fence every lower epoch, then hand on the rest of the committed entries; return the right to append.

        What was handed on counts as the whole journal only if this returns; else the follower is used up. If it
        returns, `position` moves on with every append, and once the writer has been closed without having failed, the
        follower may advance again, behind what the writer wrote.

        Args:
            epoch: learnt from an owner record that names this very incarnation; never used for an open before.

        Raises:
            Fenced: a higher epoch opened the shard, or this one no longer stood at the end of the reading.
            OutcomeUnknown: reading, or making the epoch known, failed, or what was handed on before is no longer in the
                journal: open again, with a new epoch and a new follower.
            CorruptJournal: the journal cannot be believed.
        """
        ...


class Journal(Protocol):
    """All shards' journals, as one process sees them."""

    @property
    def entry_bytes_max(self) -> int:
        """Longest entry that `append` takes."""
        ...

    def follow(self, shard: ShardId, replay: Callable[[bytes], None]) -> Follower:
        """A follower that has handed on nothing yet. `replay` gets every entry once, oldest first."""
        ...

    async def open(self, shard: ShardId, epoch: Epoch, replay: Callable[[bytes], None]) -> ShardJournal:
        """`follow(shard, replay).open(epoch)`: read from the beginning, and own."""
        ...
