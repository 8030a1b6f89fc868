"""Bad histories, each wrong in one way: the checker names the promise that was broken and the calls that prove it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.checker import check
from chaos.history import Call, Coupon, History, Operation, Outcome
from chaos.journal import Journal, JournalFault
from chaos.verdict import Judgement, Kind
from tests.chaos.script import START_US, Script, coupon, row

Planted = tuple[Script, Kind, set[int]]
"""The run, what is wrong with it, and the ids of the calls that prove it."""


def _ids(*calls: Call) -> set[int]:
    return {call.call_id for call in calls}


def journal_over_total() -> Planted:
    """More coupons in the journal than the campaign has."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    script.unknown("b", 2)
    script.journal(row(1, "a"), row(2, "b"))
    return script, Kind.OVER_ISSUED, set()


def answers_over_total() -> Planted:
    """More coupons answered than the campaign has."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    second = script.grant(2, "b", (2, 3))
    script.journal(row(1, "a"))
    return script, Kind.OVER_ISSUED, _ids(second)


def granted_before_the_raise() -> Planted:
    """A coupon beyond the total, acknowledged before anybody asked for a raise."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    early = script.grant(2, "b", (4, 5))
    script.change(Operation.UPDATE, (6, 7), "u", total=2)
    script.journal(row(1, "a"), row(2, "b"), total=2)
    return script, Kind.OVER_ISSUED, _ids(early)


def a_read_over_total() -> Planted:
    """GetCampaign says that more are issued than there are."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    read = script.read(2, 1, (4, 5))
    script.journal(row(1, "a"))
    return script, Kind.OVER_ISSUED, _ids(read)


def not_in_the_journal() -> Planted:
    """An acknowledged coupon that the journal does not have."""
    script = Script()
    script.create(5)
    lost = script.grant(1, "a", (2, 3))
    return script, Kind.ACKNOWLEDGED_LOST, _ids(lost)


def another_in_the_journal() -> Planted:
    """An acknowledged code that is another user's in the journal."""
    script = Script()
    script.create(5)
    script.unknown("b", 1)
    call = script.grant(1, "a", (2, 3))
    script.journal(row(1, "b"))
    return script, Kind.ACKNOWLEDGED_LOST, _ids(call)


def another_time_in_the_journal() -> Planted:
    """An acknowledged coupon whose time is another one in the journal."""
    script = Script()
    script.create(5)
    call = script.grant(1, "a", (2, 3))
    script.journal(replace(row(1, "a"), issue_us=START_US + 7))
    return script, Kind.ACKNOWLEDGED_LOST, _ids(call)


def given_to_another() -> Planted:
    """A caller is answered with somebody else's coupon."""
    script = Script()
    script.create(5)
    script.grant(1, "a", (2, 3))
    call = script.grant(1, "b", (4, 5), coupons=(coupon(1, "a"),), already_issued=True)
    script.journal(row(1, "a"))
    return script, Kind.ACKNOWLEDGED_LOST, _ids(call)


def not_found_by_code() -> Planted:
    """An acknowledged coupon is not found by its code later."""
    script = Script()
    script.create(5)
    first = script.grant(1, "a", (2, 3))
    lookup = script.call(
        Operation.GET_COUPON, (4, 5), "", Outcome.REFUSED, code=coupon(1, "a").code, reason="COUPON_NOT_FOUND"
    )
    script.journal(row(1, "a"))
    return script, Kind.ACKNOWLEDGED_LOST, _ids(first, lookup)


def not_found_by_user() -> Planted:
    """A user's coupons are shown without one that was acknowledged."""
    script = Script()
    script.create(5, per_user_limit=2)
    script.grant(1, "a", (2, 3), request_id="r1")
    second = script.grant(2, "a", (4, 5), request_id="r2")
    lookup = script.call(Operation.GET_COUPON, (6, 7), user_id="a", coupons=(coupon(1, "a"),))
    script.journal(row(1, "a"), row(2, "a"))
    return script, Kind.ACKNOWLEDGED_LOST, _ids(second, lookup)


def code_twice_in_the_journal() -> Planted:
    """One code, two coupons, in two campaigns."""
    script = Script()
    script.create(5)
    script.create(5, "d")
    script.grant(1, "a", (2, 3))
    script.unknown("b", 2, campaign_id="d")
    script.journal(row(1, "a"))
    script.journal(replace(row(1, "b", "d"), code=coupon(1, "a").code), campaign_id="d")
    return script, Kind.NOT_UNIQUE, set()


def code_twice_in_answers() -> Planted:
    """Two users hear one code, of which the journal has one."""
    script = Script()
    script.create(5)
    first = script.grant(1, "a", (2, 3))
    second = script.grant(2, "b", (2, 3), coupons=(replace(coupon(2, "b"), code=coupon(1, "a").code),))
    script.journal(row(1, "a"))
    return script, Kind.NOT_UNIQUE, _ids(first, second)


def user_over_limit_in_the_journal() -> Planted:
    """A user with two coupons where one is allowed."""
    script = Script()
    script.create(5)
    script.unknown("a", 2, request_id="r1")
    script.unknown("a", 2, request_id="r2")
    script.journal(row(1, "a"), row(2, "a"))
    return script, Kind.NOT_UNIQUE, set()


def user_over_limit_in_answers() -> Planted:
    """A user is given two coupons where one is allowed; the journal has one."""
    script = Script()
    script.create(5)
    first = script.grant(1, "a", (2, 3), request_id="r1")
    second = script.grant(2, "a", (4, 5), request_id="r2")
    script.journal(row(1, "a"))
    return script, Kind.NOT_UNIQUE, _ids(first, second)


def repetition_gets_another() -> Planted:
    """A repetition is answered with another coupon."""
    script = Script()
    script.create(5, per_user_limit=2)
    first = script.grant(1, "a", (2, 3), request_id="r")
    second = script.grant(2, "a", (4, 5), request_id="r", already_issued=True)
    script.journal(row(1, "a"), row(2, "a"))
    return script, Kind.REPETITION_DIFFERS, _ids(first, second)


def decided_twice() -> Planted:
    """One request is decided twice, even if the coupon looks the same."""
    script = Script()
    script.create(5)
    first = script.grant(1, "a", (2, 3), request_id="r")
    second = script.grant(1, "a", (4, 5), request_id="r")
    script.journal(row(1, "a"))
    return script, Kind.REPETITION_DIFFERS, _ids(first, second)


def repetition_refused() -> Planted:
    """A repetition of what was granted is refused."""
    script = Script()
    script.create(5)
    first = script.grant(1, "a", (2, 3), request_id="r")
    second = script.refused("LIMIT_REACHED", "a", (4, 5), request_id="r")
    script.journal(row(1, "a"))
    return script, Kind.REPETITION_DIFFERS, _ids(first, second)


def repetition_of_unknown_sold_out() -> Planted:
    """A request is told SOLD_OUT while its own coupon, of an answer that was lost, is among those sold."""
    script = Script()
    script.create(2)
    unheard = script.unknown("a", 2, request_id="r")
    script.grant(2, "b", (3, 4))
    refused = script.refused("SOLD_OUT", "a", (5, 6), request_id="r")
    script.journal(row(1, "a"), row(2, "b"))
    return script, Kind.REPETITION_DIFFERS, _ids(unheard, refused)


def gap() -> Planted:
    """A sequence number is left out."""
    script = Script()
    script.create(5)
    script.grant(1, "a", (2, 3))
    script.grant(3, "b", (4, 5))
    script.journal(row(1, "a"), row(3, "b"))
    return script, Kind.SEQUENCE, set()


def same_number_twice() -> Planted:
    """Two coupons are answered with one sequence number."""
    script = Script()
    script.create(5)
    first = script.grant(1, "a", (2, 3))
    second = script.grant(1, "b", (2, 3), coupons=(replace(coupon(1, "b"), code="other"),))
    script.journal(row(1, "a"))
    return script, Kind.SEQUENCE, _ids(first, second)


def journaled_times_fall() -> Planted:
    """A coupon is older than the one before it."""
    script = Script()
    script.create(5)
    script.unknown("a", 2)
    script.unknown("b", 2)
    script.journal(replace(row(1, "a"), issue_us=START_US + 9_000), row(2, "b"))
    return script, Kind.SEQUENCE, set()


def out_of_order() -> Planted:
    """Who asked after another had his coupon gets a smaller number."""
    script = Script()
    script.create(5)
    first = script.grant(2, "a", (2, 3))
    second = script.grant(1, "b", (4, 5))
    script.journal(row(1, "b"), row(2, "a"))
    return script, Kind.SEQUENCE, _ids(first, second)


def before_the_start() -> Planted:
    """A coupon older than the journaled start."""
    script = Script()
    script.create(5)
    early = replace(coupon(1, "a"), issue_us=START_US - 1)
    call = script.grant(1, "a", (2, 3), coupons=(early,))
    script.journal(replace(row(1, "a"), issue_us=START_US - 1))
    return script, Kind.OUTSIDE_WINDOW, _ids(call)


def at_the_end() -> Planted:
    """A coupon of the very moment of the end; only the journal has it."""
    script = Script()
    script.create(5, end_us=START_US + 1_000)
    script.unknown("a", 2)
    script.journal(row(1, "a"))
    return script, Kind.OUTSIDE_WINDOW, set()


def after_a_pause() -> Planted:
    """A grant asked for after a pause was acknowledged, and answered before a resume was asked for."""
    script = Script()
    script.create(5)
    pause = script.change(Operation.PAUSE, (2, 3), "p")
    call = script.grant(1, "a", (4, 5))
    script.change(Operation.RESUME, (6, 7), "r")
    script.journal(row(1, "a"))
    return script, Kind.OUTSIDE_WINDOW, _ids(pause, call)


def after_a_resumed_pause_and_another() -> Planted:
    """A resume before the second pause does not excuse a grant after it."""
    script = Script()
    script.create(5)
    script.change(Operation.PAUSE, (2, 3), "p1")
    script.change(Operation.RESUME, (4, 5), "r")
    pause = script.change(Operation.PAUSE, (6, 7), "p2")
    call = script.grant(1, "a", (8, 9))
    script.journal(row(1, "a"), paused=True)
    return script, Kind.OUTSIDE_WINDOW, _ids(pause, call)


def after_a_cancel() -> Planted:
    """A grant of unknown outcome that was asked for after a cancel was acknowledged, and is in the journal."""
    script = Script()
    script.create(5)
    cancel = script.change(Operation.CANCEL, (2, 3), "x")
    call = script.unknown("a", 4)
    script.journal(row(1, "a"), cancelled=True)
    return script, Kind.OUTSIDE_WINDOW, _ids(cancel, call)


def sold_out_early() -> Planted:
    """SOLD_OUT answered before the last coupon was even asked for."""
    script = Script()
    created = script.create(2)
    script.grant(1, "a", (2, 3))
    refused = script.refused("SOLD_OUT", "b", (4, 5))
    last = script.grant(2, "c", (6, 7))
    script.journal(row(1, "a"), row(2, "c"))
    return script, Kind.SOLD_OUT_EARLY, _ids(created, refused, last)


def sold_out_for_ever_early() -> Planted:
    """SOLD_OUT answered although one coupon is never granted."""
    script = Script()
    created = script.create(2)
    script.grant(1, "a", (2, 3))
    script.unknown("z", 2)
    refused = script.refused("SOLD_OUT", "b", (4, 5))
    script.journal(row(1, "a"))
    return script, Kind.SOLD_OUT_EARLY, _ids(created, refused)


def sold_out_after_a_raise() -> Planted:
    """SOLD_OUT of the old total after the raise was acknowledged."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    raised = script.change(Operation.UPDATE, (4, 5), "u", total=2)
    refused = script.refused("SOLD_OUT", "b", (6, 7))
    script.journal(row(1, "a"), total=2)
    return script, Kind.SOLD_OUT_EARLY, _ids(raised, refused)


def sold_out_between_total_and_grant() -> Planted:
    """SOLD_OUT whose call began before a raise, when the last coupon of the old total came only after the raise."""
    script = Script()
    script.create(1)
    refused = script.refused("SOLD_OUT", "b", (2, 9))
    script.change(Operation.UPDATE, (3, 4), "u", total=2)
    script.grant(1, "a", (5, 6))
    script.journal(row(1, "a"), total=2)
    return script, Kind.SOLD_OUT_EARLY, _ids(refused)


def completed_early() -> Planted:
    """A read says COMPLETED while some are left."""
    script = Script()
    script.create(2)
    script.grant(1, "a", (2, 3))
    read = script.read(1, 2, (4, 5), state="COMPLETED")
    script.journal(row(1, "a"))
    return script, Kind.SOLD_OUT_EARLY, _ids(read)


def stale_read() -> Planted:
    """A read shows fewer than were acknowledged before it was asked."""
    script = Script()
    script.create(5)
    granted = script.grant(1, "a", (2, 3))
    read = script.read(0, 5, (4, 5))
    script.journal(row(1, "a"))
    return script, Kind.COUNT, _ids(granted, read)


def read_of_the_future() -> Planted:
    """A read shows a coupon that nobody had asked for yet."""
    script = Script()
    script.create(5)
    read = script.read(1, 5, (2, 3))
    granted = script.grant(1, "a", (4, 5))
    script.journal(row(1, "a"))
    return script, Kind.COUNT, _ids(granted, read)


def read_of_more_than_ever() -> Planted:
    """A read shows more than the journal ever had."""
    script = Script()
    script.create(5)
    script.unknown("a", 1)
    read = script.read(1, 5, (2, 3))
    return script, Kind.COUNT, _ids(read)


def reads_that_fall() -> Planted:
    """A read shows fewer than another one before it, although each alone could be."""
    script = Script()
    script.create(5)
    script.grant(1, "a", (2, 20))
    first = script.read(1, 5, (3, 4))
    second = script.read(0, 5, (5, 6))
    script.journal(row(1, "a"))
    return script, Kind.COUNT, _ids(first, second)


def read_after_sold_out() -> Planted:
    """A read shows coupons left after somebody was told SOLD_OUT."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 20))
    refused = script.refused("SOLD_OUT", "b", (3, 4))
    read = script.read(0, 1, (5, 6))
    script.journal(row(1, "a"))
    return script, Kind.COUNT, _ids(refused, read)


def total_that_falls() -> Planted:
    """A read shows the old total after the raise was acknowledged."""
    script = Script()
    script.create(1)
    raised = script.change(Operation.UPDATE, (2, 3), "u", total=2)
    read = script.read(0, 1, (4, 5))
    script.journal(total=2)
    return script, Kind.COUNT, _ids(raised, read)


def total_of_the_future() -> Planted:
    """A read shows a total that somebody asks for only later."""
    script = Script()
    script.create(1)
    read = script.read(0, 2, (2, 3))
    script.change(Operation.UPDATE, (4, 5), "u", total=2)
    script.journal(total=2)
    return script, Kind.COUNT, _ids(read)


def total_of_nobody() -> Planted:
    """A read shows a total that nobody asked for."""
    script = Script()
    script.create(1)
    script.change(Operation.UPDATE, (1, 2), "u", total=3)
    read = script.read(0, 2, (1, 3))
    script.journal(total=3)
    return script, Kind.COUNT, _ids(read)


def granted_to_who_was_refused() -> Planted:
    """A coupon for a call that was told that nothing was done."""
    script = Script()
    script.create(5)
    refused = script.refused("NO_OWNER", "a", (2, 3))
    script.journal(row(1, "a"))
    return script, Kind.UNASKED, _ids(refused)


def granted_once_too_often() -> Planted:
    """Two coupons for one request of unknown outcome."""
    script = Script()
    script.create(5, per_user_limit=2)
    script.unknown("a", 2, request_id="r")
    script.unknown("a", 3, request_id="r")
    script.journal(row(1, "a"), row(2, "a"))
    return script, Kind.UNASKED, set()


def campaign_lost() -> Planted:
    """An acknowledged campaign that the journal does not have."""
    script = Script()
    created = script.create(5)
    script.campaigns.clear()
    return script, Kind.CHANGE_LOST, _ids(created)


def raise_lost() -> Planted:
    """An acknowledged raise that the journal does not have."""
    script = Script()
    script.create(5)
    raised = script.change(Operation.UPDATE, (2, 3), "u", total=9)
    return script, Kind.CHANGE_LOST, _ids(raised)


def raised_by_nobody() -> Planted:
    """The journal's total is one that nobody asked for."""
    script = Script()
    script.create(5)
    script.journal(total=9)
    return script, Kind.CHANGE_LOST, set()


def cancel_lost() -> Planted:
    """An acknowledged cancel that the journal does not have."""
    script = Script()
    script.create(5)
    cancel = script.change(Operation.CANCEL, (2, 3), "x")
    return script, Kind.CHANGE_LOST, _ids(cancel)


def pause_lost() -> Planted:
    """An acknowledged pause, never resumed, that the journal does not have."""
    script = Script()
    script.create(5)
    pause = script.change(Operation.PAUSE, (2, 3), "p")
    return script, Kind.CHANGE_LOST, _ids(pause)


PLANTED = (
    journal_over_total,
    answers_over_total,
    granted_before_the_raise,
    a_read_over_total,
    not_in_the_journal,
    another_in_the_journal,
    another_time_in_the_journal,
    given_to_another,
    not_found_by_code,
    not_found_by_user,
    code_twice_in_the_journal,
    code_twice_in_answers,
    user_over_limit_in_the_journal,
    user_over_limit_in_answers,
    repetition_gets_another,
    decided_twice,
    repetition_refused,
    repetition_of_unknown_sold_out,
    gap,
    same_number_twice,
    journaled_times_fall,
    out_of_order,
    before_the_start,
    at_the_end,
    after_a_pause,
    after_a_resumed_pause_and_another,
    after_a_cancel,
    sold_out_early,
    sold_out_for_ever_early,
    sold_out_after_a_raise,
    sold_out_between_total_and_grant,
    completed_early,
    stale_read,
    read_of_the_future,
    read_of_more_than_ever,
    reads_that_fall,
    read_after_sold_out,
    total_that_falls,
    total_of_the_future,
    total_of_nobody,
    granted_to_who_was_refused,
    granted_once_too_often,
    campaign_lost,
    raise_lost,
    raised_by_nobody,
    cancel_lost,
    pause_lost,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted(plant: Callable[[], Planted]) -> None:
    """Each planted wrong is found, as what it is, with the calls that prove it."""
    script, kind, call_ids = plant()
    verdict = script.check()
    assert verdict.outcome is Judgement.VIOLATED
    found = [violation for violation in verdict.violations if violation.kind is kind]
    assert any(call_ids <= set(violation.call_ids) for violation in found), verdict.text
    for violation in found:
        assert violation.proof, "a violation without a proof"
        for call_id in violation.call_ids:
            assert any(f"call {call_id} [" in line for line in violation.proof), "a call that the proof does not show"
            assert f"call {call_id} [" in verdict.text


def test_every_kind_is_planted() -> None:
    """No kind of violation goes without a planted history (a collapse has those of test_overload.py), and the first
    seven are the design's invariants."""
    assert {plant()[1] for plant in PLANTED} | {Kind.JOURNAL, Kind.COLLAPSED} == set(Kind)
    assert [kind.invariant for kind in Kind][:8] == [1, 2, 3, 4, 5, 6, 7, None]


@pytest.mark.parametrize(
    ("audited", "kind"),
    [
        ("over_issued", Kind.OVER_ISSUED),
        ("duplicate_code", Kind.NOT_UNIQUE),
        ("request_twice", Kind.REPETITION_DIFFERS),
        ("counter_gap", Kind.SEQUENCE),
        ("grant_while_paused", Kind.OUTSIDE_WINDOW),
        ("two_writers", Kind.JOURNAL),
        ("unreadable", Kind.JOURNAL),
    ],
)
def test_what_the_re_read_found_counts(audited: str, kind: Kind) -> None:
    """A journal that breaks a rule by itself is a violation, with its place as the proof."""
    script = Script()
    script.create(1)
    script.journal_faults.append(JournalFault(audited, "key/7", "c", "something"))
    (violation,) = script.check().violations
    assert violation.kind is kind
    assert "key/7" in violation.proof[0]


def test_a_lost_coupon_of_a_lost_campaign() -> None:
    """A coupon of a campaign that the journal does not know at all is lost as well."""
    script = Script()
    script.create(1)
    call = script.grant(1, "a", (2, 3))
    script.campaigns.clear()
    verdict = script.check()
    assert {Kind.ACKNOWLEDGED_LOST, Kind.CHANGE_LOST} <= verdict.kinds
    assert any(call.call_id in violation.call_ids for violation in verdict.violations)


def test_impossible_recordings_are_refused() -> None:
    """A history that no recorder writes is an error of the harness, not a verdict."""
    call = Call(1, Operation.ISSUE, "c", 2.0, Outcome.OK, 1.0, coupons=(Coupon("x", "c", "a", 1, 0),))
    with pytest.raises(ValueError, match="no time of an answer"):
        check(History((call,)), Journal({}), ())
    with pytest.raises(ValueError, match="one call_id"):
        check(History((replace(call, answered_s=3.0),) * 2), Journal({}), ())


def test_a_long_list_is_cut_in_the_text_only() -> None:
    """The text shows the first of many violations and counts the rest; JSON has all."""
    script = Script()
    script.create(100)
    for number in range(1, 81):
        script.grant(number, f"u{number}", (2, 3))
    verdict = script.check()
    lost = [violation for violation in verdict.violations if violation.kind is Kind.ACKNOWLEDGED_LOST]
    assert len(lost) == 80
    assert "acknowledged_lost (invariant 2): 80" in verdict.text
    assert "... and 30 more" in verdict.text
    assert len(verdict.as_json()["violations"]) == len(verdict.violations)
