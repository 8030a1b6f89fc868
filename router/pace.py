"""How fast calls are decided, and from that when somebody who is refused had better come again."""

from random import Random

from router import errors
from router.errors import ApiError

_SAMPLE = 256
"""Calls over which the pace is measured."""
_CLEAR_S_MIN, _CLEAR_S_MAX = 0.05, 5.0
_HINT_S = 0.01
_HINTS = 32


class Pace:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._decided = 0
        self._sampled_at = 0.0
        self._call_s = 0.0
        self._hints: list[ApiError] = []
        self._hinted_at = float("-inf")
        self._next = 0

    def begin(self, now: float) -> None:
        """The first call after a time without any: that time says nothing about the pace."""
        self._sampled_at = now
        self._decided -= self._decided % _SAMPLE

    def decided(self, now: float) -> None:
        """One more call."""
        self._decided += 1
        if self._decided % _SAMPLE == 0:
            self._call_s = (now - self._sampled_at) / _SAMPLE
            self._sampled_at = now

    def overloaded(self, calls: int, now: float) -> ApiError:
        """For somebody who is refused because `calls` are before him. Jittered, so that not all who are refused come
        again at the same time; shared, since under load there are tens of thousands a second."""
        if now - self._hinted_at >= _HINT_S:
            clear_s = calls * max(self._call_s, (now - self._sampled_at) / _SAMPLE)
            clear_s = min(max(clear_s, _CLEAR_S_MIN), _CLEAR_S_MAX)
            self._hints = [errors.overloaded(clear_s * self._rng.uniform(0.5, 1.5)) for _ in range(_HINTS)]
            self._hinted_at = now
        self._next = (self._next + 1) % _HINTS
        return self._hints[self._next]
