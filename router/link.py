"""One node, as a router reaches it: a connection, the handshake, batches out, replies in, and silence noticed.

Never decides where a call goes or whether it is sent again: that is the dispatcher's, which the link asks for the next
batch whenever its stream can take one.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from random import Random
from typing import NoReturn, Protocol

import structlog

from cluster.identity import mismatch
from cluster.types import ShardId
from proto import coupon_pb2, node_pb2
from router.calls import PendingCall
from router.interrupt import Interrupt, Interrupted
from router.nodes import NodeConnection, NodeRefused, NodeStream, NodeTransport, NodeUnavailable

log = structlog.get_logger()

_TIMEOUT_MS_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Limits of one link. Times are the handshake of node.proto, equal at both ends."""

    frame_calls_max: int = 2_048
    """Where so much comes that a turn of the event loop is long, there is one frame a turn."""
    frame_bytes_max: int = 1 << 20
    frame_gap_s: float = 0.005
    """Least time between the end of a write and the next: a lone call goes at once, many at a time share a frame."""
    ping_s: float = 0.25
    """Silent for so long: say something."""
    silence_max_s: float = 1.0
    """Heard nothing for so long: the stream is reset."""
    reconnect_s: float = 0.05
    """Mean wait before the second attempt to connect; doubles up to `reconnect_max_s`."""
    reconnect_max_s: float = 1.0
    mismatch_wait_s: float = 10.0
    """Wait after a node that is of another cluster, or of other rules."""


class CallSource(Protocol):
    """What a link asks of its dispatcher and tells it."""

    def take(self, link: "NodeLink") -> Sequence[PendingCall]:
        """The next batch for this node, at most a frame's worth; they are in flight from now on. Wakes the link again
        if there are more."""
        ...

    def answered(self, call: PendingCall, reply: node_pb2.Reply) -> None: ...

    def link_up(self, link: "NodeLink") -> None: ...

    def link_down(self, link: "NodeLink", in_flight: Sequence[PendingCall]) -> None:
        """The stream is gone; what came of `in_flight` is unknown."""
        ...


class NodeLink:
    """Keeps one stream to one address while `run` runs."""

    def __init__(
        self,
        address: str,
        *,
        hello: node_pb2.Hello,
        source: CallSource,
        transport: NodeTransport,
        settings: LinkSettings,
        rng: Random,
    ) -> None:
        self.address = address
        self.settings = settings
        self.up = False
        self.pages_in_flight = 0
        """Of the calls; counted by the source."""
        self._hello = hello
        self._source = source
        self._transport = transport
        self._rng = rng
        self._retiring = False
        self._retired = Interrupt()
        self._work = asyncio.Event()
        self._ping_due = False
        self._connection: NodeConnection | None = None
        self._in_flight: dict[int, PendingCall] = {}
        self._last_call_id = 0
        self._failures = 0
        self._heard_at = 0.0
        self._spoke_at = 0.0
        self._wrote_at = 0.0

    @property
    def calls_in_flight(self) -> int:
        return len(self._in_flight)

    def wake(self) -> None:
        """The source has calls for this node."""
        self._work.set()

    def forget(self, call: PendingCall) -> None:
        """Its time is up: a late reply has no one to go to."""
        del self._in_flight[call.call_id]
        self._retire_if_idle()

    def retire(self) -> None:
        """The node has left the topology, no call will come: `run` ends when those in flight are answered."""
        self._retiring = True
        self._retire_if_idle()

    async def watch(self, shard: ShardId, campaign_id: str) -> AsyncGenerator[coupon_pb2.Campaign, None]:
        """The campaign as this node tells it, for as long as the link lives.

        Raises:
            NodeUnavailable: the stream or the link is gone, or the node does not own the shard (any more).
            NodeRefused: there is no such campaign, or its journal is corrupt.
        """
        if self._connection is None or not self.up:
            raise NodeUnavailable("the link is down")
        request = node_pb2.WatchRequest(identity=self._hello.identity, shard=shard, campaign_id=campaign_id)
        # Whether the node still lives, the Exchange stream of the same connection tells.
        async with aclosing(self._connection.watch(request)) as campaigns:
            async for campaign in campaigns:
                yield campaign

    async def run(self) -> None:
        """Connects, again and again, until `retire`."""
        if self._retiring:
            return
        try:
            async with self._retired.scope():
                while not self._retiring:
                    wait_s = await self._serve_until_it_breaks()
                    await asyncio.sleep(wait_s)
        except Interrupted:
            log.info("link_retired", node=self.address)

    def _retire_if_idle(self) -> None:
        if self._retiring and not self._in_flight:
            self._retired.fire()

    async def _serve_until_it_breaks(self) -> float:
        """Returns how long to wait before the next attempt."""
        try:
            await self._serve_one_connection()
        except NodeUnavailable as error:
            wait_s = min(self.settings.reconnect_s * 2.0 ** min(self._failures, 16), self.settings.reconnect_max_s)
            if not self._failures:
                log.warning("link_down", node=self.address, reason=str(error))
        except NodeRefused as error:
            wait_s = self.settings.mismatch_wait_s
            log.error("link_refused", node=self.address, reason=error.message, retry_in_s=wait_s)
        self._failures += 1
        return wait_s * self._rng.uniform(0.5, 1.5)

    async def _serve_one_connection(self) -> NoReturn:
        """Raises NodeUnavailable, NodeRefused."""
        self._connection = self._transport.connect(self.address)
        try:
            stream = self._connection.exchange()
            await self._shake_hands(stream)
            # No TaskGroup: before Python 3.13 one that is cancelled while its tasks fail forgets that it was cancelled,
            # and `run` would go on.
            tasks = [asyncio.create_task(work) for work in (self._read(stream), self._write(stream), self._beat())]
            try:
                self.up = True
                self._failures = 0
                self._source.link_up(self)
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            for task in ended:
                task.result()
            raise AssertionError("none of a link's tasks ends but by an error")
        finally:
            self._break()
            await self._connection.close()

    def _break(self) -> None:
        in_flight = list(self._in_flight.values())
        self._in_flight.clear()
        if self.up:
            self.up = False
            self._source.link_down(self, in_flight)
        assert not self._in_flight, "a call went out on a broken stream"

    async def _shake_hands(self, stream: NodeStream) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.silence_max_s):
                await stream.write(node_pb2.RouterFrame(hello=self._hello))
                frame = await stream.read()
        except TimeoutError as error:
            raise NodeUnavailable("no answer to the handshake") from error
        if frame.WhichOneof("kind") != "welcome":
            raise NodeRefused(coupon_pb2.ERROR_REASON_UNSPECIFIED, "the node's first frame is no Welcome")
        if difference := mismatch(self._hello.identity, frame.welcome.identity):
            raise NodeRefused(coupon_pb2.ERROR_REASON_UNSPECIFIED, f"another cluster: {difference}")
        self._heard_at = self._spoke_at = loop.time()
        log.info("link_up", node=self.address, incarnation=frame.welcome.incarnation)

    async def _read(self, stream: NodeStream) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await stream.read()
            self._heard_at = loop.time()
            for reply in frame.replies.replies:
                call = self._in_flight.pop(reply.call_id, None)
                # None: its time was up before the reply came.
                if call is not None:
                    self._source.answered(call, reply)
            self._retire_if_idle()

    async def _write(self, stream: NodeStream) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            gap_s = self._wrote_at + self.settings.frame_gap_s - loop.time()
            if gap_s > 0:
                await asyncio.sleep(gap_s)
            self._work.clear()
            # While one write is in flight, and for the gap after it, the next batch gathers at the source.
            if calls := self._source.take(self):
                frame = self._frame_of(calls, loop.time())
                await stream.write(frame)
                self._spoke_at = self._wrote_at = loop.time()
                self._ping_due = False
            if self._ping_due:
                self._ping_due = False
                await stream.write(node_pb2.RouterFrame(ping=node_pb2.Ping()))

    def _frame_of(self, calls: Sequence[PendingCall], now: float) -> node_pb2.RouterFrame:
        frame = node_pb2.RouterFrame()
        for call in calls:
            self._last_call_id += 1
            call.call_id = self._last_call_id
            self._in_flight[call.call_id] = call
            frame.calls.calls.add(
                call_id=call.call_id,
                shard=call.shard,
                method=call.method,
                timeout_ms=min(max(int((call.deadline - now) * 1_000), 1), _TIMEOUT_MS_MAX),
                request=call.request,
            )
        return frame

    async def _beat(self) -> None:
        """Has a ping written when this side was silent, and gives the stream up when the other side was."""
        loop = asyncio.get_running_loop()
        settings = self.settings
        while True:
            due = min(self._spoke_at + settings.ping_s, self._heard_at + settings.silence_max_s)
            await asyncio.sleep(max(due - loop.time(), 0.0))
            now = loop.time()
            if now - due > settings.ping_s:
                # It was this process that stood still. What the node sent meanwhile is still to be read.
                self._heard_at = now
            if now - self._heard_at >= settings.silence_max_s:
                raise NodeUnavailable(f"silent for {settings.silence_max_s} s")
            if now - self._spoke_at >= settings.ping_s:
                # Counts as spoken even if the write hangs: then the other side's silence decides.
                self._spoke_at = now
                self._ping_due = True
                self._work.set()
