"""Reads a shard's entries in etcd, oldest first, and believes none before it has held it against the format's rules."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from crc32c import crc32c

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
    last_crc: int = 0
    """Of that entry. A restored etcd counts again: another entry may come to have the same revision."""

    def went_on(self, entry: bytes, revision: Revision) -> None:
        """Over one entry, which has this mod_revision."""
        self.position += 1
        self.last_revision = revision
        self.last_crc = crc32c(entry)

    def stands_behind(self, kv: KeyValue) -> bool:
        """Whether this is the entry before the position, as it was read or written."""
        return kv.mod_revision == self.last_revision and crc32c(kv.value) == self.last_crc

    def last_key(self, keys: Keyspace, shard: ShardId) -> str:
        """Of the entry before the position; a key without entry when there is none."""
        return keys.entry(shard, self.position - 1) if self.position else keys.journal(shard)


class EntryReader:
    """Goes on where it stopped, as often as it is asked.

    Reads by Txn only what has to be read at one moment. Who reads along is cancelled often, and a Txn whose caller is
    gone makes an etcd before 3.5.7 panic.
    """

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
            beside: read in one Txn with the last page, and with some before it; (): the pages are read alone.
            check: gets what each of them found before the page is looked at. What it raises comes through.

        Raises:
            LastEntryGone, CorruptJournal (names the key), EtcdRefused, RevisionWentBack.
        """
        while True:
            page = self._page_behind(self.cursor.last_key(self._keys, self.shard), prefix_end(self._prefix))
            if beside:
                kvs, *found = (await self._client.read(Txn((), (page, *beside)))).ranges
                check(*found)
            else:
                kvs = (await self._client.get(page)).kvs
            if not await self._take(kvs):
                return
            # A task of its own: before Python 3.11.3 no timeout ends in a task whose task group has failed, and whoever
            # reads along goes on after a failure.
            for kvs in await asyncio.create_task(self._pages_ahead(), name="pages-ahead"):
                # What comes after a page that was not full was written after that one was read; and an empty one may
                # have been read before the page that it follows.
                if not kvs or not await self._take(kvs):
                    break

    async def _pages_ahead(self) -> list[tuple[KeyValue, ...]]:
        """The next pages, oldest first.

        Their ranges are known beforehand, since positions have no gaps. They are read at different moments, so that a
        later one may hold entries when one before it is not full.
        """
        after = self.cursor.position - 1
        try:
            async with asyncio.TaskGroup() as group:
                reads = [
                    group.create_task(
                        self._client.get(
                            self._page_behind(
                                self._keys.entry(self.shard, last),
                                _after(self._keys.entry(self.shard, last + self._page_entries)),
                            )
                        )
                    )
                    for last in range(after, after + PAGES_AHEAD * self._page_entries, self._page_entries)
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [read.result().kvs for read in reads]

    def _page_behind(self, last_key: str, end: str) -> Get:
        """A page begins with the entry before it, if there is one: so it shows by itself what it follows, and no stray
        key between two pages escapes."""
        return Get(last_key, end, self._page_entries + 1)

    async def _take(self, kvs: tuple[KeyValue, ...]) -> bool:
        """Replay the entries of a page; whether it was full."""
        if self.cursor.position:
            self._require_last(kvs)
            kvs = kvs[1:]
        for kv in kvs[: self._page_entries]:
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
            self.cursor.went_on(kv.value, kv.mod_revision)
            self._bytes_since_pause += len(kv.value)
            if self._bytes_since_pause >= REPLAY_BYTES_MAX:
                self._bytes_since_pause = 0
                await asyncio.sleep(0)

        return len(kvs) >= self._page_entries

    def _require_last(self, kvs: tuple[KeyValue, ...]) -> None:
        last_key = self.cursor.last_key(self._keys, self.shard)
        if not kvs or kvs[0].key != last_key or not self.cursor.stands_behind(kvs[0]):
            raise LastEntryGone(f"{last_key}: not the entry that was read before: etcd was restored")

    @property
    def _prefix(self) -> str:
        return self._keys.journal(self.shard)


def _after(key: str) -> str:
    """The first key after `key` in etcd's order."""
    return key + "\0"
