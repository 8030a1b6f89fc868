"""The figures of a load run."""

import pytest

from ops.load_stats import ISSUED, Call, Grant, Tally, percentile


def _call(index: int, sent_s: float, answered_s: float, reason: str) -> Call:
    grant = Grant("가0가가가가가가", f"u{index}", index + 1, 0) if reason == ISSUED else None
    return Call(index, f"u{index}", f"r{index}", sent_s, answered_s, reason, grant)


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: p50 of 1..100 is 50, p99 is 99, p100 the maximum; nothing is interpolated."""
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert percentile([], 0.99) == 0
    assert percentile([7.0], 0.5) == 7


def test_a_result_counts_outcomes_and_rates() -> None:
    """Rates count from the beginning, or from the moment asked for, to the last answer."""
    tally = Tally(began_s=10.0)
    tally.record(_call(0, 10.0, 10.5, ISSUED))
    tally.record(_call(1, 11.0, 12.0, "SOLD_OUT"))
    tally.record(_call(2, 11.0, 11.1, "SOLD_OUT"))
    result = tally.result()
    assert (result.requests, result.issued, result.outcomes) == (3, 1, {"SOLD_OUT": 2, ISSUED: 1})
    assert result.elapsed_s == pytest.approx(2.0)
    assert result.requests_per_s == pytest.approx(1.5)
    assert result.latency.p50_ms == pytest.approx(500)
    assert result.latency.max_ms == pytest.approx(1000)
    assert tally.result(since_s=11.0).requests_per_s == pytest.approx(3.0)


def test_knocks_are_in_no_other_figure() -> None:
    """A refusal after which the same request is sent again is neither an outcome nor a latency."""
    tally = Tally(began_s=0.0)
    tally.record_knock()
    result = tally.result()
    assert (result.knocks, result.requests, result.outcomes, result.latency.max_ms) == (1, 0, {}, 0)


def test_a_grant_without_a_coupon_is_a_bug() -> None:
    """ISSUED without a coupon, or a coupon with a refusal, is asserted against."""
    with pytest.raises(AssertionError):
        Tally(0.0).record(Call(0, "u", "r", 0.0, 1.0, ISSUED, None))
