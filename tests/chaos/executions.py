"""Random runs of a tiny reference model that keeps every promise: overlapping calls, repetitions, unknown outcomes.

Each call is given an interval and, in it, the moment at which the model decides it. One of unknown outcome is decided
at any moment after its question, or never. The model is a second writing-down of the API, apart from the product's.
"""

from dataclasses import dataclass, field, replace
from random import Random

from chaos.history import Call, CampaignView, Coupon, Fault, History, Operation, Outcome, Phase
from chaos.journal import Journal, JournaledCampaign, JournaledCoupon

END_S = 100.0
START_S, STOP_S = 3.0, 95.0
"""Of the campaigns that start late, or have an end."""


@dataclass(frozen=True)
class Execution:
    history: History
    journal: Journal
    reads: tuple[Call, ...]

    def with_calls(self, *calls: Call) -> "Execution":
        return replace(self, history=replace(self.history, calls=(*self.history.calls, *calls)))

    def without(self, *calls: Call) -> "Execution":
        kept = tuple(call for call in self.history.calls if call not in calls)
        return replace(self, history=replace(self.history, calls=kept))

    def with_campaign(self, campaign: JournaledCampaign) -> "Execution":
        return replace(self, journal=Journal({**self.journal.campaigns, campaign.campaign_id: campaign}))


@dataclass
class _Campaign:
    campaign_id: str
    limit: int
    start_us: int
    end_us: int | None
    total: int
    paused: bool = False
    cancelled: bool = False
    coupons: list[Coupon] = field(default_factory=list)
    granted: dict[tuple[str, str], Coupon] = field(default_factory=dict)
    recorded: dict[str, CampaignView] = field(default_factory=dict)

    def view(self) -> CampaignView:
        state = "CANCELLED" if self.cancelled else "PAUSED" if self.paused else "ACTIVE"
        if state == "ACTIVE" and len(self.coupons) == self.total:
            state = "COMPLETED"
        return CampaignView(self.total, len(self.coupons), state)

    def why_not(self, user_id: str, now_us: int) -> str:
        held = sum(coupon.user_id == user_id for coupon in self.coupons)
        for holds, reason in (
            (self.cancelled, "CANCELLED"),
            (self.end_us is not None and now_us >= self.end_us, "ENDED"),
            (self.paused, "PAUSED"),
            (now_us < self.start_us, "NOT_STARTED"),
            (held >= self.limit, "LIMIT_REACHED"),
            (len(self.coupons) >= self.total, "SOLD_OUT"),
        ):
            if holds:
                return reason
        return ""


def random_execution(rng: Random, calls: int = 60) -> Execution:
    """Two campaigns; times are seconds from 0 to END_S."""
    asked = [*_creations(rng), *_requests(rng, calls)]
    moments: list[tuple[float, int]] = []
    for place, call in enumerate(asked):
        if call.outcome is Outcome.OK:
            assert call.answered_s is not None, "what is not unknown is answered"
            moments.append((rng.uniform(call.invoked_s, call.answered_s), place))
        elif call.outcome is Outcome.UNKNOWN and rng.random() < 0.6:
            moments.append((rng.uniform(call.invoked_s, END_S), place))
    campaigns: dict[str, _Campaign] = {}
    recorded = list(asked)
    for at_s, place in sorted(moments):
        answer = _decide(campaigns, asked[place], at_s)
        if asked[place].outcome is Outcome.OK:
            recorded[place] = answer
    return _recorded(campaigns, recorded)


def _creations(rng: Random) -> list[Call]:
    calls = []
    for place, campaign_id in enumerate(("c", "d")):
        call = Call(
            place + 1,
            Operation.CREATE,
            campaign_id,
            0.0,
            Outcome.OK,
            2.0,
            total=rng.randint(1, 12),
            per_user_limit=rng.choice((1, 1, 3)),
            start_us=round(START_S * 1e6) if rng.random() < 0.3 else 0,
            end_us=round(STOP_S * 1e6) if rng.random() < 0.3 else None,
        )
        calls.append(call if rng.random() < 0.8 else replace(call, outcome=Outcome.UNKNOWN))
    return calls


def _requests(rng: Random, count: int) -> list[Call]:
    weights = {
        Operation.ISSUE: 70,
        Operation.READ: 15,
        Operation.GET_COUPON: 8,
        Operation.UPDATE: 3,
        Operation.PAUSE: 2,
        Operation.RESUME: 4,
        Operation.CANCEL: 0.3,
    }
    calls: list[Call] = []
    for call_id in range(3, 3 + count):
        operation = rng.choices(list(weights), list(weights.values()))[0]
        campaign_id = rng.choice("ccd")
        invoked_s = rng.uniform(0.5, END_S * 0.9)
        answered_s = invoked_s + rng.choice((0.1, 1.0, 1.0, 20.0)) * rng.random()
        unknown = rng.random() < 0.2
        call = Call(
            call_id,
            operation,
            campaign_id,
            invoked_s,
            Outcome.UNKNOWN if unknown else Outcome.OK,
            (None if rng.random() < 0.5 else answered_s) if unknown else answered_s,
        )
        if rng.random() < 0.05:
            call = replace(call, outcome=Outcome.REFUSED, answered_s=answered_s, reason="OVERLOADED")
        if operation is Operation.ISSUE or operation is Operation.GET_COUPON:
            call = replace(call, user_id=f"u{rng.randint(1, 25)}", request_id=f"r{rng.randint(1, 3)}")
        elif operation is not Operation.READ:
            call = replace(call, request_id=f"{operation}-{rng.randint(1, 4)}")
        if operation is Operation.UPDATE:
            # One request_id is one total: a repetition asks for the same.
            call = replace(call, total=10 + 3 * int(call.request_id[-1]))
        calls.append(call)
    return calls


def _decide(campaigns: dict[str, _Campaign], call: Call, at_s: float) -> Call:
    """The call as it is answered if it is decided now."""
    now_us = round(at_s * 1e6)
    if call.operation is Operation.CREATE:
        assert call.total is not None, "a creation names a total"
        campaign = _Campaign(call.campaign_id, call.per_user_limit, call.start_us or 0, call.end_us, call.total)
        campaigns[call.campaign_id] = campaign
        return replace(call, campaign=campaign.view())
    found = campaigns.get(call.campaign_id)
    if found is None:
        return _refused(call, "CAMPAIGN_NOT_FOUND")
    match call.operation:
        case Operation.ISSUE:
            return _issue(found, call, now_us)
        case Operation.READ:
            return replace(call, campaign=found.view(), coupons=tuple(found.coupons))
        case Operation.GET_COUPON:
            coupons = tuple(coupon for coupon in found.coupons if coupon.user_id == call.user_id)
            return replace(call, coupons=coupons) if coupons else _refused(call, "COUPON_NOT_FOUND")
        case _:
            return _administer(found, call)


def _refused(call: Call, reason: str) -> Call:
    return replace(call, outcome=Outcome.REFUSED, reason=reason)


def _issue(campaign: _Campaign, call: Call, now_us: int) -> Call:
    request = (call.user_id, call.request_id)
    if request in campaign.granted:
        return replace(call, coupons=(campaign.granted[request],), already_issued=True)
    reason = campaign.why_not(call.user_id, now_us)
    if reason:
        return _refused(call, reason)
    number = len(campaign.coupons) + 1
    coupon = Coupon(f"{campaign.campaign_id}-{number}", campaign.campaign_id, call.user_id, number, now_us)
    campaign.coupons.append(coupon)
    campaign.granted[request] = coupon
    return replace(call, coupons=(coupon,))


def _administer(campaign: _Campaign, call: Call) -> Call:
    if call.request_id in campaign.recorded:
        return replace(call, campaign=campaign.recorded[call.request_id])
    if campaign.cancelled and call.operation is not Operation.CANCEL:
        return _refused(call, "CANCELLED")
    match call.operation:
        case Operation.UPDATE:
            assert call.total is not None, "an update names a total"
            if call.total < campaign.total:
                return _refused(call, "INVALID_FIELD")
            campaign.total = call.total
        case Operation.PAUSE:
            campaign.paused = True
        case Operation.RESUME:
            campaign.paused = False
        case _:
            campaign.cancelled = True
    campaign.recorded[call.request_id] = campaign.view()
    return replace(call, campaign=campaign.view())


def _recorded(campaigns: dict[str, _Campaign], calls: list[Call]) -> Execution:
    journaled = {}
    reads = []
    for place, campaign in enumerate(campaigns.values()):
        rows = tuple(JournaledCoupon(c.code, c.user_id, c.sequence, c.issue_us) for c in campaign.coupons)
        journaled[campaign.campaign_id] = JournaledCampaign(
            campaign.campaign_id,
            campaign.total,
            campaign.limit,
            campaign.start_us,
            campaign.end_us,
            campaign.paused,
            campaign.cancelled,
            rows,
        )
        read = Call(10_000 + place, Operation.READ, campaign.campaign_id, END_S, Outcome.OK, END_S + 1)
        reads.append(replace(read, campaign=campaign.view(), coupons=tuple(campaign.coupons)))
    phases = (Phase("all", True, 0.0, END_S),)
    history = History(tuple(calls), phases, (Fault("kill", 2.0, 2.0),))
    return Execution(history, Journal(journaled), tuple(reads))
