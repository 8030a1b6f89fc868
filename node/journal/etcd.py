"""The journal in etcd: entry i of a shard is one key, and one Txn both checks the right to write it and writes it.

Owns the keys `journal/<shard>/<position>` (docs/journal-etcd.md is their format). Reads, and never writes, the owner
key and `cluster/incarnation`. Never has two different entries under way for a shard, and never lets anybody but itself
send a Txn a second time.
"""

import asyncio
import random
from collections.abc import Callable

import structlog

from cluster.endpoints import RevisionWentBack
from cluster.kv import (
    TOO_MANY_REQUESTS,
    EtcdRefused,
    EtcdUnavailable,
    Get,
    Guard,
    KeyValue,
    ModRevisionIs,
    Put,
    Txn,
    ValueIs,
)
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Epoch, Revision, ShardId
from node.journal.base import AppendRefused, Fenced, FollowerLost, OutcomeUnknown
from node.journal.etcd_reader import Cursor, EntryReader, LastEntryGone

log = structlog.get_logger()

ENTRY_BYTES_MAX = 128 * 1024
PAGE_ENTRIES = 28
"""So many of the longest entries fit into one answer of etcd, and some to spare."""
PAGE_BYTES_MAX = 4 * 1024 * 1024 - 64 * 1024
"""etcd's clients refuse answers over 4 MiB; the rest is for owner record, headers and framing."""
KEY_BYTES_MAX = 1024
"""What an answer needs for an entry beside its bytes: key, revisions, lengths."""
PAUSE_S = 0.01
PAUSE_MAX_S = 0.5


class EtcdJournal:
    """All shards' journals, in etcd. Implements `node.journal.base.Journal`."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keyspace,
        *,
        rng: random.Random,
        entry_bytes_max: int = ENTRY_BYTES_MAX,
        page_entries: int = PAGE_ENTRIES,
    ) -> None:
        """
        Args:
            rng: for the jitter of pauses.
            entry_bytes_max: the same in the whole cluster and for ever: it also says how many entries a page may hold.
            page_entries: how many new entries one read asks for.
        """
        assert page_entries > 0
        # The entry before comes along.
        page_bytes_max = (page_entries + 1) * (entry_bytes_max + KEY_BYTES_MAX)
        assert page_bytes_max <= PAGE_BYTES_MAX, "a page may exceed etcd's answers"
        self._client = client
        self._keys = keys
        self._rng = rng
        self._entry_bytes_max = entry_bytes_max
        self._page_entries = page_entries
        self._opened: dict[ShardId, Epoch] = {}
        """The newest epoch that a writer was made for: two writers of one epoch would not fence each other."""

    @property
    def entry_bytes_max(self) -> int:
        return self._entry_bytes_max

    def follow(self, shard: ShardId, replay: Callable[[bytes], None]) -> "EtcdFollower":
        return EtcdFollower(self, EntryReader(self._client, self._keys, shard, replay, page_entries=self._page_entries))

    async def open(self, shard: ShardId, epoch: Epoch, replay: Callable[[bytes], None]) -> "EtcdShardJournal":
        return await self.follow(shard, replay).open(epoch)

    async def take_over(self, reader: EntryReader, epoch: Epoch) -> "EtcdShardJournal":
        """See `Follower.open`. Nothing is written: the owner key, whose revision is the epoch, fences the lower ones.

        One Txn reads the last page together with owner key and incarnation. If the epoch stands in it, no append of a
        lower epoch can pass its guards any more, so the page is the end of all that lower epochs wrote. Were the epoch
        looked up before or after instead, a successor could come, grant and answer in between, and this owner would
        answer reads from a memory that lacks what the successor's callers were told.
        """
        shard = reader.shard
        self._check_unused(shard, epoch)

        def require_epoch(owner: tuple[KeyValue, ...], incarnation: tuple[KeyValue, ...]) -> None:
            if not self._stands(epoch, owner, incarnation):
                raise Fenced(f"shard {shard}: epoch {epoch} no longer stood at position {reader.cursor.position}")

        try:
            await reader.read(_epoch_gets(self._keys, shard), require_epoch)
        except RevisionWentBack as went_back:
            raise Fenced(f"shard {shard}: etcd was restored while it was replayed") from went_back
        except EtcdRefused as refused:
            raise OutcomeUnknown(f"shard {shard}: cannot be read: {refused.reason}") from refused
        except LastEntryGone as gone:
            raise OutcomeUnknown(str(gone)) from gone
        self._check_unused(shard, epoch)
        self._opened[shard] = epoch
        return EtcdShardJournal(
            self._client,
            self._keys,
            shard,
            epoch,
            reader.cursor,
            rng=self._rng,
            entry_bytes_max=self._entry_bytes_max,
        )

    def _check_unused(self, shard: ShardId, epoch: Epoch) -> None:
        if shard in self._opened and epoch <= self._opened[shard]:
            raise Fenced(f"shard {shard}: epoch {epoch} was used for an open before")

    def _stands(self, epoch: Epoch, owner: tuple[KeyValue, ...], incarnation: tuple[KeyValue, ...]) -> bool:
        return _epoch_stands(epoch, owner, incarnation)


class EtcdFollower:
    """Implements `node.journal.base.Follower`; made by `follow`. An entry that a read finds is committed, and its
    position is never written again: so whatever is found may be handed on."""

    def __init__(self, journal: EtcdJournal, reader: EntryReader) -> None:
        self._journal = journal
        self._reader = reader

    @property
    def position(self) -> int:
        return self._reader.cursor.position

    async def advance(self) -> None:
        try:
            await self._reader.read()
        except (LastEntryGone, RevisionWentBack, EtcdRefused) as error:
            raise FollowerLost(f"shard {self._reader.shard}: {error}") from error

    async def open(self, epoch: Epoch) -> "EtcdShardJournal":
        return await self._journal.take_over(self._reader, epoch)


class EtcdShardJournal:
    """The right to append to one shard for one epoch. Implements `node.journal.base.ShardJournal`; made by `open`."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keyspace,
        shard: ShardId,
        epoch: Epoch,
        cursor: Cursor,
        *,
        rng: random.Random,
        entry_bytes_max: int,
    ) -> None:
        """Args: cursor: goes on with every append."""
        self._client = client
        self._keys = keys
        self._shard = shard
        self._epoch = epoch
        self._cursor = cursor
        self._rng = rng
        self._entry_bytes_max = entry_bytes_max
        self._busy = False
        self._finished = False
        self._log = log.bind(shard=shard, epoch=epoch)

    @property
    def position(self) -> int:
        return self._cursor.position

    async def append(self, entry: bytes) -> None:
        """See `ShardJournal.append`. A finished writer raises Fenced."""
        assert entry, "an entry has at least one byte"
        self._begin()
        # Whatever ends this but success leaves the position in doubt, a cancellation too: then nothing may follow.
        self._finished = True
        try:
            if len(entry) > self._entry_bytes_max:
                raise AppendRefused(f"{self._key}: {len(entry)} bytes, and at most {self._entry_bytes_max} are allowed")
            revision = await self._commit(entry)
        except RevisionWentBack as went_back:
            raise Fenced(f"shard {self._shard}: etcd was restored") from went_back
        finally:
            self._busy = False
        assert revision > self._cursor.last_revision, "positions in the order of revisions"
        self._cursor.went_on(entry, revision)
        self._finished = False

    async def barrier(self) -> None:
        """See `ShardJournal.barrier`. Each call sends a read of its own: a read already begun may have passed before
        the question came. A finished writer raises Fenced."""
        self._begin()
        try:
            result = await self._client.read(Txn((), _epoch_gets(self._keys, self._shard)))
        except (RevisionWentBack, EtcdRefused) as error:
            self._finished = True
            raise Fenced(f"shard {self._shard}: nobody can tell whether {self._epoch} stands: {error}") from error
        finally:
            self._busy = False
        if not self._stands(*result.ranges):
            self._finished = True
            raise Fenced(f"shard {self._shard}: epoch {self._epoch} is gone")

    async def close(self) -> None:
        self._finished = True

    def _begin(self) -> None:
        assert not self._busy, "one call at a time"
        if self._finished:
            raise Fenced(f"shard {self._shard}: this writer is finished")
        self._busy = True

    async def _commit(self, entry: bytes) -> Revision:
        """Send `entry` until it is known to be in the journal; return the revision that it has there."""
        append = Txn(self._guards(), (Put(self._key, entry),), (*self._look(), Get(self._last_key, keys_only=True)))
        in_doubt = False  # an attempt without an answer may still be under way, and land when nobody expects it
        attempts = 0
        while True:
            attempts += 1
            try:
                result = await self._client.txn(append)
            except EtcdUnavailable:
                in_doubt = True
                landed = await self._read_back(entry)
            except EtcdRefused as refused:
                # While an earlier attempt is in doubt no refusal of a later one settles anything: the earlier one may
                # land yet, and AppendRefused would be a lie. So the same bytes go again until one attempt lands or the
                # epoch is gone, and meanwhile the callers wait. ("No space" is never a refusal: see EtcdRefused.)
                if not in_doubt and refused.reason != TOO_MANY_REQUESTS:
                    raise AppendRefused(f"{self._key}: {refused.reason}") from refused
                landed = await self._read_back(entry) if in_doubt else None
                self._log.warning(
                    "append_refused", position=self._cursor.position, reason=refused.reason, in_doubt=in_doubt
                )
            else:
                if result.succeeded:
                    return result.revision
                # A guard failed. If the position holds this very entry, an earlier attempt that was thought lost has
                # landed since the read-back: committed, and this Txn only came second.
                *found, last = result.ranges
                landed = self._judge(entry, *found)
                if landed is None:
                    assert self._mod_revision(last) != self._cursor.last_revision, "a guard failed and all hold"
                    raise Fenced(f"{self._last_key}: not the entry that this owner knows: etcd was restored")
            if landed is not None:
                return landed
            await asyncio.sleep(self._rng.uniform(0, min(PAUSE_MAX_S, PAUSE_S * 2 ** min(attempts, 10))))
            self._log.info("append_sent_again", position=self._cursor.position, attempts=attempts)

    def _guards(self) -> tuple[Guard, ...]:
        guards: tuple[Guard, ...] = (
            ValueIs(self._keys.incarnation, _decimal(self._epoch.incarnation)),
            ModRevisionIs(self._keys.owner(self._shard), self._epoch.revision),
            ModRevisionIs(self._key, Revision(0)),
        )
        if self._cursor.position:
            # In an etcd that was restored from a snapshot the entries before this one may be missing.
            guards += (ModRevisionIs(self._last_key, self._cursor.last_revision),)
        return guards

    def _look(self) -> tuple[Get, ...]:
        return (Get(self._key), *_epoch_gets(self._keys, self._shard))

    async def _read_back(self, entry: bytes) -> Revision | None:
        """See `_judge`.

        Raises:
            Fenced, OutcomeUnknown: this process may not even read.
        """
        try:
            result = await self._client.read(Txn((), self._look()))
        except EtcdRefused as refused:
            raise OutcomeUnknown(f"{self._key}: cannot be read back: {refused.reason}") from refused
        return self._judge(entry, *result.ranges)

    def _judge(
        self,
        entry: bytes,
        found: tuple[KeyValue, ...],
        owner: tuple[KeyValue, ...],
        incarnation: tuple[KeyValue, ...],
    ) -> Revision | None:
        """What one moment shows about the entry under way, at its position and in the epoch.

        Returns:
            The revision of the entry if it is in the journal, compared whole: it carries writer, epoch and position, so
            nobody else's has the same bytes. None if the position is free and the epoch stands: that proves nothing, a
            Txn that is late can still land.

        Raises:
            Fenced: another entry is there, or none and none can come, because the epoch is gone.
        """
        if found and found[0].value == entry:
            return found[0].mod_revision
        if found:
            raise Fenced(f"{self._key}: another entry is there")
        if not self._stands(owner, incarnation):
            raise Fenced(f"{self._key}: epoch {self._epoch} is gone")
        return None

    def _stands(self, owner: tuple[KeyValue, ...], incarnation: tuple[KeyValue, ...]) -> bool:
        return _epoch_stands(self._epoch, owner, incarnation)

    @property
    def _key(self) -> str:
        return self._keys.entry(self._shard, self._cursor.position)

    @property
    def _last_key(self) -> str:
        return self._cursor.last_key(self._keys, self._shard)

    @staticmethod
    def _mod_revision(found: tuple[KeyValue, ...]) -> Revision:
        return found[0].mod_revision if found else Revision(0)


def _epoch_gets(keys: Keyspace, shard: ShardId) -> tuple[Get, Get]:
    return Get(keys.owner(shard), keys_only=True), Get(keys.incarnation)


def _epoch_stands(epoch: Epoch, owner: tuple[KeyValue, ...], incarnation: tuple[KeyValue, ...]) -> bool:
    """What the two `_epoch_gets` found is this epoch."""
    return (
        bool(owner)
        and owner[0].mod_revision == epoch.revision
        and bool(incarnation)
        and incarnation[0].value == _decimal(epoch.incarnation)
    )


def _decimal(number: int) -> bytes:
    return str(number).encode()
