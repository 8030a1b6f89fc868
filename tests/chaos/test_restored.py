"""What a restore may lose, and what not."""

from dataclasses import replace

from chaos.history import Call, CampaignView, Fault, History, Operation, Outcome, Phase
from chaos.journal import Journal, JournaledCampaign
from chaos.restored import Restore, check_restored
from chaos.validity import Demands
from chaos.verdict import Kind, Verdict
from tests.chaos.script import START_US, coupon, row

SNAPSHOT_S, END_S = 10.0, 20.0
LENIENT = Demands(healthy_grants_min=0, recovery_s_max=1e9)


def code(number: int) -> str:
    return coupon(number, "").code


def journal(*numbers: int, renamed: int | None = None) -> Journal:
    """Coupons of users of these numbers, in order; `renamed`: the last one's code is that of this number."""
    rows = [replace(row(place, f"u{n}"), code=code(n)) for place, n in enumerate(numbers, 1)]
    if renamed is not None:
        rows[-1] = replace(rows[-1], code=code(renamed))
    return Journal({"c": JournaledCampaign("c", 100, 1, START_US, None, False, False, tuple(rows))})


def issue(number: int, place: int, at_s: float, answered_s: float | None = None) -> Call:
    """A grant to the user of this number, of this sequence."""
    seen = replace(coupon(place, f"u{number}"), code=code(number))
    end_s = at_s + 0.5 if answered_s is None else answered_s
    return Call(
        number + 100 * place, Operation.ISSUE, "c", at_s, Outcome.OK, end_s, user_id=f"u{number}", coupons=(seen,)
    )


def view(call_id: int, at_s: float, issued: int) -> Call:
    campaign = CampaignView(100, issued, "ACTIVE")
    return Call(call_id, Operation.READ, "c", at_s, Outcome.OK, at_s + 0.1, campaign=campaign)


CREATED = Call(9_000, Operation.CREATE, "c", 0.0, Outcome.OK, 0.5, total=100)
SOLD_OUT = Call(9_001, Operation.ISSUE, "c", 15.0, Outcome.REFUSED, 15.1, user_id="u9", reason="SOLD_OUT")


PHASES, FAULTS = (Phase("all", True, 0.0, 99.0),), (Fault("restore", 4.0, 4.0),)


def judge(*calls: Call, before: Journal, after: Journal) -> Verdict:
    issued = len(after.campaigns["c"].coupons)
    last = view(9_999, 90.0, issued)
    history = History((CREATED, *calls, last), PHASES, FAULTS)
    return check_restored(history, Restore(SNAPSHOT_S, END_S, before), after, [last], LENIENT)


KEPT, LOST, AGAIN = issue(1, 1, 5.0), issue(2, 2, 15.0), issue(3, 2, 30.0)


def test_what_came_after_the_snapshot_may_be_gone() -> None:
    """A coupon of the time between, what a read showed of it, and a refusal that rested on it: all are no promises."""
    verdict = judge(KEPT, LOST, view(50, 16.0, 2), AGAIN, before=journal(1, 2), after=journal(1, 3))
    assert verdict.clean, verdict.text


def test_it_may_also_be_there() -> None:
    """The snapshot was taken some time after it was begun."""
    verdict = judge(KEPT, LOST, issue(3, 3, 30.0), before=journal(1, 2), after=journal(1, 2, 3))
    assert not verdict.violations, verdict.text


def test_what_was_promised_before_it_was_begun_is_kept() -> None:
    """A coupon answered before the snapshot is lost by no restore."""
    verdict = judge(KEPT, LOST, before=journal(1, 2), after=journal(3))
    assert Kind.ACKNOWLEDGED_LOST in verdict.kinds


def test_the_cluster_that_was_thrown_away_is_judged_to_its_end() -> None:
    """A coupon of the time between that is not in the journal of that time was lost by no restore."""
    verdict = judge(KEPT, LOST, before=journal(1), after=journal(1))
    assert verdict.kinds == {Kind.ACKNOWLEDGED_LOST}


def test_what_came_after_the_restore_is_kept() -> None:
    """The new cluster keeps all of its own promises."""
    verdict = judge(KEPT, AGAIN, before=journal(1), after=journal(1))
    assert verdict.kinds == {Kind.ACKNOWLEDGED_LOST}


def test_a_code_that_was_thrown_away_is_nobody_elses() -> None:
    """Its holder still shows it; under the old key the counters would bring it again."""
    again = replace(AGAIN, coupons=(replace(AGAIN.coupons[0], code=code(2)),))
    verdict = judge(KEPT, LOST, again, before=journal(1, 2), after=journal(1, 3, renamed=2))
    assert verdict.kinds == {Kind.NOT_UNIQUE}
    assert "since the restore" in verdict.text


def test_an_answer_that_crossed_the_end_is_nobodys() -> None:
    """Asked before the old cluster's end and answered after it: either may have decided it, or neither."""
    crossing = issue(2, 2, 19.0, 25.0)
    for before, after in (((1,), (1, 2)), ((1, 2), (1,)), ((1, 2), (1, 2)), ((1,), (1,))):
        verdict = judge(KEPT, crossing, before=journal(*before), after=journal(*after))
        assert not verdict.violations, verdict.text


def test_a_restore_that_takes_nothing_back_proves_nothing() -> None:
    """All that was there is still there."""
    verdict = judge(KEPT, AGAIN, before=journal(1), after=journal(1, 3))
    assert verdict.invalid_because == ("the restore has taken nothing back",)


def test_a_refusal_between_is_no_evidence() -> None:
    """Sold out, by coupons that are gone since."""
    full = replace(journal(1, 2).campaigns["c"], total=2)
    calls = (replace(CREATED, total=2), KEPT, LOST, SOLD_OUT)
    last = replace(view(9_999, 90.0, 1), campaign=CampaignView(2, 1, "ACTIVE"))
    history = History((*calls, last), PHASES, FAULTS)
    after = Journal({"c": replace(full, coupons=full.coupons[:1])})
    verdict = check_restored(history, Restore(SNAPSHOT_S, END_S, Journal({"c": full})), after, [last], LENIENT)
    assert verdict.clean, verdict.text
    early = replace(SOLD_OUT, invoked_s=8.0, answered_s=8.1)
    history = replace(history, calls=(*calls[:3], early, last))
    verdict = check_restored(history, Restore(SNAPSHOT_S, END_S, Journal({"c": full})), after, [last], LENIENT)
    assert Kind.SOLD_OUT_EARLY in verdict.kinds
