"""Do the answers agree with the journal and with each other? Invariants 1 to 5, as far as no order in time matters.
Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from chaos.evidence import Evidence, Grant, Sighting, answered_s
from chaos.history import DECIDED, Call, Coupon, Operation, Outcome
from chaos.journal import Journal, JournaledCoupon
from chaos.verdict import Kind, Violation

KINDS = {
    "over_issued": Kind.OVER_ISSUED,
    "total_lowered": Kind.OVER_ISSUED,
    "sequence_gap": Kind.SEQUENCE,
    "counter_gap": Kind.SEQUENCE,
    "time_fell": Kind.SEQUENCE,
    "duplicate_code": Kind.NOT_UNIQUE,
    "user_limit": Kind.NOT_UNIQUE,
    "request_twice": Kind.REPETITION_DIFFERS,
    "activated_early": Kind.OUTSIDE_WINDOW,
    "ended_early": Kind.OUTSIDE_WINDOW,
    "grant_before_start": Kind.OUTSIDE_WINDOW,
    "grant_after_end": Kind.OUTSIDE_WINDOW,
    "grant_while_paused": Kind.OUTSIDE_WINDOW,
    "grant_after_cancel": Kind.OUTSIDE_WINDOW,
}
"""Of ops.audit.Kind; all others are Kind.JOURNAL."""


class _Place(NamedTuple):
    campaign_id: str
    row: JournaledCoupon

    def describe(self) -> str:
        row = self.row
        return f"journal: {self.campaign_id} #{row.sequence} {row.code} of {row.user_id} at {row.issue_us} us"


def disagreements(journal: Journal, campaigns: Mapping[str, Evidence], calls: Iterable[Call]) -> Iterator[Violation]:
    for fault in journal.faults:
        kind = KINDS.get(fault.kind, Kind.JOURNAL)
        yield Violation(kind, fault.campaign_id, fault.what, (f"journal: {fault.place}: {fault.kind}: {fault.what}",))
    places: dict[str, list[_Place]] = {}
    for campaign in journal.campaigns.values():
        for row in campaign.coupons:
            places.setdefault(row.code, []).append(_Place(campaign.campaign_id, row))
    yield from _codes(places, campaigns)
    for evidence in campaigns.values():
        yield from _over_issue(evidence)
        yield from _lost(evidence, places)
        yield from _user_limit(evidence)
        yield from _repetitions(evidence)
        yield from _sequences(evidence)
        yield from _unasked(evidence)
    yield from _not_found(campaigns, calls)


def _codes(places: Mapping[str, list[_Place]], campaigns: Mapping[str, Evidence]) -> Iterator[Violation]:
    """Invariant 3: a code exists once, across all campaigns."""
    for code, found in places.items():
        if len(found) > 1:
            proof = tuple(place.describe() for place in found)
            yield Violation(Kind.NOT_UNIQUE, found[0].campaign_id, f"{code} is {len(found)} coupons", proof)
    shown: dict[str, dict[tuple[str, str, int], Call]] = {}
    for evidence in campaigns.values():
        for code, sightings in evidence.sightings.items():
            for coupon, call in ((sighting.coupon, sighting.call) for sighting in sightings):
                shown.setdefault(code, {}).setdefault((coupon.campaign_id, coupon.user_id, coupon.sequence), call)
    for code, different in shown.items():
        if len(different) > 1:
            yield _by_calls(Kind.NOT_UNIQUE, next(iter(different))[0], f"{code} was given twice", *different.values())


def _over_issue(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 1, in the journal and over all answers together; `order` judges single answers."""
    campaign = evidence.journaled
    if campaign is None:
        return
    count = len(campaign.coupons)
    if count > campaign.total:
        what = f"{count} coupons of {campaign.total} in the journal"
        proof = tuple(grant.describe() for grant in evidence.grants[campaign.total :])
        yield Violation(Kind.OVER_ISSUED, campaign.campaign_id, what, proof)
    if len(evidence.sightings) > campaign.total:
        what = f"{len(evidence.sightings)} coupons of {campaign.total} were answered"
        last = max(evidence.sightings.values(), key=lambda sightings: sightings[0].coupon.sequence)
        yield _by_calls(Kind.OVER_ISSUED, campaign.campaign_id, what, last[0].call)


def _lost(evidence: Evidence, places: Mapping[str, list[_Place]]) -> Iterator[Violation]:
    """Invariant 2: what was answered stands in the journal, and was answered to whom it belongs."""
    for code, sightings in evidence.sightings.items():
        found = places.get(code, [])
        for sighting in _different(sightings):
            coupon, call = sighting.coupon, sighting.call
            row = JournaledCoupon(coupon.code, coupon.user_id, coupon.sequence, coupon.issue_us)
            if not found:
                what = f"#{coupon.sequence} {code} of {coupon.user_id} was acknowledged and is not in the journal"
                yield _by_calls(Kind.ACKNOWLEDGED_LOST, evidence.campaign_id, what, call)
            elif _Place(coupon.campaign_id, row) not in found:
                what = (
                    f"#{coupon.sequence} {code} of {coupon.user_id} at {coupon.issue_us} us is another in the journal"
                )
                proof = (call.describe(), *(place.describe() for place in found))
                yield Violation(Kind.ACKNOWLEDGED_LOST, evidence.campaign_id, what, proof, (call.call_id,))
            if call.operation is Operation.ISSUE and not _is_for(coupon, call):
                what = f"{call.user_id} was given {code} of {coupon.campaign_id}, {coupon.user_id}"
                yield _by_calls(Kind.ACKNOWLEDGED_LOST, evidence.campaign_id, what, call)


def _different(sightings: list[Sighting]) -> Iterable[Sighting]:
    """One sighting of each content, and for issues of each caller."""
    return {(seen.coupon, seen.call.operation, seen.call.user_id): seen for seen in reversed(sightings)}.values()


def _is_for(coupon: Coupon, call: Call) -> bool:
    return (coupon.campaign_id, coupon.user_id) == (call.campaign_id, call.user_id)


def _not_found(campaigns: Mapping[str, Evidence], calls: Iterable[Call]) -> Iterator[Violation]:
    """Invariant 2: who asks for an acknowledged coupon finds it."""
    by_code: dict[str, Call] = {}
    by_user: dict[tuple[str, str], dict[str, Call]] = {}
    for evidence in campaigns.values():
        for code, sightings in evidence.sightings.items():
            first = min((sighting.call for sighting in sightings), key=answered_s)
            by_code[code] = first
            by_user.setdefault((evidence.campaign_id, sightings[0].coupon.user_id), {})[code] = first
    for call in calls:
        if call.operation is not Operation.GET_COUPON or call.outcome is Outcome.UNKNOWN:
            continue
        if not call.ok and call.reason != "COUPON_NOT_FOUND":
            continue
        found = {coupon.code for coupon in call.coupons}
        if call.code:
            known = {call.code: by_code[call.code]} if call.code in by_code else {}
        else:
            known = by_user.get((call.campaign_id, call.user_id), {})
        for code, acknowledged in known.items():
            if code not in found and answered_s(acknowledged) < call.invoked_s:
                what = f"{code} was acknowledged, and not found later"
                campaign_id = acknowledged.campaign_id or call.campaign_id
                yield _by_calls(Kind.ACKNOWLEDGED_LOST, campaign_id, what, acknowledged, call)


def _user_limit(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 3: a user has at most per_user_limit coupons."""
    campaign = evidence.journaled
    if campaign is None:
        return
    rows: dict[str, list[Grant]] = {}
    for grant in evidence.grants:
        rows.setdefault(grant.coupon.user_id, []).append(grant)
    for user_id, grants in rows.items():
        if len(grants) > campaign.per_user_limit:
            what = f"{user_id} has {len(grants)} coupons, may have {campaign.per_user_limit}"
            proof = tuple(grant.describe() for grant in grants)
            yield Violation(Kind.NOT_UNIQUE, campaign.campaign_id, what, proof)
    shown: dict[str, dict[str, Call]] = {}
    for code, sightings in evidence.sightings.items():
        for sighting in sightings:
            shown.setdefault(sighting.coupon.user_id, {})[code] = sighting.call
    for user_id, calls in shown.items():
        if len(calls) > campaign.per_user_limit:
            what = f"{user_id} was given {len(calls)} coupons, may have {campaign.per_user_limit}"
            yield _by_calls(Kind.NOT_UNIQUE, campaign.campaign_id, what, *calls.values())


def _repetitions(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 4: the same request gets the same coupon, is decided once, and is not refused once it was granted."""
    for (user_id, request_id), calls in evidence.requests.items():
        if len(calls) == 1:
            continue
        granted = sorted((call for call in calls if call.ok and call.coupons), key=answered_s)
        if not granted:
            continue
        first, name = granted[0], f"request {request_id!r} of {user_id}"
        deciding = [call for call in granted if call.is_grant]
        if len(deciding) > 1:
            what = f"{name} was decided {len(deciding)} times"
            yield _by_calls(Kind.REPETITION_DIFFERS, evidence.campaign_id, what, *deciding)
        for call in granted[1:]:
            if call.coupons != first.coupons:
                what = f"{name} got another coupon"
                yield _by_calls(Kind.REPETITION_DIFFERS, evidence.campaign_id, what, first, call)
        for call in calls:
            if call.reason in DECIDED and not call.ok and call.invoked_s > answered_s(first):
                what = f"{name} was refused after it had been granted"
                yield _by_calls(Kind.REPETITION_DIFFERS, evidence.campaign_id, what, first, call)


def _sequences(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 5: 1, 2, 3, ... in the journal; nobody is told a number that another one has."""
    before = 0
    time_us = None
    for grant in evidence.grants:
        row = grant.coupon
        if row.sequence != before + 1:
            what = f"sequence {row.sequence} after {before}"
            yield Violation(Kind.SEQUENCE, evidence.campaign_id, what, (grant.describe(),))
        if time_us is not None and row.issue_us < time_us:
            what = f"#{row.sequence} was granted at {row.issue_us} us, the one before at {time_us} us"
            yield Violation(Kind.SEQUENCE, evidence.campaign_id, what, (grant.describe(),))
        before, time_us = row.sequence, row.issue_us
    shown: dict[int, Sighting] = {}
    for sightings in evidence.sightings.values():
        for sighting in sightings:
            first = shown.setdefault(sighting.coupon.sequence, sighting)
            if first.coupon.code != sighting.coupon.code:
                what = f"#{sighting.coupon.sequence} was given to {first.coupon.code} and {sighting.coupon.code}"
                yield _by_calls(Kind.SEQUENCE, evidence.campaign_id, what, first.call, sighting.call)


def _unasked(evidence: Evidence) -> Iterator[Violation]:
    """Nothing is granted to who did not ask, or was told that nothing was done."""
    nobodys = [grant for grant in evidence.grants if grant.from_call is None]
    if nobodys:
        asked: dict[str, list[Call]] = {}
        for call in evidence.issues:
            asked.setdefault(call.user_id, []).append(call)
        for grant in nobodys:
            user_id = grant.coupon.user_id
            refused = asked.get(user_id, [])
            what = f"{grant.coupon.code} was granted to {user_id}, of whom no call can have caused it"
            proof = (grant.describe(), *(call.describe() for call in refused))
            ids = tuple(call.call_id for call in refused)
            yield Violation(Kind.UNASKED, evidence.campaign_id, what, proof, ids)


def _by_calls(kind: Kind, campaign_id: str, what: str, *calls: Call) -> Violation:
    return Violation(
        kind, campaign_id, what, tuple(call.describe() for call in calls), tuple(call.call_id for call in calls)
    )
