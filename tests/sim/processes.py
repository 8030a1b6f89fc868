"""The processes of the simulated cluster: what `node.process` and `router.process` are made of, on simulated seams.

Each has a cpu of its own: it can be stopped between any two steps, and killed without another one.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import Message

from cluster.attach import Cluster, Expectation, attach
from cluster.endpoints import RevisionWentBack
from cluster.identity import identity_of
from cluster.kv import EtcdRpc
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import NodeId
from node.journal.base import Journal
from node.journal.etcd import EtcdJournal
from node.journal.file import FileJournal
from node.life import Parts
from node.member import Member, NodeIdInUse
from node.server import NodeServer
from proto import node_pb2
from router.bulk import Send
from router.calls import answer_of
from router.dispatch import Dispatcher, DispatchSettings
from router.errors import ApiError
from router.link import LinkSettings, NodeLink
from router.service import CallContext, CouponService, ServiceSettings
from router.topology import TopologyFollower
from tests.fakes.disk import BASE
from tests.sim.journals import WatchedJournal
from tests.sim.loop import Cpu, never
from tests.sim.network import ServerContext
from tests.sim.points import PointedDisk, PointedEtcd
from tests.sim.wires import SimNodes, SimPeers

if TYPE_CHECKING:
    from tests.sim.world import World

NOW_US = 1_800_000_000_000_000
KEYS = Keyspace()
ETCD_ENDPOINTS = ["etcd-1:2379", "etcd-2:2379"]
_CODES = {code.value[0]: code for code in grpc.StatusCode}
MARGIN_S = 0.03
"""As router.server's: so much before the client's deadline an answer has to be ready."""


class MachineClock:
    """On the loop's time; the wall is wrong by `skew_us`, which may change."""

    def __init__(self, skew_us: int = 0) -> None:
        self.skew_us = skew_us

    def wall_us(self) -> int:
        return NOW_US + self.skew_us + int(self.boottime_s() * 1e6)

    def boottime_s(self) -> float:
        return asyncio.get_running_loop().time()


class CannotAttach(Exception):
    """The process ends as it begins: etcd is away for long, or was restored at that moment."""


@dataclass(slots=True)
class Trap:
    """What happens to a process when it comes to a point for the `left`-th time from now."""

    point: str
    left: int
    what: str
    spring: Callable[[], object]


class Process:
    def __init__(self, world: "World", name: str, number: int, address: str) -> None:
        self.name = name
        """The same for every process that takes the place of another."""
        self.client = f"{name}.{number}"
        """Its own."""
        self.address = address
        self.cpu = Cpu(self.client)
        self.dead = False
        self.stopping = False
        """Asked to end."""
        self.trap: Trap | None = None
        self.world = world
        self.rng = random.Random(f"{world.seed}/{self.client}")
        self.running = self.spawn(self._run(), self.client)

    @property
    def runs(self) -> bool:
        """It has not ended, though it may stand still."""
        return not self.dead and not self.running.done()

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work, name=name, context=self.cpu.context())

    # --- what happens to it -------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL: nothing that it has not sent is ever sent."""
        if self.dead:
            return
        self.dead = True
        self.cpu.running = False
        self.world.note("killed", process=self.client)
        self._gone()

    def stop(self) -> None:
        """SIGSTOP."""
        self.world.note("stopped", process=self.client)
        self.cpu.running = False

    def go_on(self) -> None:
        """SIGCONT."""
        if not self.dead and not self.cpu.running:
            self.world.note("continued", process=self.client)
            self.world.loop.resume(self.cpu)

    async def reach(self, point: str) -> None:
        """Come to a named point: returns when it may go on."""
        self.pass_by(point)
        if not self.cpu.running:
            if self.dead:
                await never()
            await asyncio.sleep(0)  # goes on when the process does

    def pass_by(self, point: str) -> None:
        """As `reach`, where there is nothing to wait with: what was begun is finished, the rest is not."""
        trap = self.trap
        if trap is not None and trap.point == point:
            trap.left -= 1
            if not trap.left:
                self.trap = None
                self.world.sprung(self, trap)

    def _gone(self) -> None:
        self.world.network.died(self.address)
        for endpoint in ETCD_ENDPOINTS:
            self.world.etcd.link(endpoint, self.client).cut()

    # --- what it is made of -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._live()
        except CannotAttach as error:
            self.world.note("cannot_attach", process=self.client, why=error)
        finally:
            if not self.dead:
                self.dead = True
                self.world.note("ended", process=self.client)
                self._gone()

    async def _live(self) -> None:
        raise NotImplementedError

    async def _attach(self, etcd: EtcdClient) -> Cluster:
        try:
            return await attach(etcd, KEYS, Expectation())
        except (RevisionWentBack, TimeoutError) as error:
            raise CannotAttach(repr(error)) from error

    def _etcd_client(self) -> EtcdClient:
        return EtcdClient(list(ETCD_ENDPOINTS), self._dial, rng=self.rng, answer_max_s=0.7)

    def _dial(self, endpoint: str) -> EtcdRpc:
        return PointedEtcd(self.world.etcd.connect(endpoint, self.client), self)


class NodeProcess(Process):
    member: Member | None = None

    def __init__(self, world: "World", name: str, number: int, address: str, clock: MachineClock) -> None:
        self.clock = clock
        self._server: NodeServer | None = None
        super().__init__(world, name, number, address)

    def drain(self) -> None:
        """SIGTERM."""
        self.stopping = True
        self.world.note("draining", process=self.client)
        if self.member is not None:
            self.member.drain()
        else:
            self.running.cancel()

    async def _live(self) -> None:
        etcd = self._etcd_client()
        cluster = await self._attach(etcd)
        identity = identity_of(cluster.config)
        timing = self.world.timing
        self.member = Member(
            Parts(
                node_id=NodeId(self.name),
                address=self.address,
                config=cluster.config,
                keys=KEYS,
                etcd=etcd,
                journal=WatchedJournal(self._journal(cluster, etcd), self.world.journals, self),
                codec=cluster.codec,
                peers=SimPeers(
                    self.world.network, self.address, identity, handover_s_max=timing.drain_s_max, rng=self.rng
                ),
                clock=self.clock,
                rng=self.rng,
                timing=timing,
                shard_calls_max=200,
                standby_coupons_max=self.world.shape.standby_coupons_max,
            )
        )
        self._server = NodeServer(self.member, identity)
        self.world.network.listen(self.address, self)
        with suppress(NodeIdInUse):  # whoever supervises it starts another one
            await self.member.run(lambda: None)

    def _journal(self, cluster: Cluster, etcd: EtcdClient) -> Journal:
        if cluster.config.journal == "etcd":
            return EtcdJournal(etcd, KEYS, rng=self.rng, page_entries=self.world.page_entries)
        return FileJournal(BASE / "journal", PointedDisk(self.world.disk.seen_by(self.client), self))

    # --- NodeService --------------------------------------------------------------------------------------------------

    async def handle(
        self, method: str, requests: AsyncIterator[Any], context: ServerContext
    ) -> AsyncGenerator[Any, None]:
        server, grpc_context = self._server, cast(Any, context)
        assert server is not None, "nobody listens before there is a server"
        answers: AsyncIterator[Any]
        match method:
            case "Exchange":
                answers = server.Exchange(requests, grpc_context)
            case "Watch":
                answers = server.Watch(await anext(requests), grpc_context)
            case "Presence":
                answers = server.Presence(await anext(requests), grpc_context)
            case "Handover":
                yield await server.Handover(await anext(requests), grpc_context)
                return
            case _:
                raise AssertionError(f"no such method: {method}")
        try:
            async for answer in answers:
                yield answer
        finally:
            await cast(AsyncGenerator[Any, None], answers).aclose()

    async def leaving(self, method: str, message: Any) -> None:
        if isinstance(message, node_pb2.NodeFrame) and message.HasField("replies"):
            await self.reach("reply.before")
        elif isinstance(message, node_pb2.HandoverResponse):
            await self.reach("given.before")

    async def left(self, method: str, message: Any) -> None:
        if isinstance(message, node_pb2.NodeFrame) and message.HasField("replies"):
            await self.reach("reply.after")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sends to a router at first."""

    message: Message | None
    """None: they come one after the other."""
    timeout_s: float


class RouterProcess(Process):
    service: CouponService | None = None

    async def _live(self) -> None:
        etcd = self._etcd_client()
        cluster = await self._attach(etcd)
        dispatcher = Dispatcher(cluster.config.shards, DispatchSettings(calls_max=200), self.rng)
        service = CouponService(
            dispatcher,
            shards=cluster.config.shards,
            codec=cluster.codec,
            settings=ServiceSettings(stream_items_max=20),
            rng=self.rng,
        )
        hello = node_pb2.Hello(identity=identity_of(cluster.config), router_id=self.client)
        transport = SimNodes(self.world.network, self.address, self)

        def make_link(node: str) -> NodeLink:
            rng = random.Random(f"{self.world.seed}/{self.client}/{node}")
            return NodeLink(node, hello=hello, source=dispatcher, transport=transport, settings=LinkSettings(), rng=rng)

        topology = TopologyFollower(etcd, KEYS, dispatcher, make_link)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(topology.run(), name="topology")
            await topology.ready.wait()
            self.service = service
            self.world.network.listen(self.address, self)

    # --- CouponService ------------------------------------------------------------------------------------------------

    async def handle(
        self, method: str, requests: AsyncIterator[Any], context: ServerContext
    ) -> AsyncGenerator[Any, None]:
        service = self.service
        assert service is not None, "nobody listens before there is a service"
        request: Request = await anext(requests)
        call = CallContext(asyncio.get_running_loop().time() + request.timeout_s - MARGIN_S)
        try:
            match method:
                case "issue_coupon":
                    assert request.message is not None
                    admitted = service.admit_issue_coupon(request.message.SerializeToString())
                    if isinstance(admitted, ApiError):
                        raise admitted
                    yield await answer_of(partial(admitted, call))
                case "issue_coupons":
                    async for answer in _sent(partial(service.issue_coupons, requests, call)):
                        yield answer
                case "watch_campaign":
                    async for answer in _sent(partial(service.watch_campaign, cast(Any, request.message), call)):
                        yield answer
                case _:
                    yield await getattr(service, method)(request.message, call)
        except ApiError as error:
            await context.abort(_CODES[error.code], error.message, error)

    async def leaving(self, method: str, message: Any) -> None:
        await self.reach("answer.before")

    async def left(self, method: str, message: Any) -> None:
        pass


async def _sent(work: Callable[[Send], Coroutine[Any, Any, None]]) -> AsyncGenerator[Any, None]:
    """What `work` sends, until it ends. Raises what it raises."""
    sent: asyncio.Queue[Any] = asyncio.Queue()
    over = object()

    async def send(message: Any) -> None:
        sent.put_nowait(message)
        await asyncio.sleep(0)

    working = asyncio.create_task(work(cast(Any, send)))
    working.add_done_callback(lambda _: sent.put_nowait(over))
    try:
        while (message := await sent.get()) is not over:
            yield message
        working.result()
    finally:
        working.cancel()
        await asyncio.wait([working])
