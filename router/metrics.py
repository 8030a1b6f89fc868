"""What a router counts, and what it says of itself when it is scraped."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from google.rpc import code_pb2
from prometheus_client.metrics_core import Metric

from cluster.metrics import Histogram, Lately, counter, gauge, histogram, now_s
from router.calls import Reply
from router.dispatch import Dispatcher
from router.errors import CODES, ApiError, reason_name
from router.grpc_wire import Failed

CAMPAIGNS_MAX = 100
"""So many campaigns, the last ones with a grant, have a series of their own."""
CAMPAIGN_S = 3_600.0
"""For so long after the last grant."""
UNARY, STREAM = "IssueCoupon", "IssueCoupons"
ISSUED, ALREADY_ISSUED = "ISSUED", "ALREADY_ISSUED"


class RouterMetrics:
    """Implements router.observer.Observer and cluster.metrics.Source."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._grants: dict[str, int] = defaultdict(int)
        self._granted = Lately[str](CAMPAIGNS_MAX)
        self.unary = _Issues(self._grant)
        self.items = _Issues(self._grant)
        self._durations: dict[str, Histogram] = defaultdict(Histogram)
        self._codes: dict[tuple[str, int], int] = defaultdict(int)

    @contextmanager
    def call(self, method: str) -> Iterator[None]:
        began_s = now_s()
        code: int = code_pb2.OK
        try:
            yield
        except (ApiError, Failed) as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = code_pb2.CANCELLED
            raise
        except Exception:
            code = code_pb2.INTERNAL
            raise
        finally:
            self._codes[method, code] += 1
            self._durations[method].observe(now_s() - began_s)

    def _grant(self, campaign_id: str) -> None:
        self._grants[campaign_id] += 1
        if (forgotten := self._granted.see(campaign_id, now_s())) is not None:
            del self._grants[forgotten]

    # --- when it is scraped -------------------------------------------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        yield counter(
            "calls", "RPCs that have been answered, by gRPC status.", ("method", "code"), self._calls_by_code()
        )
        yield counter(
            "issue_outcomes",
            "Requests for a coupon and what came of them: ISSUED, ALREADY_ISSUED for a repetition, or why not.",
            ("method", "outcome"),
            {
                (method, outcome): count
                for method, issues in ((UNARY, self.unary), (STREAM, self.items))
                for outcome, count in issues.outcomes()
            },
        )
        yield histogram(
            "call_duration_seconds",
            "From a call's arrival at the router to its answer; without those that were refused as they came.",
            ("method",),
            {(UNARY,): self.unary.duration} | {(method,): took for method, took in self._durations.items()},
        )
        yield histogram(
            "item_duration_seconds",
            "From the arrival of one request on a stream of IssueCoupons to its result.",
            (),
            self.items.duration,
        )
        recent = self._granted.since(now_s() - CAMPAIGN_S)
        yield counter(
            "router_grants",
            "New coupons that this router has handed out, of the campaigns of the last hour.",
            ("campaign",),
            {(campaign,): self._grants[campaign] for campaign in recent},
        )
        yield gauge("router_calls_in_flight", "Calls accepted and not answered.", values=self._dispatcher.in_flight)
        yield gauge("router_calls_max", "How many it accepts at a time.", values=self._dispatcher.calls_max)
        yield gauge("router_links_up", "Nodes that are reached.", values=self._dispatcher.links_up)
        yield gauge(
            "router_shards_without_owner",
            "Shards that nobody owns, as far as this router has heard.",
            values=len(self._dispatcher.unowned()),
        )
        yield gauge(
            "router_shards_unreached",
            "Shards that nobody owns, or whose owner is not reached.",
            values=len(self._dispatcher.unreached()),
        )

    def _calls_by_code(self) -> Mapping[tuple[str, ...], int]:
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        for (method, code), count in self._codes.items():
            counts[method, code_pb2.Code.Name(code)] += count
        counts[UNARY, "OK"] += self.unary.issued + self.unary.already_issued
        for reason, count in self.unary.refusals.items():
            counts[UNARY, code_pb2.Code.Name(CODES.get(reason, code_pb2.UNKNOWN))] += count
        return counts


class _Issues:
    """Implements router.observer.Issues."""

    def __init__(self, on_grant: Callable[[str], None]) -> None:
        self.issued = 0
        self.already_issued = 0
        self.refusals: dict[int, int] = defaultdict(int)
        """By ErrorReason."""
        self.duration = Histogram()
        self._on_grant = on_grant

    def begun(self, campaign_id: str, reply: Reply) -> Reply:
        return partial(self._answered, campaign_id, now_s(), reply)

    def refused(self, error: ApiError) -> None:
        self.refusals[error.reason] += 1

    def _answered(self, campaign_id: str, began_s: float, reply: Reply, result: bytes | ApiError) -> None:
        reply(result)
        self.duration.observe(now_s() - began_s)
        if isinstance(result, ApiError):
            self.refusals[result.reason] += 1
        elif is_new(result):
            self.issued += 1
            self._on_grant(campaign_id)
        else:
            self.already_issued += 1

    def outcomes(self) -> Iterator[tuple[str, int]]:
        yield ISSUED, self.issued
        yield ALREADY_ISSUED, self.already_issued
        for reason, count in self.refusals.items():
            yield reason_name(reason), count


def is_new(response: bytes) -> bool:
    """Whether an IssueCouponResponse shows a coupon that was issued to this very request: it is its coupon and nothing
    else, since `already_issued` is written only where it is true. Not parsed, which would cost more than all the rest
    of what is counted.
    """
    if len(response) < 3:
        return True
    length = response[1]
    head = 2
    if length > 0x7F:
        length = (length & 0x7F) | response[2] << 7
        head = 3
    return len(response) == head + length
