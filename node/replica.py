"""A shard's ledger, as far as its journal was read: what a standby keeps, what an owner begins with, and what is left
when it has given the shard away."""

from collections.abc import Callable

from cluster.codes import CodeCodec
from cluster.types import Epoch, Incarnation, ShardId
from node.entries import MalformedEntry, UnknownFormat
from node.events import LedgerViolation
from node.journal.base import CorruptJournal, Journal, ShardJournal
from node.ledger import Ledger
from node.replay import Replayer


class Replica:
    """Reads along with `advance`; `open` makes the ledger an owner's; after `given_away` it may read along again."""

    def __init__(
        self, journal: Journal, shard: ShardId, codec: CodeCodec, on_entry: Callable[[Ledger], None] = lambda _: None
    ) -> None:
        """Args: on_entry: called after each entry; what it raises comes through."""
        self.ledger = Ledger(shard, codec)
        self.on_entry = on_entry
        self._replayer = Replayer(self.ledger)
        self._follower = journal.follow(shard, self._feed)

    @property
    def position(self) -> int:
        """Of the next entry to read."""
        return self._follower.position

    async def advance(self) -> None:
        """Read what is new. Raises FollowerLost, CorruptJournal."""
        await self._follower.advance()

    async def open(self, epoch: Epoch) -> ShardJournal:
        """See `Follower.open`. Then the ledger is where the last owner's was."""
        journal = await self._follower.open(epoch)
        self.ledger.committed()
        return journal

    def given_away(self, epoch: Epoch, writer: Incarnation) -> None:
        """The owner has ended, all that it decided is journaled, and its journal is closed."""
        self._replayer.went_on(self._follower.position, epoch, writer)

    def _feed(self, entry: bytes) -> None:
        try:
            self._replayer.feed(entry)
        except (MalformedEntry, UnknownFormat, LedgerViolation) as error:
            place = f"shard {self.ledger.shard}, entry {self._replayer.position}"
            raise CorruptJournal(place, str(error)) from error
        self.on_entry(self.ledger)
