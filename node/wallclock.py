"""The node's wall clock: anchored to the time since boot, slewed towards the machine's, never stepped.

Start and end times are compared with it, so a step of the machine's clock must not grant a coupon early. A small
difference is worked off slowly; a large one is not believed: the node yields its shards and begins again with the new
time.
"""

from cluster.clock import Clock

STEP_US = 500_000
"""A difference to the machine's clock beyond it is a step, not drift."""

SLEW = 0.05
"""How much faster or slower than real time this clock goes, at most, to come closer to the machine's."""


class ClockStepped(Exception):
    """The machine's wall clock jumped. `step_us` says by how much: positive is forward."""

    def __init__(self, step_us: int) -> None:
        super().__init__(f"the wall clock stepped by {step_us / 1e6:+.3f} s")
        self.step_us = step_us


class WallClock:
    """Never goes backwards. Make another one after a step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boottime_us = self._read_boottime_us()
        self._now_us = clock.wall_us()

    def now_us(self) -> int:
        """Microseconds since 1970 (UTC).

        Raises:
            ClockStepped: the machine's clock is more than STEP_US away.
        """
        boottime_us = self._read_boottime_us()
        elapsed_us = boottime_us - self._boottime_us
        ahead_us = self._clock.wall_us() - (self._now_us + elapsed_us)
        if abs(ahead_us) > STEP_US:
            raise ClockStepped(ahead_us)
        slew_us = int(elapsed_us * SLEW)
        self._now_us += elapsed_us + max(-slew_us, min(slew_us, ahead_us))
        self._boottime_us = boottime_us
        return self._now_us

    def _read_boottime_us(self) -> int:
        return int(self._clock.boottime_s() * 1_000_000)
