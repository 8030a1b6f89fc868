"""A node's lives: take a lease, register, own shards, until the lease or the registration is lost; then a new life.

One life is one incarnation. Everything that it started belongs to its task group and ends with it, so nothing of an
old life can answer in a new one.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from cluster.clock import Clock
from cluster.codes import CodeCodec
from cluster.config import ClusterConfig
from cluster.kv import (
    Delete,
    EtcdRefused,
    EtcdUnavailable,
    Get,
    Guard,
    ModRevisionIs,
    Op,
    Put,
    Txn,
    ValueIs,
)
from cluster.records import Keyspace, NodeRecord, NodeState, OwnerRecord
from cluster.session import EtcdClient, LeaseKeeper, LeaseLost, RevisionWentBack, Snapshot
from cluster.topology import Topology
from cluster.types import Incarnation, NodeId, Revision, ShardId
from node.journal.base import Journal
from node.keeper import Keeper, NotHandedOver
from node.ownership import Action, Claim, Leave, Local, Open, Ownership, Pull
from node.peers import HandoverFailed, Peers
from node.wallclock import ClockStepped, WallClock

log = structlog.get_logger()

PULLS_MAX = 4
"""Handovers to this node at a time."""

REST_S = 0.3
"""How long a shard is left alone after a claim or a pull that failed, give or take a half."""

CLOCK_CHECK_S = 0.2


class NodeIdInUse(Exception):
    """A living process has this node id."""


class LifeOver(Exception):
    """This incarnation has ended. `why` is for the log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Timing:
    lease_ttl_s: int
    keepalive_s: float
    claim_delay_s: float
    hold_down_s: float
    drain_s_max: float


class Member:
    """This process in the cluster, over all its lives."""

    def __init__(
        self,
        node_id: NodeId,
        address: str,
        *,
        config: ClusterConfig,
        cluster_incarnation: int,
        keys: Keyspace,
        etcd: EtcdClient,
        journal: Journal,
        codec: CodeCodec,
        peers: Peers,
        clock: Clock,
        rng: random.Random,
        timing: Timing,
        shard_calls_max: int,
    ) -> None:
        self._node_id = node_id
        self._address = address
        self._config = config
        self._cluster_incarnation = cluster_incarnation
        self._keys = keys
        self._etcd = etcd
        self._journal = journal
        self._codec = codec
        self._peers = peers
        self._clock = clock
        self._rng = rng
        self._timing = timing
        self._shard_calls_max = shard_calls_max
        self._past: set[Incarnation] = set()
        self._drain = asyncio.Event()
        self.life: Life | None = None
        """The present life, once registered; None between lives."""

    def drain(self) -> None:
        """Hand everything over, then let `run` return."""
        self._drain.set()

    async def run(self, on_registered: Callable[[], None]) -> None:
        """Live until drained.

        Raises:
            NodeIdInUse: nothing was served.
        """
        while True:
            why = await self._live(on_registered)
            log.warning("life_over", why=why) if not self._drain.is_set() else log.info("life_over", why=why)
            if self._drain.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.hold_down_s):
                    await self._drain.wait()
                    return

    async def _live(self, on_registered: Callable[[], None]) -> str:
        """One life, from its lease to its end; why it ended."""
        lease = LeaseKeeper(
            self._etcd, self._clock, ttl_s=self._timing.lease_ttl_s, keepalive_s=self._timing.keepalive_s
        )
        me = Incarnation(self._node_id, await lease.acquire())
        self._past.add(me)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_keep(lease), name="lease")
                record = NodeRecord(me, self._address, NodeState.ACTIVE)
                await self._register(record, tasks)
                life = Life(self, record, lease, tasks)
                self.life = life
                life.start()
                on_registered()
                log.info("registered", incarnation=str(me), address=self._address)
        except* LifeOver as over:
            why = ", ".join(sorted({str(error) for error in over.exceptions}))
        finally:
            if self.life is not None:
                self.life.ended.set()
            self.life = None
        # What this life held is closed by now; giving the lease back lets others claim without waiting for its end.
        with suppress(EtcdUnavailable, EtcdRefused, RevisionWentBack, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._etcd.lease_revoke(me.lease_id)
        return why

    async def _register(self, record: NodeRecord, tasks: asyncio.TaskGroup) -> None:
        """Write `nodes/<id>`, unless a living process has it.

        A registration of an earlier life of this very process is replaced. Another's is waited for: if its process is
        dead, its lease ends within the TTL.
        """
        loop = asyncio.get_running_loop()
        key = self._keys.node(self._node_id)
        give_up_s = loop.time() + self._timing.lease_ttl_s + 1.0
        while True:
            found = (await self._etcd.get(Get(key))).kvs
            theirs = NodeRecord.decode(found[0].value).incarnation if found else None
            if theirs == record.incarnation:
                return
            if theirs is None or theirs in self._past:
                seen = found[0].mod_revision if found else Revision(0)
                txn = Txn((ModRevisionIs(key, seen),), (Put(key, record.encode(), record.incarnation.lease_id),))
                with suppress(EtcdUnavailable):  # whether it was written, the next read tells
                    await self._etcd.txn(txn)
                continue
            if loop.time() > give_up_s:
                raise NodeIdInUse(f"node id {self._node_id!r} belongs to the living {theirs}")
            await asyncio.sleep(0.2)


async def _keep(lease: LeaseKeeper) -> None:
    try:
        await lease.keep()
    except LeaseLost as lost:
        raise LifeOver("lease lost") from lost


class Life:
    """One incarnation: what it sees of the cluster, what it holds, and what it does about the difference."""

    def __init__(self, member: Member, record: NodeRecord, lease: LeaseKeeper, tasks: asyncio.TaskGroup) -> None:
        self.record = record
        self.me = record.incarnation
        self.topology = Topology(member._keys)
        self.ended = asyncio.Event()
        self._member = member
        self._etcd = member._etcd
        self._keys = member._keys
        self._lease = lease
        self._tasks = tasks
        self._wall = WallClock(member._clock)
        self._revision = Revision(0)
        self._news = asyncio.Event()
        self._watched = asyncio.Event()
        self._dead: set[Incarnation] = set()
        self._busy: set[ShardId] = set()
        self._presence: dict[Incarnation, asyncio.Task[None]] = {}
        self._pulls = asyncio.Semaphore(PULLS_MAX)
        self._draining = False
        self._ownership = Ownership(member._config.shards, self.me, claim_delay_s=member._timing.claim_delay_s)
        self.keeper = Keeper(
            self.me,
            tasks,
            etcd=member._etcd,
            keys=member._keys,
            journal=member._journal,
            codec=member._codec,
            wall=self._wall,
            cluster_incarnation=member._cluster_incarnation,
            lease_stands=lambda: lease.left_s() > 0,
            shard_calls_max=member._shard_calls_max,
            on_change=self._news.set,
        )

    def start(self) -> None:
        self._tasks.create_task(self._watch(), name="watch")
        self._tasks.create_task(self._plan(), name="plan")
        self._tasks.create_task(self._check_clock(), name="clock")
        self._tasks.create_task(self._drain(), name="drain")

    # --- seeing -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        async for seen in self._etcd.watch(*self._keys.topology):
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
            self._news.set()

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
        await self._member._peers.gone(peer.address, peer.incarnation)
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
            plan = self._ownership.plan(self.topology, self._local(), loop.time())
            for action in plan.actions:
                self._act(action)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(plan.wake_s):
                    await self._news.wait()

    def _local(self) -> Local:
        return Local(
            held=self.keeper.held(),
            spent=self.keeper.spent,
            busy=self._busy | self.keeper.handing_over,
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
                self._tasks.create_task(self._claim(action), name=f"claim-{action.shard}")
            case Pull():
                self._busy.add(action.shard)
                self._tasks.create_task(self._pull(action), name=f"pull-{action.shard}")

    async def _claim(self, claim: Claim) -> None:
        key = self._keys.owner(claim.shard)
        guards: list[Guard] = [
            ModRevisionIs(key, claim.seen),
            # A node that was given up for dead must not own: its peers would not route to it, nor hand back.
            ValueIs(self._keys.node(self.me.node_id), self.record.encode()),
        ]
        then: list[Op] = [Put(key, OwnerRecord(self.me, self.record.address).encode(), self.me.lease_id)]
        if claim.corpse is not None:
            corpse_key = self._keys.node(claim.corpse.node_id)
            guards.append(ModRevisionIs(corpse_key, claim.corpse.revision))
            if claim.corpse.revision:
                then.append(Delete(corpse_key))
        try:
            result = await self._etcd.txn(Txn(tuple(guards), tuple(then)))
        except (EtcdUnavailable, EtcdRefused) as error:
            log.info("claim_unanswered", shard=claim.shard, error=str(error))  # the watch tells what became of it
            await self._rest(claim.shard)
            return
        if result.succeeded:
            log.info("shard_claimed", shard=claim.shard, epoch=result.revision, taken=claim.seen != 0)
            await self._until(result.revision)
            self._busy.discard(claim.shard)
            self._news.set()
        else:
            await self._rest(claim.shard)

    async def _pull(self, pull: Pull) -> None:
        async with self._pulls:
            try:
                revision = await self._member._peers.hand_over(
                    pull.owner.record.address, pull.shard, pull.owner.revision, self.me
                )
            except HandoverFailed as failed:
                log.info("pull_failed", shard=pull.shard, why=str(failed))
                await self._rest(pull.shard)
                return
        await self._until(revision)
        self._busy.discard(pull.shard)
        self._news.set()

    async def _rest(self, shard: ShardId) -> None:
        await asyncio.sleep(REST_S * self._member._rng.uniform(0.5, 1.5))
        self._busy.discard(shard)
        self._news.set()

    async def _until(self, revision: Revision) -> None:
        """Wait until the topology shows what happened at `revision`."""
        while self._revision < revision:
            self._watched.clear()
            await self._watched.wait()

    # --- giving away --------------------------------------------------------------------------------------------------

    async def hand_over(self, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        """What a peer asked for. Raises NotHandedOver."""
        node = self.topology.nodes.get(successor.node_id)
        if node is None or node.record.incarnation != successor:
            raise NotHandedOver(f"{successor} is not registered")
        self._busy.add(shard)
        try:
            given = await self.keeper.hand_over(shard, revision, OwnerRecord(successor, node.record.address))
            await self._until(given)
        finally:
            self._busy.discard(shard)
            self._news.set()
        return given

    async def _drain(self) -> None:
        """On SIGTERM: let the others pull everything, wait for it, then end this life in order."""
        await self._member._drain.wait()
        self._draining = True
        log.info("draining", shards=len(self.keeper.held()))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._member._timing.drain_s_max):
                await self._announce_drain()
                while self._owned() and self._has_successor():
                    self._watched.clear()
                    await self._watched.wait()
        await self.keeper.drain()
        raise LifeOver("drained")

    async def _announce_drain(self) -> None:
        record = NodeRecord(self.me, self.record.address, NodeState.DRAINING)
        key = self._keys.node(self.me.node_id)
        txn = Txn((ValueIs(key, self.record.encode()),), (Put(key, record.encode(), self.me.lease_id),))
        with suppress(EtcdUnavailable, EtcdRefused):  # then the successors learn of it when the lease is given back
            await self._etcd.txn(txn)

    def _owned(self) -> bool:
        return any(owner.record.incarnation == self.me for owner in self.topology.owners.values())

    def _has_successor(self) -> bool:
        return any(
            node.record.state is NodeState.ACTIVE and node.record.incarnation not in self._dead
            for node_id, node in self.topology.nodes.items()
            if node_id != self.me.node_id
        )
