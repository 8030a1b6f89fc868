"""Was anything granted when nothing may be: before the start, after the end, while paused, after a cancel?
Invariant 6. Pure.

Start and end count by the journaled times, whatever the clocks were. A pause or cancel counts from its acknowledgement
on, a pause until a resume may have followed it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from chaos.evidence import Change, Evidence
from chaos.history import Call, Operation
from chaos.journal import JournaledCampaign
from chaos.verdict import Kind, Violation

_GRANTS_SHOWN = 3


class _Closed(NamedTuple):
    """In this time certainly nothing may be granted."""

    change: Change
    from_s: float
    to_s: float


def intrusions(evidence: Evidence) -> Iterator[Violation]:
    campaign = evidence.journaled
    if campaign is None:
        for change in evidence.creations:
            if change.acknowledged is not None:
                yield _lost(evidence, change.acknowledged, "was created, and is not in the journal")
        return
    yield from _by_time(evidence, campaign)
    for closed in _closures(evidence.changes):
        yield from _granted_in(evidence, closed)
        acknowledged = closed.change.acknowledged
        assert acknowledged is not None, "only what was acknowledged closes"
        if closed.change.operation is Operation.CANCEL and not campaign.cancelled:
            yield _lost(evidence, acknowledged, "was cancelled, and is not so in the journal")
        if closed.change.operation is Operation.PAUSE and closed.to_s == inf and not campaign.paused:
            yield _lost(evidence, acknowledged, "was paused and never resumed, and is not paused in the journal")


def _lost(evidence: Evidence, acknowledged: Call, what: str) -> Violation:
    return Violation(Kind.CHANGE_LOST, evidence.campaign_id, what, (acknowledged.describe(),), (acknowledged.call_id,))


def _by_time(evidence: Evidence, campaign: JournaledCampaign) -> Iterator[Violation]:
    shown = [(seen.coupon.issue_us, seen.call) for found in evidence.sightings.values() for seen in found[:1]]
    for issue_us, call in shown:
        what = _outside(campaign, issue_us)
        if what:
            yield Violation(Kind.OUTSIDE_WINDOW, evidence.campaign_id, what, (call.describe(),), (call.call_id,))
    for grant in evidence.grants:
        what = _outside(campaign, grant.coupon.issue_us)
        if what:
            yield Violation(Kind.OUTSIDE_WINDOW, evidence.campaign_id, what, (grant.describe(),))


def _outside(campaign: JournaledCampaign, issue_us: int) -> str:
    if issue_us < campaign.start_us:
        return f"granted at {issue_us} us, the journaled start is {campaign.start_us} us"
    if campaign.end_us is not None and issue_us >= campaign.end_us:
        return f"granted at {issue_us} us, the journaled end is {campaign.end_us} us"
    return ""


def _closures(changes: list[Change]) -> Iterator[_Closed]:
    resumes = [change for change in changes if change.operation is Operation.RESUME]
    for change in changes:
        if change.acknowledged is None:
            continue
        if change.operation is Operation.CANCEL:
            yield _Closed(change, change.to_s, inf)
        elif change.operation is Operation.PAUSE:
            # A resume that had ended before the pause was asked for cannot follow it; any other may.
            yield _Closed(change, change.to_s, min((r.from_s for r in resumes if r.to_s >= change.from_s), default=inf))


def _granted_in(evidence: Evidence, closed: _Closed) -> Iterator[Violation]:
    """Grants whose whole interval lies in it. Decisions are in order, so both ends of the intervals never fall."""
    first = bisect_right(evidence.earliest_s, closed.from_s)
    beyond = bisect_left(evidence.latest_s, closed.to_s) if closed.to_s < inf else len(evidence.grants)
    if first >= beyond:
        return
    acknowledged = closed.change.acknowledged
    assert acknowledged is not None, "only what was acknowledged closes"
    calls = {acknowledged.call_id: acknowledged}
    proof = [acknowledged.describe()]
    for grant in evidence.grants[first : min(beyond, first + _GRANTS_SHOWN)]:
        proof.append(grant.describe())
        late = evidence.latecomers[grant.number - 1].from_call
        calls |= {call.call_id: call for call in (late, grant.to_call) if call is not None}
    proof += [call.describe() for call_id, call in calls.items() if call_id != acknowledged.call_id]
    what = f"{beyond - first} granted after an acknowledged {closed.change.operation}"
    yield Violation(Kind.OUTSIDE_WINDOW, evidence.campaign_id, what, tuple(proof), tuple(calls))
