"""A run that could not have shown a violation is INVALID, and says why."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from chaos.checker import check
from chaos.history import Call, CampaignView, Fault, History, Operation, Outcome, Phase, Trace
from chaos.journal import Journal, JournaledCampaign
from chaos.validity import Demands
from chaos.verdict import Judgement, Verdict
from tests.chaos.script import START_US, coupon, row

DEMANDS = Demands(healthy_grants_min=3, recovery_s_max=5.0)
PHASES = (Phase("before", True, 1.0, 11.0), Phase("fault", False, 11.0, 20.0), Phase("after", True, 20.0, 30.0))
FAULT = Fault("kill a", 11.0, 15.0, (Trace.EPOCH_CHANGED,), {0: (1, 5), 1: (1, 7)}, {0: (1, 9), 1: (1, 7)})
ASKED_S = (2.0, 3.0, 4.0, 17.0, 21.0, 22.0, 23.0)
"""When grants were asked for; each is answered half a second later."""


def judge(
    asked_s: Sequence[float] = ASKED_S,
    phases: tuple[Phase, ...] = PHASES,
    faults: tuple[Fault, ...] = (FAULT,),
    read_at_s: float | None = 40.0,
    created: bool = True,
) -> Verdict:
    calls = [
        Call(n, Operation.ISSUE, "c", at_s, Outcome.OK, at_s + 0.5, user_id=f"u{n}", coupons=(coupon(n, f"u{n}"),))
        for n, at_s in enumerate(asked_s, 1)
    ]
    if created:
        calls.append(Call(900, Operation.CREATE, "c", 0.0, Outcome.OK, 1.0, total=100))
    rows = tuple(row(n, f"u{n}") for n in range(1, len(asked_s) + 1))
    journal = Journal({"c": JournaledCampaign("c", 100, 1, START_US, None, False, False, rows)})
    reads = []
    if read_at_s is not None:
        view = CampaignView(100, len(rows), "ACTIVE")
        reads.append(Call(901, Operation.READ, "c", read_at_s, Outcome.OK, read_at_s + 1, campaign=view))
    verdict = check(History(tuple(calls), phases, faults), journal, reads, DEMANDS)
    assert not verdict.violations, verdict.text
    return verdict


def test_a_run_that_counts() -> None:
    """Enough grants, all traces, service back in time, a final read: clean."""
    verdict = judge()
    assert verdict.outcome is Judgement.CLEAN, verdict.text
    assert verdict.as_json()["verdict"] == "clean"


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (judge(asked_s=(2.0, 3.0, 17.0, 21.0, 22.0, 23.0)), "phase before has 2 grants, needs 3"),
        (judge(asked_s=(2.0, 3.0, 4.0, 17.0, 21.0, 22.0, 30.0)), "phase after has 2 grants, needs 3"),
        (judge(phases=PHASES[1:2]), "no healthy phase is marked"),
        (judge(faults=()), "no fault is marked"),
        (judge(faults=(replace(FAULT, epochs_after=FAULT.epochs_before),)), "left no trace: epoch_changed"),
        (judge(faults=(replace(FAULT, epochs_after={}),)), "left no trace: epoch_changed"),
        (judge(faults=(replace(FAULT, required=(Trace.FENCED,)),)), "left no trace: fenced"),
        (judge(faults=(replace(FAULT, forbidden=(Trace.EPOCH_CHANGED,)),)), "cost what it must not: epoch_changed"),
        (judge(asked_s=(2.0, 3.0, 4.0, 14.9, 19.6, 21.0, 22.0, 23.0)), "came back only after 5.100 s"),
        (judge(faults=(replace(FAULT, from_s=29.0, to_s=29.0),)), "service never came back"),
        (judge(faults=(replace(FAULT, campaign_ids=("c", "d")),)), "service in d never came back"),
        (judge(read_at_s=None), "c was not read after its last issue"),
        (judge(read_at_s=22.9), "c was not read after its last issue"),
        (judge(created=False), "the creation of c is not in the history"),
    ],
)
def test_invalid(verdict: Verdict, reason: str) -> None:
    """Each shortcoming makes a run INVALID, and is the only reason given."""
    assert verdict.outcome is Judgement.INVALID
    (given,) = verdict.invalid_because
    assert reason in given
    assert f"invalid: {given}" in verdict.text
    assert not verdict.clean


def test_a_fenced_append_is_a_trace() -> None:
    """Fenced once is enough where a scenario demands it."""
    required = (Trace.FENCED, Trace.EPOCH_CHANGED)
    assert judge(faults=(replace(FAULT, required=required, counted={Trace.FENCED: 1}),)).clean
    assert not judge(faults=(replace(FAULT, required=required, counted={Trace.FENCED: 0}),)).clean


def test_service_is_back_in_time() -> None:
    """A grant exactly at the limit is in time, one that was asked for before the healing does not count."""
    assert judge(asked_s=(2.0, 3.0, 4.0, 14.9, 19.5, 21.0, 22.0, 23.0)).clean


def test_the_next_fault_is_judged_instead() -> None:
    """Where the next fault comes before service has to be back, its own healing is what counts."""
    early, late = replace(FAULT, to_s=11.5), replace(FAULT, from_s=16.0, to_s=20.0)
    assert judge(faults=(early, late)).clean
    assert not judge(faults=(early, replace(late, from_s=16.6, to_s=20.0))).clean


def test_the_usual_demands() -> None:
    """500 grants in each healthy phase, 5 s to recover."""
    assert Demands() == Demands(500, 5.0)
