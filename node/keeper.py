"""The shards that one incarnation has in hand: opening, serving, handing over.

`node.ownership` says what to open and leave; the journal says whether it may. A keeper lives as long as its incarnation
and never longer: its tasks belong to that life's task group.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import structlog

from cluster.codes import CodeCodec
from cluster.endpoints import RevisionWentBack
from cluster.kv import EtcdRefused, EtcdUnavailable, ModRevisionIs, Put, Txn
from cluster.records import Keyspace, OwnerRecord
from cluster.session import EtcdClient
from cluster.types import Epoch, Incarnation, Revision, ShardId
from node.calls import Call, End, Outcome, Overloaded
from node.commands import Reason, Refused
from node.entries import Header
from node.journal.base import CorruptJournal, Fenced, Journal, OutcomeUnknown
from node.observer import Observer
from node.replica import Replica
from node.shard import Shard
from node.standby import Copy, Standby, stopped
from node.turns import Turns
from node.wallclock import WallClock

log = structlog.get_logger()

OPENINGS_MAX = 8
"""Replays at a time: more would only take turns."""


class State(Enum):
    """As in node.v1 ShardStatus.State, same numbers."""

    OPENING = 1
    SERVING = 2
    HANDING_OVER = 3
    CORRUPT = 4


class NotHandedOver(Exception):
    """The shard was not given away, or may not have been; what etcd says decides."""


@dataclass(slots=True)
class HeldShard:
    id: ShardId
    epoch: Epoch
    state: State = State.OPENING
    shard: Shard | None = None
    error: str = ""
    waiting: list[Call] = field(default_factory=list)
    """Calls that came while it was opening, in order."""
    task: asyncio.Task[None] | None = None
    rest: Replica | None = None
    """What is left of it once it was drained."""


class Keeper:
    def __init__(
        self,
        me: Incarnation,
        tasks: asyncio.TaskGroup,
        *,
        etcd: EtcdClient,
        keys: Keyspace,
        journal: Journal,
        standby: Standby,
        codec: CodeCodec,
        wall: WallClock,
        cluster_incarnation: int,
        lease_stands: Callable[[], bool],
        shard_calls_max: int,
        has_room: Callable[[], bool],
        on_change: Callable[[], None],
        on_serving: Callable[[], None],
        observer: Observer,
    ) -> None:
        self._me = me
        self._tasks = tasks
        self._etcd = etcd
        self._keys = keys
        self._journal = journal
        self._standby = standby
        self._codec = codec
        self._wall = wall
        self._cluster_incarnation = cluster_incarnation
        self._lease_stands = lease_stands
        self._shard_calls_max = shard_calls_max
        self._has_room = has_room
        self._on_change = on_change
        self._on_serving = on_serving
        self._observer = observer
        self._openings = asyncio.Semaphore(OPENINGS_MAX)
        self._turns = Turns()
        self._held: dict[ShardId, HeldShard] = {}
        self.spent: dict[ShardId, Revision] = {}

    # --- what the planner sees and says -------------------------------------------------------------------------------

    def held(self) -> dict[ShardId, Revision]:
        return {shard: held.epoch.revision for shard, held in self._held.items()}

    def status(self) -> Iterable[HeldShard]:
        return self._held.values()

    def open(self, shard: ShardId, revision: Revision) -> None:
        assert shard not in self._held, "a shard is opened once at a time"
        assert self.spent.get(shard) != revision, "an epoch opens once"
        held = HeldShard(shard, Epoch(self._cluster_incarnation, revision))
        self._held[shard] = held
        held.task = self._tasks.create_task(self._hold(held, self._standby.take(shard)), name=f"shard-{shard}")
        held.task.add_done_callback(lambda _: self._closed(held))  # also for a task cancelled before its first step

    def leave(self, shard: ShardId) -> None:
        """Stop at once: the shard has another owner. What is in flight is fenced or unknown."""
        task = self._held[shard].task
        assert task is not None
        task.cancel()

    # --- calls --------------------------------------------------------------------------------------------------------

    def submit(self, shard: ShardId, call: Call) -> None:
        """Raises Overloaded; otherwise the call is answered, sooner or later."""
        held = self._held.get(shard)
        if held is None:
            call.reply(Outcome.NOT_OWNER)
        elif held.shard is not None:
            held.shard.submit(call)
        elif held.state is State.CORRUPT:
            call.reply(Refused(Reason.CORRUPT_JOURNAL, held.error))
        elif len(held.waiting) >= self._shard_calls_max:
            raise Overloaded(1.0)
        else:
            held.waiting.append(call)

    def serving(self, shard: ShardId) -> Shard | None:
        held = self._held.get(shard)
        return held.shard if held is not None and held.state is State.SERVING else None

    # --- one shard's life ---------------------------------------------------------------------------------------------

    async def _hold(self, held: HeldShard, copy: Copy | None) -> None:
        try:
            await self._open_and_serve(held, copy)
        except (Fenced, OutcomeUnknown) as error:  # of the open; the loop tells its own end
            log.info("open_failed", shard=held.id, epoch=held.epoch.revision, why=str(error))

    def _closed(self, held: HeldShard) -> None:
        for call in held.waiting:
            call.reply(Outcome.NOT_OWNER)
        held.waiting.clear()
        del self._held[held.id]
        self.spent[held.id] = held.epoch.revision
        self._on_change()

    async def _open_and_serve(self, held: HeldShard, copy: Copy | None) -> None:
        loop = asyncio.get_running_loop()
        replica = await stopped(copy) if copy is not None else None
        replica = replica or Replica(self._journal, held.id, self._codec)
        read = replica.position
        try:
            async with self._openings:
                began_s = loop.time()
                journal = await replica.open(held.epoch)
        except CorruptJournal as corrupt:
            await self._stand_corrupt(held, corrupt)
            return
        ledger = replica.ledger
        took_s = loop.time() - began_s
        log.info(
            "shard_opened",
            shard=held.id,
            epoch=held.epoch.revision,
            entries=journal.position,
            read_before=read,
            coupons=ledger.coupons,
            took_ms=round(took_s * 1_000),
        )
        held.shard = Shard(
            Header(held.id, held.epoch, self._me),
            ledger,
            journal,
            self._wall,
            self._lease_stands,
            entry_bytes_max=self._journal.entry_bytes_max,
            calls_max=self._shard_calls_max,
            has_room=self._has_room,
            turns=self._turns,
            observer=self._observer,
        )
        for call in held.waiting:
            try:
                held.shard.submit(call)
            except Overloaded:
                call.reply(Outcome.NOT_OWNER)  # more pages than it has room for: they come again
        held.waiting.clear()
        held.state = State.SERVING
        self._observer.serving(held.id, ledger, took_s, self._observer.now())
        self._on_serving()
        if await held.shard.run() is End.DRAINED:
            replica.given_away(held.epoch, self._me)
            held.rest = replica

    async def _stand_corrupt(self, held: HeldShard, corrupt: CorruptJournal) -> None:
        """Keep the shard and refuse its calls: giving it away would only let the next node find the same."""
        log.error("journal_corrupt", shard=held.id, place=corrupt.place, what=corrupt.what)
        held.state = State.CORRUPT
        held.error = str(corrupt)
        for call in held.waiting:
            call.reply(Refused(Reason.CORRUPT_JOURNAL, held.error))
        held.waiting.clear()
        await asyncio.get_running_loop().create_future()  # until the task is cancelled

    # --- giving away --------------------------------------------------------------------------------------------------

    async def hand_over(
        self, shard: ShardId, revision: Revision, successor: OwnerRecord
    ) -> tuple[Revision, Replica | None]:
        """Finish what is in flight, then give the owner key to `successor`, under its lease. For one successor at a
        time.

        Returns:
            The revision of the successor's epoch, and what is left of the shard here.

        Raises:
            NotHandedOver
        """
        rest = await self._finish(shard, revision)
        return await self._give_away(shard, revision, successor), rest

    async def _finish(self, shard: ShardId, revision: Revision) -> Replica | None:
        held = self._held.get(shard)
        if held is None:
            # The successor saw the key before this node did: the epoch must not be opened while it is given away.
            self.spent[shard] = max(revision, self.spent.get(shard, revision))
            return None
        if held.epoch.revision != revision:
            raise NotHandedOver(f"the epoch here is {held.epoch.revision}")
        assert held.task is not None
        if held.shard is None:
            held.task.cancel()  # opening, or corrupt: nothing is in flight
        else:
            held.state = State.HANDING_OVER
            held.shard.drain()
        await asyncio.wait([held.task])
        return held.rest

    async def _give_away(self, shard: ShardId, revision: Revision, successor: OwnerRecord) -> Revision:
        key = self._keys.owner(shard)
        txn = Txn(
            guards=(ModRevisionIs(key, revision),),
            then=(Put(key, successor.encode(), successor.incarnation.lease_id),),
        )
        try:
            result = await self._etcd.txn(txn)
        except (EtcdUnavailable, EtcdRefused, RevisionWentBack) as error:
            raise NotHandedOver(f"etcd: {error}") from error
        if not result.succeeded:
            raise NotHandedOver("the owner key has changed")
        log.info("shard_handed_over", shard=shard, epoch=revision, successor=str(successor.incarnation))
        return result.revision

    async def drain(self) -> None:
        """Let every shard finish what is in flight and stop. Answered calls are durable, the others NOT_OWNER."""
        tasks = []
        for held in self._held.values():
            assert held.task is not None
            tasks.append(held.task)
            if held.shard is None:
                held.task.cancel()
            else:
                held.shard.drain()
        if tasks:
            await asyncio.wait(tasks)
