"""A node of the router's tests: a real NodeService on grpc.aio, that answers what the test has scripted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from cluster.identity import mismatch
from proto import coupon_pb2, node_pb2, node_pb2_grpc

IDENTITY = node_pb2.ClusterIdentity(
    cluster_id="test", shards=64, hash_version=1, code_key_fingerprint="f", wire_version=1
)
Script = Callable[[node_pb2.Call], node_pb2.Reply | None]
"""None: no answer to this call."""


def issued(call: node_pb2.Call) -> node_pb2.Reply:
    """Grants whatever it is asked for."""
    request = coupon_pb2.IssueCouponRequest.FromString(call.request)
    coupon = coupon_pb2.Coupon(campaign_id=request.campaign_id, user_id=request.user_id, request_id=request.request_id)
    response = coupon_pb2.IssueCouponResponse(coupon=coupon)
    return node_pb2.Reply(call_id=call.call_id, response=response.SerializeToString())


def silent(_: node_pb2.Call) -> None:
    return None


def not_owner(call: node_pb2.Call) -> node_pb2.Reply:
    return node_pb2.Reply(call_id=call.call_id, not_owner=node_pb2.NotOwner())


def unknown(call: node_pb2.Call) -> node_pb2.Reply:
    return node_pb2.Reply(call_id=call.call_id, unknown=node_pb2.Unknown())


def refusal(reason: coupon_pb2.ErrorReason, message: str = "no", field: str = "", **metadata: str) -> Script:
    def script(call: node_pb2.Call) -> node_pb2.Reply:
        said = node_pb2.Refusal(reason=reason, message=message, field=field, metadata=metadata)
        return node_pb2.Reply(call_id=call.call_id, refusal=said)

    return script


class FakeNode(node_pb2_grpc.NodeServiceServicer):
    def __init__(self) -> None:
        self.identity = IDENTITY
        self.checks = True
        """Looks at the router's identity itself; else the router has to look at the node's."""
        self.break_code = grpc.StatusCode.UNAVAILABLE
        self.script: Script = issued
        self.calls: list[node_pb2.Call] = []
        """In the order in which they came, over all streams."""
        self.frames: list[int] = []
        """How many calls each frame had."""
        self.pings = 0
        self.hellos = 0
        self.campaigns: dict[str, list[coupon_pb2.Campaign]] = {}
        """For Watch: all that a subscription is told at once, one after another."""
        self.watches = 0
        self.address = ""
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._outbox: asyncio.Queue[node_pb2.NodeFrame | None] = asyncio.Queue()
        self._watch_end = asyncio.Event()
        self._came = asyncio.Condition()

    # --- what a test does ---------------------------------------------------------------------------------------------

    @property
    def users(self) -> list[str]:
        return [coupon_pb2.IssueCouponRequest.FromString(call.request).user_id for call in self.calls]

    async def came(self, count: int) -> None:
        """Waits until so many calls have come in all."""
        async with self._came:
            await self._came.wait_for(lambda: len(self.calls) >= count)

    async def reached(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition`, which something that came in makes true."""
        async with self._came:
            await self._came.wait_for(condition)

    def say(self, *replies: node_pb2.Reply | None) -> None:
        said = [reply for reply in replies if reply is not None]
        self._outbox.put_nowait(node_pb2.NodeFrame(replies=node_pb2.Replies(replies=said)))

    def freeze(self) -> None:
        """From now on it reads nothing and says nothing; connections stay."""
        self._thawed.clear()

    def break_stream(self) -> None:
        self._outbox.put_nowait(None)

    def end_watches(self) -> None:
        """As a node does that no longer owns."""
        self._watch_end.set()
        self._watch_end = asyncio.Event()

    # --- NodeService --------------------------------------------------------------------------------------------------

    async def Exchange(  # noqa: N802
        self, frames: AsyncIterator[node_pb2.RouterFrame], context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[node_pb2.NodeFrame]:
        hello = await anext(frames)
        assert hello.WhichOneof("kind") == "hello"
        await self._note(hellos=1)
        await self._thawed.wait()
        different = mismatch(self.identity, hello.hello.identity)
        if different and self.checks:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, different)
        outbox: asyncio.Queue[node_pb2.NodeFrame | None] = asyncio.Queue()
        self._outbox = outbox
        yield node_pb2.NodeFrame(welcome=node_pb2.Welcome(identity=self.identity, incarnation="fake/1"))
        reading = asyncio.create_task(self._read(frames))
        try:
            while True:
                try:
                    async with asyncio.timeout(0.25):
                        frame = await outbox.get()
                except TimeoutError:
                    frame = node_pb2.NodeFrame(ping=node_pb2.Ping())
                if frame is None:
                    await context.abort(self.break_code, "scripted")
                elif self._thawed.is_set():
                    yield frame
        finally:
            reading.cancel()

    async def _read(self, frames: AsyncIterator[node_pb2.RouterFrame]) -> None:
        async for frame in frames:
            if not self._thawed.is_set():
                return
            if frame.WhichOneof("kind") == "ping":
                await self._note(pings=1)
                continue
            self.frames.append(len(frame.calls.calls))
            self.calls += frame.calls.calls
            replies = [reply for call in frame.calls.calls if (reply := self.script(call)) is not None]
            if replies:
                self.say(*replies)
            await self._note()

    async def _note(self, *, pings: int = 0, hellos: int = 0, watches: int = 0) -> None:
        async with self._came:
            self.pings += pings
            self.hellos += hellos
            self.watches += watches
            self._came.notify_all()

    async def Watch(  # noqa: N802
        self, request: node_pb2.WatchRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[coupon_pb2.Campaign]:
        end = self._watch_end
        await self._note(watches=1)
        await self._thawed.wait()
        if request.campaign_id not in self.campaigns:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such campaign")
        for campaign in self.campaigns[request.campaign_id]:
            yield campaign
        await end.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not the owner")


@asynccontextmanager
async def running_node(address: str = "127.0.0.1:0") -> AsyncIterator[FakeNode]:
    node = FakeNode()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    node_pb2_grpc.add_NodeServiceServicer_to_server(node, server)
    node.address = f"127.0.0.1:{server.add_insecure_port(address)}"
    await server.start()
    try:
        yield node
    finally:
        await server.stop(None)
