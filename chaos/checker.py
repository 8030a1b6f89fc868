"""The judge of a chaos run: history, journal and final reads in, verdict out. Pure: no I/O, no clock, nothing of the
product's own decisions; what it believes is docs/design.md, *What holds, always*."""

from collections import Counter
from collections.abc import Sequence

from chaos.agreement import disagreements
from chaos.evidence import gather
from chaos.history import Call, History, Operation, Outcome
from chaos.journal import Journal
from chaos.linearizability import misorders
from chaos.overload import collapses, underload
from chaos.validity import Demands, shortcomings
from chaos.verdict import Verdict, Violation
from chaos.windows import intrusions


def check(history: History, journal: Journal, reads: Sequence[Call], demands: Demands | None = None) -> Verdict:
    """
    Args:
        journal: re-read after every process of the cluster had ended.
        reads: the final GetCampaign answers, one call a page, on the history's clock; those that are in the history
            as well count once.
        demands: None: the usual ones.

    Raises:
        ValueError: a history that no recorder writes: two calls of one call_id, an answer before its question.
    """
    known = {call.call_id for call in history.calls}
    calls = (*history.calls, *(read for read in reads if read.call_id not in known))
    if len({call.call_id for call in calls}) < len(calls):
        raise ValueError("two calls have one call_id")
    campaigns = gather(calls, journal.campaigns.values())
    violations: list[Violation] = list(disagreements(journal, campaigns, calls))
    for evidence in campaigns.values():
        violations += misorders(evidence)
        violations += intrusions(evidence)
    reasons = list(shortcomings(history, campaigns, reads, demands or Demands()))
    for overload in history.overloads:
        violations += collapses(overload)
        reasons += underload(overload)
    return Verdict(tuple(violations), tuple(reasons), _counts(calls, journal))


def _counts(calls: Sequence[Call], journal: Journal) -> dict[str, int]:
    outcomes = Counter(call.outcome for call in calls)
    return {
        "calls": len(calls),
        "grants": sum(call.is_grant for call in calls),
        "refused": outcomes[Outcome.REFUSED],
        "of unknown outcome": outcomes[Outcome.UNKNOWN],
        "reads": sum(call.operation is Operation.READ and call.ok for call in calls),
        "campaigns": len(journal.campaigns),
        "journaled coupons": sum(len(campaign.coupons) for campaign in journal.campaigns.values()),
    }
