"""What a run amounts to: a verdict, and what proves it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

PROVEN_MAX = 50
"""Violations of one kind that a text shows; the rest it counts."""


class Kind(StrEnum):
    """Which promise was broken. The first seven are docs/design.md's invariants, in their order."""

    OVER_ISSUED = "over_issued"
    ACKNOWLEDGED_LOST = "acknowledged_lost"
    """A coupon of an answer is not in the journal, is another one there, or was not found later."""
    NOT_UNIQUE = "not_unique"
    """A code exists twice, or a user has too many coupons."""
    REPETITION_DIFFERS = "repetition_differs"
    SEQUENCE = "sequence"
    """Gaps, duplicates, or an order that is not the order of decision."""
    OUTSIDE_WINDOW = "outside_window"
    """A grant before the start, after the end, or after an acknowledged pause or cancel."""
    SOLD_OUT_EARLY = "sold_out_early"

    COUNT = "count"
    """`issued` or `total` of an answer cannot have been so between its question and its answer."""
    UNASKED = "unasked"
    """The journal has a coupon that no call can have caused: nobody asked, or all were told that nothing was done."""
    CHANGE_LOST = "change_lost"
    """The journal lacks a campaign, a raise, a pause or a cancel that was acknowledged."""
    JOURNAL = "journal"
    """The journal breaks a rule of its own that is none of the above."""
    COLLAPSED = "collapsed"
    """Under overload a lease was lost, or more than a fifth of what the cluster can carry."""

    @property
    def invariant(self) -> int | None:
        """Its number in docs/design.md; None: it follows from what the API says."""
        number = list(Kind).index(self) + 1
        return number if number <= 7 else None


@dataclass(frozen=True, slots=True)
class Violation:
    kind: Kind
    campaign_id: str
    """Empty: of no single campaign."""
    what: str
    proof: tuple[str, ...]
    """The calls and entries that prove it, a line each."""
    call_ids: tuple[int, ...] = ()
    """The calls among them."""


class Judgement(StrEnum):
    CLEAN = "clean"
    VIOLATED = "violated"
    INVALID = "invalid"
    """No violation was found, but the run was none that could have shown one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    violations: tuple[Violation, ...]
    invalid_because: tuple[str, ...]
    counts: Mapping[str, int]
    """What was judged: calls, grants, refused, unknown, reads, journaled coupons, campaigns."""

    @property
    def outcome(self) -> Judgement:
        if self.violations:
            return Judgement.VIOLATED
        return Judgement.INVALID if self.invalid_because else Judgement.CLEAN

    @property
    def clean(self) -> bool:
        return self.outcome is Judgement.CLEAN

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset(violation.kind for violation in self.violations)

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.outcome.value,
            "counts": dict(self.counts),
            "invalid_because": list(self.invalid_because),
            "violations": [
                {
                    "kind": violation.kind.value,
                    "invariant": violation.kind.invariant,
                    "campaign_id": violation.campaign_id,
                    "what": violation.what,
                    "proof": list(violation.proof),
                    "call_ids": list(violation.call_ids),
                }
                for violation in self.violations
            ],
        }

    @property
    def text(self) -> str:
        lines = [f"verdict: {self.outcome.value.upper()}"]
        lines.append("judged: " + ", ".join(f"{count:,} {name}" for name, count in self.counts.items()))
        lines += [f"invalid: {reason}" for reason in self.invalid_because]
        for kind in Kind:
            found = [violation for violation in self.violations if violation.kind is kind]
            if found:
                lines += _text_of(kind, found)
        return "\n".join(lines)


def _text_of(kind: Kind, found: list[Violation]) -> list[str]:
    number = "" if kind.invariant is None else f" (invariant {kind.invariant})"
    lines = [f"{kind.value}{number}: {len(found):,}"]
    for violation in found[:PROVEN_MAX]:
        lines.append(f"  {violation.campaign_id or '(cluster)'}: {violation.what}")
        lines += [f"    {line}" for line in violation.proof]
    if len(found) > PROVEN_MAX:
        lines.append(f"  ... and {len(found) - PROVEN_MAX:,} more")
    return lines
