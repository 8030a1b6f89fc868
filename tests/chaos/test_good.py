"""Histories that are right, and look wrong at first sight: the checker must not accuse them."""

from dataclasses import replace

from chaos.history import CampaignView, Operation, Outcome
from chaos.verdict import Judgement
from tests.chaos.script import Script, coupon, row


def test_a_plain_run_is_clean() -> None:
    """Grants, a refusal when all are gone, and reads between them are clean."""
    script = Script()
    script.create(2)
    script.grant(1, "a", (2, 3))
    script.read(1, 2, (4, 5))
    script.grant(2, "b", (6, 7))
    script.refused("SOLD_OUT", "c", (8, 9))
    script.journal(row(1, "a"), row(2, "b"))
    verdict = script.check()
    assert verdict.outcome is Judgement.CLEAN, verdict.text
    assert verdict.clean


def test_an_unknown_call_may_take_effect_late() -> None:
    """A call whose outcome nobody heard is granted long after it was given up, or never."""
    script = Script()
    script.create(3)
    script.unknown("late", 2)
    script.unknown("never", 2)
    script.grant(1, "a", (3, 4))
    script.read(1, 3, (5, 6))
    script.read(2, 3, (100, 101))
    script.journal(row(1, "a"), row(2, "late"))
    assert script.check().clean


def test_sold_out_counts_grants_that_nobody_heard_of() -> None:
    """SOLD_OUT is right when the last coupons went to calls without an answer."""
    script = Script()
    script.create(2)
    script.unknown("lost", 2)
    script.grant(2, "a", (3, 4))
    script.refused("SOLD_OUT", "b", (3, 4))
    script.journal(row(1, "lost"), row(2, "a"))
    assert script.check().clean


def test_repetitions_get_the_same_coupon() -> None:
    """A repetition, also a concurrent one, and one after an unknown outcome, is shown the coupon again."""
    script = Script()
    script.create(2)
    script.grant(1, "a", (2, 10), request_id="r", already_issued=True)
    script.grant(1, "a", (3, 9), request_id="r")
    script.unknown("b", 4, request_id="r")
    script.refused("OVERLOADED", "b", (5, 6), request_id="r")
    script.grant(2, "b", (20, 21), request_id="r", already_issued=True)
    script.refused("OVERLOADED", "b", (22, 23), request_id="r")
    script.journal(row(1, "a"), row(2, "b"))
    verdict = script.check()
    assert verdict.clean, verdict.text


def test_several_coupons_of_one_user() -> None:
    """Where a user may have several, each request has its own, and an unknown one may be among them."""
    script = Script()
    script.create(5, per_user_limit=3)
    script.grant(1, "a", (2, 3), request_id="r1")
    script.unknown("a", 3, request_id="r2")
    script.grant(3, "a", (4, 5), request_id="r3")
    script.refused("LIMIT_REACHED", "a", (6, 7), request_id="r4")
    script.call(Operation.GET_COUPON, (8, 9), user_id="a", coupons=tuple(coupon(n, "a") for n in (1, 2, 3)))
    script.journal(row(1, "a"), row(2, "a"), row(3, "a"))
    assert script.check().clean


def test_a_raise_makes_sold_out_pass() -> None:
    """While a raise is on its way both totals may be in force; a repetition of it shows what it showed first."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    answer = CampaignView(2, 1, "ACTIVE")
    script.change(Operation.UPDATE, (4, 8), "raise", total=2, campaign=answer)
    script.refused("SOLD_OUT", "b", (5, 7))
    script.grant(2, "c", (5, 7))
    script.read(1, 1, (5, 7), state="COMPLETED")
    script.read(2, 2, (5, 9), state="COMPLETED")
    script.change(Operation.UPDATE, (20, 21), "raise", total=2, campaign=answer)
    script.refused("SOLD_OUT", "d", (22, 23))
    script.journal(row(1, "a"), row(2, "c"), total=2)
    verdict = script.check()
    assert verdict.clean, verdict.text


def test_grants_around_a_pause() -> None:
    """A grant that overlaps a pause, or waits until a resume, is right, and so is any after a resume that nobody
    heard of. A repeated pause does not pause again."""
    script = Script()
    script.create(9)
    script.grant(1, "a", (2, 6))
    script.change(Operation.PAUSE, (3, 4), "p1")
    script.refused("PAUSED", "b", (5, 6))
    script.grant(2, "c", (5, 9))
    script.change(Operation.RESUME, (7, 8), "r1")
    script.change(Operation.PAUSE, (10, 11), "p1")
    script.grant(3, "d", (12, 13))
    script.call(Operation.RESUME, (14, None), request_id="r2", outcome=Outcome.UNKNOWN)
    script.change(Operation.PAUSE, (15, 16), "p2")
    script.grant(4, "e", (17, 18))
    script.journal(row(1, "a"), row(2, "c"), row(3, "d"), row(4, "e"))
    verdict = script.check()
    assert verdict.clean, verdict.text


def test_a_late_effect_is_ordered_by_its_question() -> None:
    """After an acknowledged cancel the journal may have a grant that was asked for before it, answered or not."""
    script = Script()
    script.create(3)
    script.grant(1, "a", (2, 9))
    script.unknown("b", 2)
    script.change(Operation.CANCEL, (3, 4), "x")
    script.grant(2, "b", (10, 11), already_issued=True)
    script.journal(row(1, "a"), row(2, "b"), cancelled=True)
    assert script.check().clean


def test_concurrent_reads_may_disagree() -> None:
    """Of two overlapping reads either may be first."""
    script = Script()
    script.create(2)
    script.grant(1, "a", (2, 20))
    script.read(1, 2, (3, 10))
    script.read(0, 2, (4, 11))
    script.journal(row(1, "a"))
    assert script.check().clean


def test_a_creation_of_unknown_outcome() -> None:
    """A campaign may exist although nobody heard that it was created, and be created by a repetition."""
    script = Script()
    created = script.create(1)
    script.calls[0] = replace(created, outcome=Outcome.UNKNOWN, answered_s=None, campaign=None)
    script.refused("CAMPAIGN_NOT_FOUND", "a", (2, 3))
    script.grant(1, "a", (3, 4))
    script.journal(row(1, "a"))
    verdict = script.check()
    assert verdict.clean, verdict.text


def test_calls_that_touch_are_concurrent() -> None:
    """What was asked at the very moment of another's answer is in no order with it: a clock's ticks are that coarse."""
    script = Script()
    script.create(2)
    script.grant(1, "a", (2, 3), request_id="r")
    script.read(0, 2, (3, 4))
    script.read(1, 2, (3, 3.5))
    script.refused("PAUSED", "a", (3, 4), request_id="r")
    script.call(Operation.GET_COUPON, (3, 4), "", Outcome.REFUSED, code=coupon(1, "a").code, reason="COUPON_NOT_FOUND")
    script.refused("SOLD_OUT", "z", (4, 5))
    script.grant(2, "b", (5, 6))
    script.change(Operation.UPDATE, (6, 7), "u", total=3)
    script.read(2, 2, (7, 8))
    script.change(Operation.PAUSE, (8, 9), "p")
    script.grant(3, "c", (9, 10))
    script.change(Operation.RESUME, (10, 11), "s")
    script.change(Operation.CANCEL, (11, 12), "x")
    script.journal(row(1, "a"), row(2, "b"), row(3, "c"), total=3, cancelled=True)
    verdict = script.check()
    assert verdict.clean, verdict.text


def test_orders_that_touch_are_none() -> None:
    """The same for grants among themselves, reads among themselves, and a raise with what rests on it."""
    script = Script()
    script.create(2)
    script.grant(2, "a", (2, 3))
    script.grant(1, "b", (3, 4))
    script.grant(3, "c", (5, 20))
    script.change(Operation.UPDATE, (7, 20), "u", total=4)
    script.read(3, 4, (6, 7))
    script.read(2, 2, (7, 8), state="COMPLETED")
    script.unknown("d", 20)
    script.journal(row(1, "b"), row(2, "a"), row(3, "c"), row(4, "d"), total=4)
    verdict = script.check()
    assert verdict.clean, verdict.text


def test_sold_out_touches_a_raise() -> None:
    """SOLD_OUT of the old total, asked for at the moment of the raise's answer."""
    script = Script()
    script.create(1)
    script.grant(1, "a", (2, 3))
    script.change(Operation.UPDATE, (4, 5), "u", total=2)
    script.refused("SOLD_OUT", "z", (5, 6))
    script.journal(row(1, "a"), total=2)
    verdict = script.check()
    assert verdict.clean, verdict.text
