"""The report's figures are those of the history, and the picture shows them."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from chaos.chart import report_svg
from chaos.history import Call, Fault, History, Operation, Outcome, Overload, Phase, Trace
from chaos.report import figures_of, report_text
from chaos.verdict import Kind, Verdict, Violation
from tests.chaos.script import coupon

CLEAN = Verdict((), (), {"calls": 5})
FAULT = Fault("kill <a> & b", 4.0, 6.0, (Trace.EPOCH_CHANGED,), {3: (1, 5)}, {3: (1, 8)})
PHASES = (Phase("before", True, 0.0, 4.0), Phase("after", True, 4.0, 10.0))


def _issue(call_id: int, invoked_s: float, answered_s: float, outcome: Outcome = Outcome.OK, reason: str = "") -> Call:
    coupons = (coupon(call_id, f"u{call_id}"),) if outcome is Outcome.OK else ()
    return Call(call_id, Operation.ISSUE, "c", invoked_s, outcome, answered_s, coupons=coupons, reason=reason)


def _history(*calls: Call) -> History:
    return History(calls, PHASES, (FAULT,))


def test_grants_by_time() -> None:
    """Each grant counts once, in the part of the run in which it was answered; the whole is what was granted."""
    figures = figures_of(_history(_issue(1, 0.0, 0.05), _issue(2, 0.0, 0.05), _issue(3, 9.9, 10.0)))
    assert (figures.begin_s, figures.end_s, figures.bin_s) == (0.0, 10.0, 0.1)
    assert figures.grants_per_s[0] == pytest.approx(20)
    assert figures.grants_per_s[-1] == pytest.approx(10)
    assert sum(figures.grants_per_s) * figures.bin_s == pytest.approx(3)


def test_latencies() -> None:
    """Percentiles are latencies that occurred, in all and by phase."""
    calls = [_issue(n, 1.0, 1.0 + n / 100) for n in range(1, 101)]
    latency = figures_of(_history(*calls)).latency
    found = (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)
    assert found == pytest.approx((500, 950, 990, 1000))
    phases = dict(figures_of(_history(*calls, _issue(101, 5.0, 5.5))).phases)
    assert (phases["before"].count, phases["after"].count) == (100, 1)
    assert phases["after"].max_ms == pytest.approx(500)


def test_a_gap_needs_somebody_who_waits() -> None:
    """A gap is the time between two grants in which a call waited, not one when nobody asked or all were refused."""
    quiet = figures_of(_history(_issue(1, 1.0, 1.5), _issue(2, 8.0, 8.5)))
    assert [(gap.from_s, gap.to_s) for gap in quiet.gaps] == [(8.0, 8.5)]
    waiting = figures_of(_history(_issue(1, 1.0, 1.5), _issue(2, 1.2, 8.5)))
    assert [(gap.from_s, gap.to_s) for gap in waiting.gaps] == [(1.5, 8.5)]
    failed = _issue(3, 2.0, 5.0, Outcome.UNKNOWN)
    assert figures_of(_history(_issue(1, 1.0, 1.5), failed, _issue(2, 8.0, 8.5))).gaps[0].from_s == 2.0
    paused = _issue(3, 2.0, 5.0, Outcome.REFUSED, "PAUSED")
    assert figures_of(_history(_issue(1, 1.0, 1.5), paused, _issue(2, 8.0, 8.5))).gaps[0].from_s == 8.0
    nobody = _issue(3, 2.0, 5.0, Outcome.REFUSED, "NO_OWNER")
    assert figures_of(_history(_issue(1, 1.0, 1.5), nobody, _issue(2, 8.0, 8.5))).gaps[0].from_s == 2.0


def test_the_text() -> None:
    """It names the fault with its traces, the longest gap with its fault, and ends with the verdict."""
    text = report_text("run 7", _history(_issue(1, 1.0, 3.9), _issue(2, 3.0, 7.0)), CLEAN)
    marked = text.splitlines()[5]
    assert marked == "|" + " " * 40 + "x" * 21 + " " * 39 + "|"
    assert "4.000 to 6.000 s  kill <a> & b: epoch_changed (shard 3: 1.5 to 1.8)" in text
    assert "3,100.0 ms  c, from 3.900 s, with kill <a> & b" in text
    assert text.rstrip().splitlines()[-2:] == ["verdict: CLEAN", "judged: 5 calls"]


def test_the_text_of_an_overload() -> None:
    """What was carried and what was asked for, also when it was borne."""
    borne = Overload(10.0, 70.0, 1_000.0, 900.0, 3_000.0, 855.0, {}, {}, 0, {"granted": 5}, ("f",), 5, 6)
    text = report_text("run 7", replace(_history(), overloads=(borne,)), CLEAN)
    assert "peak 1,000 grants/s, 900 after it, asked for 3,000/s, goodput 855 grants/s (90%)" in text


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (CLEAN, "CLEAN"),
        (Verdict((), ("no fault is marked",), {}), "INVALID"),
        (Verdict((Violation(Kind.SEQUENCE, "c", "a gap", ("x",)),), (), {}), "VIOLATED"),
    ],
)
def test_the_picture(verdict: Verdict, word: str) -> None:
    """It is well-formed, needs nothing from elsewhere, and shows verdict, reason, axes, phases and faults."""
    svg = report_svg("run 7", _history(_issue(1, 1.0, 3.9), _issue(2, 3.0, 7.0)), verdict)
    words = {element.text for element in ElementTree.fromstring(svg).iter() if element.text}
    assert {word, "run 7", "kill <a> & b", "before", "after", "time since the run began (s)"} <= words
    assert any(text.startswith("grants/s") for text in words)
    assert {*verdict.invalid_because, *(violation.what for violation in verdict.violations)} <= words
    assert "href" not in svg


@pytest.mark.parametrize("history", [History(()), History((), PHASES, (FAULT,) * 9), _history(_issue(1, 0.0, 0.0))])
def test_runs_with_next_to_nothing(history: History) -> None:
    """A run without calls, or with one, or with more faults at once than labels have room, is drawn all the same."""
    ElementTree.fromstring(report_svg("empty", history, CLEAN))
    assert "verdict: CLEAN" in report_text("empty", history, CLEAN)
