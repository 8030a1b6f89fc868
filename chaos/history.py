"""What the clients of a chaos run asked, heard and when; and what was done to the cluster meanwhile.

Kept apart from the product: nothing here comes from a node, a router or the journal. All times are seconds on one
monotonic clock, the recorder's. Values only: chaos/history_file.py keeps them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Operation(StrEnum):
    CREATE = "create"
    ISSUE = "issue"
    """Also one item of an IssueCoupons stream."""
    READ = "read"
    """GetCampaign, one page."""
    GET_COUPON = "get_coupon"
    UPDATE = "update"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


class Outcome(StrEnum):
    OK = "ok"
    REFUSED = "refused"
    """It did nothing, and will not: the answer says so."""
    UNKNOWN = "unknown"
    """It may take effect at any time from its invocation until the end of the history, or never."""


DECIDED = frozenset(
    {
        "NOT_STARTED",
        "SOLD_OUT",
        "ENDED",
        "PAUSED",
        "CANCELLED",
        "LIMIT_REACHED",
        "INVALID_FIELD",
        "CAMPAIGN_NOT_FOUND",
        "COUPON_NOT_FOUND",
        "CAMPAIGN_EXISTS",
        "ETAG_MISMATCH",
        "REQUEST_ID_REUSED",
        "STORAGE_NEARLY_FULL",
    }
)
"""Reasons of ErrorInfo that an owner gives when it has decided."""

NOT_DONE = frozenset({"OVERLOADED", "NO_OWNER", "ROUTER_STOPPING", "NOT_IN_TIME"})
"""Reasons that say that nobody has decided, and that nothing was done."""


def outcome_of_error(reason: str) -> Outcome:
    """What a failed call amounts to, by its ErrorInfo's reason. Without one (a broken connection, the client's own
    deadline) and with any that does not say "nothing was done", the outcome is unknown."""
    return Outcome.REFUSED if reason in DECIDED or reason in NOT_DONE else Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Coupon:
    """As an answer showed it."""

    code: str
    campaign_id: str
    user_id: str
    sequence: int
    issue_us: int
    """Microseconds since 1970, by the owner's clock."""


@dataclass(frozen=True, slots=True)
class CampaignView:
    """A campaign as an answer showed it."""

    total: int
    issued: int
    state: str
    """As coupon.v1 Campaign.State calls it."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one client, from its invocation to what it heard. A repetition is another call."""

    call_id: int
    """Unique in the history."""
    operation: Operation
    campaign_id: str
    """Empty for a get_coupon by code."""
    invoked_s: float
    """Before the first byte was sent."""
    outcome: Outcome
    answered_s: float | None = None
    """After the answer came, or when the client gave up; None: it was never answered."""
    client: str = ""
    user_id: str = ""
    request_id: str = ""
    code: str = ""
    """Asked for by a get_coupon."""
    total: int | None = None
    """Asked for by a create or an update; None: as it is."""
    per_user_limit: int = 1
    """Asked for by a create."""
    start_us: int | None = None
    end_us: int | None = None
    reason: str = ""
    """Of a refusal, ErrorInfo's; of an unknown outcome whatever is known."""
    already_issued: bool = False
    coupons: tuple[Coupon, ...] = ()
    """One for an issue; what was shown for a get_coupon and a read."""
    campaign: CampaignView | None = None
    """Answer of a read and of every administrative call."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def is_grant(self) -> bool:
        """An issue that was answered with a coupon decided by this very call."""
        return self.operation is Operation.ISSUE and self.ok and not self.already_issued

    def describe(self) -> str:
        """The call in one line, for proofs."""
        asked = [self.campaign_id, self.user_id, self.request_id, self.code]
        if self.total is not None:
            asked.append(f"total={self.total}")
        until = "never" if self.answered_s is None else f"{self.answered_s:.6f}"
        heard = [self.outcome.value]
        if self.reason:
            heard.append(self.reason)
        if len(self.coupons) == 1 or self.operation is Operation.ISSUE:
            heard += [f"#{coupon.sequence} {coupon.code}" for coupon in self.coupons]
        elif self.coupons:
            heard.append(f"{len(self.coupons)} coupons")
        if self.already_issued:
            heard.append("already issued")
        if self.campaign is not None:
            heard.append(f"{self.campaign.issued} of {self.campaign.total} {self.campaign.state}")
        return (
            f"call {self.call_id} [{self.invoked_s:.6f} s, {until}] "
            f"{self.operation}({', '.join(filter(None, asked))}): {' '.join(heard)}"
        )


class Trace(StrEnum):
    """What a fault leaves behind when it really happened."""

    EPOCH_CHANGED = "epoch_changed"
    """A shard has another epoch than before."""
    FENCED = "fenced"
    """An owner's append was refused because of a higher epoch."""
    LEADER_CHANGED = "leader_changed"
    """Another etcd member leads than before."""
    MEMBER_LEFT = "member_left"
    """A node gave up an etcd member that did not answer, for another."""
    CLOCK_STEPPED = "clock_stepped"
    """A node noticed that its wall clock had jumped."""
    DISK_FAILED = "disk_failed"
    """A write or a sync of a node failed."""
    WENT_BACK = "went_back"
    """A process that had lived through a restore of etcd noticed that the revision had gone back."""


Epochs = Mapping[int, tuple[int, int]]
"""By shard: cluster incarnation and revision."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something done to the cluster."""

    what: str
    from_s: float
    to_s: float
    """When it was healed; as `from_s` for what needs no healing, as a kill."""
    required: tuple[Trace, ...] = ()
    """Without these the run shows nothing."""
    epochs_before: Epochs = field(default_factory=dict)
    epochs_after: Epochs = field(default_factory=dict)
    counted: Mapping[Trace, int] = field(default_factory=dict)
    """How often the processes' logs tell of the other traces since it began."""
    campaign_ids: tuple[str, ...] = ()
    """The campaigns that it hit: each has to get a grant after healing. Empty: any grant will do."""
    forbidden: tuple[Trace, ...] = ()
    """What it must not cost."""

    @property
    def traces(self) -> frozenset[Trace]:
        """Those that are there."""
        shards = self.epochs_before.keys() & self.epochs_after.keys()
        changed = any(self.epochs_before[shard] != self.epochs_after[shard] for shard in shards)
        counted = frozenset(trace for trace, count in self.counted.items() if count > 0)
        return counted | {Trace.EPOCH_CHANGED} if changed else counted


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run."""

    name: str
    healthy: bool
    """The cluster has to be at full service in it."""
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Overload:
    """More was asked of the cluster than it can carry."""

    from_s: float
    to_s: float
    peak_per_s: float
    """Grants a second when it was asked for just as much as it can carry, measured right before."""
    peak_after_per_s: float
    """The same, right after: the machine may not be as fast all the time."""
    asked_per_s: float
    goodput_per_s: float
    """Grants a second that their callers heard of in time."""
    epochs_before: Epochs
    epochs_after: Epochs
    leases_lost: int
    """By the nodes' logs."""
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """What was asked, by its answer."""
    campaign_ids: tuple[str, ...] = ()
    """Campaigns that only this asked for: their calls are not in the history."""
    acknowledged: int = 0
    """Coupons of theirs that somebody was told of, those of the measurements before and after included."""
    journaled: int = 0
    """Coupons of theirs in the journal."""


@dataclass(frozen=True, slots=True)
class History:
    """Calls in any order."""

    calls: tuple[Call, ...]
    phases: tuple[Phase, ...] = ()
    faults: tuple[Fault, ...] = ()
    overloads: tuple[Overload, ...] = ()
