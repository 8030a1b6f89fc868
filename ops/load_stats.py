"""What a load run counted: outcomes, latencies, grants. Pure: calls in, figures out.

Times are seconds of any one clock.
"""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

ISSUED = "ISSUED"
ALREADY_ISSUED = "ALREADY_ISSUED"
NOT_STARTED = "NOT_STARTED"


@dataclass(frozen=True, slots=True)
class Grant:
    """A coupon as its client was told of it."""

    code: str
    user_id: str
    sequence: int
    issue_time_us: int


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its answer."""

    index: int
    user_id: str
    request_id: str
    sent_s: float
    """When it was sent; in an open loop when it should have been, so that waiting for the client counts."""
    answered_s: float
    reason: str
    """ISSUED, ALREADY_ISSUED, the reason of the refusal, or the name of the gRPC status."""
    grant: Grant | None


@dataclass(frozen=True, slots=True)
class Latency:
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    requests: int
    """Requests that got a final answer."""
    elapsed_s: float
    requests_per_s: float
    issued: int
    issued_per_s: float
    outcomes: dict[str, int]
    """Requests by final answer."""
    knocks: int
    """Refusals NOT_STARTED after which the same request was sent again; in none of the other figures."""
    latency: Latency

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the ascending `ordered` do not exceed; 0 for none."""
    assert 0 <= share <= 1, "a share is 0 to 1"
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Tally:
    """A run's figures so far: may be read at any time while it grows."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.last_answer_s = began_s
        self.outcomes: Counter[str] = Counter()
        self.knocks = 0
        self.grants: list[Grant] = []
        self._latencies_s = array("d")

    @property
    def answered(self) -> int:
        return self.outcomes.total()

    def record(self, call: Call) -> None:
        """A final answer."""
        assert (call.grant is not None) == (call.reason in (ISSUED, ALREADY_ISSUED)), "a coupon comes with a grant only"
        self.outcomes[call.reason] += 1
        self._latencies_s.append(call.answered_s - call.sent_s)
        self.last_answer_s = max(self.last_answer_s, call.answered_s)
        if call.grant is not None:
            self.grants.append(call.grant)

    def record_knock(self) -> None:
        """A refusal NOT_STARTED whose request is sent again."""
        self.knocks += 1

    def result(self, since_s: float | None = None) -> LoadResult:
        """The figures; rates count from `since_s`, or from the run's beginning, to the last answer."""
        elapsed_s = max(self.last_answer_s - (self.began_s if since_s is None else since_s), 1e-9)
        ordered = sorted(self._latencies_s)
        issued = self.outcomes[ISSUED]
        return LoadResult(
            requests=self.answered,
            elapsed_s=elapsed_s,
            requests_per_s=self.answered / elapsed_s,
            issued=issued,
            issued_per_s=issued / elapsed_s,
            outcomes=dict(self.outcomes.most_common()),
            knocks=self.knocks,
            latency=Latency(*(percentile(ordered, share) * 1e3 for share in (0.50, 0.90, 0.99, 1.0))),
        )
