"""What the reference model does is never accused; what is broken in it afterwards always is."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chaos.checker import check
from chaos.history import Call, CampaignView, Coupon, Operation, Outcome
from chaos.journal import JournaledCampaign
from chaos.validity import Demands
from chaos.verdict import Kind, Verdict
from tests.chaos.executions import END_S, Execution, random_execution

SEEDS = st.integers(0, 2**32)
LENIENT = Demands(healthy_grants_min=0, recovery_s_max=1_000)
NEW_ID = 5_000

Broken = tuple[Execution, Kind]


def judge(execution: Execution) -> Verdict:
    return check(execution.history, execution.journal, execution.reads, LENIENT)


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_a_right_execution_is_clean(seed: int) -> None:
    """Whatever overlaps, repeats, is lost or comes late: what the model did is clean."""
    execution = random_execution(Random(seed))
    verdict = judge(execution)
    assert not verdict.violations, verdict.text
    grants = [call for call in execution.history.calls if call.is_grant and call.invoked_s > 2.0]
    read = {read.campaign_id for read in execution.reads}
    if grants and {call.campaign_id for call in execution.history.calls} <= read:
        assert verdict.clean, verdict.text


# --- ways to break one; each returns None where there is nothing to break --------------------------------------------


def _acknowledged(execution: Execution, rng: Random) -> tuple[Call, JournaledCampaign] | None:
    """A random grant that was answered by the call that decided it."""
    grants = [call for call in execution.history.calls if call.is_grant]
    if not grants:
        return None
    call = rng.choice(grants)
    return call, execution.journal.campaigns[call.campaign_id]


def _answered(call: Call) -> float:
    assert call.answered_s is not None, "an answer has its time"
    return call.answered_s


def _without_row(campaign: JournaledCampaign, index: int) -> JournaledCampaign:
    return replace(campaign, coupons=campaign.coupons[:index] + campaign.coupons[index + 1 :])


def drop_row(execution: Execution, rng: Random) -> Broken | None:
    """An acknowledged coupon is not in the journal."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, campaign = found
    return execution.with_campaign(_without_row(campaign, call.coupons[0].sequence - 1)), Kind.ACKNOWLEDGED_LOST


def drop_row_in_silence(execution: Execution, rng: Random) -> Broken | None:
    """A coupon is not in the journal, and those after it are: a gap."""
    campaigns = [campaign for campaign in execution.journal.campaigns.values() if len(campaign.coupons) > 1]
    if not campaigns:
        return None
    campaign = rng.choice(campaigns)
    return execution.with_campaign(_without_row(campaign, rng.randrange(len(campaign.coupons) - 1))), Kind.SEQUENCE


def duplicate_code(execution: Execution, rng: Random) -> Broken | None:
    """Two journaled coupons have one code."""
    campaigns = [campaign for campaign in execution.journal.campaigns.values() if len(campaign.coupons) > 1]
    if not campaigns:
        return None
    campaign = rng.choice(campaigns)
    one, other = rng.sample(range(len(campaign.coupons)), 2)
    rows = list(campaign.coupons)
    rows[one] = replace(rows[one], code=rows[other].code)
    return execution.with_campaign(replace(campaign, coupons=tuple(rows))), Kind.NOT_UNIQUE


def another_user(execution: Execution, rng: Random) -> Broken | None:
    """The journal gives an acknowledged coupon to somebody else."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, campaign = found
    rows = list(campaign.coupons)
    index = call.coupons[0].sequence - 1
    rows[index] = replace(rows[index], user_id="nobody")
    return execution.with_campaign(replace(campaign, coupons=tuple(rows))), Kind.ACKNOWLEDGED_LOST


def one_too_many(execution: Execution, rng: Random) -> Broken | None:
    """The journal has one coupon more than the total."""
    campaigns = [campaign for campaign in execution.journal.campaigns.values() if campaign.coupons]
    if not campaigns:
        return None
    campaign = rng.choice(campaigns)
    return execution.with_campaign(replace(campaign, total=len(campaign.coupons) - 1)), Kind.OVER_ISSUED


def sold_out_early(execution: Execution, rng: Random) -> Broken | None:
    """Somebody hears SOLD_OUT just before a coupon of the campaign's first total was even asked for."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, _ = found
    created = next(
        c for c in execution.history.calls if (c.operation, c.campaign_id) == (Operation.CREATE, call.campaign_id)
    )
    assert created.total is not None, "a creation names a total"
    if not created.ok or call.invoked_s < 2.1 or call.coupons[0].sequence > created.total:
        return None
    at_s = call.invoked_s
    early = Call(NEW_ID, Operation.ISSUE, call.campaign_id, at_s - 0.05, Outcome.REFUSED, at_s - 0.01)
    return execution.with_calls(replace(early, user_id="new", reason="SOLD_OUT")), Kind.SOLD_OUT_EARLY


def stale_read(execution: Execution, rng: Random) -> Broken | None:
    """A read after a grant's answer does not count it."""
    return _read_of(execution, rng, lambda call: (_answered(call) + 0.01, call.coupons[0].sequence - 1))


def early_read(execution: Execution, rng: Random) -> Broken | None:
    """A read before a grant's question counts it."""
    return _read_of(execution, rng, lambda call: (call.invoked_s - 0.02, call.coupons[0].sequence))


def _read_of(execution: Execution, rng: Random, of: Callable[[Call], tuple[float, int]]) -> Broken | None:
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, campaign = found
    at_s, issued = of(call)
    read = Call(NEW_ID, Operation.READ, call.campaign_id, at_s, Outcome.OK, at_s + 0.01)
    return execution.with_calls(replace(read, campaign=CampaignView(campaign.total, issued, "ACTIVE"))), Kind.COUNT


def other_coupon_again(execution: Execution, rng: Random) -> Broken | None:
    """A repetition is shown another coupon."""
    return _repeat(
        execution, rng, lambda call: {"coupons": (replace(call.coupons[0], code="other"),), "already_issued": True}
    )


def refused_again(execution: Execution, rng: Random) -> Broken | None:
    """A repetition of a granted request is refused."""
    reason = rng.choice(("SOLD_OUT", "LIMIT_REACHED", "PAUSED", "ENDED"))
    return _repeat(execution, rng, lambda call: {"outcome": Outcome.REFUSED, "reason": reason, "coupons": ()})


def decided_again(execution: Execution, rng: Random) -> Broken | None:
    """A repetition is answered as if it had been decided anew."""
    return _repeat(execution, rng, lambda call: {})


def _repeat(execution: Execution, rng: Random, answer: Callable[[Call], dict[str, object]]) -> Broken | None:
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, _ = found
    at_s = _answered(call) + 1
    again = replace(call, call_id=NEW_ID, invoked_s=at_s, answered_s=at_s + 1)
    return execution.with_calls(replace(again, **answer(call))), Kind.REPETITION_DIFFERS  # type: ignore[arg-type]


def closed(execution: Execution, rng: Random) -> Broken | None:
    """A cancel, or a pause that is never resumed, is acknowledged before a grant is asked for."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, campaign = found
    if any(c.operation is Operation.RESUME and c.campaign_id == call.campaign_id for c in execution.history.calls):
        return None
    operation = rng.choice((Operation.PAUSE, Operation.CANCEL))
    at_s = call.invoked_s
    change = Call(NEW_ID, operation, call.campaign_id, at_s - 0.2, Outcome.OK, at_s - 0.1, request_id="new")
    journaled = replace(campaign, paused=True, cancelled=True)
    return execution.with_calls(change).with_campaign(journaled), Kind.OUTSIDE_WINDOW


def too_early(execution: Execution, rng: Random) -> Broken | None:
    """The journaled start is after a grant."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, campaign = found
    return execution.with_campaign(replace(campaign, start_us=call.coupons[0].issue_us + 1)), Kind.OUTSIDE_WINDOW


def swapped(execution: Execution, rng: Random) -> Broken | None:
    """Two grants that did not overlap have each other's coupons, in answers and journal."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    first, campaign = found
    later = [
        call
        for call in execution.history.calls
        if call.is_grant and call.campaign_id == first.campaign_id and call.invoked_s > _answered(first)
    ]
    if not later:
        return None
    second = rng.choice(later)
    users = {first.coupons[0].code: second.user_id, second.coupons[0].code: first.user_id}

    def swap(coupons: tuple[Coupon, ...]) -> tuple[Coupon, ...]:
        return tuple(replace(c, user_id=users.get(c.code, c.user_id)) for c in coupons)

    # Other sightings of the two would be caught as well; without them only the order is wrong.
    seen = [c for c in execution.history.calls if users.keys() & {coupon.code for coupon in c.coupons}]
    rows = tuple(replace(row, user_id=users.get(row.code, row.user_id)) for row in campaign.coupons)
    broken = execution.without(*seen).with_campaign(replace(campaign, coupons=rows))
    broken = replace(broken, reads=tuple(replace(read, coupons=swap(read.coupons)) for read in execution.reads))
    return broken.with_calls(
        replace(first, coupons=swap(second.coupons)), replace(second, coupons=swap(first.coupons))
    ), Kind.SEQUENCE


def nobody_asked(execution: Execution, rng: Random) -> Broken | None:
    """All calls of a request that has a coupon were told that nothing was done."""
    found = _acknowledged(execution, rng)
    if found is None:
        return None
    call, _ = found
    same = [c for c in execution.history.calls if (c.campaign_id, c.user_id) == (call.campaign_id, call.user_id)]
    refused = replace(call, outcome=Outcome.REFUSED, reason="NO_OWNER", coupons=())
    return execution.without(*same).with_calls(refused), Kind.UNASKED


def lost_raise(execution: Execution, rng: Random) -> Broken | None:
    """A raise is acknowledged, and not in the journal."""
    campaigns = list(execution.journal.campaigns.values())
    if not campaigns:
        return None
    campaign = rng.choice(campaigns)
    raised = Call(NEW_ID, Operation.UPDATE, campaign.campaign_id, END_S, Outcome.OK, END_S + 0.5, request_id="new")
    return execution.with_calls(replace(raised, total=campaign.total + 1)), Kind.CHANGE_LOST


BREAKS = (
    drop_row,
    drop_row_in_silence,
    duplicate_code,
    another_user,
    one_too_many,
    sold_out_early,
    stale_read,
    early_read,
    other_coupon_again,
    refused_again,
    decided_again,
    closed,
    too_early,
    swapped,
    nobody_asked,
    lost_raise,
)


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda break_it: break_it.__name__)
@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_a_broken_execution_is_caught(break_it: Callable[[Execution, Random], Broken | None], seed: int) -> None:
    """One thing broken in a right execution is always found, as what it is."""
    rng = Random(seed)
    broken = break_it(random_execution(rng), rng)
    assume(broken is not None)
    assert broken is not None
    execution, kind = broken
    verdict = judge(execution)
    assert kind in verdict.kinds, verdict.text
