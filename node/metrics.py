"""What a node counts of its work."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from prometheus_client.metrics_core import Metric

from cluster.metrics import CALLS, CAMPAIGN_S, CAMPAIGNS_MAX, Histogram, Lately, counter, histogram, now_s
from cluster.types import ShardId
from node.calls import Call, End, Held, Outcome
from node.commands import Answer, CampaignAnswer, Command, CreateCampaign, IssueCoupon, Issued, Reason, Refused
from node.ledger import Ledger
from node.observer import Cause, HandoverCause

ENTRY_BYTES = (256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0)
LEFT = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TAKEOVER_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_ARRIVED_S, _CALL_ARRIVED_S = attrgetter("arrived_s"), attrgetter("call.arrived_s")

OK = "OK"
_APPEND_OUTCOMES = {
    End.FENCED: "fenced",
    End.UNKNOWN: "unknown",
    End.CANCELLED: "cancelled",
    End.REFUSED: "refused",
}


class NodeMetrics:
    """Implements node.observer.Observer and cluster.metrics.Source."""

    def __init__(self, wall_us: Callable[[], int]) -> None:
        """`wall_us`: microseconds since 1970, for how long ago something was that stands in a journal."""
        self._wall_us = wall_us
        self.campaigns = Lately[tuple[ShardId, str]](CAMPAIGNS_MAX)
        """When they last granted a coupon, or were created. Not when they were asked for: whoever asks chooses."""
        self._granted: dict[ShardId, set[str] | None] = {}
        """See `granted`."""
        self._issued = 0
        self._repeated = 0
        self._refused: Counter[Reason] = Counter()
        """Requests for a coupon."""
        self._others: Counter[tuple[str, str]] = Counter()
        self._put_off: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self._overloaded = 0
        self._waits = Histogram()
        self._answers = Histogram()
        self._rounds = Histogram(CALLS)
        self._appends = Histogram()
        self._entries = Histogram(ENTRY_BYTES)
        self._barriers = Histogram()
        self._append_failures = dict.fromkeys(_APPEND_OUTCOMES.values(), 0)
        self._ends: dict[End, int] = dict.fromkeys(End, 0)
        self._taking: dict[ShardId, tuple[Cause, float]] = {}
        self._takeovers = {(cause.value,): Histogram(TAKEOVER_SECONDS) for cause in Cause}
        self._replays = Histogram(TAKEOVER_SECONDS)
        self._handovers = {
            (outcome, handover.value): Histogram(TAKEOVER_SECONDS)
            for outcome in ("given", "not_given")
            for handover in HandoverCause
        }
        self._left = Histogram(LEFT)
        self._lives_over = 0

    def now(self) -> float:
        return now_s()

    # --- rounds -------------------------------------------------------------------------------------------------------

    def taken(self, calls: Sequence[Call], at_s: float) -> None:
        if calls:
            self._rounds.observe(len(calls))
            _observe_since(self._waits, map(_ARRIVED_S, calls), at_s)

    def committed(self, entry_bytes: int, took_s: float) -> None:
        self._appends.observe(took_s)
        self._entries.observe(entry_bytes)

    def checked(self, took_s: float) -> None:
        self._barriers.observe(took_s)

    def answered(self, decided: Sequence[Held], shard: ShardId, at_s: float) -> None:
        _observe_since(self._answers, map(_CALL_ARRIVED_S, decided), at_s)
        # Nearly all are requests for a coupon; nearly all that are refused have one and the same answer.
        campaigns: set[str] = set()
        issued = repeated = times = 0
        refused: Refused | None = None
        for item in decided:
            command, answer = item.call.command, item.answer
            if type(command) is not IssueCoupon:
                self._answered_other(command, answer, campaigns)
            elif type(answer) is Issued:
                if answer.already_issued:
                    repeated += 1
                else:
                    issued += 1
                    campaigns.add(command.campaign_id)
            elif answer is refused:
                times += 1
            else:
                assert isinstance(answer, Refused), "a coupon or a refusal"
                self._refuse(refused, times)
                refused, times = answer, 1
        self._refuse(refused, times)
        self._issued += issued
        self._repeated += repeated
        for campaign_id in campaigns:
            self.campaigns.see((shard, campaign_id), at_s)
        if (granted := self._granted.setdefault(shard, set())) is not None:
            granted |= campaigns

    def _refuse(self, answer: Refused | None, times: int) -> None:
        if answer is not None:
            self._refused[answer.reason] += times

    def _answered_other(self, command: Command, answer: Answer, campaigns: set[str]) -> None:
        self._others[type(command).__name__, answer.reason.name if isinstance(answer, Refused) else OK] += 1
        if isinstance(command, CreateCampaign) and isinstance(answer, CampaignAnswer):
            campaigns.add(command.campaign_id)

    def put_off(self, outcome: Outcome, calls: int) -> None:
        self._put_off[outcome] += calls

    def overloaded(self) -> None:
        self._overloaded += 1

    def failed(self, end: End, *, appending: bool) -> None:
        if appending and end in _APPEND_OUTCOMES:
            self._append_failures[_APPEND_OUTCOMES[end]] += 1
        self._ends[end] += 1

    # --- ownership ----------------------------------------------------------------------------------------------------

    def taking(self, shard: ShardId, cause: Cause, at_s: float) -> None:
        self._taking[shard] = cause, at_s

    def serving(self, shard: ShardId, ledger: Ledger, replay_s: float, at_s: float) -> None:
        self._replays.observe(replay_s)
        if (taking := self._taking.pop(shard, None)) is not None:
            cause, began_s = taking
            self._takeovers[(cause.value,)].observe(at_s - began_s)
        self._granted[shard] = None
        now_us = self._wall_us()
        recent = ledger.recent(now_us - int(CAMPAIGN_S * 1e6), CAMPAIGNS_MAX)
        self.campaigns.learn(
            {(shard, campaign_id): at_s - max(0, now_us - last_us) / 1e6 for campaign_id, last_us in recent.items()}
        )

    def handed_over(self, cause: HandoverCause, *, given: bool, took_s: float) -> None:
        self._handovers["given" if given else "not_given", cause.value].observe(took_s)

    def renewed(self, left: float) -> None:
        self._left.observe(left)

    def life_over(self) -> None:
        self._lives_over += 1

    # --- when it is scraped -------------------------------------------------------------------------------------------

    def granted(self) -> dict[ShardId, set[str] | None]:
        """By shard, the campaigns that have granted a coupon since this was asked last; None: the shard was opened,
        and nobody has looked at any."""
        granted, self._granted = self._granted, {}
        return granted

    def families(self) -> Iterator[Metric]:
        yield counter(
            "node_calls",
            "Calls that this node has decided, by what they were answered; ALREADY_ISSUED is a repetition.",
            ("method", "outcome"),
            self._decided(),
        )
        yield counter(
            "node_calls_not_decided",
            "Calls that this node has sent back or cannot tell the outcome of.",
            ("outcome",),
            {(outcome.value,): count for outcome, count in self._put_off.items()} | {("overloaded",): self._overloaded},
        )
        yield histogram("queue_wait_seconds", "From a call's arrival at the node to its round.", (), self._waits)
        yield histogram(
            "node_call_duration_seconds", "From a call's arrival at the node to its answer.", (), self._answers
        )
        yield histogram("round_calls", "Calls that were decided together.", (), self._rounds)
        yield histogram(
            "journal_append_duration_seconds", "Until a round's entry is durable: the commit.", (), self._appends
        )
        yield histogram("journal_entry_bytes", "Of a round's entry.", (), self._entries)
        yield histogram(
            "journal_barrier_duration_seconds", "Until it is known that the epoch stands.", (), self._barriers
        )
        yield counter(
            "journal_append_failures",
            "Appends without success: fenced by another owner, of unknown outcome, refused, or cancelled when the shard"
            " was given up.",
            ("outcome",),
            {(outcome,): count for outcome, count in self._append_failures.items()},
        )
        yield counter(
            "shard_failures",
            "Rounds that ended their shard's epoch on this node.",
            ("end",),
            {(end.value,): count for end, count in self._ends.items() if end is not End.DRAINED},
        )
        yield histogram(
            "takeover_duration_seconds",
            "From the claim or pull that has succeeded to serving the shard.",
            ("cause",),
            self._takeovers,
        )
        yield histogram("replay_duration_seconds", "Until a shard's journal was open.", (), self._replays)
        yield histogram(
            "handover_duration_seconds",
            "From a peer's request for a shard to its end.",
            ("outcome", "cause"),
            self._handovers,
        )
        yield histogram(
            "lease_left_at_renewal_ratio", "What was left of the lease when it was renewed: 1 is all.", (), self._left
        )
        yield counter(
            "lives_over", "How often this node has lost its lease or its registration.", values=self._lives_over
        )

    def _decided(self) -> dict[tuple[str, str], int]:
        issues = {"ISSUED": self._issued, "ALREADY_ISSUED": self._repeated}
        issues |= {reason.name: count for reason, count in self._refused.items()}
        return {("IssueCoupon", outcome): count for outcome, count in issues.items()} | dict(self._others)


def _observe_since(durations: Histogram, since_s: Iterable[float], at_s: float) -> None:
    """Calls that came in one frame came at one time: that is most of a round."""
    for then_s, times in Counter(since_s).items():
        durations.observe(at_s - then_s, times)
