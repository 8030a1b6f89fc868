"""Did the cluster carry on when more was asked of it than it can carry? Pure."""

from collections.abc import Iterator

from chaos.history import Overload
from chaos.verdict import Kind, Violation

GOODPUT_SHARE_MIN = 0.8
"""Of the peak, before and after."""
ASKED_SHARE_MIN = 2.8
"""Of the peak before: three times as much is meant."""


def collapses(overload: Overload) -> Iterator[Violation]:
    """A coupon or a lease was lost, a shard moved, or too little of the peak was left."""
    if overload.journaled < overload.acknowledged:
        what = f"{overload.acknowledged} coupons were acknowledged, {overload.journaled} are in the journal"
        yield Violation(Kind.ACKNOWLEDGED_LOST, ", ".join(overload.campaign_ids), what, (describe(overload),))
    found = []
    if overload.leases_lost:
        found.append(f"{overload.leases_lost} leases were lost")
    moved = sum(overload.epochs_after.get(shard) != epoch for shard, epoch in overload.epochs_before.items())
    if moved:
        found.append(f"{moved} shards have another epoch than before")
    share = _share(overload)
    if share < GOODPUT_SHARE_MIN:
        found.append(f"goodput was {share:.0%} of the peak")
    for what in found:
        yield Violation(Kind.COLLAPSED, "", what, (describe(overload),))


def underload(overload: Overload) -> Iterator[str]:
    """Why it proves nothing."""
    if overload.asked_per_s < ASKED_SHARE_MIN * overload.peak_per_s:
        yield f"only {overload.asked_per_s / overload.peak_per_s:.1f} times the peak was asked for"
    if not overload.epochs_before:
        yield "nobody knows which epochs stood before the overload"


def describe(overload: Overload) -> str:
    """In one line."""
    outcomes = ", ".join(f"{count:,} {name}" for name, count in overload.outcomes.items())
    return (
        f"overload [{overload.from_s:.3f} s, {overload.to_s:.3f}]: peak {overload.peak_per_s:,.0f} grants/s, "
        f"{overload.peak_after_per_s:,.0f} after it, asked for {overload.asked_per_s:,.0f}/s, "
        f"goodput {overload.goodput_per_s:,.0f} grants/s ({_share(overload):.0%}); {outcomes}"
    )


def _share(overload: Overload) -> float:
    """Of the peak that was left."""
    peak_per_s = (overload.peak_per_s + overload.peak_after_per_s) / 2
    return overload.goodput_per_s / peak_per_s if peak_per_s else 0.0
