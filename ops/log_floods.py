"""A bound for what strangers write into a log: whoever comes wrong as often as he can shall not fill a disk with it."""

import time
from collections import Counter
from collections.abc import Callable

import structlog

from router.limits import Buckets, Rate

OF_STRANGERS = frozenset(
    ("client_disconnected", "too_many_connections", "caller_refused", "handshake_refused", "malformed_call")
)
"""Events that anybody can cause who reaches a port."""
RATE = Rate(10, 100)
"""Of each of them: lines a second, and at once."""


class LogFloods:
    """A structlog processor. The line after those that were left out says how many, as `left_out`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets = Buckets(RATE, len(OF_STRANGERS))
        self._left_out: Counter[str] = Counter()

    def __call__(
        self, logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        name = event["event"]
        if name not in OF_STRANGERS:
            return event
        if self._buckets.take(name, self._clock()):
            self._left_out[name] += 1
            raise structlog.DropEvent
        if left_out := self._left_out.pop(name, 0):
            event["left_out"] = left_out
        return event
