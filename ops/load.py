"""A crowd that wants coupons: closed loop (so many workers) or open loop (so many requests a second).

Used by `seonchak load`, the demo, the benchmarks and the chaos scenarios. It sends each request once and counts what
came back; the one exception is knocking, which repeats a request that was refused NOT_STARTED.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc

from ops import errors
from ops.credentials import ANYBODY, Credentials
from ops.load_stats import ALREADY_ISSUED, ISSUED, NOT_STARTED, Call, Grant, LoadResult, Tally
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

NOT_SENT = "NOT_SENT"
"""The outcome of an open loop's request that found `in_flight_max` calls in flight: the generator is too slow."""

STREAM_ENDED = "STREAM_ENDED"
"""The outcome of a request on a stream that ended with status OK before it had answered."""

_ITEMS_MAX = 1_000
"""IssueCoupons takes at most so many items in one message."""


@dataclass(frozen=True, slots=True)
class LoadSpec:
    router: str
    """HOST:PORT"""
    campaign_id: str
    requests: int
    concurrency: int = 100
    """Closed loop: requests in flight."""
    rate: float | None = None
    """Open loop: requests a second, whatever the answers do; None: closed loop."""
    users: int | None = None
    """Requests come from so many users in turn; None: each from a user of its own."""
    user_prefix: str = "user-"
    stream: bool = False
    """Through IssueCoupons, one stream a channel, instead of IssueCoupon."""
    channels: int = 4
    timeout_s: float = 10.0
    """Deadline of a unary call. A stream has none."""
    knock_s: float | None = None
    """Repeat a request that was refused NOT_STARTED after about so long; None: that refusal is its answer."""
    in_flight_max: int = 10_000
    """Open loop: calls in flight."""
    seed: int = 0
    """Of the pauses between knocks."""
    credentials: Credentials = ANYBODY

    def __post_init__(self) -> None:
        if min(self.requests, self.concurrency, self.channels) < 1 or (self.users is not None and self.users < 1):
            raise ValueError("requests, concurrency, users and channels must be at least 1")
        if self.rate is not None and self.rate <= 0:
            raise ValueError("rate must be more than 0 requests a second")
        if self.stream and self.knock_s is not None:
            raise ValueError("a stream does not knock")

    def user_id(self, index: int) -> str:
        return f"{self.user_prefix}{index % (self.users or self.requests):07}"

    def request_id(self, index: int) -> str:
        return f"{self.user_prefix}r{index:07}"

    def request(self, index: int) -> coupon_pb2.IssueCouponRequest:
        return coupon_pb2.IssueCouponRequest(
            campaign_id=self.campaign_id, user_id=self.user_id(index), request_id=self.request_id(index)
        )


async def run_load(
    spec: LoadSpec, tally: Tally | None = None, on_call: Callable[[Call], None] | None = None
) -> LoadResult:
    """Send the requests, wait for every answer.

    Args:
        tally: grows while it runs, so that a caller can watch, or cancel the run and keep what was counted. Its clock
            is time.monotonic(): an event loop's own may be as coarse as a millisecond.
        on_call: hears of every answer, knocks included.
    """
    tally = tally or Tally(time.monotonic())
    crowd = _Crowd(spec, tally, on_call)
    async with AsyncExitStack() as stack:
        stubs = [CouponServiceStub(await stack.enter_async_context(_channel(spec))) for _ in range(spec.channels)]
        if spec.stream:
            await crowd.stream(stubs)
        elif spec.rate is None:
            await crowd.closed_loop(stubs)
        else:
            await crowd.open_loop(stubs)
    return tally.result()


def _channel(spec: LoadSpec) -> grpc.aio.Channel:
    # Without a pool of its own every channel to one address shares one connection.
    return spec.credentials.aio_channel(spec.router, [("grpc.use_local_subchannel_pool", 1)])


@dataclass(slots=True)
class _Sent:
    """One stream's requests."""

    pending: dict[int, float] = field(default_factory=dict)
    """Without an answer: when each was sent, by its index."""
    over: bool = False
    """The stream has ended; what is pending has had its answer."""


class _Crowd:
    def __init__(self, spec: LoadSpec, tally: Tally, on_call: Callable[[Call], None] | None) -> None:
        self._spec = spec
        self._tally = tally
        self._on_call = on_call
        self._rng = random.Random(spec.seed)
        self._metadata = spec.credentials.metadata

    # --- unary calls -----------------------------------------------------------------------------------------------

    async def closed_loop(self, stubs: list[CouponServiceStub]) -> None:
        indices = iter(range(self._spec.requests))
        async with asyncio.TaskGroup() as workers:
            for number in range(min(self._spec.concurrency, self._spec.requests)):
                workers.create_task(self._worker(stubs[number % len(stubs)], indices))

    async def _worker(self, stub: CouponServiceStub, indices: Iterator[int]) -> None:
        for index in indices:
            await self._request(stub, index, time.monotonic())

    async def open_loop(self, stubs: list[CouponServiceStub]) -> None:
        in_flight: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as calls:
            for index in range(self._spec.requests):
                due_s = self._due_s(index, time.monotonic())
                await self._until(due_s)
                if len(in_flight) >= self._spec.in_flight_max:
                    self._answer(index, due_s, NOT_SENT, None)
                    continue
                task = calls.create_task(self._request(stubs[index % len(stubs)], index, due_s))
                in_flight.add(task)
                task.add_done_callback(in_flight.discard)

    def _due_s(self, index: int, now_s: float) -> float:
        """When a request should be sent: in a closed loop now."""
        if self._spec.rate is None:
            return now_s
        return self._tally.began_s + index / self._spec.rate

    async def _until(self, due_s: float) -> None:
        if (early_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(early_s)

    async def _request(self, stub: CouponServiceStub, index: int, sent_s: float) -> None:
        request = self._spec.request(index)
        while True:
            reason, grant = await self._issue(stub, request)
            if reason != NOT_STARTED or self._spec.knock_s is None:
                self._answer(index, sent_s, reason, grant)
                return
            self._tally.record_knock()
            self._tell(index, sent_s, reason, None)
            # A crowd does not knock in step.
            await asyncio.sleep(self._spec.knock_s * self._rng.uniform(0.5, 1.5))
            sent_s = time.monotonic()

    async def _issue(self, stub: CouponServiceStub, request: coupon_pb2.IssueCouponRequest) -> tuple[str, Grant | None]:
        try:
            response = await stub.IssueCoupon(request, timeout=self._spec.timeout_s, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return errors.of_call(error).reason, None
        return _granted(response)

    # --- streams ---------------------------------------------------------------------------------------------------

    async def stream(self, stubs: list[CouponServiceStub]) -> None:
        """Every stream has its share of the requests, and of the room for requests in flight."""
        spec = self._spec
        room = spec.concurrency if spec.rate is None else spec.in_flight_max
        stubs = stubs[:room]
        async with asyncio.TaskGroup() as streams:
            for number, stub in enumerate(stubs):
                mine = deque(range(number, spec.requests, len(stubs)))
                share = room // len(stubs) + (number < room % len(stubs))
                streams.create_task(self._share(stub, mine, asyncio.Semaphore(share)))

    async def _share(self, stub: CouponServiceStub, mine: deque[int], room: asyncio.Semaphore) -> None:
        """One stream after another until every index of `mine` has its answer."""
        while mine:
            sent = _Sent()
            try:
                async for response in stub.IssueCoupons(self._batches(mine, room, sent), metadata=self._metadata):
                    for result in response.results:
                        room.release()
                        self._answer(result.index, sent.pending.pop(result.index), *_outcome(result))
                reason = STREAM_ENDED
            except grpc.aio.AioRpcError as error:
                reason = errors.of_call(error).reason
            sent.over = True
            for index, sent_s in sent.pending.items():
                room.release()
                self._answer(index, sent_s, reason, None)

    async def _batches(
        self, mine: deque[int], room: asyncio.Semaphore, sent: "_Sent"
    ) -> AsyncIterator[coupon_pb2.IssueCouponsRequest]:
        """Requests as they become due and find room, those that do at one moment in one message."""
        while mine:
            await self._until(self._due_s(mine[0], time.monotonic()))
            await room.acquire()
            # gRPC may stop asking for messages later than it says that the stream is over: what is woken by the room
            # that the stream has left must not take it, nor a request that the next stream will send.
            if sent.over or not mine:
                room.release()
                return
            now_s = time.monotonic()
            items = []
            while True:
                index = mine.popleft()
                sent.pending[index] = self._due_s(index, now_s)
                items.append(coupon_pb2.IssueCouponsRequest.Item(index=index, request=self._spec.request(index)))
                if not mine or len(items) == _ITEMS_MAX or room.locked() or self._due_s(mine[0], now_s) > now_s:
                    break
                await room.acquire()  # at once: it is not locked
            yield coupon_pb2.IssueCouponsRequest(items=items)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, index: int, sent_s: float, reason: str, grant: Grant | None) -> None:
        self._tally.record(self._tell(index, sent_s, reason, grant))

    def _tell(self, index: int, sent_s: float, reason: str, grant: Grant | None) -> Call:
        spec = self._spec
        call = Call(index, spec.user_id(index), spec.request_id(index), sent_s, time.monotonic(), reason, grant)
        if self._on_call is not None:
            self._on_call(call)
        return call


def _outcome(result: coupon_pb2.IssueCouponsResponse.Result) -> tuple[str, Grant | None]:
    if result.WhichOneof("outcome") == "response":
        return _granted(result.response)
    return errors.of_status(result.status).reason, None


def _granted(response: coupon_pb2.IssueCouponResponse) -> tuple[str, Grant | None]:
    coupon = response.coupon
    grant = Grant(coupon.code, coupon.user_id, coupon.sequence, coupon.issue_time.ToMicroseconds())
    return (ALREADY_ISSUED if response.already_issued else ISSUED), grant
