"""One incarnation of a node: what it sees of the cluster, what it holds, and what it does about the difference.

Everything here belongs to the life's task group and ends with it, so nothing of an old life can answer in a new one.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

import structlog

from cluster.clock import Clock
from cluster.codes import CodeCodec
from cluster.config import ClusterConfig
from cluster.kv import Delete, EtcdRefused, EtcdUnavailable, Get, Guard, ModRevisionIs, Op, Put, Txn, TxnResult, ValueIs
from cluster.lease import LeaseKeeper
from cluster.records import Keyspace, NodeRecord, NodeState, OwnerRecord
from cluster.session import EtcdClient
from cluster.topology import Topology
from cluster.types import Incarnation, NodeId, Revision, ShardId
from cluster.watch import Changes, Snapshot
from node.journal.base import Journal
from node.keeper import Keeper, NotHandedOver, State
from node.observer import UNOBSERVED, Cause, HandoverCause, Observer
from node.ownership import Action, Claim, Leave, Local, Open, Ownership, Pull, lives
from node.peers import HandoverFailed, Peers
from node.standby import Standby
from node.wallclock import ClockStepped, WallClock

log = structlog.get_logger()

PULLS_MAX = 4
"""Handovers to this node at a time."""

PAUSE_S = 0.3
"""How long a shard is left alone after a claim or a pull that failed, give or take a half."""

CLOCK_CHECK_S = 0.2

FINISH_S_MAX = 2.0
"""How long a drain waits for entries in flight once nobody pulls any more."""


class LifeOver(Exception):
    """This incarnation has ended; the message says why."""


@dataclass(frozen=True, slots=True)
class Timing:
    lease_ttl_s: int
    keepalive_s: float
    claim_delay_s: float
    """How long each node waits for the one that is preferred before it, when a shard has no owner."""
    hold_down_s: float
    """How long a node that lost its place waits before it registers again."""
    drain_s_max: float
    settle_s: float
    """How long a life lasts before it pulls shards from owners that mean to keep them: a node that comes and goes
    moves nothing."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a node is made of: the same over all its lives."""

    node_id: NodeId
    address: str
    """HOST:PORT of its NodeService, as others reach it."""
    config: ClusterConfig
    keys: Keyspace
    etcd: EtcdClient
    journal: Journal
    codec: CodeCodec
    peers: Peers
    clock: Clock
    rng: random.Random
    timing: Timing
    shard_calls_max: int
    standby_coupons_max: int
    has_room: Callable[[], bool] = lambda: True
    """For another campaign, where entries are stored."""
    observer: Observer = UNOBSERVED


class Life:
    """From its registration to the loss of its lease, of its registration, or of the trust in its clock."""

    def __init__(
        self,
        parts: Parts,
        record: NodeRecord,
        cluster_incarnation: int,
        lease: LeaseKeeper,
        tasks: asyncio.TaskGroup,
        on_change: Callable[[], None],
    ) -> None:
        """`on_change`: called when what `not_ready` says may have changed."""
        self.record = record
        self.me = record.incarnation
        self.lease = lease
        self.shards = parts.config.shards
        self.topology = Topology(parts.keys)
        self.ended = asyncio.Event()
        self._parts = parts
        self._etcd = parts.etcd
        self._keys = parts.keys
        self._cluster_incarnation = cluster_incarnation
        self._tasks = tasks
        self._on_change = on_change
        self._wall = WallClock(parts.clock)
        self._revision = Revision(0)
        self._news = asyncio.Event()
        self._watched = asyncio.Event()
        self._dead: set[Incarnation] = set()
        self._busy: set[ShardId] = set()
        self._giving: set[ShardId] = set()
        self._presence: dict[Incarnation, asyncio.Task[None]] = {}
        self._pulling: dict[ShardId, tuple[Pull, asyncio.Task[None]]] = {}
        self._pulls = asyncio.Semaphore(PULLS_MAX)
        self._draining = False
        self.standby = Standby(
            parts.journal,
            parts.codec,
            tasks,
            coupons_max=parts.standby_coupons_max,
            rng=parts.rng,
            on_warm=self._news.set,
        )
        self._ownership = Ownership(
            parts.config.shards,
            self.me,
            claim_delay_s=parts.timing.claim_delay_s,
            settle_s=parts.timing.settle_s,
        )
        self.keeper = Keeper(
            self.me,
            tasks,
            etcd=parts.etcd,
            keys=parts.keys,
            journal=parts.journal,
            standby=self.standby,
            codec=parts.codec,
            wall=self._wall,
            cluster_incarnation=cluster_incarnation,
            lease_stands=lambda: lease.left_s() > 0,
            shard_calls_max=parts.shard_calls_max,
            has_room=parts.has_room,
            on_change=self._shards_changed,
            on_serving=on_change,
            observer=parts.observer,
        )

    def start(self) -> None:
        self._tasks.create_task(self._watch(), name="watch")
        self._tasks.create_task(self._plan(), name="plan")
        self._tasks.create_task(self._check_clock(), name="clock")

    def not_ready(self) -> str:
        """Why this node cannot serve what it owns; "" if it can."""
        if self._draining:
            return "draining"
        if not self._revision:
            return "etcd has not said who owns what"
        held = {held.id: held.state for held in self.keeper.status()}
        owned = [shard for shard, owner in self.topology.owners.items() if owner.record.incarnation == self.me]
        missing = sum(held.get(shard) is not State.SERVING for shard in owned)
        return f"{missing} of {len(owned)} shards that it owns are not served" if missing else ""

    def end(self) -> None:
        """The life's tasks have ended. Peers that still wait for an answer wait for its watch no longer."""
        self.ended.set()
        self._watched.set()

    # --- seeing -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async with aclosing(self._etcd.watch(*self._keys.topology)) as watch:
            async for seen in watch:
                self._see(seen)

    def _see(self, seen: Snapshot | Changes) -> None:
        if isinstance(seen, Snapshot):
            if seen.went_back:
                raise LifeOver("etcd's revision went back: it was restored")
            self.topology.reset(seen.kvs)
        else:
            for event in seen.events:
                self.topology.apply(event)
        self._revision = seen.revision
        mine = self.topology.nodes.get(self.me.node_id)
        if mine is None or mine.record.incarnation != self.me:
            raise LifeOver("registration lost: another node believed this one dead")
        self._follow_peers()
        self._watched.set()
        self._shards_changed()

    def _shards_changed(self) -> None:
        self._news.set()
        self._on_change()

    def _follow_peers(self) -> None:
        living = {node.record.incarnation: node.record for node in self.topology.nodes.values()}
        self._dead &= living.keys()
        for incarnation in list(self._presence):
            if incarnation not in living:
                self._presence.pop(incarnation).cancel()
        for incarnation, record in living.items():
            if incarnation != self.me and incarnation not in self._presence:
                self._presence[incarnation] = self._tasks.create_task(self._attend(record), name=f"peer-{incarnation}")

    async def _attend(self, peer: NodeRecord) -> None:
        await self._parts.peers.gone(peer.address, peer.incarnation)
        log.warning("peer_gone", peer=str(peer.incarnation))
        self._dead.add(peer.incarnation)
        self._news.set()

    async def _check_clock(self) -> None:
        while True:
            try:
                self._wall.now_us()
            except ClockStepped as stepped:
                log.warning("clock_stepped", step_us=stepped.step_us)
                raise LifeOver(str(stepped)) from stepped
            await asyncio.sleep(CLOCK_CHECK_S)

    # --- planning -----------------------------------------------------------------------------------------------------

    async def _plan(self) -> None:
        loop = asyncio.get_running_loop()
        await self._watched.wait()
        while True:
            self._news.clear()
            self._give_up_pulls()
            plan = self._ownership.plan(self.topology, self._local(), loop.time())
            for action in plan.actions:
                self._act(action)
            # What is left of a shard that is being given away comes when it is done.
            self.standby.follow(plan.follow - self._giving)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(plan.wake_s):
                    await self._news.wait()

    def _local(self) -> Local:
        return Local(
            held=self.keeper.held(),
            spent=self.keeper.spent,
            busy=self._busy | self._giving,
            warm=self.standby.warm(),
            dead=self._dead,
            draining=self._draining,
        )

    def _act(self, action: Action) -> None:
        match action:
            case Open(shard, revision):
                self.keeper.open(shard, revision)
            case Leave(shard):
                self.keeper.leave(shard)
            case Claim():
                self._busy.add(action.shard)
                self._parts.observer.taking(action.shard, self._cause(action), self._parts.observer.now())
                self._tasks.create_task(self._claim(action), name=f"claim-{action.shard}")
            case Pull():
                self._busy.add(action.shard)
                self._parts.observer.taking(action.shard, Cause.PULLED, self._parts.observer.now())
                task = self._tasks.create_task(self._pull(action), name=f"pull-{action.shard}")
                self._pulling[action.shard] = action, task
                task.add_done_callback(lambda _: self._pulled(action))  # also for one cancelled before its first step

    def _cause(self, claim: Claim) -> Cause:
        owner = self.topology.owners.get(claim.shard)
        if owner is None:
            return Cause.NO_OWNER
        return Cause.OWN_AGAIN if owner.record.incarnation == self.me else Cause.OWNER_GONE

    async def _claim(self, claim: Claim) -> None:
        planned = self._revision
        if claim.seen and self.keeper.spent.get(claim.shard) == claim.seen:
            # Whatever ended the shard here may end it again at once: do not spin.
            await self._pause()
        try:
            result = await self._etcd.txn(self._claim_txn(claim))
        except (EtcdUnavailable, EtcdRefused) as error:
            log.info("claim_unanswered", shard=claim.shard, error=str(error))  # the watch tells what became of it
            await self._pause()
        else:
            if result.succeeded:
                log.info("shard_claimed", shard=claim.shard, epoch=result.revision, taken=claim.seen != 0)
                await self._until(result.revision)
            else:
                self._require_same_cluster(result)
                await self._pause_unless_seen_since(planned)
        self._busy.discard(claim.shard)
        self._news.set()

    def _claim_txn(self, claim: Claim) -> Txn:
        key = self._keys.owner(claim.shard)
        guards: list[Guard] = [
            ModRevisionIs(key, claim.seen),
            # A node that was given up for dead must not own: its peers would not route to it, nor hand back.
            ValueIs(self._keys.node(self.me.node_id), self.record.encode()),
            ValueIs(self._keys.incarnation, str(self._cluster_incarnation).encode()),
        ]
        then: list[Op] = [Put(key, OwnerRecord(self.me, self.record.address).encode(), self.me.lease_id)]
        if claim.corpse is not None:
            corpse_key = self._keys.node(claim.corpse.node_id)
            guards.append(ModRevisionIs(corpse_key, claim.corpse.revision))
            if claim.corpse.revision:
                then.append(Delete(corpse_key))
        return Txn(tuple(guards), tuple(then), otherwise=(Get(self._keys.incarnation),))

    def _require_same_cluster(self, result: TxnResult) -> None:
        (found,) = result.ranges
        if not found or int(found[0].value) != self._cluster_incarnation:
            raise LifeOver("the cluster incarnation was raised")

    async def _pull(self, pull: Pull) -> None:
        async with self._pulls:
            try:
                revision = await self._parts.peers.hand_over(
                    pull.owner.record.address, pull.shard, pull.owner.revision, self.me
                )
            except HandoverFailed as failed:
                log.info("pull_failed", shard=pull.shard, why=str(failed))
                await self._pause()
            else:
                await self._until(revision)

    def _pulled(self, pull: Pull) -> None:
        del self._pulling[pull.shard]
        self._busy.discard(pull.shard)
        self._news.set()

    def _give_up_pulls(self) -> None:
        """An owner that is gone, or is not the owner any more, may let this node wait for long; the shard must not."""
        for pull, task in list(self._pulling.values()):
            owner = self.topology.owners.get(pull.shard)
            given = owner is not None and owner.record.incarnation == self.me
            if not given and (
                owner != pull.owner or not lives(pull.owner.record.incarnation, self.topology, self._dead)
            ):
                task.cancel()

    async def _pause(self) -> None:
        await asyncio.sleep(PAUSE_S * self._parts.rng.uniform(0.5, 1.5))

    async def _pause_unless_seen_since(self, revision: Revision) -> None:
        """A claim on an outdated view, like the second on one corpse, may be planned anew with the next."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE_S * self._parts.rng.uniform(0.5, 1.5)):
                await self._until(Revision(revision + 1))

    async def _until(self, revision: Revision) -> None:
        """Wait until the topology shows what happened at `revision`, or the life has ended."""
        while self._revision < revision and not self.ended.is_set():
            self._watched.clear()
            await self._watched.wait()

    # --- giving away --------------------------------------------------------------------------------------------------

    async def hand_over(self, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        """What a peer asked for. Raises NotHandedOver."""
        node = self.topology.nodes.get(successor.node_id)
        if node is None or node.record.incarnation != successor:
            raise NotHandedOver(f"{successor} is not registered")
        if shard in self._giving:
            raise NotHandedOver("a handover is under way")
        self._giving.add(shard)
        observer = self._parts.observer
        asked_s, success = observer.now(), False
        cause = HandoverCause.DRAIN if self._draining else HandoverCause.PLACEMENT
        try:
            given, rest = await self.keeper.hand_over(shard, revision, OwnerRecord(successor, node.record.address))
            success = True
            await self._until(given)
            if rest is not None:
                self.standby.keep(shard, rest)
        finally:
            observer.handed_over(cause, given=success, took_s=observer.now() - asked_s)
            self._giving.discard(shard)
            self._news.set()
        return given

    async def drain(self) -> None:
        """Let the others pull everything, wait for it, then finish what is left."""
        self._draining = True
        self._on_change()
        log.info("draining", shards=len(self.keeper.held()))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._parts.timing.drain_s_max):
                await self._announce_drain()
                while self._owned() and self._has_successor():
                    self._watched.clear()
                    await self._watched.wait()
        with suppress(TimeoutError):  # then the outcome of what is in flight stays unknown
            async with asyncio.timeout(FINISH_S_MAX):
                await self.keeper.drain()

    async def _announce_drain(self) -> None:
        record = NodeRecord(self.me, self.record.address, NodeState.DRAINING)
        key = self._keys.node(self.me.node_id)
        txn = Txn((ValueIs(key, self.record.encode()),), (Put(key, record.encode(), self.me.lease_id),))
        while True:
            try:
                await self._etcd.txn(txn)
            except (EtcdUnavailable, EtcdRefused):
                await self._pause()  # if it has landed, the guard fails next time
            else:
                return

    def _owned(self) -> bool:
        return any(owner.record.incarnation == self.me for owner in self.topology.owners.values())

    def _has_successor(self) -> bool:
        return any(
            node.record.state is NodeState.ACTIVE and node.record.incarnation not in self._dead
            for node_id, node in self.topology.nodes.items()
            if node_id != self.me.node_id
        )
