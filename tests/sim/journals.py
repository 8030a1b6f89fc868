"""What must hold of every journal at any time, looked at from above all owners: fencing, and that nothing is lost.

Wraps the journals of all nodes and remembers who opened, committed and was told that an epoch stands. Believes
node.journal.base's contract and nothing of the implementations.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.types import Epoch, Revision, ShardId
from node.journal.base import AppendRefused, CorruptJournal, Fenced, Follower, Journal, OutcomeUnknown, ShardJournal
from proto.journal_pb2 import Entry


class Owner(Protocol):
    client: str

    async def reach(self, point: str) -> None: ...


@dataclass(slots=True)
class _Shard:
    committed: list[tuple[Epoch, bytes]] = field(default_factory=list)
    """What some append or open has shown to be in the journal, by position."""
    opened: Epoch = Epoch(0, Revision(0))
    """The highest that has opened."""
    refused: list[tuple[int, bytes]] = field(default_factory=list)
    """Position and entry of appends that were certainly not done."""


class Journals:
    """The truth about every shard's journal, as far as anybody was told."""

    def __init__(self, note: Callable[..., None]) -> None:
        self.violations: list[str] = []
        self.totals: Counter[str] = Counter()
        self.note = note
        self._shards: defaultdict[ShardId, _Shard] = defaultdict(_Shard)

    def opened_before(self, shard: ShardId) -> Epoch:
        return self._shards[shard].opened

    def opened(self, shard: ShardId, epoch: Epoch, before: Epoch, entries: list[bytes]) -> None:
        """Args: before: the highest epoch that had opened when this open was called."""
        seen = self._shards[shard]
        if epoch <= before:
            self.violated(f"shard {shard}: {epoch} opened, {before} had opened before")
        if entries and (last := _epoch_of(entries[-1])) > epoch:
            self.violated(f"shard {shard}: {epoch} opened and has read {last}'s entries: it did not stand any more")
        self.holds(shard, entries, f"{epoch} opened", epoch)
        if epoch > seen.opened:
            seen.opened = epoch
            # Entries that nobody was told of, but that the new owner has read, are in the journal now.
            seen.committed += [(_epoch_of(entry), entry) for entry in entries[len(seen.committed) :]]

    def shown(self, shard: ShardId, entries: list[bytes]) -> None:
        """What a follower has handed on: it is in the journal for good."""
        seen = self._shards[shard]
        for position in range(len(seen.committed), len(entries)):
            epoch = _epoch_of(entries[position])
            if epoch < seen.opened:
                self.violated(f"shard {shard}: a follower read {position} of {epoch}, {seen.opened} opened without it")
            seen.committed.append((epoch, entries[position]))
        for position, (known, entry) in enumerate(zip(seen.committed, entries, strict=False)):
            if known[1] != entry:
                self.violated(f"shard {shard}: a follower read another entry at {position} than {known[0]} committed")
                break

    def committed(self, shard: ShardId, epoch: Epoch, position: int, entry: bytes) -> None:
        seen = self._shards[shard]
        if position > len(seen.committed):
            self.violated(f"shard {shard}: {epoch} committed {position} behind a hole, {len(seen.committed)} are there")
        elif position == len(seen.committed):
            if epoch < seen.opened:
                self.violated(f"shard {shard}: {epoch} committed {position}, {seen.opened} opened without it")
            seen.committed.append((epoch, entry))
        elif seen.committed[position][1] != entry:
            self.violated(f"shard {shard}: {epoch} committed another entry at {position}")

    def stood(self, shard: ShardId, epoch: Epoch, before: Epoch) -> None:
        if epoch < before:
            self.violated(f"shard {shard}: {epoch} passed a barrier, {before} had opened before it was asked")

    def refused(self, shard: ShardId, position: int, entry: bytes) -> None:
        self._shards[shard].refused.append((position, entry))

    def holds(self, shard: ShardId, entries: list[bytes], when: str, until: Epoch | None = None) -> None:
        """All that was ever shown is there, and nothing that was refused. Args: until: what later epochs have committed
        may be missing."""
        seen = self._shards[shard]
        for position, (epoch, entry) in enumerate(seen.committed):
            if until is not None and epoch > until:
                break
            if position >= len(entries):
                self.violated(f"shard {shard}: {when} with {len(entries)} entries, {epoch} had committed {position}")
                break
            if entries[position] != entry:
                self.violated(f"shard {shard}: {when} with another entry at {position} than {epoch} had committed")
                break
        for position, entry in seen.refused:
            if position < len(entries) and entries[position] == entry:
                self.violated(f"shard {shard}: {when}, and {position} has an entry that was certainly not written")

    def shards(self) -> list[ShardId]:
        return sorted(self._shards)

    def violated(self, what: str) -> None:
        self.note("violation", what=what)
        self.violations.append(what)


def _epoch_of(entry: bytes) -> Epoch:
    header = Entry.FromString(entry)
    return Epoch(header.cluster_incarnation, Revision(header.revision))


class WatchedJournal:
    """Implements Journal."""

    def __init__(self, inner: Journal, journals: Journals, owner: Owner) -> None:
        self._inner = inner
        self._journals = journals
        self._owner = owner

    @property
    def entry_bytes_max(self) -> int:
        return self._inner.entry_bytes_max

    async def open(self, shard: ShardId, epoch: Epoch, replay: Callable[[bytes], None]) -> ShardJournal:
        return await self.follow(shard, replay).open(epoch)

    def follow(self, shard: ShardId, replay: Callable[[bytes], None]) -> Follower:
        entries: list[bytes] = []

        def take(entry: bytes) -> None:
            entries.append(entry)
            replay(entry)

        return _WatchedFollower(self._inner.follow(shard, take), self._journals, self._owner, shard, entries)


class _WatchedFollower:
    """Implements Follower."""

    def __init__(self, inner: Follower, journals: Journals, owner: Owner, shard: ShardId, entries: list[bytes]) -> None:
        self._inner = inner
        self._journals = journals
        self._owner = owner
        self._shard = shard
        self._entries = entries

    @property
    def position(self) -> int:
        return self._inner.position

    async def advance(self) -> None:
        before = len(self._entries)
        try:
            await self._inner.advance()
        finally:
            if len(self._entries) > before:
                self._journals.totals["entries read along"] += len(self._entries) - before
                self._journals.shown(self._shard, self._entries)

    async def open(self, epoch: Epoch) -> ShardJournal:
        return await _open(
            lambda: self._inner.open(epoch), self._journals, self._owner, self._shard, epoch, self._entries
        )


async def _open(
    open_inner: Callable[[], Coroutine[Any, Any, ShardJournal]],
    journals: Journals,
    owner: Owner,
    shard: ShardId,
    epoch: Epoch,
    entries: list[bytes],
) -> ShardJournal:
    before = journals.opened_before(shard)
    try:
        inner = await open_inner()
    except Fenced:
        journals.totals["opens fenced"] += 1
        raise
    except CorruptJournal as corrupt:
        journals.violated(f"shard {shard}: {epoch} found it corrupt: {corrupt}")
        raise
    journals.totals["opens"] += 1
    journals.opened(shard, epoch, before, entries)
    journals.note("opened", process=owner.client, shard=shard, epoch=tuple(epoch), entries=len(entries))
    return _WatchedShard(inner, journals, owner, shard, epoch, entries)


class _WatchedShard:
    """Implements ShardJournal."""

    def __init__(
        self,
        inner: ShardJournal,
        journals: Journals,
        owner: Owner,
        shard: ShardId,
        epoch: Epoch,
        entries: list[bytes],
    ) -> None:
        self._entries = entries
        """Those of the follower that it was made of, which may read on when this owner has ended."""
        self._inner = inner
        self._journals = journals
        self._owner = owner
        self._shard = shard
        self._epoch = epoch

    @property
    def position(self) -> int:
        return self._inner.position

    async def append(self, entry: bytes) -> None:
        position = self._inner.position
        try:
            await self._inner.append(entry)
        except Fenced:
            self._journals.totals["appends fenced"] += 1
            raise
        except OutcomeUnknown:
            self._journals.totals["appends of unknown outcome"] += 1
            raise
        except AppendRefused:
            self._journals.totals["appends refused"] += 1
            self._journals.refused(self._shard, position, entry)
            raise
        self._entries.append(entry)
        self._journals.totals["appends"] += 1
        self._journals.committed(self._shard, self._epoch, position, entry)
        self._journals.note(
            "committed", process=self._owner.client, shard=self._shard, position=position, size=len(entry)
        )

    async def barrier(self) -> None:
        before = self._journals.opened_before(self._shard)
        await self._owner.reach("barrier.before")
        try:
            await self._inner.barrier()
        except Fenced:
            self._journals.totals["barriers fenced"] += 1
            raise
        self._journals.totals["barriers"] += 1
        self._journals.stood(self._shard, self._epoch, before)
        await self._owner.reach("barrier.after")

    async def close(self) -> None:
        await self._inner.close()
