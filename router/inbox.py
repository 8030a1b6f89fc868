"""What a client has sent on one call, as messages, until they are taken. Bounded for each call and for all together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from google.rpc import code_pb2

from router import validation
from router.errors import ApiError
from router.grpc_wire import Arrived, Failed, MessageReader, MessageTooLarge

MESSAGE_BYTES = 128
"""What a message costs us beside its bytes: a client may send thousands of empty ones."""


class Budget:
    """Bytes that all clients together may have us keep."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.kept = 0

    def keep(self, count: int) -> bool:
        """Whether there is room for them. They count either way, until they are given back."""
        self.kept += count
        return self.kept <= self._bytes_max

    def give_back(self, count: int) -> None:
        self.kept -= count
        assert self.kept >= 0, "gave back more than was kept"


class Inbox:
    def __init__(self, encoding: bytes | None, budget: Budget, consumed: Callable[[int], None]) -> None:
        """
        Args:
            encoding: the call's grpc-encoding.
            consumed: told of so many bytes that the client may send again.
        """
        self._reader = MessageReader(validation.REQUEST_BYTES_MAX, encoding)
        self._budget = budget
        self._consumed = consumed
        self._messages: deque[Arrived] = deque()
        self._kept = 0
        """Bytes of the client's window."""
        self._cost = 0
        """Bytes of the budget."""
        self._ended = False
        self._failure: ApiError | Failed | None = None
        self._news = asyncio.Event()

    @property
    def failure(self) -> ApiError | Failed | None:
        """Why no further message can be read."""
        return self._failure

    def put(self, data: bytes, *, ended: bool) -> None:
        self._ended = ended
        self._kept += len(data)
        before = len(self._messages)
        try:
            if self._failure is None:
                self._messages.extend(self._reader.feed(data))
        except MessageTooLarge as error:
            self._failure = validation.oversized(error.size)
        cost = len(data) + MESSAGE_BYTES * (len(self._messages) - before)
        self._cost += cost
        if not self._budget.keep(cost) and self._failure is None:
            self._failure = Failed(code_pb2.RESOURCE_EXHAUSTED, "too many calls that are not complete")
        self._news.set()

    def only(self) -> bytes:
        """The one message of a unary call that has ended.

        Raises:
            ApiError, Failed: it has none, more, or none that can be read.
        """
        if self._failure is not None:
            raise self._failure
        if len(self._messages) != 1 or self._reader.kept_bytes:
            raise Failed(code_pb2.INVALID_ARGUMENT, "the call needs exactly one message")
        return self._opened(self._messages[0])

    async def messages(self) -> AsyncIterator[bytes]:
        """One after another, until the client has sent its last.

        Raises:
            ApiError, Failed: what follows cannot be read.
        """
        while True:
            while self._messages:
                message = self._opened(self._messages.popleft())
                if not self._messages:
                    self._give_back(self._kept - self._reader.kept_bytes)
                yield message
            if self._failure is not None:
                raise self._failure
            if self._ended:
                if self._reader.kept_bytes:
                    raise Failed(code_pb2.INVALID_ARGUMENT, "the call ended in the middle of a message")
                return
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Nobody takes any more. May be said twice."""
        self._messages.clear()
        self._give_back(self._kept)

    def _opened(self, message: Arrived) -> bytes:
        try:
            return self._reader.opened(message)
        except MessageTooLarge as error:
            raise validation.oversized(error.size) from None

    def _give_back(self, count: int) -> None:
        """No message is kept any more, and so many bytes less of the client's."""
        self._kept -= count
        self._budget.give_back(self._cost - self._kept)
        self._cost = self._kept
        self._consumed(count)
