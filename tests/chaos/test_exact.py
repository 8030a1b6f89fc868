"""The checker's judgement of time against the definition: is there any order of the calls that explains all answers?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import inf
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.history import Operation
from chaos.verdict import Kind
from tests.chaos.script import Script, row

ORDER = {Kind.COUNT, Kind.SEQUENCE, Kind.SOLD_OUT_EARLY}


@dataclass(frozen=True)
class Act:
    """A call: what it says, and when it can have been so."""

    says: str
    """grant, read or sold_out."""
    value: int
    from_s: float
    to_s: float


def explained(acts: frozenset[Act], total: int, issued: int = 0) -> bool:
    """Is there an order, in which nothing that ended before another began comes after it, that gives all answers?"""
    if not acts:
        return True
    ends_s = min(act.to_s for act in acts)
    for act in acts:
        if act.from_s > ends_s:
            continue
        if act.says == "grant" and act.value == issued + 1:
            fits, after = issued < total, issued + 1
        else:
            fits, after = issued == (total if act.says == "sold_out" else act.value) and act.says != "grant", issued
        if fits and explained(acts - {act}, total, after):
            return True
    return False


def _random_acts(rng: Random, total: int) -> Iterator[Act]:
    """Times are whole numbers, all different in one run, from 2 on; grants are roughly in order."""
    times = rng.sample(range(2, 40), 16)
    spans = ((min(pair), max(pair)) for pair in zip(times[::2], times[1::2], strict=True))
    granted = rng.randint(max(0, total - 1), total)
    grants = sorted((next(spans) for _ in range(granted)), key=lambda span: sum(span) + rng.uniform(-8, 8))
    for number, (from_s, to_s) in enumerate(grants, 1):
        yield Act("grant", number, from_s, inf if rng.random() < 0.2 else to_s)
    for _ in range(rng.randint(0, 2)):
        yield Act("read", rng.randint(0, granted), *next(spans))
    for _ in range(rng.randint(0, 2)):
        yield Act("sold_out", total, *next(spans))


@settings(max_examples=1_500, deadline=None)
@given(st.integers(0, 2**32))
def test_exact_where_the_total_stands(seed: int) -> None:
    """While nobody raises the total the checker accuses a history exactly if no order explains it."""
    rng = Random(seed)
    total = rng.randint(1, 4)
    acts = frozenset(_random_acts(rng, total))
    script = Script()
    script.create(total)
    names = (f"reader{number}" for number in count())
    for act in acts:
        if act.says == "grant" and act.to_s == inf:
            script.unknown(f"u{act.value}", act.from_s)
        elif act.says == "grant":
            script.grant(act.value, f"u{act.value}", (act.from_s, act.to_s))
        elif act.says == "read":
            script.read(act.value, total, (act.from_s, act.to_s))
        else:
            script.refused("SOLD_OUT", next(names), (act.from_s, act.to_s))
    granted = sum(act.says == "grant" for act in acts)
    script.journal(*(row(number, f"u{number}") for number in range(1, granted + 1)))
    assert script.calls[0].operation is Operation.CREATE
    verdict = script.check()
    assert bool(verdict.kinds & ORDER) is not explained(acts, total), verdict.text
    assert verdict.kinds <= ORDER
