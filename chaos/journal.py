"""The journal as the checker takes it: plain values of an independent re-read. Reads nothing itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from ops.audit import AuditedCampaign, Violation


@dataclass(frozen=True, slots=True)
class JournaledCoupon:
    code: str
    user_id: str
    sequence: int
    issue_us: int


@dataclass(frozen=True, slots=True)
class JournaledCampaign:
    """What the entries of a campaign amount to."""

    campaign_id: str
    total: int
    per_user_limit: int
    start_us: int
    end_us: int | None
    paused: bool
    cancelled: bool
    coupons: tuple[JournaledCoupon, ...]
    """In the order in which they stand there."""


@dataclass(frozen=True, slots=True)
class JournalFault:
    """A rule that the journal breaks by itself, as the re-read found."""

    kind: str
    """As ops.audit.Kind."""
    place: str
    campaign_id: str
    what: str


@dataclass(frozen=True, slots=True)
class Journal:
    campaigns: Mapping[str, JournaledCampaign]
    faults: tuple[JournalFault, ...] = ()

    @classmethod
    def of_audit(cls, campaigns: Iterable[AuditedCampaign], violations: Iterable[Violation]) -> Self:
        """From ops.verify.Report's campaigns and violations.

        Raises:
            ValueError: a campaign's coupons were not collected.
        """
        return cls(
            {campaign.campaign_id: _campaign(campaign) for campaign in campaigns},
            tuple(JournalFault(v.kind.value, v.place, v.campaign_id, v.what) for v in violations),
        )


def _campaign(audited: AuditedCampaign) -> JournaledCampaign:
    if audited.issued and not audited.coupons:
        raise ValueError(f"the coupons of {audited.campaign_id} were not collected")
    return JournaledCampaign(
        audited.campaign_id,
        audited.total,
        audited.per_user_limit,
        audited.start_time_us,
        audited.end_time_us or None,
        audited.paused,
        audited.cancelled,
        tuple(JournaledCoupon(*coupon) for coupon in audited.coupons),
    )
