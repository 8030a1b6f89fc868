"""Whether a router is ready, for whoever asks gRPC's health for the API's service. Decides nothing: it is told."""

import asyncio
from collections.abc import Callable

from cluster.health import NOT_SERVING, SERVING, Health
from router.api import SERVICE_NAME

PATIENCE_S = 5.0
"""For so long a router that was ready says so still, while it is not. A failover is over by then (some 3 s where a
frozen node's lease has to end), and calls wait for it: a client that looks for another router at once, while all are
alike, would make failures of it."""


class Readiness:
    """Of the service's name; the empty name is the server as a whole, which serves until it stops."""

    def __init__(self, health: Health, not_ready: Callable[[], str]) -> None:
        """`not_ready`: why this router cannot do its work now; "" if it can."""
        self._health = health
        self._not_ready = not_ready
        self._said: int | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def refresh(self) -> None:
        """To be called when what `not_ready` says may have changed."""
        if not self._not_ready():
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None
            self._say(SERVING)
        elif self._said is None:
            self._say(NOT_SERVING)
        elif self._said == SERVING and self._waiting is None:
            self._waiting = asyncio.get_running_loop().call_later(PATIENCE_S, self._lose_patience)

    def _lose_patience(self) -> None:
        self._waiting = None
        self._say(NOT_SERVING)

    def _say(self, state: int) -> None:
        if state != self._said:
            self._said = state
            self._health.set(SERVICE_NAME, state)
