"""Replicas of the shards that this node would own next, each read along its journal, so that a takeover reads a tail.

Never needed for safety, nor for liveness: a shard without a replica is read from its beginning when it is opened.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import Enum

import structlog

from cluster.codes import CodeCodec
from cluster.types import ShardId
from node.journal.base import CorruptJournal, FollowerLost, Journal
from node.ledger import Ledger
from node.replica import Replica

log = structlog.get_logger()

READ_S = 0.1
"""How soon a journal that has grown is read again. One that has not is left alone for twice as long, up to:"""
READ_S_MAX = 1.0
CATCHING_UP_MAX = 2
"""Journals that are read from their beginning at a time: the shards owned here need the processor more."""
LOST_S = 5.0
"""How long a journal that cannot be followed is left alone."""


class _NoRoom(Exception):
    """More coupons than this standby may hold."""


class Lack(Enum):
    """Why there is no replica of a followed shard."""

    NO_ROOM = "no_room"
    """It has more coupons than this standby has room for."""
    LOST = "lost"
    """Its journal could not be followed; it is tried again."""


@dataclass(slots=True, eq=False)
class Copy:
    """One followed shard."""

    shard: ShardId
    replica: Replica | None = None
    """None: nothing read yet, no room, or it could not be followed."""
    warm: bool = False
    """Read to its end at least once, or given up."""
    lack: Lack | None = None
    """Why it was given up, until it is read to its end again."""
    task: asyncio.Task[None] | None = None
    """None: this standby keeps nothing."""


class Standby:
    """Belongs to one incarnation: its tasks are in that life's task group."""

    def __init__(
        self,
        journal: Journal,
        codec: CodeCodec,
        tasks: asyncio.TaskGroup,
        *,
        coupons_max: int,
        rng: random.Random,
        on_warm: Callable[[], None],
    ) -> None:
        """
        Args:
            coupons_max: of all replicas together, some 200 bytes each; 0: none is kept.
            on_warm: called whenever a shard has become warm.
        """
        self._journal = journal
        self._codec = codec
        self._tasks = tasks
        self._coupons_max = coupons_max
        self._rng = rng
        self._on_warm = on_warm
        self._copies: dict[ShardId, Copy] = {}
        self._left: dict[ShardId, Replica] = {}
        self._catching_up = asyncio.Semaphore(CATCHING_UP_MAX)
        self._room = asyncio.Event()

    def follow(self, shards: Set[ShardId]) -> None:
        """Follow these shards and no others."""
        for shard in self._copies.keys() - shards | self._left.keys():
            self.take(shard)
        for shard in sorted(shards - self._copies.keys()):
            copy = self._copies[shard] = Copy(shard, self._left.get(shard))
            if self._coupons_max:
                copy.task = self._tasks.create_task(self._follow(copy), name=f"standby-{shard}")
            else:
                self._set_warm(copy)
        self._left.clear()

    def take(self, shard: ShardId) -> Copy | None:
        """Follow the shard no longer. Its replica can be used when `stopped` has returned."""
        copy = self._copies.pop(shard, None)
        if copy is not None:
            if copy.task is not None:
                copy.task.cancel()
            self._room.set()
        return copy

    def keep(self, shard: ShardId, replica: Replica) -> None:
        """What is left of a shard that this node has given away: the next `follow` goes on with it, or drops it."""
        if self._coupons_max and replica.ledger.coupons + self._coupons() <= self._coupons_max:
            replica.on_entry = self._require_room
            self._left[shard] = replica

    def warm(self) -> Set[ShardId]:
        """Followed shards that would not be taken over faster if one waited longer."""
        return {shard for shard, copy in self._copies.items() if copy.warm}

    def status(self) -> Iterator[tuple[Copy, Replica]]:
        """What is kept."""
        for copy in self._copies.values():
            if copy.replica is not None:
                yield copy, copy.replica

    def lacking(self) -> Mapping[Lack, int]:
        """How many replicas are missing, though they should be kept."""
        lacks = [copy.lack for copy in self._copies.values()]
        return {lack: lacks.count(lack) for lack in Lack}

    # --- one shard ----------------------------------------------------------------------------------------------------

    async def _follow(self, copy: Copy) -> None:
        while True:
            try:
                await self._read_along(copy)
            except _NoRoom:
                assert copy.replica is not None
                coupons = copy.replica.ledger.coupons
                log.warning("standby_has_no_room", shard=copy.shard, coupons_max=self._coupons_max)
                self._give_up(copy, Lack.NO_ROOM)
                await self._room_for(coupons)
            except (FollowerLost, CorruptJournal) as lost:
                log.warning("standby_lost", shard=copy.shard, why=str(lost))
                self._give_up(copy, Lack.LOST)
                await asyncio.sleep(LOST_S * self._rng.uniform(0.5, 1.5))

    async def _read_along(self, copy: Copy) -> None:
        async with self._catching_up:
            replica = copy.replica
            if replica is None:
                replica = copy.replica = Replica(self._journal, copy.shard, self._codec, self._require_room)
            await replica.advance()
        copy.lack = None
        self._set_warm(copy)
        pause_s = READ_S
        while True:
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.5))
            position = replica.position
            await replica.advance()
            pause_s = READ_S if replica.position > position else min(2 * pause_s, READ_S_MAX)

    def _give_up(self, copy: Copy, lack: Lack) -> None:
        copy.replica = None
        copy.lack = lack
        self._room.set()
        self._set_warm(copy)

    def _set_warm(self, copy: Copy) -> None:
        copy.warm = True
        self._on_warm()

    # --- room ---------------------------------------------------------------------------------------------------------

    def _coupons(self) -> int:
        return sum(copy.replica.ledger.coupons for copy in self._copies.values() if copy.replica is not None)

    def _require_room(self, _: Ledger) -> None:
        if self._coupons() > self._coupons_max:
            raise _NoRoom

    async def _room_for(self, coupons: int) -> None:
        while self._coupons() + coupons > self._coupons_max:
            self._room.clear()
            await self._room.wait()


async def stopped(copy: Copy) -> Replica | None:
    """What a taken copy has read; None: nothing of use."""
    if copy.task is not None:
        await asyncio.wait({copy.task})
    if copy.replica is not None:
        copy.replica.on_entry = lambda _: None
    return copy.replica
