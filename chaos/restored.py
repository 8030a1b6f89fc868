"""A run in which etcd, and the journal in it, was taken back to a snapshot. Pure.

A restore loses what came after its snapshot: that is what it is. So the run is judged twice. The cluster that was
thrown away has to have kept every promise up to its end, by the journal that it left. The one that came after has to
keep those that were made before the snapshot was begun, and all of its own; whatever was heard in between may be gone,
and what was asked then may have been done. And no code of the one may be another coupon of the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from chaos.checker import check
from chaos.history import Call, History, Outcome
from chaos.journal import Journal, JournaledCoupon
from chaos.validity import Demands
from chaos.verdict import Kind, Verdict, Violation


@dataclass(frozen=True, slots=True)
class Restore:
    """Of a journal. Seconds on the history's clock."""

    from_s: float
    """Before its snapshot was begun: what had been answered by then is in it."""
    to_s: float
    """After the end of the last process that could write to what was thrown away."""
    before: Journal
    """What was thrown away, re-read."""


def check_restored(
    history: History, restore: Restore, journal: Journal, reads: Sequence[Call], demands: Demands | None = None
) -> Verdict:
    """As chaos.checker.check; `journal`: of the end."""
    old = check(History(tuple(_until(restore.to_s, history.calls))), restore.before, ())
    new = check(replace(history, calls=tuple(_survived(restore, history.calls))), journal, reads, demands)
    violations = (*old.violations, *new.violations, *_used_twice(restore.before, journal))
    reasons = new.invalid_because
    if dict(_coupons(restore.before)).keys() <= dict(_coupons(journal)).keys():
        reasons = (*reasons, "the restore has taken nothing back")
    return replace(new, violations=violations, invalid_because=reasons)


def _until(end_s: float, calls: Iterable[Call]) -> Iterator[Call]:
    """What was asked before the end. An answer that came after it is nobody's of those that ended."""
    for call in calls:
        if call.invoked_s < end_s:
            answered = call.answered_s is not None and call.answered_s <= end_s
            yield call if answered else _unheard(call)


def _survived(restore: Restore, calls: Iterable[Call]) -> Iterator[Call]:
    for call in calls:
        promised = call.answered_s is not None and call.answered_s < restore.from_s
        if promised or call.invoked_s > restore.to_s:
            yield call
        elif call.outcome is not Outcome.REFUSED:  # a refusal did nothing, and what it rested on may be gone
            yield _unheard(call)


def _unheard(call: Call) -> Call:
    return replace(
        call,
        outcome=Outcome.UNKNOWN,
        answered_s=None,
        reason="RESTORED",
        coupons=(),
        campaign=None,
        already_issued=False,
    )


def _used_twice(before: Journal, after: Journal) -> Iterator[Violation]:
    """Invariant 3, across the restore: a code that was thrown away may be in somebody's hands."""
    owners = dict(_coupons(before))
    for code, (campaign_id, coupon) in _coupons(after):
        if code in owners and owners[code] != (campaign_id, coupon):
            proof = (f"before: {owners[code]}", f"after: {(campaign_id, coupon)}")
            yield Violation(Kind.NOT_UNIQUE, campaign_id, f"{code} is another coupon since the restore", proof)


def _coupons(journal: Journal) -> Iterator[tuple[str, tuple[str, JournaledCoupon]]]:
    for campaign in journal.campaigns.values():
        for coupon in campaign.coupons:
            yield coupon.code, (campaign.campaign_id, coupon)
