"""A whole router in the test's process: hand-fed topology, real links, the service and, if wanted, its grpc server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeAlias

import grpc.aio
import uvloop
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cluster.audit_log import AuditLog
from cluster.codes import KEY_BYTES, CodeCodec
from cluster.config import shard_of
from cluster.kv import Event, KeyValue
from cluster.records import Keyspace, NodeRecord, NodeState, OwnerRecord
from cluster.tls import TlsIdentity
from cluster.types import Incarnation, LeaseId, NodeId, Revision, ShardId
from cluster.watch import Changes, Snapshot
from proto import coupon_pb2, node_pb2
from router.access import Access
from router.aio_server import AioServer
from router.calls import answer_of
from router.dispatch import Dispatcher, DispatchSettings
from router.errors import ApiError
from router.grpc_nodes import GrpcNodes
from router.interrupt import Interrupted
from router.limits import Rate
from router.link import LinkSettings, NodeLink
from router.observer import UNOBSERVED, Observer
from router.server import ApiServer, ServerSettings
from router.service import CallContext, CouponService, ServiceSettings
from router.topology import TopologyFollower
from tests.router.fake_node import IDENTITY, FakeNode

SHARDS = IDENTITY.shards
KEYS = Keyspace()
CODEC = CodeCodec({0: bytes(KEY_BYTES)})
TEST_S_MAX = 10.0


Server: TypeAlias = ApiServer | AioServer


@dataclass(frozen=True)
class Underneath:
    """What a test's router runs on."""

    server: type[ApiServer] | type[AioServer] = ApiServer
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


UNDERNEATH = {
    "own": Underneath(),
    # As in production.
    "own on uvloop": Underneath(loop=uvloop.new_event_loop),
    "grpc.aio": Underneath(AioServer),
}
underneath: ContextVar[Underneath] = ContextVar("underneath", default=UNDERNEATH["own"])


def run(test: Coroutine[Any, Any, None]) -> None:
    """Fails as well when something failed for which nobody waits: a callback, a protocol, a task that was forgotten."""
    failed: list[dict[str, Any]] = []

    def note(_: object, context: dict[str, Any]) -> None:
        # grpc's poller belongs to the process, and now and then turns to the closed loop of the test before.
        if "PollerCompletionQueue" not in context["message"]:
            failed.append(context)

    async def in_time() -> None:
        asyncio.get_running_loop().set_exception_handler(note)
        async with asyncio.timeout(TEST_S_MAX):
            await test

    with asyncio.Runner(loop_factory=underneath.get().loop) as runner:
        runner.run(in_time())
    assert not failed, failed


class FedWatches:
    """Stands for the watch of etcd: tells what the test says."""

    def __init__(self, watched: tuple[str, str] = KEYS.topology) -> None:
        self._watched = watched
        self._updates: asyncio.Queue[Snapshot | Changes] = asyncio.Queue()
        self._revision = 0
        self._updates.put_nowait(Snapshot((), Revision(1)))

    async def watch(self, start: str, end: str) -> AsyncGenerator[Snapshot | Changes, None]:
        assert (start, end) == self._watched
        while True:
            yield await self._updates.get()

    def put(self, values: dict[str, bytes]) -> None:
        """None of them under another revision than the others."""
        self._revision += 1
        revision = Revision(self._revision)
        kvs = [KeyValue(key, value, revision, revision, LeaseId(1)) for key, value in values.items()]
        self._updates.put_nowait(Changes(tuple(Event(kv, deleted=False) for kv in kvs), revision))

    def snapshot(self, values: dict[str, bytes]) -> None:
        self._revision += 1
        revision = Revision(self._revision)
        kvs = tuple(KeyValue(key, value, revision, revision, LeaseId(1)) for key, value in values.items())
        self._updates.put_nowait(Snapshot(kvs, revision))

    def delete(self, *keys: str) -> None:
        self._revision += 1
        revision = Revision(self._revision)
        kvs = [KeyValue(key, b"", revision, revision, LeaseId(0)) for key in keys]
        self._updates.put_nowait(Changes(tuple(Event(kv, deleted=True) for kv in kvs), revision))


@dataclass
class Rig:
    dispatcher: Dispatcher
    service: CouponService
    watches: FedWatches

    def own(self, node: FakeNode, *campaigns: str) -> None:
        """The node is there, and owns the campaigns' shards (all shards without an argument)."""
        shards = [shard_of(campaign, SHARDS) for campaign in campaigns] or [ShardId(s) for s in range(SHARDS)]
        me = Incarnation(NodeId(node.address), LeaseId(1))
        values = {KEYS.node(me.node_id): NodeRecord(me, node.address, NodeState.ACTIVE).encode()}
        values |= {KEYS.owner(shard): OwnerRecord(me, node.address).encode() for shard in shards}
        self.watches.put(values)

    def disown(self, *campaigns: str) -> None:
        self.watches.delete(*(KEYS.owner(shard_of(campaign, SHARDS)) for campaign in campaigns))

    async def link_up(self, campaign: str) -> NodeLink:
        """Waits for the link to the campaign's owner."""
        shard = shard_of(campaign, SHARDS)
        while (link := self.dispatcher.link_of(shard)) is None:
            with suppress(Interrupted):
                async with self.dispatcher.moves_of(shard).scope():
                    await asyncio.get_running_loop().create_future()
        return link

    async def issue(self, user: str = "u", campaign: str = "c", timeout_s: float = 5.0) -> coupon_pb2.Coupon:
        request = coupon_pb2.IssueCouponRequest(campaign_id=campaign, user_id=user)
        admitted = self.service.admit_issue_coupon(request.SerializeToString())
        if isinstance(admitted, ApiError):
            raise admitted
        response = await answer_of(partial(admitted, within(timeout_s)))
        return coupon_pb2.IssueCouponResponse.FromString(response).coupon


def within(timeout_s: float) -> CallContext:
    return CallContext(asyncio.get_running_loop().time() + timeout_s)


@asynccontextmanager
async def rig(
    *,
    dispatch: DispatchSettings | None = None,
    link: LinkSettings | None = None,
    service: ServiceSettings | None = None,
    observer: Observer = UNOBSERVED,
    user_rate: Rate | None = None,
    on_change: Callable[[], None] = lambda: None,
) -> AsyncIterator[Rig]:
    rng = Random(7)
    dispatcher = Dispatcher(SHARDS, dispatch or DispatchSettings(), rng, observer)
    watches = FedWatches()
    hello = node_pb2.Hello(identity=IDENTITY, router_id="test")
    transport = GrpcNodes()

    def make_link(address: str) -> NodeLink:
        return NodeLink(
            address, hello=hello, source=dispatcher, transport=transport, settings=link or LinkSettings(), rng=rng
        )

    follower = TopologyFollower(watches, KEYS, dispatcher, make_link, on_change)
    api = CouponService(
        dispatcher,
        shards=SHARDS,
        codec=CODEC,
        settings=service or ServiceSettings(),
        rng=rng,
        observer=observer,
        user_rate=user_rate,
    )
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follower.run())
        await follower.ready.wait()
        yield Rig(dispatcher, api, watches)
        following.cancel()


@asynccontextmanager
async def served(router: Rig, settings: ServerSettings | None = None) -> AsyncIterator[tuple[Server, "Client"]]:
    async with (
        listening(router, settings) as (server, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield server, Client(channel)


@asynccontextmanager
async def listening(
    router: Rig,
    settings: ServerSettings | None = None,
    tls: TlsIdentity | None = None,
    access: Access | None = None,
    audit: AuditLog | None = None,
) -> AsyncIterator[tuple[Server, str]]:
    """A server, and its HOST:PORT."""
    settings = settings or ServerSettings(drain_s_max=1.0)
    server = underneath.get().server(router.service, settings, tls, access, audit)
    address = server.listen("127.0.0.1:0")
    await server.start()
    yield server, address
    await server.stop()


class Client:
    """What anybody's generated client does, without hiding the bytes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def unary(self, method: str, data: bytes | Message, timeout_s: float | None = 5.0) -> bytes:
        call = self.channel.unary_unary(f"/coupon.v1.CouponService/{method}", None, None)
        response: bytes = await call(data if isinstance(data, bytes) else data.SerializeToString(), timeout=timeout_s)
        return response

    def stream(self, method: str) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        return self.channel.stream_stream(f"/coupon.v1.CouponService/{method}", None, None)(None)

    def watch(self, campaign: str) -> "grpc.aio.UnaryStreamCall[bytes, bytes]":
        request = coupon_pb2.WatchCampaignRequest(campaign_id=campaign)
        return self.channel.unary_stream("/coupon.v1.CouponService/WatchCampaign", None, None)(
            request.SerializeToString()
        )


@dataclass
class Details:
    """The google.rpc details of a status, or of a failed RPC."""

    code: int
    reason: str = ""
    metadata: dict[str, str] | None = None
    fields: tuple[str, ...] = ()
    retry_s: float | None = None

    @classmethod
    def of(cls, status: status_pb2.Status) -> "Details":
        details = cls(status.code)
        for packed in status.details:
            info, bad, retry = (
                error_details_pb2.ErrorInfo(),
                error_details_pb2.BadRequest(),
                error_details_pb2.RetryInfo(),
            )
            if packed.Unpack(info):
                assert info.domain == "seonchak"
                details.reason, details.metadata = info.reason, dict(info.metadata)
            elif packed.Unpack(bad):
                assert all(violation.description for violation in bad.field_violations)
                details.fields = tuple(violation.field for violation in bad.field_violations)
            elif packed.Unpack(retry):
                details.retry_s = retry.retry_delay.ToMicroseconds() / 1e6
        return details

    @classmethod
    def of_rpc(cls, error: grpc.aio.AioRpcError) -> "Details":
        trailing: Any = error.trailing_metadata()
        status = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
        assert status.code == error.code().value[0]
        assert status.message == error.details()
        return cls.of(status)
