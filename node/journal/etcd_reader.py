"""Reads a shard's entries in etcd, oldest first, and believes none before it has held it against the format's rules."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from cluster.kv import Get, KeyValue, Txn, prefix_end
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Revision, ShardId
from node.journal.base import CorruptJournal

PAGES_AHEAD = 8
"""Pages that are read side by side, once there turned out to be more than one."""
REPLAY_BYTES_MAX = 256 * 1024
"""So much is replayed before the event loop gets its turn: some milliseconds."""


class LastEntryGone(Exception):
    """The entry that was read last is not there any more, or is another one: etcd was restored meanwhile."""


@dataclass(slots=True)
class Cursor:
    """How far a shard's journal is known: by its reader, and from then on by the writer that its reading made."""

    position: int = 0
    """Of the next entry. Of a journal whose checkpointed prefix was dropped the checkpoint says where it begins."""
    last_revision: Revision = Revision(0)
    """mod_revision of the entry before it; 0 if there is none."""

    def went_on(self, revision: Revision) -> None:
        """Over one entry, which has this mod_revision."""
        self.position += 1
        self.last_revision = revision

    def last_key(self, keys: Keyspace, shard: ShardId) -> str:
        """Of the entry before the position; a key without entry when there is none."""
        return keys.entry(shard, self.position - 1) if self.position else keys.journal(shard)


class EntryReader:
    """Goes on where it stopped, as often as it is asked."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keyspace,
        shard: ShardId,
        replay: Callable[[bytes], None],
        *,
        page_entries: int,
    ) -> None:
        self.shard = shard
        self.cursor = Cursor()
        """Goes on with each entry that `replay` was given."""
        self._client = client
        self._keys = keys
        self._replay = replay
        self._page_entries = page_entries
        self._bytes_since_pause = 0

    async def read(self, beside: tuple[Get, ...] = (), check: Callable[..., None] = lambda *found: None) -> None:
        """Replay up to the end.

        Args:
            beside: read in one Txn with the last page, and with some before it.
            check: gets what each of them found before the page is looked at. What it raises comes through.

        Raises:
            LastEntryGone, CorruptJournal (names the key), EtcdRefused, RevisionWentBack.
        """
        while True:
            entries = Get(self._start, prefix_end(self._keys.journal(self.shard)), self._page_entries)
            last_key = self.cursor.last_key(self._keys, self.shard)
            reads = await self._client.read(Txn((), (Get(last_key, keys_only=True), entries, *beside)))
            last, page, *found = reads.ranges
            check(*found)
            known = self.cursor.last_revision
            if self.cursor.position and (not last or last[0].mod_revision != known):
                raise LastEntryGone(f"{last_key}: no longer of revision {known}: etcd was restored")
            await self._take(page)
            if len(page) < self._page_entries:
                return
            for page in await self._pages_ahead():
                await self._take(page)
                if len(page) < self._page_entries:
                    break  # what a later page has was written after this one was read

    async def _pages_ahead(self) -> list[tuple[KeyValue, ...]]:
        """The next pages, oldest first; () for those beyond the end.

        Their ranges are known beforehand, since positions have no gaps. They are read at different moments, so that a
        later one may hold entries when one before it is not full.
        """
        after = self.cursor.position - 1
        try:
            async with asyncio.TaskGroup() as group:
                reads = [
                    group.create_task(
                        self._client.get(
                            Get(
                                _after(self._keys.entry(self.shard, last)),
                                _after(self._keys.entry(self.shard, last + self._page_entries)),
                                self._page_entries,
                            )
                        )
                    )
                    for last in range(after, after + PAGES_AHEAD * self._page_entries, self._page_entries)
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [read.result().kvs for read in reads]

    async def _take(self, page: tuple[KeyValue, ...]) -> None:
        for kv in page:
            if kv.key != self._keys.entry(self.shard, self.cursor.position):
                raise CorruptJournal(kv.key, f"found where position {self.cursor.position} was to come")
            last_revision = self.cursor.last_revision
            if kv.create_revision != kv.mod_revision or kv.mod_revision < last_revision or kv.lease_id:
                raise CorruptJournal(
                    kv.key,
                    f"written twice, out of order or under a lease: created at revision {kv.create_revision}, "
                    f"modified at {kv.mod_revision}, lease {kv.lease_id:x}, the one before at {last_revision}",
                )
            self._replay(kv.value)
            self.cursor.went_on(kv.mod_revision)
            self._bytes_since_pause += len(kv.value)
            if self._bytes_since_pause >= REPLAY_BYTES_MAX:
                self._bytes_since_pause = 0
                await asyncio.sleep(0)

    @property
    def _start(self) -> str:
        """Where the next page begins: right after the last key that was read, so that no stray key escapes."""
        last_key = self.cursor.last_key(self._keys, self.shard)
        return _after(last_key) if self.cursor.position else last_key


def _after(key: str) -> str:
    """The first key after `key` in etcd's order."""
    return key + "\0"
