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
    prefix_end,
)
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Epoch, Revision, ShardId
from node.journal.base import AppendRefused, CorruptJournal, Fenced, OutcomeUnknown

log = structlog.get_logger()

ENTRY_BYTES_MAX = 128 * 1024
PAGE_ENTRIES = 28
"""So many of the longest entries fit into one answer of etcd, and some to spare."""
PAGE_BYTES_MAX = 4 * 1024 * 1024 - 64 * 1024
"""etcd's clients refuse answers over 4 MiB; the rest is for owner record, headers and framing."""
KEY_BYTES_MAX = 1024
"""What an answer needs for an entry beside its bytes: key, revisions, lengths."""
PAGES_AHEAD = 8
"""Pages that are read side by side, once a journal turned out to be longer than one."""
REPLAY_BYTES_MAX = 256 * 1024
"""So much is replayed before the event loop gets its turn: some milliseconds."""
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
            page_entries: how many entries one read asks for.
        """
        assert page_entries > 0
        assert page_entries * (entry_bytes_max + KEY_BYTES_MAX) <= PAGE_BYTES_MAX, "a page may exceed etcd's answers"
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

    async def open(self, shard: ShardId, epoch: Epoch, replay: Callable[[bytes], None]) -> "EtcdShardJournal":
        """See `Journal.open`. Nothing is written: the owner key, whose revision is the epoch, fences the lower ones.

        One Txn reads the last page together with owner key and incarnation. If the epoch stands in it, no append of a
        lower epoch can pass its guards any more, so the page is the end of all that lower epochs wrote. Were the epoch
        looked up before or after instead, a successor could come, grant and answer in between, and this owner would
        answer reads from a memory that lacks what the successor's callers were told.
        """
        self._check_unused(shard, epoch)
        reader = _Replay(self._keys, shard, replay)
        try:
            try:
                await self._replay(shard, epoch, reader)
            except CorruptJournal:
                # Pages read before and after a restore do not fit together, and that is nobody's corruption: the epoch
                # is gone with the incarnation.
                if self._stands(epoch, *(await self._client.read(Txn((), _epoch_gets(self._keys, shard)))).ranges):
                    raise
                raise Fenced(f"shard {shard}: epoch {epoch} is gone, and what was read does not fit") from None
        except RevisionWentBack as went_back:
            raise Fenced(f"shard {shard}: etcd was restored while it was replayed") from went_back
        except EtcdRefused as refused:
            raise OutcomeUnknown(f"shard {shard}: cannot be read: {refused.reason}") from refused
        self._check_unused(shard, epoch)
        self._opened[shard] = epoch
        return EtcdShardJournal(
            self._client,
            self._keys,
            shard,
            epoch,
            position=reader.position,
            last_revision=reader.last_revision,
            rng=self._rng,
            entry_bytes_max=self._entry_bytes_max,
        )

    async def _replay(self, shard: ShardId, epoch: Epoch, reader: "_Replay") -> None:
        while True:
            entries = Get(reader.start, prefix_end(self._keys.journal(shard)), self._page_entries)
            at_end = await self._client.read(Txn((), (entries, *_epoch_gets(self._keys, shard))))
            page, owner, incarnation = at_end.ranges
            if not self._stands(epoch, owner, incarnation):
                raise Fenced(f"shard {shard}: epoch {epoch} no longer stood at position {reader.position}")
            await reader.take(page)
            if len(page) < self._page_entries:
                return
            for page in await self._pages_ahead(shard, reader.position):
                await reader.take(page)

    def _check_unused(self, shard: ShardId, epoch: Epoch) -> None:
        if shard in self._opened and epoch <= self._opened[shard]:
            raise Fenced(f"shard {shard}: epoch {epoch} was used for an open before")

    async def _pages_ahead(self, shard: ShardId, position: int) -> list[tuple[KeyValue, ...]]:
        """The next pages, oldest first; () for those beyond the end.

        Their ranges are known beforehand, since positions have no gaps. They are read at different moments, which does
        no harm: while the epoch stands nobody else can append, and whether it stands is read after them.
        """
        try:
            async with asyncio.TaskGroup() as group:
                reads = [
                    group.create_task(
                        self._client.get(
                            Get(
                                _after(self._keys.entry(shard, first - 1)),
                                _after(self._keys.entry(shard, first - 1 + self._page_entries)),
                                self._page_entries,
                            )
                        )
                    )
                    for first in range(position, position + PAGES_AHEAD * self._page_entries, self._page_entries)
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [read.result().kvs for read in reads]

    def _stands(self, epoch: Epoch, owner: tuple[KeyValue, ...], incarnation: tuple[KeyValue, ...]) -> bool:
        return _epoch_stands(epoch, owner, incarnation)


class EtcdShardJournal:
    """The right to append to one shard for one epoch. Implements `node.journal.base.ShardJournal`; made by `open`."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keyspace,
        shard: ShardId,
        epoch: Epoch,
        *,
        position: int,
        last_revision: Revision,
        rng: random.Random,
        entry_bytes_max: int,
    ) -> None:
        """
        Args:
            position: of the next entry.
            last_revision: mod_revision of the entry before it; 0 if there is none.
        """
        self._client = client
        self._keys = keys
        self._shard = shard
        self._epoch = epoch
        self._position = position
        self._last_revision = last_revision
        self._rng = rng
        self._entry_bytes_max = entry_bytes_max
        self._busy = False
        self._finished = False
        self._log = log.bind(shard=shard, epoch=epoch)

    @property
    def position(self) -> int:
        return self._position

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
        assert revision > self._last_revision, "positions in the order of revisions"
        self._last_revision = revision
        self._position += 1
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
                self._log.warning("append_refused", position=self._position, reason=refused.reason, in_doubt=in_doubt)
            else:
                if result.succeeded:
                    return result.revision
                # A guard failed. If the position holds this very entry, an earlier attempt that was thought lost has
                # landed since the read-back: committed, and this Txn only came second.
                *found, last = result.ranges
                landed = self._judge(entry, *found)
                if landed is None:
                    assert self._mod_revision(last) != self._last_revision, "a guard failed and all hold"
                    raise Fenced(f"{self._last_key}: not the entry that this owner knows: etcd was restored")
            if landed is not None:
                return landed
            await asyncio.sleep(self._rng.uniform(0, min(PAUSE_MAX_S, PAUSE_S * 2 ** min(attempts, 10))))
            self._log.info("append_sent_again", position=self._position, attempts=attempts)

    def _guards(self) -> tuple[Guard, ...]:
        guards: tuple[Guard, ...] = (
            ValueIs(self._keys.incarnation, _decimal(self._epoch.incarnation)),
            ModRevisionIs(self._keys.owner(self._shard), self._epoch.revision),
            ModRevisionIs(self._key, Revision(0)),
        )
        if self._position:
            # In an etcd that was restored from a snapshot the entries before this one may be missing.
            guards += (ModRevisionIs(self._last_key, self._last_revision),)
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
        return self._keys.entry(self._shard, self._position)

    @property
    def _last_key(self) -> str:
        """Of the entry before; a key without entry when there is none."""
        return self._keys.entry(self._shard, self._position - 1) if self._position else self._keys.journal(self._shard)

    @staticmethod
    def _mod_revision(found: tuple[KeyValue, ...]) -> Revision:
        return found[0].mod_revision if found else Revision(0)


class _Replay:
    """Hands out entries, oldest first, and holds them against the format's rules."""

    def __init__(self, keys: Keyspace, shard: ShardId, replay: Callable[[bytes], None]) -> None:
        self._keys = keys
        self._shard = shard
        self._replay = replay
        self._bytes_since_pause = 0
        # A journal whose checkpointed prefix was dropped begins later: then the checkpoint says where, and its
        # position stands here instead of 0.
        self.position = 0
        self.last_revision = Revision(0)

    @property
    def start(self) -> str:
        """Where the next page begins: right after the last key that was read, so that no stray key escapes."""
        if self.position == 0:
            return self._keys.journal(self._shard)
        return _after(self._keys.entry(self._shard, self.position - 1))

    async def take(self, page: tuple[KeyValue, ...]) -> None:
        """
        Raises:
            CorruptJournal: naming the key.
        """
        for kv in page:
            if kv.key != self._keys.entry(self._shard, self.position):
                raise CorruptJournal(kv.key, f"found where position {self.position} was to come")
            if kv.create_revision != kv.mod_revision or kv.mod_revision < self.last_revision or kv.lease_id:
                raise CorruptJournal(
                    kv.key,
                    f"written twice, out of order or under a lease: created at revision {kv.create_revision}, "
                    f"modified at {kv.mod_revision}, lease {kv.lease_id:x}, the one before at {self.last_revision}",
                )
            self._replay(kv.value)
            self.position += 1
            self.last_revision = kv.mod_revision
            self._bytes_since_pause += len(kv.value)
            if self._bytes_since_pause >= REPLAY_BYTES_MAX:
                self._bytes_since_pause = 0
                await asyncio.sleep(0)


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


def _after(key: str) -> str:
    """The first key after `key` in etcd's order."""
    return key + "\0"
