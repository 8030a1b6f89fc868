"""Token buckets, one for each name: how many calls somebody may make. Pure: time is an argument.

Of a bucket only the moment is kept at which it will be full again. One that is full says nothing and is forgotten, so
that memory is bounded by who has called lately.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    per_s: float
    burst: int = 0
    """Calls at once; 0: those of a second."""

    @property
    def size(self) -> int:
        return self.burst or max(1, math.ceil(self.per_s))


class Buckets:
    def __init__(self, rate: Rate, names_max: int) -> None:
        """
        Args:
            names_max: buckets kept. When there would be more, who has not called for longest is forgotten: whoever
                comes under so many names at a time is beyond what this can hold back.
        """
        assert rate.per_s > 0, "off is no bucket"
        self._names_max = names_max
        self._token_s = 1 / rate.per_s
        self._least_s = (rate.size - 1) * self._token_s
        """With a token in it, a bucket is full so soon, or sooner."""
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """In order of the last token taken. A dict would look for its first one among all that are gone."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str, now: float) -> float:
        """Takes a token. 0: there was one; otherwise none was taken, and there is one after so many seconds."""
        full_at = max(self._full_at.get(name, now), now)
        wait_s = full_at - now - self._least_s
        if wait_s > 1e-9:  # what adding up floats leaves is no reason to wait
            return wait_s
        self._full_at.pop(name, None)
        self._forget(now)
        self._full_at[name] = full_at + self._token_s
        return 0.0

    def _forget(self, now: float) -> None:
        """Two at a time, so that there are never many to forget at once."""
        for _ in range(2):
            oldest = next(iter(self._full_at), None)
            if oldest is None or (self._full_at[oldest] > now and len(self._full_at) < self._names_max):
                return
            del self._full_at[oldest]
