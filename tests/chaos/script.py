"""Runs written by hand, for the tests of the checker: calls with their times, and the journal that goes with them."""

from dataclasses import replace
from typing import Any

from chaos.checker import check
from chaos.history import Call, CampaignView, Coupon, Fault, History, Operation, Outcome, Phase
from chaos.journal import Journal, JournaledCampaign, JournaledCoupon, JournalFault
from chaos.validity import Demands
from chaos.verdict import Verdict

START_US = 1_000_000
"""Of every campaign. A coupon is issued at its campaign's start plus a millisecond for each number."""

LENIENT = Demands(healthy_grants_min=1, recovery_s_max=1_000.0)


def coupon(number: int, user_id: str, campaign_id: str = "c") -> Coupon:
    return Coupon(f"{campaign_id}-{number}", campaign_id, user_id, number, START_US + 1_000 * number)


def row(number: int, user_id: str, campaign_id: str = "c") -> JournaledCoupon:
    shown = coupon(number, user_id, campaign_id)
    return JournaledCoupon(shown.code, user_id, number, shown.issue_us)


class Script:
    """A run in the making. Methods that make a call return it, and take its time as (invoked_s, answered_s)."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.reads: list[Call] = []
        self.campaigns: dict[str, JournaledCampaign] = {}
        self.journal_faults: list[JournalFault] = []

    def create(self, total: int, campaign_id: str = "c", per_user_limit: int = 1, end_us: int | None = None) -> Call:
        """At [0, 1], answered, and journaled."""
        self.campaigns[campaign_id] = JournaledCampaign(
            campaign_id, total, per_user_limit, START_US, end_us, paused=False, cancelled=False, coupons=()
        )
        view = CampaignView(total, 0, "ACTIVE")
        return self.call(
            Operation.CREATE, (0, 1), campaign_id, total=total, per_user_limit=per_user_limit, campaign=view
        )

    def call(
        self,
        operation: Operation,
        at_s: tuple[float, float | None],
        campaign_id: str = "c",
        outcome: Outcome = Outcome.OK,
        **fields: Any,
    ) -> Call:
        call = Call(len(self.calls) + 1, operation, campaign_id, at_s[0], outcome, at_s[1], **fields)
        self.calls.append(call)
        return call

    def grant(self, number: int, user_id: str, at_s: tuple[float, float], **fields: Any) -> Call:
        """Answered with a coupon; not journaled."""
        shown = coupon(number, user_id, fields.get("campaign_id", "c"))
        fields = {"coupons": (shown,), **fields}
        return self.call(Operation.ISSUE, at_s, user_id=user_id, **fields)

    def refused(self, reason: str, user_id: str, at_s: tuple[float, float], **fields: Any) -> Call:
        return self.call(Operation.ISSUE, at_s, outcome=Outcome.REFUSED, user_id=user_id, reason=reason, **fields)

    def unknown(self, user_id: str, invoked_s: float, **fields: Any) -> Call:
        return self.call(Operation.ISSUE, (invoked_s, None), outcome=Outcome.UNKNOWN, user_id=user_id, **fields)

    def read(self, issued: int, total: int, at_s: tuple[float, float], state: str = "ACTIVE", **fields: Any) -> Call:
        return self.call(Operation.READ, at_s, campaign=CampaignView(total, issued, state), **fields)

    def change(self, operation: Operation, at_s: tuple[float, float], request_id: str, **fields: Any) -> Call:
        """An acknowledged administrative call; not journaled."""
        return self.call(operation, at_s, request_id=request_id, **fields)

    def journal(self, *rows: JournaledCoupon, campaign_id: str = "c", **fields: Any) -> None:
        """What the journal has of a campaign in the end."""
        self.campaigns[campaign_id] = replace(self.campaigns[campaign_id], coupons=rows, **fields)

    def check(self, demands: Demands = LENIENT) -> Verdict:
        """With a healthy phase, a fault, and a final read that shows what the journal has."""
        end_s = 1 + max((call.answered_s or call.invoked_s for call in self.calls), default=0.0)
        phases = (Phase("all", True, 0.0, end_s),)
        faults = (Fault("kill", 0.0, 0.0),)
        final = [
            Call(
                10_000 + place,
                Operation.READ,
                campaign.campaign_id,
                end_s,
                Outcome.OK,
                end_s + 1,
                campaign=CampaignView(campaign.total, len(campaign.coupons), "ACTIVE"),
            )
            for place, campaign in enumerate(self.campaigns.values())
        ]
        journal = Journal(self.campaigns, tuple(self.journal_faults))
        return check(History(tuple(self.calls), phases, faults), journal, self.reads or final, demands)
