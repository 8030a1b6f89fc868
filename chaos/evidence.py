"""History and journal of one campaign, side by side: what was shown, and when each thing can have happened. Judges
nothing.

An interval here is the time in which an effect must have taken place: from its question to the first answer that shows
it. Without such an answer it has no end.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf
from typing import Generic, TypeVar

from chaos.history import Call, CampaignView, Coupon, Operation, Outcome
from chaos.journal import JournaledCampaign, JournaledCoupon

Request = tuple[str, str]
"""(user_id, request_id): within a campaign, what makes an issue a repetition of another."""

ADMINISTRATIVE = frozenset({Operation.CREATE, Operation.UPDATE, Operation.PAUSE, Operation.RESUME, Operation.CANCEL})

Proof = TypeVar("Proof")


class Frontier(Generic[Proof]):
    """The greatest value that any event up to some time has, and which event has it."""

    def __init__(self, events: Iterable[tuple[float, int, Proof]]) -> None:
        ordered = sorted(events, key=lambda event: event[0])
        self.times_s = [at_s for at_s, _, _ in ordered]
        self._best = list(accumulate(((value, proof) for _, value, proof in ordered), _greater))

    def before(self, at_s: float) -> tuple[int, Proof] | None:
        """Of the events strictly before; None: there are none."""
        return self._at(bisect_left(self.times_s, at_s))

    def until(self, at_s: float) -> tuple[int, Proof] | None:
        """As `before`, with those at that very time."""
        return self._at(bisect_right(self.times_s, at_s))

    def _at(self, events: int) -> tuple[int, Proof] | None:
        return self._best[events - 1] if events else None


def _greater(one: tuple[int, Proof], other: tuple[int, Proof]) -> tuple[int, Proof]:
    return other if other[0] > one[0] else one


@dataclass(frozen=True, slots=True)
class Sighting:
    """An answer that showed a coupon."""

    coupon: Coupon
    call: Call


@dataclass(frozen=True, slots=True)
class View:
    """An answer that showed the campaign as it was at one moment of the interval."""

    campaign: CampaignView
    call: Call
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """An administrative call with all its repetitions, none of which changes anything again."""

    operation: Operation
    total: int | None
    calls: tuple[Call, ...]
    """Those that were not refused."""
    from_s: float
    to_s: float
    acknowledged: Call | None
    """The first to be answered."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A journaled coupon."""

    number: int
    """Its place in the journal, from 1: what its sequence has to be."""
    coupon: JournaledCoupon
    request: Request | None
    """That it was granted to, where the history tells."""
    from_s: float
    from_call: Call | None
    """None: no call can have caused it."""
    to_s: float
    to_call: Call | None

    def describe(self) -> str:
        coupon = self.coupon
        return (
            f"journal: coupon {self.number} is #{coupon.sequence} {coupon.code} of {coupon.user_id} at "
            f"{coupon.issue_us} us"
        )


def _later(one: Grant, other: Grant) -> Grant:
    return other if other.from_s > one.from_s else one


@dataclass(slots=True)
class Evidence:
    campaign_id: str
    journaled: JournaledCampaign | None
    issues: list[Call] = field(default_factory=list)
    lookups: list[Call] = field(default_factory=list)
    """get_coupon calls."""
    requests: dict[Request, list[Call]] = field(default_factory=dict)
    """Issues, each with its repetitions."""
    sightings: dict[str, list[Sighting]] = field(default_factory=dict)
    """By code."""
    views: list[View] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)
    latecomers: list[Grant] = field(default_factory=list)
    """For each number, the grant up to it that was asked for last."""
    earliest_s: list[float] = field(default_factory=list)
    """Before these times no grant of this number or a greater one was decided: decisions are in order."""
    latest_s: list[float] = field(default_factory=list)
    """After these times all up to this number were decided."""

    def granted_by(self, at_s: float) -> int:
        """How many grants can have been decided by then."""
        return bisect_right(self.earliest_s, at_s)

    @property
    def creations(self) -> Iterator[Change]:
        return (change for change in self.changes if change.operation is Operation.CREATE)


def gather(calls: Iterable[Call], journaled: Iterable[JournaledCampaign]) -> dict[str, Evidence]:
    """By campaign id, for every campaign that a call or the journal names."""
    evidence = {campaign.campaign_id: Evidence(campaign.campaign_id, campaign) for campaign in journaled}
    administrative: dict[str, list[Call]] = {}
    for call in calls:
        for coupon in call.coupons:
            shown = evidence.setdefault(coupon.campaign_id, Evidence(coupon.campaign_id, None)).sightings
            shown.setdefault(coupon.code, []).append(Sighting(coupon, call))
        if not call.campaign_id:
            continue
        of = evidence.setdefault(call.campaign_id, Evidence(call.campaign_id, None))
        if call.operation is Operation.ISSUE:
            of.issues.append(call)
            of.requests.setdefault((call.user_id, call.request_id), []).append(call)
        elif call.operation in ADMINISTRATIVE:
            administrative.setdefault(call.campaign_id, []).append(call)
        elif call.operation is Operation.GET_COUPON:
            of.lookups.append(call)
        elif call.ok and call.campaign is not None:
            of.views.append(View(call.campaign, call, call.invoked_s, answered_s(call)))
    for campaign_id, of in evidence.items():
        of.changes = list(_changes(administrative.get(campaign_id, ())))
        of.views += _views_of(of.changes)
        of.grants = _grants(of)
        of.latecomers = list(accumulate(of.grants, _later))
        of.earliest_s = [grant.from_s for grant in of.latecomers]
        of.latest_s = list(accumulate((grant.to_s for grant in reversed(of.grants)), min))[::-1]
    return evidence


def answered_s(call: Call) -> float:
    """Raises ValueError for a history that cannot have been recorded: answered, but never, or before its question."""
    if call.answered_s is None or call.answered_s < call.invoked_s:
        raise ValueError(f"no time of an answer: {call.describe()}")
    return call.answered_s


def _changes(calls: Iterable[Call]) -> Iterator[Change]:
    repetitions: dict[tuple[Operation, str, int | None], list[Call]] = {}
    for call in calls:
        if call.outcome is not Outcome.REFUSED:
            # Creations have no request_id: what repeats them is the same content.
            repetitions.setdefault((call.operation, call.request_id, call.total), []).append(call)
    for (operation, _, total), same in repetitions.items():
        acknowledged = min((call for call in same if call.ok), key=answered_s, default=None)
        from_s = min(call.invoked_s for call in same)
        to_s = inf if acknowledged is None else answered_s(acknowledged)
        yield Change(operation, total, tuple(same), from_s, to_s, acknowledged)


def _views_of(changes: Iterable[Change]) -> Iterator[View]:
    """A repetition is answered as the first call was, so what it shows may be as old as that one's question."""
    for change in changes:
        for call in change.calls:
            if call.ok and call.campaign is not None:
                yield View(call.campaign, call, change.from_s, answered_s(call))


def _grants(of: Evidence) -> list[Grant]:
    if of.journaled is None:
        return []
    waiting = _unanswered(of.requests)
    taken: dict[str, int] = {}
    grants: list[Grant] = []
    for number, coupon in enumerate(of.journaled.coupons, 1):
        sightings = of.sightings.get(coupon.code, ())
        seen = min((sighting.call for sighting in sightings), key=answered_s, default=None)
        asked: Call | None
        issues = [sighting.call for sighting in sightings if sighting.call.operation is Operation.ISSUE]
        request: Request | None = None
        if issues:
            request = (issues[0].user_id, issues[0].request_id)
            asked = _cause(issues, of.requests[request]) if request in of.requests else issues[0]
        else:
            candidates = waiting.get(coupon.user_id, [])
            place = taken.get(coupon.user_id, 0)
            taken[coupon.user_id] = place + 1
            # Which of the user's requests it was is not known: the first of them may have been it.
            asked = candidates[0] if place < len(candidates) else None
            if asked is not None and len(candidates) == 1:
                request = (asked.user_id, asked.request_id)
        from_s = -inf if asked is None else asked.invoked_s
        to_s = inf if seen is None else answered_s(seen)
        grants.append(Grant(number, coupon, request, from_s, asked, to_s, seen))
    return grants


def _unanswered(requests: dict[Request, list[Call]]) -> dict[str, list[Call]]:
    """By user: for each request that was never answered with a coupon but may have been granted one, the first call
    that may have caused it; earliest first."""
    waiting: dict[str, list[Call]] = {}
    for (user_id, _), calls in requests.items():
        if any(call.ok for call in calls):
            continue
        unknown = [call for call in calls if call.outcome is Outcome.UNKNOWN]
        if unknown:
            waiting.setdefault(user_id, []).append(min(unknown, key=lambda call: call.invoked_s))
    for calls in waiting.values():
        calls.sort(key=lambda call: call.invoked_s)
    return waiting


def _cause(answers: Sequence[Call], repetitions: Sequence[Call]) -> Call:
    """The earliest call that may have caused a coupon which these answers showed."""
    deciding = [call for call in answers if not call.already_issued]
    if deciding:
        return max(deciding, key=lambda call: call.invoked_s)
    possible = [call for call in repetitions if call.outcome is not Outcome.REFUSED]
    return min(possible, key=lambda call: call.invoked_s)
