"""What a router counts, and what it says of itself when it is scraped."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from secrets import token_hex

from google.rpc import code_pb2
from prometheus_client.metrics_core import Metric

from cluster.audit_log import AuditLog
from cluster.metrics import CAMPAIGN_S, CAMPAIGNS_MAX, Histogram, Lately, counter, gauge, histogram, now_s
from proto import coupon_pb2
from router.calls import Issue, PendingCall
from router.dispatch import Dispatcher
from router.errors import CODES, ApiError, reason_name
from router.grpc_wire import Failed

_REASONS = (
    coupon_pb2.NOT_STARTED,
    coupon_pb2.SOLD_OUT,
    coupon_pb2.ENDED,
    coupon_pb2.PAUSED,
    coupon_pb2.CANCELLED,
    coupon_pb2.LIMIT_REACHED,
    coupon_pb2.INVALID_FIELD,
    coupon_pb2.CAMPAIGN_NOT_FOUND,
    coupon_pb2.OVERLOADED,
    coupon_pb2.NO_OWNER,
    coupon_pb2.OUTCOME_UNKNOWN,
    coupon_pb2.NOT_IN_TIME,
    coupon_pb2.ROUTER_STOPPING,
    coupon_pb2.CORRUPT_JOURNAL,
    coupon_pb2.KEY_INVALID,
    coupon_pb2.ROLE_MISSING,
    coupon_pb2.KEYS_UNKNOWN,
    coupon_pb2.RATE_LIMITED,
)
"""Why a request for a coupon may be refused. They stand as 0 at first, since what begins as 1 has not risen."""
ISSUED, ALREADY_ISSUED = "ISSUED", "ALREADY_ISSUED"
_ALREADY_ISSUED = coupon_pb2.IssueCouponResponse(already_issued=True).SerializeToString()


class RouterMetrics:
    """Implements router.observer.Observer."""

    def __init__(self) -> None:
        self._run = token_hex(4)
        """Names this run of the process: the next one counts from 0, and what this one has handed out stays so."""
        self._issues = {issue: _Issues() for issue in Issue}
        self._grants: dict[str, int] = defaultdict(int)
        """By campaign, of those that were granted lately."""
        self._granted = Lately[str](CAMPAIGNS_MAX)
        self._durations: dict[str, Histogram] = defaultdict(Histogram)
        self._codes: dict[tuple[str, int], int] = defaultdict(int)

    @property
    def now(self) -> Callable[[], float]:
        return now_s

    def ended(self, calls: Sequence[PendingCall]) -> None:
        # A pass for each thing that is counted: comprehensions cost a third of one loop that does it all.
        at_s = now_s()
        grants: list[str] = []
        for issue, issues in self._issues.items():
            mine = [call for call in calls if call.issue is issue]
            issues.duration.observe_all([at_s - call.began_s for call in mine])
            new = [
                call.campaign_id
                for call in mine
                if type(call.result) is bytes and not call.result.endswith(_ALREADY_ISSUED)
            ]
            if len(new) < len(mine):
                new += self._not_new(issues, mine)
            issues.issued += len(new)
            grants += new
        for campaign_id, count in Counter(grants).items():
            self._grants[campaign_id] += count
            if (forgotten := self._granted.see(campaign_id, at_s)) is not None:
                del self._grants[forgotten]

    def _not_new(self, issues: "_Issues", calls: Sequence[PendingCall]) -> Iterator[str]:
        """Count refusals and repetitions; the campaigns of those that only look like repetitions."""
        for call in calls:
            result = call.result
            if isinstance(result, ApiError):
                issues.refusals[result.reason] += 1
            elif result.endswith(_ALREADY_ISSUED):
                if is_new(result):
                    yield call.campaign_id
                else:
                    issues.already_issued += 1

    def refused(self, issue: Issue, error: ApiError) -> None:
        self._issues[issue].refusals[error.reason] += 1

    def turned_away(self, method: str, error: ApiError | Failed) -> None:
        if method == Issue.UNARY.value and isinstance(error, ApiError):
            self.refused(Issue.UNARY, error)
        else:
            self._codes[method, error.code] += 1

    def answered(self, method: str, code: int, took_s: float) -> None:
        self._codes[method, code] += 1
        self._durations[method].observe(took_s)

    # --- when it is scraped -------------------------------------------------------------------------------------------

    def families(self) -> Iterator[Metric]:
        unary, items = self._issues[Issue.UNARY], self._issues[Issue.ITEM]
        yield counter("calls", "RPCs that have ended, by gRPC status.", ("method", "code"), self._calls_by_code())
        yield counter(
            "issue_outcomes",
            "Requests for a coupon and what came of them: ISSUED, ALREADY_ISSUED for a repetition, or why not.",
            ("method", "outcome"),
            {
                (issue.value, outcome): count
                for issue, issues in self._issues.items()
                for outcome, count in issues.outcomes()
            },
        )
        yield histogram(
            "call_duration_seconds",
            "From a call's arrival at the router to its answer; without those that were refused as they came.",
            ("method",),
            {(Issue.UNARY.value,): unary.duration} | {(method,): took for method, took in self._durations.items()},
        )
        yield histogram(
            "item_duration_seconds",
            "From the arrival of one request on a stream of IssueCoupons to its result.",
            (),
            items.duration,
        )
        recent = self._granted.since(now_s() - CAMPAIGN_S)
        yield counter(
            "router_grants",
            "New coupons that this router has handed out since it was started, of the campaigns of the last hour.",
            ("campaign", "run"),
            {(campaign, self._run): self._grants[campaign] for campaign in recent},
        )

    def _calls_by_code(self) -> Mapping[tuple[str, ...], int]:
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        for (method, code), count in self._codes.items():
            counts[method, code_pb2.Code.Name(code)] += count
        unary, method = self._issues[Issue.UNARY], Issue.UNARY.value
        counts[method, "OK"] += unary.issued + unary.already_issued
        for reason, count in unary.refusals.items():
            counts[method, code_pb2.Code.Name(CODES.get(reason, code_pb2.UNKNOWN))] += count
        return counts


class _Issues:
    """Requests for a coupon that came one way."""

    def __init__(self) -> None:
        self.issued = 0
        self.already_issued = 0
        self.refusals: dict[int, int] = defaultdict(int, dict.fromkeys(_REASONS, 0))
        """By ErrorReason."""
        self.duration = Histogram()

    def outcomes(self) -> Iterator[tuple[str, int]]:
        yield ISSUED, self.issued
        yield ALREADY_ISSUED, self.already_issued
        for reason, count in self.refusals.items():
            yield reason_name(reason), count


class RouterView:
    """What a router says of its present state when it is scraped."""

    def __init__(self, dispatcher: Dispatcher, audit: AuditLog) -> None:
        self._dispatcher = dispatcher
        self._audit = audit

    def families(self) -> Iterator[Metric]:
        dispatcher = self._dispatcher
        yield gauge("router_calls_in_flight", "Calls accepted and not answered.", values=dispatcher.in_flight)
        yield gauge("router_calls_max", "How many it accepts at a time.", values=dispatcher.calls_max)
        yield gauge("router_links_up", "Nodes that are reached.", values=dispatcher.links_up)
        yield gauge(
            "router_shards_without_owner",
            "Shards that nobody owns, as far as this router has heard.",
            values=len(dispatcher.unowned()),
        )
        yield gauge(
            "router_shards_unreached",
            "Shards that nobody owns, or whose owner is not reached.",
            values=len(dispatcher.unreached()),
        )
        yield counter(
            "audit_failures", "Lines that could not be written into the audit log.", values=self._audit.failures
        )


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
