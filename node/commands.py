"""What the ledger is asked, and what it answers: plain values. Times are microseconds since 1970 (UTC)."""

from enum import Enum

from cluster.value import value

# --- questions -------------------------------------------------------------------------------------------------------


@value
class IssueCoupon:
    campaign_id: str
    user_id: str
    request_id: str
    """Empty counts as an id, where per_user_limit is 1."""


@value
class CreateCampaign:
    campaign_id: str
    name: str
    total: int
    per_user_limit: int
    start_us: int | None
    """None: now."""
    end_us: int | None


@value
class UpdateCampaign:
    campaign_id: str
    request_id: str
    expected_version: int | None
    total: int | None
    """None: as it is."""
    end_us: int | None
    """Counts only if `set_end`; None: no end."""
    set_end: bool


@value
class PauseCampaign:
    campaign_id: str
    request_id: str
    expected_version: int | None


@value
class ResumeCampaign:
    campaign_id: str
    request_id: str
    expected_version: int | None


@value
class CancelCampaign:
    campaign_id: str
    request_id: str
    expected_version: int | None


@value
class GetCampaign:
    campaign_id: str
    after_sequence: int
    """Coupons with a greater sequence."""
    coupons_max: int


@value
class ListCampaigns:
    after_campaign_id: str
    campaigns_max: int


@value
class GetCouponByCode:
    code: str


@value
class GetCouponsOfUser:
    campaign_id: str
    user_id: str


Command = (
    IssueCoupon
    | CreateCampaign
    | UpdateCampaign
    | PauseCampaign
    | ResumeCampaign
    | CancelCampaign
    | GetCampaign
    | ListCampaigns
    | GetCouponByCode
    | GetCouponsOfUser
)

# --- answers ---------------------------------------------------------------------------------------------------------


class State(Enum):
    """As in coupon.v1 Campaign.State, same numbers."""

    WAITING = 1
    ACTIVE = 2
    PAUSED = 3
    COMPLETED = 4
    ENDED = 5
    CANCELLED = 6


@value
class Campaign:
    """A campaign as its callers see it, at one moment."""

    campaign_id: str
    name: str
    total: int
    issued: int
    per_user_limit: int
    start_us: int
    end_us: int | None
    state: State
    version: int
    create_us: int
    activate_us: int | None
    complete_us: int | None


@value
class Coupon:
    code: str
    campaign_id: str
    user_id: str
    request_id: str
    sequence: int
    issue_us: int


class Reason(Enum):
    """Why not. As in coupon.v1 ErrorReason, same numbers; only those that a node gives."""

    NOT_STARTED = 1
    SOLD_OUT = 2
    ENDED = 3
    PAUSED = 4
    CANCELLED = 5
    LIMIT_REACHED = 6
    INVALID_FIELD = 7
    CAMPAIGN_NOT_FOUND = 8
    COUPON_NOT_FOUND = 9
    CAMPAIGN_EXISTS = 10
    ETAG_MISMATCH = 11
    REQUEST_ID_REUSED = 12
    CORRUPT_JOURNAL = 16
    STORAGE_NEARLY_FULL = 19


@value
class Issued:
    coupon: Coupon
    already_issued: bool


@value
class CampaignAnswer:
    """Answers every administrative command."""

    campaign: Campaign


@value
class CampaignPage:
    campaign: Campaign
    coupons: tuple[Coupon, ...]
    more: bool


@value
class CampaignList:
    campaigns: tuple[Campaign, ...]
    more: bool


@value
class Coupons:
    coupons: tuple[Coupon, ...]


@value
class Refused:
    reason: Reason
    message: str
    field: str = ""
    """For INVALID_FIELD: the request's field."""
    metadata: tuple[tuple[str, str], ...] = ()


Answer = Issued | CampaignAnswer | CampaignPage | CampaignList | Coupons | Refused


class Proof(Enum):
    """What has to have happened before an answer may leave."""

    NONE = 0
    """It shows a coupon that is durable already."""
    BARRIER = 1
    """The epoch still stands, checked after the question came: reads and refusals that rest on durable state."""
    ENTRY = 2
    """It rests on an event of this round, which has to be durable first (an append is a barrier as well)."""
