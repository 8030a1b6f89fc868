"""One campaign: what may happen to it, and what has happened. Never reads a clock, makes no codes, knows no other
campaign.

`decide_*` say what a command would change and change nothing; `apply` changes, and refuses what no ledger could have
decided. Both run live and only `apply` in a replay, so a replay arrives where the memory was.
"""

from collections.abc import Sequence
from typing import assert_never

from cluster.codes import code_from_number, code_prefix
from cluster.value import value
from node.commands import (
    Campaign,
    CancelCampaign,
    Coupon,
    CreateCampaign,
    IssueCoupon,
    PauseCampaign,
    Reason,
    Refused,
    ResumeCampaign,
    State,
    UpdateCampaign,
)
from node.coupons import CouponTable
from node.events import (
    CampaignActivated,
    CampaignCancelled,
    CampaignCreated,
    CampaignEnded,
    CampaignPaused,
    CampaignResumed,
    CampaignUpdated,
    require,
)
from node.rfc3339 import rfc3339

AdministrativeCommand = UpdateCampaign | PauseCampaign | ResumeCampaign | CancelCampaign
AdministrativeEvent = CampaignUpdated | CampaignPaused | CampaignResumed | CampaignCancelled

CAMPAIGN_NOT_FOUND = Refused(Reason.CAMPAIGN_NOT_FOUND, "there is no campaign with this id")
CAMPAIGN_EXISTS = Refused(Reason.CAMPAIGN_EXISTS, "there is a campaign with this id and other content")
_CANCELLED = Refused(Reason.CANCELLED, "the campaign is cancelled")
_ENDED = Refused(Reason.ENDED, "the campaign has ended")
_PAUSED = Refused(Reason.PAUSED, "the campaign is paused")
_SOLD_OUT = Refused(Reason.SOLD_OUT, "all coupons of the campaign are issued")
_LIMIT_REACHED = Refused(Reason.LIMIT_REACHED, "the user has as many coupons of the campaign as one user may have")
_ETAG_MISMATCH = Refused(Reason.ETAG_MISMATCH, "the campaign has changed: its etag is another one")
_REQUEST_ID_REUSED = Refused(
    Reason.REQUEST_ID_REUSED, "the request_id was used for another administrative call on this campaign"
)
_REQUEST_ID_REQUIRED = Refused(
    Reason.INVALID_FIELD, "is required where a user may have several coupons", field="request_id"
)


@value
class Recorded:
    """An administrative call and what it was answered, for its repetitions."""

    ask: tuple[object, ...]
    answer: Campaign


class CampaignLedger:
    """Begins with its creation; `apply` takes every later event of the campaign but its grants, `grant` takes these."""

    def __init__(self, created: CampaignCreated) -> None:
        require(created.total >= 1, "a campaign has at least one coupon")
        require(created.per_user_limit >= 1, "a user may have at least one coupon")
        end_us = created.end_us
        require(end_us is None or created.start_us < end_us, "a campaign ends after its start")
        require(end_us is None or created.create_us < end_us, "a campaign ends after its creation")
        self._created = created
        self._total = created.total
        self._end_us = end_us
        self._activate_us: int | None = None
        self._ended = False
        self._paused = False
        self._cancelled = False
        self._version = 1
        self.prefix = code_prefix(created.name)
        """What its codes begin with."""
        self.issued = 0
        self._coupons = CouponTable(created.per_user_limit)
        self._recorded: dict[str, Recorded] = {}
        self._as_created = self.view()

    # --- what is -----------------------------------------------------------------------------------------------------

    @property
    def campaign_id(self) -> str:
        return self._created.campaign_id

    @property
    def due_us(self) -> int | None:
        """When the campaign starts or ends by itself; None: never, or it has."""
        if self._cancelled or self._ended:
            return None
        return self._created.start_us if self._activate_us is None else self._end_us

    @property
    def excess(self) -> int:
        """Coupons beyond the total, by what is stored rather than by what was decided from; never above 0."""
        return len(self._coupons) - self._total

    @property
    def last_us(self) -> int:
        """When it was created, began, or granted its last coupon: whatever came last."""
        granted_us = self._coupons.time_us(self.issued) if self.issued else 0
        return max(self._created.create_us, self._activate_us or 0, granted_us)

    @property
    def state(self) -> State:
        if self._cancelled:
            return State.CANCELLED
        if self._ended:
            return State.ENDED
        if self._paused:
            return State.PAUSED
        if self._activate_us is None:
            return State.WAITING
        return State.COMPLETED if self.issued == self._total else State.ACTIVE

    def view(self) -> Campaign:
        issued = self.issued
        return Campaign(
            campaign_id=self._created.campaign_id,
            name=self._created.name,
            total=self._total,
            issued=issued,
            per_user_limit=self._created.per_user_limit,
            start_us=self._created.start_us,
            end_us=self._end_us,
            state=self.state,
            version=self._version,
            create_us=self._created.create_us,
            activate_us=self._activate_us,
            complete_us=self._coupons.time_us(issued) if issued == self._total else None,
        )

    def coupon(self, sequence: int) -> Coupon:
        assert 1 <= sequence <= self.issued, "no such coupon"
        return Coupon(
            code=code_from_number(self.prefix, self._coupons.number(sequence)),
            campaign_id=self._created.campaign_id,
            user_id=self._coupons.user_id(sequence),
            request_id=self._coupons.request_id(sequence),
            sequence=sequence,
            issue_us=self._coupons.time_us(sequence),
        )

    def coupons_of(self, user_id: str) -> tuple[Coupon, ...]:
        return tuple(map(self.coupon, self._coupons.sequences_of(user_id)))

    def find(self, command: IssueCoupon) -> tuple[int, int]:
        """The sequence of the coupon that this very request was granted, or 0 and how many coupons the user has."""
        return self._coupons.find(command.user_id, command.request_id)

    # --- what may be -------------------------------------------------------------------------------------------------

    def created_by(self, command: CreateCampaign) -> Campaign | None:
        """The campaign as it was created, if a command with this content created it. A start that was not given is the
        moment of the creation."""
        created = self._created
        start_us = created.create_us if command.start_us is None else command.start_us
        asked = (command.name, command.total, command.per_user_limit, start_us, command.end_us)
        is_so = (created.name, created.total, created.per_user_limit, created.start_us, created.end_us)
        return self._as_created if asked == is_so else None

    def decide_time(self, now_us: int) -> CampaignActivated | CampaignEnded | None:
        """What time alone has brought about. A campaign whose end passed while nobody owned it never begins."""
        if self._cancelled or self._ended:
            return None
        if self._end_us is not None and self._end_us <= now_us:
            return CampaignEnded(self.campaign_id, now_us)
        if self._activate_us is None and self._created.start_us <= now_us:
            return CampaignActivated(self.campaign_id, now_us)
        return None

    def decide_issue(self, command: IssueCoupon, held: int) -> Refused | None:
        """Why a request that is no repetition gets no coupon; None: it gets one. `held`: coupons that its user has."""
        if self._cancelled:
            return _CANCELLED
        if self._ended:
            return _ENDED
        if self._paused:
            return _PAUSED
        if self._activate_us is None:
            start_time = rfc3339(self._created.start_us)
            return Refused(
                Reason.NOT_STARTED, f"the campaign starts at {start_time}", metadata=(("start_time", start_time),)
            )
        if not command.request_id and self._created.per_user_limit > 1:
            return _REQUEST_ID_REQUIRED
        if held >= self._created.per_user_limit:
            return _LIMIT_REACHED
        if self.issued >= self._total:
            return _SOLD_OUT
        return None

    def recorded_answer(self, command: AdministrativeCommand) -> Campaign | Refused | None:
        """What a repetition hears; None: the request_id is new."""
        recorded = self._recorded.get(command.request_id)
        if recorded is None:
            return None
        return recorded.answer if recorded.ask == _ask_of_command(command) else _REQUEST_ID_REUSED

    def decide_administrative(self, command: AdministrativeCommand, now_us: int) -> AdministrativeEvent | Refused:
        """What a command whose request_id is new does, or why not. Idempotent by state: pausing what is paused changes
        nothing, but is recorded."""
        if not command.request_id:
            return Refused(Reason.INVALID_FIELD, "is required", field="request_id")
        if command.expected_version not in (None, self._version):
            return _ETAG_MISMATCH
        about = (command.campaign_id, command.request_id, command.expected_version)
        if isinstance(command, CancelCampaign):
            return CampaignCancelled(*about, now_us)
        if self._cancelled:
            return _CANCELLED
        if self._ended:
            return _ENDED
        match command:
            case PauseCampaign():
                return CampaignPaused(*about, now_us)
            case ResumeCampaign():
                return CampaignResumed(*about, now_us)
            case UpdateCampaign():
                return self._decide_update(command, now_us)
            case _:
                assert_never(command)

    def _decide_update(self, command: UpdateCampaign, now_us: int) -> CampaignUpdated | Refused:
        total = self._total if command.total is None else command.total
        if total < self._total:
            return Refused(
                Reason.INVALID_FIELD, f"may be raised from {self._total}, not lowered", field="campaign.total"
            )
        if command.set_end:
            refused = refuse_end(command.end_us, self._created.start_us, now_us)
            if refused:
                return refused
        return CampaignUpdated(
            campaign_id=command.campaign_id,
            request_id=command.request_id,
            expected_version=command.expected_version,
            total=total,
            end_us=command.end_us if command.set_end else self._end_us,
            time_us=now_us,
            asked_total=command.total,
            asked_end_us=command.end_us if command.set_end else None,
            asked_set_end=command.set_end,
        )

    # --- what becomes ------------------------------------------------------------------------------------------------

    def apply(self, event: CampaignActivated | CampaignEnded | AdministrativeEvent) -> None:
        """Raises LedgerViolation for an event that breaks a rule; the campaign must be thrown away then."""
        match event:
            case CampaignActivated():
                require(not self._cancelled and not self._ended, "a campaign that is over does not begin")
                require(self._activate_us is None, "a campaign begins once")
                require(event.time_us >= self._created.start_us, "a campaign begins at its start or later")
                self._activate_us = event.time_us
                self._version += 1
                if event.time_us == self._created.create_us:
                    # It began in the breath in which it was created, so this is how its creation was answered.
                    self._as_created = self.view()
            case CampaignEnded():
                require(not self._cancelled and not self._ended, "a campaign ends once")
                require(
                    self._end_us is not None and event.time_us >= self._end_us, "a campaign ends at its end or later"
                )
                self._ended = True
                self._version += 1
            case CampaignUpdated() | CampaignPaused() | CampaignResumed() | CampaignCancelled():
                require(event.request_id != "", "an administrative call has a request_id")
                require(event.request_id not in self._recorded, "a request_id is used once")
                require(event.expected_version in (None, self._version), "the expected version is the campaign's")
                if self._administer(event):
                    self._version += 1
                self._recorded[event.request_id] = Recorded(_ask_of_event(event), self.view())
            case _:
                assert_never(event)

    def _administer(self, event: AdministrativeEvent) -> bool:
        """Returns whether the campaign is another one now."""
        if isinstance(event, CampaignCancelled):
            changed, self._cancelled = not self._cancelled, True
            return changed
        require(not self._cancelled and not self._ended, "nothing but a cancel happens to a campaign that is over")
        if isinstance(event, CampaignUpdated):
            end_us = event.end_us
            require(event.total >= self._total, "total never falls")
            require(end_us == self._end_us or event.asked_set_end, "the end changes only when asked to")
            require(end_us is None or self._created.start_us < end_us, "a campaign ends after its start")
            require(end_us is None or event.time_us < end_us, "an end is set before it comes")
            changed = (self._total, self._end_us) != (event.total, end_us)
            self._total, self._end_us = event.total, end_us
            return changed
        paused = isinstance(event, CampaignPaused)
        changed, self._paused = self._paused != paused, paused
        return changed

    def grant(
        self, user_ids: Sequence[str], request_ids: Sequence[str], numbers: Sequence[int], times_us: Sequence[int]
    ) -> None:
        """Issue the next coupons: columns of equal length, times that do not fall.

        Raises:
            LedgerViolation: as `apply`.
        """
        require(self._activate_us is not None, "no grant before the campaign began")
        require(not self._cancelled, "no grant after a cancel")
        require(not self._ended, "no grant after the end")
        require(not self._paused, "no grant while paused")
        require(self._end_us is None or times_us[-1] < self._end_us, "no grant at or after the end")
        self._coupons.append(user_ids, request_ids, numbers, times_us)
        self.issued += len(user_ids)
        require(self.issued <= self._total, "issued <= total")

    def check_invariants(self) -> None:
        """Everything that must hold of a campaign at any time. Takes time in proportion to its coupons."""
        assert self.issued == len(self._coupons), "coupons that nobody counted"
        assert self.issued <= self._total, "over-issue"
        assert self.issued == 0 or self._activate_us is not None, "a grant before the start"
        assert self._total >= self._created.total, "total fell"
        self._coupons.check_invariants()


def refuse_end(end_us: int | None, start_us: int, now_us: int) -> Refused | None:
    """Why a campaign cannot be given this end."""
    if end_us is None:
        return None
    if end_us <= now_us:
        return Refused(Reason.INVALID_FIELD, "must be in the future", field="campaign.end_time")
    if end_us <= start_us:
        return Refused(Reason.INVALID_FIELD, "must be after start_time", field="campaign.end_time")
    return None


def _ask_of_command(command: AdministrativeCommand) -> tuple[object, ...]:
    """What makes a call this call and no other, as `_ask_of_event` finds it in the journal."""
    match command:
        case UpdateCampaign():
            end_us = command.end_us if command.set_end else None
            return CampaignUpdated, command.expected_version, command.total, command.set_end, end_us
        case PauseCampaign():
            return CampaignPaused, command.expected_version
        case ResumeCampaign():
            return CampaignResumed, command.expected_version
        case CancelCampaign():
            return CampaignCancelled, command.expected_version
        case _:
            assert_never(command)


def _ask_of_event(event: AdministrativeEvent) -> tuple[object, ...]:
    if isinstance(event, CampaignUpdated):
        return CampaignUpdated, event.expected_version, event.asked_total, event.asked_set_end, event.asked_end_us
    return type(event), event.expected_version
