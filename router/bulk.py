"""One IssueCoupons stream: items in, results out as they are decided.

Items between being read and having their result sent are bounded; beyond that the stream is not read further, so that a
slow owner and a slow client both hold back the client's sending. So does an owner that has much to do for others: a
stream can wait, where a single call would be refused. Never ends without having answered what it has read: when the
router stops, or the client's key is revoked, with the outcome of what was begun, and why the rest was not.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

from cluster.config import shard_of
from proto import coupon_pb2, node_pb2
from router import errors
from router.calls import Issue
from router.dispatch import Dispatcher
from router.errors import ApiError
from router.interrupt import Interrupt, Interrupted
from router.observer import Observer
from router.validation import ITEMS_MAX, check_issue_coupon, check_issue_coupons

Send = Callable[[coupon_pb2.IssueCouponsResponse], Awaitable[None]]


class BulkIssue:
    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        shards: int,
        deadline: float | None,
        item_timeout_s: float,
        items_in_flight_max: int,
        stopping: Interrupt,
        observer: Observer,
        permitted: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        refusal: Callable[[coupon_pb2.IssueCouponRequest], ApiError | None] = lambda _: None,
    ) -> None:
        """
        Args:
            deadline: loop.time() of the whole stream; None: the client set none.
            item_timeout_s: what an item gets at most.
            stopping: fires when this router stops: the stream is read no further.
            permitted: around the reading; it is left with an ApiError when the client may not go on.
            refusal: why an item that is well-formed is not begun; it counts it, too.
        """
        self._dispatcher = dispatcher
        self._shards = shards
        self._deadline = deadline
        self._item_timeout_s = item_timeout_s
        self._items_in_flight_max = items_in_flight_max
        self._stopping = stopping
        self._observer = observer
        self._permitted = permitted
        self._refusal = refusal
        self._loop = asyncio.get_running_loop()
        self._unbegun: deque[coupon_pb2.IssueCouponsRequest.Item] = deque()
        """Of the message that was read last."""
        self._open_items = 0
        self._results: deque[tuple[int, bytes | ApiError]] = deque()
        self._failure: ApiError | None = None
        self._reading = True
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def run(self, requests: AsyncIterator[coupon_pb2.IssueCouponsRequest], send: Send) -> None:
        """Returns after the client's half-close, when everything is answered.

        Raises:
            ApiError: the stream as a whole failed; what had been read before is answered.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            await self._write(send)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        reading.result()
        if self._failure is not None:
            raise self._failure

    async def _read(self, requests: AsyncIterator[coupon_pb2.IssueCouponsRequest]) -> None:
        try:
            async with self._stopping.scope(), self._permitted():
                async for request in requests:
                    check_issue_coupons(request)
                    self._open(request)
                    while self._unbegun:
                        await self._begin(self._unbegun[0])
                        self._unbegun.popleft()
                    await self._room.wait()
        except ApiError as error:
            self._fail(error)
        except Interrupted:
            self._fail(errors.stopping())
        finally:
            self._reading = False
            self._news.set()

    def _fail(self, error: ApiError) -> None:
        self._failure = error
        # They have been read, so they are answered: nobody has begun them.
        for item in self._unbegun:
            self._refuse(item, error)

    def _open(self, request: coupon_pb2.IssueCouponsRequest) -> None:
        self._unbegun.extend(request.items)
        self._open_items += len(request.items)
        if self._open_items >= self._items_in_flight_max:
            self._room.clear()

    async def _begin(self, item: coupon_pb2.IssueCouponsRequest.Item) -> None:
        """Waits for nothing but room at the owner. What is cancelled there has not begun."""
        request = item.request
        deadline = self._loop.time() + self._item_timeout_s
        if self._deadline is not None:
            deadline = min(deadline, self._deadline)
        try:
            check_issue_coupon(request)
            if (refusal := self._refusal(request)) is not None:
                raise refusal.with_traceback(None)  # it may be shared
            shard = shard_of(request.campaign_id, self._shards)
            if not self._dispatcher.has_room(shard):
                await self._dispatcher.room(shard, deadline)
            reply = partial(self._decided, item.index)
            data = request.SerializeToString()
            self._dispatcher.submit(
                node_pb2.ISSUE_COUPON, shard, data, deadline, reply, Issue.ITEM, request.campaign_id
            )
        except ApiError as error:
            self._refuse(item, error)

    def _refuse(self, item: coupon_pb2.IssueCouponsRequest.Item, error: ApiError) -> None:
        self._observer.refused(Issue.ITEM, error)
        self._decided(item.index, error)

    def _decided(self, index: int, outcome: bytes | ApiError) -> None:
        self._results.append((index, outcome))
        self._news.set()

    async def _write(self, send: Send) -> None:
        while self._reading or self._open_items:
            await self._news.wait()
            self._news.clear()
            # While one message is being sent the next gathers.
            while self._results:
                count = min(len(self._results), ITEMS_MAX)
                await send(self._message(count))
                self._open_items -= count
                if self._open_items < self._items_in_flight_max:
                    self._room.set()

    def _message(self, count: int) -> coupon_pb2.IssueCouponsResponse:
        message = coupon_pb2.IssueCouponsResponse()
        for _ in range(count):
            index, outcome = self._results.popleft()
            result = message.results.add(index=index)
            if isinstance(outcome, ApiError):
                result.status.CopyFrom(outcome.status())
            else:
                result.response.ParseFromString(outcome)
        return message
