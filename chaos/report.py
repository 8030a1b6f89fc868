"""A run in figures: how fast, how long the gaps, how late the answers. As text here, as a picture in chaos/chart.py.

Judges nothing, and reads and writes no file.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import ceil

from chaos.history import DECIDED, Call, Fault, History, Operation, Phase
from chaos.overload import describe
from chaos.verdict import Verdict

GAPS_SHOWN = 5
_BINS_MAX = 160
_BIN_WIDTHS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Gap:
    """Time without a grant in which somebody waited for one."""

    campaign_id: str
    from_s: float
    to_s: float

    @property
    def length_s(self) -> float:
        return self.to_s - self.from_s


@dataclass(frozen=True, slots=True)
class Latency:
    """Of issues that got a coupon, from the question to the answer, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Figures:
    begin_s: float
    end_s: float
    bin_s: float
    grants_per_s: tuple[float, ...]
    """By time from `begin_s` on, each the mean of `bin_s` seconds. The last may be cut short by `end_s`."""
    gaps: tuple[Gap, ...]
    """Longest first, one of each campaign at least that has two grants."""
    latency: Latency
    phases: tuple[tuple[str, Latency], ...]
    """By the phase in which the answer came."""


def figures_of(history: History) -> Figures:
    marks: list[Phase | Fault] = [*history.phases, *history.faults]
    marks_s = [at_s for mark in marks for at_s in (mark.from_s, mark.to_s)]
    calls_s = [at_s for call in history.calls for at_s in (call.invoked_s, call.answered_s) if at_s is not None]
    begin_s, end_s = min((*marks_s, *calls_s), default=0.0), max((*marks_s, *calls_s), default=0.0)
    bin_s = next((width for width in _BIN_WIDTHS_S if (end_s - begin_s) / width <= _BINS_MAX), _BIN_WIDTHS_S[-1])
    grants = [(call.answered_s, call) for call in history.calls if call.is_grant and call.answered_s is not None]
    counts = [0] * max(1, ceil((end_s - begin_s) / bin_s))
    for answered_s, _ in grants:
        counts[min(len(counts) - 1, int((answered_s - begin_s) / bin_s))] += 1
    phases = tuple(
        (phase.name, _latency(call for at_s, call in grants if phase.from_s <= at_s <= phase.to_s))
        for phase in history.phases
    )
    latency = _latency(call for _, call in grants)
    rates = tuple(count / bin_s for count in counts)
    return Figures(begin_s, end_s, bin_s, rates, tuple(_gaps(history.calls)), latency, phases)


def _latency(calls: Iterable[Call]) -> Latency:
    took_ms = sorted((call.answered_s - call.invoked_s) * 1e3 for call in calls if call.answered_s is not None)
    if not took_ms:
        return Latency(0, 0.0, 0.0, 0.0, 0.0)

    def percentile(part: float) -> float:
        return took_ms[max(0, ceil(part * len(took_ms)) - 1)]

    return Latency(len(took_ms), percentile(0.5), percentile(0.95), percentile(0.99), took_ms[-1])


def _gaps(calls: Iterable[Call]) -> list[Gap]:
    waits: dict[str, list[tuple[float, float]]] = {}
    grants_s: dict[str, list[float]] = {}
    for call in calls:
        # Who was told why not had no reason to wait on.
        if call.operation is not Operation.ISSUE or call.answered_s is None or call.reason in DECIDED:
            continue
        waits.setdefault(call.campaign_id, []).append((call.answered_s, call.invoked_s))
        if call.is_grant:
            grants_s.setdefault(call.campaign_id, []).append(call.answered_s)
    gaps = [
        gap for campaign_id, times_s in grants_s.items() for gap in _gaps_of(campaign_id, times_s, waits[campaign_id])
    ]
    return sorted(gaps, key=lambda gap: gap.length_s, reverse=True)[: max(GAPS_SHOWN, len(grants_s))]


def _gaps_of(campaign_id: str, grants_s: list[float], waits: list[tuple[float, float]]) -> list[Gap]:
    """The longest few of a campaign: each ends with a grant, and begins with the one before, or when somebody who
    was not answered yet came."""
    waits.sort()
    ends_s = [end_s for end_s, _ in waits]
    # For each call in order of its answer, when the first came of those that were answered with it or later.
    came_s = list(accumulate((from_s for _, from_s in reversed(waits)), min))[::-1]
    gaps = [
        Gap(campaign_id, min(after_s, max(before_s, came_s[bisect_right(ends_s, before_s)])), after_s)
        for before_s, after_s in pairwise(sorted(grants_s))
        if after_s > before_s
    ]
    return sorted(gaps, key=lambda gap: gap.length_s, reverse=True)[:GAPS_SHOWN]


# --- as text ---------------------------------------------------------------------------------------------------------


def report_text(title: str, history: History, verdict: Verdict) -> str:
    """Everything a person wants to know of a run, for a terminal of 120 columns that knows Unicode."""
    figures = figures_of(history)
    lines = [title, "=" * len(title), "", *_chart_lines(figures, history.faults), ""]
    lines += _table(
        ("phase", "from s", "to s", "grants", "grants/s", "p50 ms", "p95 ms", "p99 ms", "max ms"),
        [
            (
                phase.name + ("" if phase.healthy else " (faulty)"),
                f"{phase.from_s:.1f}",
                f"{phase.to_s:.1f}",
                f"{latency.count:,}",
                f"{latency.count / max(phase.to_s - phase.from_s, 1e-9):,.0f}",
                *_latency_cells(latency),
            )
            for phase, (_, latency) in zip(history.phases, figures.phases, strict=True)
        ]
        + [
            (
                "whole run",
                f"{figures.begin_s:.1f}",
                f"{figures.end_s:.1f}",
                f"{figures.latency.count:,}",
                f"{figures.latency.count / max(figures.end_s - figures.begin_s, 1e-9):,.0f}",
                *_latency_cells(figures.latency),
            )
        ],
    )
    lines += ["", "faults"]
    lines += [_fault_line(fault) for fault in history.faults] or ["  none"]
    lines += [f"  {describe(overload)}" for overload in history.overloads]
    lines += ["", "longest gaps: no grant although somebody waited"]
    lines += [
        f"  {gap.length_s * 1e3:9,.1f} ms  {gap.campaign_id}, from {gap.from_s:.3f} s{_during(gap, history.faults)}"
        for gap in figures.gaps
    ] or ["  none"]
    return "\n".join([*lines, "", verdict.text, ""])


def _latency_cells(latency: Latency) -> tuple[str, ...]:
    return tuple(f"{ms:,.1f}" for ms in (latency.p50_ms, latency.p95_ms, latency.p99_ms, latency.max_ms))


def _chart_lines(figures: Figures, faults: Iterable[Fault]) -> list[str]:
    """One line of bars, and under it where faults were."""
    fold = ceil(len(figures.grants_per_s) / 100)
    rates = [
        sum(part) / len(part)
        for part in (figures.grants_per_s[at : at + fold] for at in range(0, len(figures.grants_per_s), fold))
    ]
    peak = max(max(rates), 1e-9)
    bars = "".join(_BARS[ceil(rate / peak * (len(_BARS) - 1))] for rate in rates)
    marks = [" "] * len(rates)
    width_s = figures.bin_s * fold
    for fault in faults:
        first, last = (int((at_s - figures.begin_s) / width_s) for at_s in (fault.from_s, fault.to_s))
        for place in range(first, last + 1):
            marks[min(place, len(marks) - 1)] = "x"
    return [
        f"grants/s, {width_s:g} s a bar, up to {peak:,.0f}; x: a fault",
        f"|{bars}|",
        f"|{''.join(marks)}|",
    ]


def _fault_line(fault: Fault) -> str:
    until = f" to {fault.to_s:.3f}" if fault.to_s > fault.from_s else ""
    traces = ", ".join(sorted(fault.traces)) or "no traces"
    changed = [
        f"shard {shard}: {_epoch(before)} to {_epoch(fault.epochs_after[shard])}"
        for shard, before in sorted(fault.epochs_before.items())
        if fault.epochs_after.get(shard, before) != before
    ]
    more = f" ({'; '.join(changed[:3])}{', ...' if len(changed) > 3 else ''})" if changed else ""
    return f"  {fault.from_s:.3f}{until} s  {fault.what}: {traces}{more}"


def _epoch(epoch: tuple[int, int]) -> str:
    return f"{epoch[0]}.{epoch[1]}"


def _during(gap: Gap, faults: Iterable[Fault]) -> str:
    """Faults that touch the gap; what came of them may outlast their healing by a little."""
    names = [fault.what for fault in faults if fault.from_s <= gap.to_s and fault.to_s >= gap.from_s - 1.0]
    return f", with {', '.join(dict.fromkeys(names))}" if names else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
