"""A run as one picture: grants per second over time, faults as shaded bands. A self-contained SVG; writes no file."""

from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from textwrap import shorten
from xml.sax.saxutils import escape

from chaos.history import Fault, History
from chaos.report import Figures, Gap, figures_of
from chaos.verdict import Judgement, Verdict

WIDTH, HEIGHT = 1080, 500
LEFT, RIGHT, BOTTOM = 84, 1050, 412
_HEAD, _LANE = 78, 18
"""Where labels of faults begin, and how high one is."""
_LANES_MAX = 6
_LETTER = 6.3
"""Width of a letter of a label, roughly."""

_INK, _PALE, _GRID, _LINE, _AREA = "#24292f", "#656d76", "#e4e7eb", "#0b62c4", "#cfe3fa"
_FAULT, _FAULT_INK, _HEALTHY, _FAULTY = "#f5b7a6", "#a32a10", "#8fce9b", "#f0c36d"
_VERDICTS = {Judgement.CLEAN: "#1a7f37", Judgement.VIOLATED: "#b3160c", Judgement.INVALID: "#9a6700"}


def report_svg(title: str, history: History, verdict: Verdict) -> str:
    return _Chart(title, history, figures_of(history), verdict).svg()


class _Chart:
    def __init__(self, title: str, history: History, figures: Figures, verdict: Verdict) -> None:
        self._title = title
        self._history = history
        self._figures = figures
        self._verdict = verdict
        self._span_s = max(figures.end_s - figures.begin_s, 1e-3)
        self._y_step = _step(max(figures.grants_per_s), 6)
        self._y_max = self._y_step * max(1, ceil(max(figures.grants_per_s) * 1.04 / self._y_step))
        self._lanes = _lanes([(self._x(fault.from_s), _label_width(fault)) for fault in history.faults])
        self._top = _HEAD + _LANE * min(_LANES_MAX, max(self._lanes, default=-1) + 1) + 14

    def svg(self) -> str:
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            "font-family=\"system-ui, 'DejaVu Sans', 'Noto Sans CJK KR', sans-serif\" font-size=\"12\">",
            f"<title>{escape(self._title)}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            *self._heading(),
            *self._bands(),
            *self._axes(),
            *self._rates(),
            *self._longest_gap(),
            *self._fault_labels(),
            *self._phases(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    # --- where things are --------------------------------------------------------------------------------------------

    def _x(self, at_s: float) -> float:
        return LEFT + (at_s - self._figures.begin_s) / self._span_s * (RIGHT - LEFT)

    def _y(self, rate: float) -> float:
        return BOTTOM - rate / self._y_max * (BOTTOM - self._top)

    # --- what is drawn, from back to front ---------------------------------------------------------------------------

    def _heading(self) -> Iterator[str]:
        yield _text(LEFT, 30, self._title, size=18, weight="600")
        outcome = self._verdict.outcome
        yield _text(RIGHT, 30, outcome.value.upper(), size=18, weight="700", fill=_VERDICTS[outcome], anchor="end")
        latency, counts = self._figures.latency, self._verdict.counts
        summary = (
            f"{counts.get('calls', 0):,} calls, {latency.count:,} grants, "
            f"{counts.get('of unknown outcome', 0):,} of unknown outcome; "
            f"latency p50 {latency.p50_ms:,.1f}, p95 {latency.p95_ms:,.1f}, p99 {latency.p99_ms:,.1f}, "
            f"max {latency.max_ms:,.0f} ms"
        )
        yield _text(LEFT, 52, summary, fill=_PALE)
        reasons = [violation.what for violation in self._verdict.violations] or self._verdict.invalid_because
        if reasons:
            more = f" (and {len(reasons) - 1:,} more)" if len(reasons) > 1 else ""
            yield _text(LEFT, 70, shorten(reasons[0], 140) + more, fill=_VERDICTS[outcome])

    def _bands(self) -> Iterator[str]:
        for fault in self._history.faults:
            x, width = self._x(fault.from_s), self._x(fault.to_s) - self._x(fault.from_s)
            yield _rect(x, self._top, max(width, 1.5), BOTTOM - self._top, _FAULT, opacity=0.45 if width > 1.5 else 1.0)

    def _axes(self) -> Iterator[str]:
        rate = 0.0
        while rate <= self._y_max * 1.0001:
            y = self._y(rate)
            yield _line(LEFT, y, RIGHT, y, _INK if rate == 0 else _GRID)
            yield _text(LEFT - 8, y + 4, f"{rate:,g}", anchor="end", fill=_PALE)
            rate += self._y_step
        step_s = _step(self._span_s, 12)
        at_s = ceil(self._figures.begin_s / step_s - 1e-9) * step_s
        while at_s <= self._figures.end_s + 1e-9:
            x = self._x(at_s)
            yield _line(x, BOTTOM, x, BOTTOM + 5, _INK)
            yield _text(x, BOTTOM + 19, f"{at_s:g}", anchor="middle", fill=_PALE)
            at_s += step_s
        yield _text((LEFT + RIGHT) / 2, BOTTOM + 40, "time since the run began (s)", anchor="middle")
        middle = (self._top + BOTTOM) / 2
        label = f"grants/s, mean of {self._figures.bin_s:g} s"
        turned = f'transform="translate(22 {middle:.1f}) rotate(-90)"'
        yield f'<text {turned} text-anchor="middle" fill="{_INK}">{label}</text>'

    def _rates(self) -> Iterator[str]:
        figures = self._figures
        points: list[tuple[float, float]] = []
        for place, rate in enumerate(figures.grants_per_s):
            from_s = figures.begin_s + place * figures.bin_s
            to_s = min(from_s + figures.bin_s, figures.end_s)
            points += [(self._x(from_s), self._y(rate)), (self._x(to_s), self._y(rate))]
        line = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield (
            f'<path d="M{LEFT},{BOTTOM} L{line} L{points[-1][0]:.1f},{BOTTOM} Z" fill="{_AREA}" fill-opacity="0.6"/>'
        )
        yield f'<path d="M{line}" fill="none" stroke="{_LINE}" stroke-width="1.6" stroke-linejoin="round"/>'

    def _longest_gap(self) -> Iterator[str]:
        if not self._figures.gaps:
            return
        gap: Gap = self._figures.gaps[0]
        left, right, y = self._x(gap.from_s), self._x(gap.to_s), self._top + 10
        yield _line(left, y, max(right, left + 1), y, _INK, width=2)
        for x in (left, max(right, left + 1)):
            yield _line(x, y - 4, x, y + 4, _INK, width=1.5)
        words = f"longest gap {gap.length_s * 1e3:,.0f} ms ({gap.campaign_id})"
        fits = right + 8 + len(words) * _LETTER < RIGHT
        yield _text(right + 8 if fits else left - 8, y + 4, words, anchor="start" if fits else "end", halo=True)

    def _fault_labels(self) -> Iterator[str]:
        labelled = [pair for pair in zip(self._history.faults, self._lanes, strict=True) if pair[1] < _LANES_MAX]
        for fault, lane in labelled:
            x = self._x(fault.from_s)
            yield _line(x, _HEAD + _LANE * lane + 4, x, self._top, _FAULT_INK, width=0.8)
        for fault, lane in labelled:
            x, y = self._x(fault.from_s), _HEAD + _LANE * lane + 13
            fits = x + _label_width(fault) < WIDTH
            anchor = "start" if fits else "end"
            yield _text(x + 4 if fits else x - 4, y, fault.what, fill=_FAULT_INK, size=11, anchor=anchor, halo=True)

    def _phases(self) -> Iterator[str]:
        y = BOTTOM + 54
        for phase in self._history.phases:
            x, width = self._x(phase.from_s), self._x(phase.to_s) - self._x(phase.from_s)
            yield _rect(x, y, max(width - 1, 1), 16, _HEALTHY if phase.healthy else _FAULTY, opacity=0.7)
            if len(phase.name) * _LETTER < width - 6:
                yield _text(x + width / 2, y + 12, phase.name, anchor="middle", size=11)
        if self._history.phases:
            yield _text(LEFT - 8, y + 12, "phase", anchor="end", fill=_PALE)


def _step(whole: float, parts: int) -> float:
    """A round step that divides `whole` into about so many parts: 1, 2 or 5 times a power of ten."""
    if whole <= 0:
        return 1.0
    rough = whole / parts
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _label_width(fault: Fault) -> float:
    return len(fault.what) * _LETTER + 12


def _lanes(labels: Sequence[tuple[float, float]]) -> list[int]:
    """A lane for each label (x, width), so that none covers another."""
    ends: list[float] = []
    lanes: list[int] = []
    for x, width in labels:
        lane = next((lane for lane, end in enumerate(ends) if end <= x), len(ends))
        ends[lane : lane + 1] = [x + width]
        lanes.append(lane)
    return lanes


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: str = "400",
    fill: str = _INK,
    anchor: str = "start",
    halo: bool = False,
) -> str:
    edge = ' paint-order="stroke" stroke="#ffffff" stroke-width="4"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}"{edge}>{escape(words)}</text>'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str, opacity: float = 1.0) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}" '
        f'fill-opacity="{opacity:g}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1.0) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width:g}"/>'
