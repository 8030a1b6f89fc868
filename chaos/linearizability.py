"""Could `issued` and `total` have had, at one moment of every call, the values that its answer rests on? Pure.

`issued` is a counter that only rises: the n-th journaled grant takes it from n - 1 to n, at some moment of that grant's
interval; a read finds it at its value, at some moment of its own. Such moments exist exactly if nothing that needs a
smaller value began after something that needs a greater one had ended, so looking at pairs is enough, and of all pairs
at the extreme one. SOLD_OUT says that the counter had reached the total. The total only rises as well.
"""

from bisect import bisect_left
from collections.abc import Iterator
from math import inf

from chaos.evidence import Evidence, Frontier, Grant, View, answered_s
from chaos.history import Call, Operation
from chaos.verdict import Kind, Violation


def misorders(evidence: Evidence) -> Iterator[Violation]:
    """Invariants 7, 5 (the order of decision) and 1 (in every answer), and reads that cannot have been."""
    totals = _Totals(evidence)
    issued = Frontier((grant.to_s, grant.number, grant) for grant in evidence.grants)
    yield from _grants(evidence, issued)
    yield from _sold_out(evidence, totals)
    yield from _issued_of_views(evidence, issued, totals)
    yield from totals.violations()


class _Totals:
    """What the total must and may have been, by time."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        asked = [change for change in evidence.changes if change.total is not None]
        self._known = any(change.operation is Operation.CREATE for change in asked)
        self._asked = {change.total for change in asked}
        acknowledged = [
            (change.to_s, change.total or 0, change.acknowledged) for change in asked if change.acknowledged is not None
        ]
        shown = [(view.to_s, view.campaign.total, view.call) for view in evidence.views]
        self.certain: Frontier[Call] = Frontier([*acknowledged, *shown])
        """It was at least this, as that call heard."""
        self.possible: Frontier[Call] = Frontier(
            [(change.from_s, change.total or 0, change.calls[0]) for change in asked]
        )
        """It was at most this, as that call asked; means nothing if the creation is not in the history."""

    def most(self, at_s: float) -> int | None:
        """None: the history does not tell, since the creation is not in it."""
        found = self.possible.until(at_s)
        return (found[0] if found else 0) if self._known else None

    def violations(self) -> Iterator[Violation]:
        campaign_id, journaled = self._evidence.campaign_id, self._evidence.journaled
        for view in self._evidence.views:
            total = view.campaign.total
            before = self.certain.before(view.from_s)
            if before is not None and before[0] > total:
                what = f"total is {total} after it had been {before[0]}"
                yield _violation(Kind.COUNT, campaign_id, what, before[1], view.call)
            most = self.most(view.to_s)
            if most is not None and (total > most or total not in self._asked):
                what = f"total is {total}, which nobody had asked for"
                yield _violation(Kind.COUNT, campaign_id, what, view.call)
        for sightings in self._evidence.sightings.values():
            first = min(sightings, key=lambda seen: answered_s(seen.call))
            most = self.most(answered_s(first.call))
            if most is not None and first.coupon.sequence > most:
                what = f"#{first.coupon.sequence} was answered when the total was at most {most}"
                yield _violation(Kind.OVER_ISSUED, campaign_id, what, first.call)
        last = self.certain.until(inf)
        if journaled is not None and last is not None and journaled.total < last[0]:
            what = f"the journal has a total of {journaled.total}, {last[0]} was acknowledged"
            yield _violation(Kind.CHANGE_LOST, campaign_id, what, last[1])
        if journaled is not None and self._known and journaled.total not in self._asked:
            what = "the journal has a total that nobody had asked for"
            yield Violation(Kind.CHANGE_LOST, campaign_id, what, (f"journal: total {journaled.total}",))


def _grants(evidence: Evidence, issued: Frontier[Grant]) -> Iterator[Violation]:
    for grant in evidence.grants:
        before = issued.before(grant.from_s)
        if before is not None and before[0] > grant.number:
            what = f"coupon {grant.number} was asked for after coupon {before[0]} had been acknowledged"
            yield _of_grants(Kind.SEQUENCE, evidence, what, before[1], grant)


def _sold_out(evidence: Evidence, totals: _Totals) -> Iterator[Violation]:
    numbers = {grant.request: grant for grant in evidence.grants if grant.request is not None}
    for call in evidence.issues:
        if call.reason != "SOLD_OUT" or call.ok:
            continue
        found = totals.certain.before(call.invoked_s)
        if found is None:
            continue
        least, heard = found
        grant = numbers.get((call.user_id, call.request_id))
        if grant is not None and grant.number <= least:
            what = f"a request was told SOLD_OUT of {least}, and its own coupon is number {grant.number} of them"
            yield _of_grants(Kind.REPETITION_DIFFERS, evidence, what, grant, call=call)
        if not _can_be_sold_out(evidence, totals, call):
            count = evidence.granted_by(answered_s(call))
            what = f"SOLD_OUT when at most {count} of at least {least} can have been granted"
            missing = (evidence.latecomers[count],) if count < len(evidence.grants) else ()
            yield _of_grants(Kind.SOLD_OUT_EARLY, evidence, what, *missing, call=call, heard=heard)


def _can_be_sold_out(evidence: Evidence, totals: _Totals, call: Call) -> bool:
    """Was there a moment of the call when all of the least total that must have stood then can have been granted? Both
    rise, so the best moments are just before a raise was acknowledged, and the last."""
    times_s = totals.certain.times_s
    until_s = answered_s(call)
    raises_s = times_s[bisect_left(times_s, call.invoked_s) : bisect_left(times_s, until_s)]
    for at_s in (*raises_s, until_s):
        found = totals.certain.before(at_s)
        if found is not None and evidence.granted_by(at_s) >= found[0]:
            return True
    return False


def _issued_of_views(evidence: Evidence, issued: Frontier[Grant], totals: _Totals) -> Iterator[Violation]:
    views: Frontier[Call] = Frontier(_counts(evidence, totals))
    for view in evidence.views:
        count, total, call = view.campaign.issued, view.campaign.total, view.call
        if count > total:
            yield _violation(Kind.OVER_ISSUED, evidence.campaign_id, f"{count} issued of {total}", call)
        if view.campaign.state == "COMPLETED" and count < total:
            what = f"COMPLETED with {count} issued of {total}"
            yield _violation(Kind.SOLD_OUT_EARLY, evidence.campaign_id, what, call)
        yield from _between(evidence, issued, view)
        before = views.before(view.from_s)
        if before is not None and before[0] > count:
            what = f"{count} issued after {before[0]} had been answered"
            yield _violation(Kind.COUNT, evidence.campaign_id, what, before[1], call)


def _between(evidence: Evidence, issued: Frontier[Grant], view: View) -> Iterator[Violation]:
    count = view.campaign.issued
    before = issued.before(view.from_s)
    if before is not None and before[0] > count:
        what = f"{count} issued after coupon {before[0]} had been acknowledged"
        yield _of_grants(Kind.COUNT, evidence, what, before[1], call=view.call)
    possible = evidence.granted_by(view.to_s)
    if possible < count:
        what = f"{count} issued when at most {possible} can have been granted"
        missing = (evidence.latecomers[possible],) if possible < len(evidence.grants) else ()
        yield _of_grants(Kind.COUNT, evidence, what, *missing, call=view.call)


def _counts(evidence: Evidence, totals: _Totals) -> Iterator[tuple[float, int, Call]]:
    """Answers from which on `issued` is at least so many."""
    for view in evidence.views:
        yield view.to_s, view.campaign.issued, view.call
    for call in evidence.issues:
        found = totals.certain.before(call.invoked_s) if call.reason == "SOLD_OUT" else None
        if found is not None:
            yield answered_s(call), found[0], call


def _of_grants(
    kind: Kind, evidence: Evidence, what: str, *grants: Grant, call: Call | None = None, heard: Call | None = None
) -> Violation:
    calls = [heard, *(one for grant in grants for one in (grant.from_call, grant.to_call)), call]
    distinct = {one.call_id: one for one in calls if one is not None}
    proof = (*(grant.describe() for grant in grants), *(one.describe() for one in distinct.values()))
    return Violation(kind, evidence.campaign_id, what, proof, tuple(distinct))


def _violation(kind: Kind, campaign_id: str, what: str, *calls: Call) -> Violation:
    return Violation(
        kind, campaign_id, what, tuple(call.describe() for call in calls), tuple(call.call_id for call in calls)
    )
