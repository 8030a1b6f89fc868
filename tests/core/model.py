"""What a shard should answer, told as simply as it can be: dicts, lists, and a copy of everything at each commit.

Shares with the ledger the words of `node.commands` and not a line of its code. Of codes it knows only that the ledger
gives one to each coupon; `tests.core.test_ledger_machine` looks at these.
"""

from copy import deepcopy
from dataclasses import dataclass, field, replace

from node.commands import (
    Answer,
    Campaign,
    CampaignAnswer,
    CampaignList,
    CampaignPage,
    CancelCampaign,
    Command,
    Coupon,
    Coupons,
    CreateCampaign,
    GetCampaign,
    GetCouponByCode,
    GetCouponsOfUser,
    IssueCoupon,
    Issued,
    ListCampaigns,
    PauseCampaign,
    Proof,
    Reason,
    Refused,
    ResumeCampaign,
    State,
    UpdateCampaign,
)

Administrative = UpdateCampaign | PauseCampaign | ResumeCampaign | CancelCampaign


@dataclass
class ModelCampaign:
    now: Campaign
    """As it is, but for `state`, which `seen` works out."""
    created: CreateCampaign
    as_created: Campaign | None = None
    ended: bool = False
    paused: bool = False
    cancelled: bool = False
    coupons: list[Coupon] = field(default_factory=list)
    answered: dict[str, tuple[Administrative, Campaign]] = field(default_factory=dict)

    def seen(self) -> Campaign:
        issued = len(self.coupons)
        sold_out = issued == self.now.total
        if self.cancelled:
            state = State.CANCELLED
        elif self.ended:
            state = State.ENDED
        elif self.paused:
            state = State.PAUSED
        elif self.now.activate_us is None:
            state = State.WAITING
        else:
            state = State.COMPLETED if sold_out else State.ACTIVE
        return replace(
            self.now, issued=issued, state=state, complete_us=self.coupons[-1].issue_us if sold_out else None
        )

    def pass_time(self, now_us: int) -> bool:
        """Returns whether the campaign began or ended."""
        if self.cancelled or self.ended:
            return False
        if self.now.end_us is not None and now_us >= self.now.end_us:
            self.ended = True
        elif self.now.activate_us is None and now_us >= self.now.start_us:
            self.now = replace(self.now, activate_us=now_us)
        else:
            return False
        self.now = replace(self.now, version=self.now.version + 1)
        return True


class Model:
    def __init__(self) -> None:
        self.campaigns: dict[str, ModelCampaign] = {}
        self.last_event_us = 0
        self.uncommitted = False
        self.uncommitted_codes: set[str] = set()
        self._durable: tuple[dict[str, ModelCampaign], int] = ({}, 0)

    def commit(self) -> None:
        self.uncommitted = False
        self.uncommitted_codes = set()
        self._durable = deepcopy((self.campaigns, self.last_event_us))

    def crash(self) -> None:
        self.campaigns, self.last_event_us = deepcopy(self._durable)
        self.uncommitted = False
        self.uncommitted_codes = set()

    def tick(self, now_us: int) -> int:
        """Returns how many campaigns began or ended."""
        now_us = max(now_us, self.last_event_us)
        return sum(self._pass_time(campaign, now_us) for campaign in self.campaigns.values())

    def next_due_us(self) -> int | None:
        return min(
            (due for campaign in self.campaigns.values() if (due := _due_us(campaign)) is not None), default=None
        )

    def handle(self, command: Command, now_us: int, code: str) -> tuple[Answer, Proof]:
        """`code`: the one that the ledger gave, if it granted a coupon."""
        now_us = max(now_us, self.last_event_us)
        answer = self._answer(command, now_us, code)
        if isinstance(answer, Issued) and answer.already_issued:
            return answer, Proof.ENTRY if answer.coupon.code in self.uncommitted_codes else Proof.NONE
        return answer, Proof.ENTRY if self.uncommitted else Proof.BARRIER

    def _answer(self, command: Command, now_us: int, code: str) -> Answer:
        match command:
            case ListCampaigns():
                ids = [campaign_id for campaign_id in sorted(self.campaigns) if campaign_id > command.after_campaign_id]
                page = tuple(self.campaigns[campaign_id].seen() for campaign_id in ids[: command.campaigns_max])
                return CampaignList(page, len(page) < len(ids))
            case GetCouponByCode():
                every = [coupon for campaign in self.campaigns.values() for coupon in campaign.coupons]
                found = tuple(coupon for coupon in every if coupon.code == command.code)
                return Coupons(found) if found else Refused(Reason.COUPON_NOT_FOUND, "")
            case CreateCampaign():
                return self._create(command, now_us)
        campaign = self.campaigns.get(command.campaign_id)
        if campaign is None:
            return Refused(Reason.CAMPAIGN_NOT_FOUND, "")
        match command:
            case IssueCoupon():
                return self._issue(campaign, command, now_us, code)
            case GetCampaign():
                self._pass_time(campaign, now_us)
                rest = [coupon for coupon in campaign.coupons if coupon.sequence > command.after_sequence]
                page_of_coupons = tuple(rest[: command.coupons_max])
                return CampaignPage(campaign.seen(), page_of_coupons, len(page_of_coupons) < len(rest))
            case GetCouponsOfUser():
                of_user = tuple(coupon for coupon in campaign.coupons if coupon.user_id == command.user_id)
                return Coupons(of_user) if of_user else Refused(Reason.COUPON_NOT_FOUND, "")
        return self._administer(campaign, command, now_us)

    def _create(self, command: CreateCampaign, now_us: int) -> Answer:
        existing = self.campaigns.get(command.campaign_id)
        if existing is not None:
            as_created = existing.as_created
            assert as_created is not None
            start_us = as_created.create_us if command.start_us is None else command.start_us
            same = replace(command, start_us=start_us) == replace(existing.created, start_us=as_created.start_us)
            return CampaignAnswer(as_created) if same else Refused(Reason.CAMPAIGN_EXISTS, "")
        start_us = now_us if command.start_us is None else command.start_us
        if command.end_us is not None and (command.end_us <= now_us or command.end_us <= start_us):
            return Refused(Reason.INVALID_FIELD, "", "campaign.end_time")
        campaign = ModelCampaign(
            Campaign(
                command.campaign_id,
                command.name,
                command.total,
                0,
                command.per_user_limit,
                start_us,
                command.end_us,
                State.WAITING,
                1,
                now_us,
                None,
                None,
            ),
            command,
        )
        self.campaigns[command.campaign_id] = campaign
        self._happened(now_us)
        self._pass_time(campaign, now_us)
        campaign.as_created = campaign.seen()
        return CampaignAnswer(campaign.as_created)

    def _issue(self, campaign: ModelCampaign, command: IssueCoupon, now_us: int, code: str) -> Answer:
        of_user = [coupon for coupon in campaign.coupons if coupon.user_id == command.user_id]
        for coupon in of_user:
            if coupon.request_id == command.request_id:
                return Issued(coupon, True)
        self._pass_time(campaign, now_us)
        limit = campaign.now.per_user_limit
        if campaign.cancelled:
            return Refused(Reason.CANCELLED, "")
        if campaign.ended:
            return Refused(Reason.ENDED, "")
        if campaign.paused:
            return Refused(Reason.PAUSED, "")
        if campaign.now.activate_us is None:
            return Refused(Reason.NOT_STARTED, "")
        if limit > 1 and command.request_id == "":
            return Refused(Reason.INVALID_FIELD, "", "request_id")
        if len(of_user) == limit:
            return Refused(Reason.LIMIT_REACHED, "")
        if len(campaign.coupons) == campaign.now.total:
            return Refused(Reason.SOLD_OUT, "")
        sequence = len(campaign.coupons) + 1
        coupon = Coupon(code, command.campaign_id, command.user_id, command.request_id, sequence, now_us)
        campaign.coupons.append(coupon)
        self.uncommitted_codes.add(code)
        self._happened(now_us)
        return Issued(coupon, False)

    def _administer(self, campaign: ModelCampaign, command: Administrative, now_us: int) -> Answer:
        if isinstance(command, UpdateCampaign) and not command.set_end:
            command = replace(command, end_us=None)
        if command.request_id in campaign.answered:
            asked, answer = campaign.answered[command.request_id]
            return CampaignAnswer(answer) if asked == command else Refused(Reason.REQUEST_ID_REUSED, "")
        self._pass_time(campaign, now_us)
        if command.expected_version is not None and command.expected_version != campaign.now.version:
            return Refused(Reason.ETAG_MISMATCH, "")
        if campaign.cancelled and not isinstance(command, CancelCampaign):
            return Refused(Reason.CANCELLED, "")
        if campaign.ended and not isinstance(command, CancelCampaign):
            return Refused(Reason.ENDED, "")
        before = (campaign.now, campaign.paused, campaign.cancelled)
        match command:
            case PauseCampaign():
                campaign.paused = True
            case ResumeCampaign():
                campaign.paused = False
            case CancelCampaign():
                campaign.cancelled = True
            case UpdateCampaign():
                if command.total is not None and command.total < campaign.now.total:
                    return Refused(Reason.INVALID_FIELD, "", "campaign.total")
                end_us = command.end_us
                if end_us is not None and (end_us <= now_us or end_us <= campaign.now.start_us):
                    return Refused(Reason.INVALID_FIELD, "", "campaign.end_time")
                campaign.now = replace(campaign.now, total=command.total or campaign.now.total)
                if command.set_end:
                    campaign.now = replace(campaign.now, end_us=end_us)
        if before != (campaign.now, campaign.paused, campaign.cancelled):
            campaign.now = replace(campaign.now, version=campaign.now.version + 1)
        campaign.answered[command.request_id] = (command, campaign.seen())
        self._happened(now_us)
        return CampaignAnswer(campaign.seen())

    def _pass_time(self, campaign: ModelCampaign, now_us: int) -> bool:
        changed = campaign.pass_time(now_us)
        if changed:
            self._happened(now_us)
        return changed

    def _happened(self, now_us: int) -> None:
        self.last_event_us = now_us
        self.uncommitted = True


def _due_us(campaign: ModelCampaign) -> int | None:
    if campaign.cancelled or campaign.ended:
        return None
    return campaign.now.start_us if campaign.now.activate_us is None else campaign.now.end_us
