"""One process of a node in a world of them: a real `Member` on what is not real, and how it dies.

Owns the fakes of what a node reaches beside etcd and the disk: its clock and its `Peers`.
"""

import asyncio
import random
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.codes import CodeCodec
from cluster.config import ClusterConfig
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Incarnation, NodeId, Revision, ShardId
from node.calls import Outcome
from node.commands import Answer
from node.keeper import NotHandedOver
from node.life import Life, Parts, Timing
from node.member import Member
from node.metrics import NodeMetrics
from node.peers import HandoverFailed
from tests.fakes.etcd_faults import Gate, Link

if TYPE_CHECKING:
    from tests.node.world import World

T = TypeVar("T")

NOW_US = 1_800_000_000_000_000
TIMING = Timing(lease_ttl_s=3, keepalive_s=0.5, claim_delay_s=0.3, hold_down_s=2.0, drain_s_max=10.0, settle_s=0.0)
HANDOVER_S_MAX = 10.0
CODEC = CodeCodec({0: b"k" * 32})
KEYS = Keyspace()


class NodeClock:
    """On the loop's time; the wall can be stepped."""

    def __init__(self) -> None:
        self.step_us = 0

    def wall_us(self) -> int:
        return NOW_US + self.step_us + int(self.boottime_s() * 1e6)

    def boottime_s(self) -> float:
        return asyncio.get_running_loop().time()


class LocalPeers:
    """The other processes of the world, as one of them reaches them. Implements `node.peers.Peers`."""

    def __init__(self, world: "World", me: str) -> None:
        self._world = world
        self._me = me
        self._suspected: dict[Incarnation, asyncio.Event] = {}

    def suspect(self, incarnation: Incarnation) -> None:
        """As if its port had refused, though it lives."""
        self._suspicion(incarnation).set()

    async def gone(self, address: str, incarnation: Incarnation) -> None:
        suspicion = asyncio.create_task(self._suspicion(incarnation).wait())
        ended = asyncio.create_task(self._ended(address, incarnation))
        try:
            await asyncio.wait({suspicion, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            suspicion.cancel()
            ended.cancel()

    async def hand_over(self, address: str, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        try:
            async with asyncio.timeout(HANDOVER_S_MAX):
                return await self._asked(address, shard, revision, successor)
        except TimeoutError:
            raise HandoverFailed("DEADLINE_EXCEEDED") from None

    async def _asked(self, address: str, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        process = self._world.processes.get(address)
        if process is None or not process.runs:
            raise HandoverFailed("UNAVAILABLE")
        while self._world.is_apart(self._me, address):
            await asyncio.sleep(0.1)  # TCP repeats it
        if process.member.life is None:
            raise HandoverFailed("not registered")
        handling = process.handle(process.member.life.hand_over(shard, revision, successor))
        try:
            await asyncio.wait([handling])
        finally:
            handling.cancel()  # as gRPC does when whoever asked has gone
        if handling.cancelled():
            raise HandoverFailed("the connection broke")
        try:
            return handling.result()
        except NotHandedOver as refused:
            raise HandoverFailed(str(refused)) from refused

    def _suspicion(self, incarnation: Incarnation) -> asyncio.Event:
        return self._suspected.setdefault(incarnation, asyncio.Event())

    async def _ended(self, address: str, incarnation: Incarnation) -> None:
        while (process := self._world.processes.get(address)) is not None and process.runs:
            life = process.member.life
            if life is None or self._world.is_apart(self._me, address):
                await asyncio.sleep(0.1)
            elif life.me != incarnation:
                return
            else:
                await life.ended.wait()


class Process:
    """One process of a node: what it is made of, and whether it still runs."""

    def __init__(self, world: "World", name: str, client: str) -> None:
        self.name = name
        self.client = client
        self.address = f"{client}:1"
        self.clock = NodeClock()
        self.peers = LocalPeers(world, self.address)
        self.pending: set[Sent] = set()
        """Calls that have not been answered."""
        self.lives = 0
        self.metrics = NodeMetrics(self.clock.wall_us)
        self.ready: list[str] = []
        """All that it has said of whether it is ready."""
        self.crashed = False
        self.draining = False
        self.may_end_with: type[Exception] | tuple[()] = ()
        self._world = world
        self._handling: set[asyncio.Task[Any]] = set()
        rng = random.Random(f"{world.seed}/{client}")
        etcd = EtcdClient(["etcd:1"], partial(world.etcd.connect, client=client), rng=rng)
        self.member = Member(
            Parts(
                node_id=NodeId(name),
                address=self.address,
                config=ClusterConfig("test", world.shards, 1, world.kind, "fingerprint"),
                keys=KEYS,
                etcd=etcd,
                journal=world.journal(client, etcd, rng),
                codec=CODEC,
                peers=self.peers,
                clock=self.clock,
                rng=rng,
                timing=TIMING,
                shard_calls_max=1_000,
                standby_coupons_max=world.standby_coupons_max,
                observer=self.metrics,
            ),
            self.ready.append,
        )
        self.running = asyncio.create_task(self.member.run(self._count_life), name=client)

    @property
    def runs(self) -> bool:
        return not self.crashed and not self.running.done()

    @property
    def link(self) -> Link:
        return self._world.etcd.link("etcd:1", self.client)

    @property
    def life(self) -> Life:
        assert self.member.life is not None, f"{self.client} is between two lives"
        return self.member.life

    def drain(self) -> None:
        self.draining = True
        self.member.drain()

    def crash(self) -> None:
        """kill -9: nothing that it has not sent is ever sent."""
        self.crashed = True
        self.link.cut()
        for sent in self.pending:
            sent.said.set_result(Outcome.UNKNOWN)  # their streams break
        self.pending.clear()
        self.running.cancel()
        for task in self._handling:
            task.cancel()

    def handle(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run what a peer asked for, as the server does: outside of any life."""
        task = asyncio.create_task(coroutine)
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)
        return task

    def cut(self) -> None:
        """Both ways, and nobody hears that it is so. What is sent meanwhile arrives late, as TCP repeats it."""
        self.cut_requests()
        self.cut_answers()

    def cut_answers(self) -> None:
        """etcd hears this node and is not heard."""
        self.link.answers = self.link.answers or Gate()

    def cut_requests(self) -> None:
        self.link.requests = self.link.requests or Gate()

    def heal(self) -> None:
        self.link.thaw()
        self.link.heal()

    def serves(self, shard: int) -> bool:
        return self.member.life is not None and self.member.life.keeper.serving(ShardId(shard)) is not None

    def _count_life(self) -> None:
        self.lives += 1


class Sent:
    """A call that a process has taken, and what became of it: exactly one answer."""

    def __init__(self, process: Process) -> None:
        self.said: asyncio.Future[Answer | Outcome] = asyncio.get_running_loop().create_future()
        self._process = process
        self._times = 0
        process.pending.add(self)

    def heard(self, said: Answer | Outcome) -> None:
        if self._process.crashed:
            return
        self._times += 1
        assert self._times == 1, "answered twice"
        self._process.pending.discard(self)
        self.said.set_result(said)
