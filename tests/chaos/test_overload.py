"""An overload is got through with every lease and most of the peak, or it is a violation."""

from dataclasses import replace

import pytest

from chaos.checker import check
from chaos.history import History, Overload
from chaos.journal import Journal
from chaos.overload import collapses, describe, underload
from chaos.verdict import Judgement, Kind

EPOCHS = {0: (1, 5), 1: (1, 7)}
OUTCOMES = {"ISSUED": 5, "OVERLOADED": 9}
BORNE = Overload(10.0, 70.0, 1_000.0, 1_000.0, 3_000.0, 850.0, EPOCHS, EPOCHS, 0, OUTCOMES, ("f",), 5, 6)


def test_one_that_was_borne() -> None:
    """Nothing moved and enough was granted."""
    assert not [*collapses(BORNE), *underload(BORNE)]
    assert describe(BORNE).endswith("goodput 850 grants/s (85%); 5 ISSUED, 9 OVERLOADED")


@pytest.mark.parametrize(
    ("overload", "what"),
    [
        (replace(BORNE, goodput_per_s=790.0), "goodput was 79% of the peak"),
        (replace(BORNE, peak_after_per_s=1_200.0), "goodput was 77% of the peak"),
        (replace(BORNE, goodput_per_s=0.0), "goodput was 0% of the peak"),
        (replace(BORNE, leases_lost=1), "1 leases were lost"),
        (replace(BORNE, epochs_after={0: (1, 5), 1: (1, 9)}), "1 shards have another epoch than before"),
        (replace(BORNE, epochs_after={0: (1, 5)}), "1 shards have another epoch than before"),
    ],
)
def test_a_collapse(overload: Overload, what: str) -> None:
    """Each of them alone is a violation, and the checker says so."""
    (violation,) = collapses(overload)
    assert (violation.kind, violation.what) == (Kind.COLLAPSED, what)
    verdict = check(History((), overloads=(overload,)), Journal({}), ())
    assert verdict.outcome is Judgement.VIOLATED
    assert violation in verdict.violations


def test_an_acknowledged_coupon_is_in_the_journal() -> None:
    """Who asks is too many to be in the history; their coupons are counted."""
    (violation,) = collapses(replace(BORNE, journaled=4))
    assert (violation.kind, violation.campaign_id) == (Kind.ACKNOWLEDGED_LOST, "f")


@pytest.mark.parametrize(
    ("overload", "why"),
    [
        (replace(BORNE, asked_per_s=2_700.0), "only 2.7 times the peak was asked for"),
        (replace(BORNE, epochs_before={}, epochs_after={}), "nobody knows which epochs stood before the overload"),
    ],
)
def test_none_at_all(overload: Overload, why: str) -> None:
    """A run in which too little was asked for, or nobody looked, proves nothing."""
    assert [*underload(overload)] == [why]
    assert why in check(History((), overloads=(overload,)), Journal({}), ()).invalid_because
