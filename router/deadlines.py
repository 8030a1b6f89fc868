"""When the time of each call is up. One timer for all calls of a moment, since one for each would cost too much."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from router.calls import PendingCall

TICK_S = 0.002
"""Calls whose deadlines lie closer together may be told together; never later than their own."""


@dataclass(slots=True)
class _Tick:
    timer: asyncio.TimerHandle
    calls: dict[PendingCall, None] = field(default_factory=dict)
    """In the order in which they came."""


class Deadlines:
    def __init__(self, expire: Callable[[PendingCall], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._ticks: dict[int, _Tick] = {}

    def add(self, call: PendingCall) -> None:
        number = int(call.deadline / TICK_S)
        tick = self._ticks.get(number)
        if tick is None:
            timer = self._loop.call_at(number * TICK_S, self._come, number)
            tick = self._ticks[number] = _Tick(timer)
        tick.calls[call] = None

    def remove(self, call: PendingCall) -> None:
        """It is answered. Nothing, for one that has just expired."""
        number = int(call.deadline / TICK_S)
        tick = self._ticks.get(number)
        if tick is None:
            return
        tick.calls.pop(call, None)
        if not tick.calls:
            # Deadlines may lie hours ahead: nothing of an answered call stays until then.
            tick.timer.cancel()
            del self._ticks[number]

    def _come(self, number: int) -> None:
        for call in self._ticks.pop(number).calls:
            self._expire(call)
