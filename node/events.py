"""The facts that a ledger is made of: plain values, one class for each kind of journal.proto's Event, same fields.

Times are microseconds since 1970 (UTC). `node.entries` turns them into journal entries and back.
"""

from cluster.value import value


class LedgerViolation(Exception):
    """An event that cannot follow the ones before it: it would break a rule of the ledger. Such a journal is corrupt;
    a ledger that raised this is half changed and must be thrown away."""


def require(holds: bool, rule: str) -> None:
    """Raises LedgerViolation unless `rule` holds. Not an assert: a replay checks under `python -O`, too."""
    if not holds:
        raise LedgerViolation(rule)


@value
class CampaignCreated:
    campaign_id: str
    name: str
    total: int
    per_user_limit: int
    start_us: int
    end_us: int | None
    create_us: int


@value
class CampaignActivated:
    campaign_id: str
    time_us: int


@value
class CampaignEnded:
    campaign_id: str
    time_us: int


@value
class CampaignUpdated:
    campaign_id: str
    request_id: str
    expected_version: int | None
    total: int
    end_us: int | None
    time_us: int
    asked_total: int | None
    asked_end_us: int | None
    asked_set_end: bool


@value
class CampaignPaused:
    campaign_id: str
    request_id: str
    expected_version: int | None
    time_us: int


@value
class CampaignResumed:
    campaign_id: str
    request_id: str
    expected_version: int | None
    time_us: int


@value
class CampaignCancelled:
    campaign_id: str
    request_id: str
    expected_version: int | None
    time_us: int


@value
class CouponsGranted:
    """A run of grants of one campaign, as columns of equal length."""

    campaign_id: str
    first_sequence: int
    first_counter: int
    user_ids: tuple[str, ...]
    request_ids: tuple[str, ...]
    codes: tuple[str, ...]
    times_us: tuple[int, ...]


Event = (
    CampaignCreated
    | CampaignActivated
    | CampaignEnded
    | CampaignUpdated
    | CampaignPaused
    | CampaignResumed
    | CampaignCancelled
    | CouponsGranted
)


def first_time_us(event: Event) -> int:
    if isinstance(event, CouponsGranted):
        return event.times_us[0]
    return event.create_us if isinstance(event, CampaignCreated) else event.time_us


def last_time_us(event: Event) -> int:
    return event.times_us[-1] if isinstance(event, CouponsGranted) else first_time_us(event)
