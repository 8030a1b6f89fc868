"""When the time of each call is up. One timer for all calls of a moment, since one for each would cost too much."""

import asyncio
from collections.abc import Callable

from router.calls import PendingCall

TICK_S = 0.002
"""Calls whose deadlines lie closer together may be told together; never later than their own."""


class Deadlines:
    def __init__(self, expire: Callable[[PendingCall], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._ticks: dict[int, dict[PendingCall, None]] = {}

    def add(self, call: PendingCall) -> None:
        tick = int(call.deadline / TICK_S)
        calls = self._ticks.get(tick)
        if calls is None:
            calls = self._ticks[tick] = {}
            self._loop.call_at(tick * TICK_S, self._come, tick)
        calls[call] = None

    def remove(self, call: PendingCall) -> None:
        """It is answered. Nothing, for one that has just expired."""
        calls = self._ticks.get(int(call.deadline / TICK_S))
        if calls is not None:
            calls.pop(call, None)

    def _come(self, tick: int) -> None:
        for call in self._ticks.pop(tick):
            self._expire(call)
