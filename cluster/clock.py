"""The two clocks that asyncio's own (`loop.time()`) does not replace. The simulation brings its own."""

import time
from typing import Protocol


class Clock(Protocol):
    def wall_us(self) -> int:
        """Microseconds since 1970 (UTC), as the machine believes. May step: see `node.wallclock`."""
        ...

    def boottime_s(self) -> float:
        """Seconds since boot, time in suspend included. Never steps; a lease's deadline counts on it."""
        ...


class SystemClock:
    def wall_us(self) -> int:
        return time.time_ns() // 1_000

    def boottime_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
