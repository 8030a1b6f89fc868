"""The node's wall clock."""

import pytest

from node.wallclock import STEP_US, ClockStepped, WallClock


class HandClock:
    def __init__(self) -> None:
        self.wall = 1_000_000_000_000_000
        self.boot = 5.0

    def wall_us(self) -> int:
        return self.wall

    def boottime_s(self) -> float:
        return self.boot

    def pass_s(self, seconds: float, *, wall_s: float | None = None) -> None:
        self.boot += seconds
        self.wall += int((seconds if wall_s is None else wall_s) * 1_000_000)


def test_a_small_difference_is_worked_off_slowly() -> None:
    """Drift up to half a second is slewed by at most 5%, until clock and machine agree."""
    clock = HandClock()
    wall = WallClock(clock)
    before = wall.now_us()
    clock.pass_s(1.0, wall_s=1.3)
    assert wall.now_us() - before == pytest.approx(1_050_000, abs=2)
    for _ in range(10):
        clock.pass_s(1.0)
        wall.now_us()
    assert wall.now_us() == clock.wall


def test_it_never_goes_back() -> None:
    """A machine's clock that was set back a little slows this one down and never turns it round."""
    clock = HandClock()
    wall = WallClock(clock)
    clock.pass_s(1.0, wall_s=0.6)
    readings = []
    for _ in range(200):
        clock.pass_s(0.01)
        readings.append(wall.now_us())
    assert readings == sorted(readings)
    assert len(set(readings)) == len(readings)


@pytest.mark.parametrize("step_s", [0.501, 5.0, -0.501, -5.0, 86_400.0])
def test_a_step_is_not_believed(step_s: float) -> None:
    """A difference over half a second raises, forward and back, and goes on raising."""
    clock = HandClock()
    wall = WallClock(clock)
    clock.pass_s(0.001, wall_s=0.001 + step_s)
    for _ in range(2):
        with pytest.raises(ClockStepped) as raised:
            wall.now_us()
        assert abs(raised.value.step_us) > STEP_US
        assert (raised.value.step_us > 0) == (step_s > 0)


def test_a_new_one_believes_the_machine() -> None:
    """After a step the node begins again with the machine's time."""
    clock = HandClock()
    clock.pass_s(0.0, wall_s=3600.0)
    assert WallClock(clock).now_us() == clock.wall
