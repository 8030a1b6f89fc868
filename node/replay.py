"""From a shard's journal entries, oldest first, to its ledger. Believes none of them before it has looked."""

from cluster.types import Epoch, Incarnation
from node.entries import MalformedEntry, decode
from node.ledger import Ledger


class Replayer:
    """Feed it every entry from position 0 on; then `ledger` is where the last owner's was."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._position = 0
        self._epoch: Epoch | None = None
        self._writer: Incarnation | None = None
        self._decide_us: int | None = None

    @property
    def position(self) -> int:
        """The position that comes next: how many entries there were."""
        return self._position

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of the last entry."""
        return self._epoch

    def went_on(self, position: int, epoch: Epoch, writer: Incarnation) -> None:
        """The ledger itself decided the entries up to `position`, and `writer` journaled them."""
        if position > self._position:
            self._position, self._epoch, self._writer, self._decide_us = position, epoch, writer, None

    def feed(self, data: bytes) -> None:
        """Take over the next entry. After an exception the ledger must be thrown away.

        Raises:
            UnknownFormat: a later version wrote it.
            MalformedEntry: it is no entry, or not the one that belongs here.
            LedgerViolation: no owner could have decided it here.
        """
        entry = decode(data)
        if entry.shard != self.ledger.shard:
            raise MalformedEntry(f"an entry of shard {entry.shard} in the journal of shard {self.ledger.shard}")
        if entry.position != self._position:
            raise MalformedEntry(f"position {entry.position} where {self._position} belongs")
        if self._epoch is not None and entry.epoch < self._epoch:
            raise MalformedEntry(f"epoch {entry.epoch} after {self._epoch}")
        if entry.epoch == self._epoch and entry.writer != self._writer:
            raise MalformedEntry(f"{entry.writer} and {self._writer} wrote in one epoch")
        if self._decide_us is not None and entry.decide_us < self._decide_us:
            raise MalformedEntry(f"decided at {entry.decide_us}, before the entry before it")
        for event in entry.events:
            self.ledger.apply(event)
        self._position += 1
        self._epoch, self._writer, self._decide_us = entry.epoch, entry.writer, entry.decide_us
