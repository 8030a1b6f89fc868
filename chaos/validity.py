"""Was the run one that could have shown a violation? Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from chaos.evidence import Evidence, answered_s
from chaos.history import Call, Fault, History, Operation

_ANY = ""


@dataclass(frozen=True, slots=True)
class Demands:
    """What makes a run count."""

    healthy_grants_min: int = 500
    """In each healthy phase."""
    recovery_s_max: float = 5.0
    """From the healing of a fault to a grant."""


def shortcomings(
    history: History, campaigns: Mapping[str, Evidence], final_reads: Iterable[Call], demands: Demands
) -> Iterator[str]:
    """Why the run proves nothing, a sentence each."""
    everything = [call for call in history.calls if call.is_grant]
    by_campaign: dict[str, list[Call]] = {}
    for call in everything:
        by_campaign.setdefault(call.campaign_id, []).append(call)
    yield from _phases(history, sorted(map(answered_s, everything)), demands.healthy_grants_min)
    yield from _traces(history.faults)
    service = {campaign_id: _Service(grants) for campaign_id, grants in by_campaign.items()}
    service[_ANY] = _Service(everything)
    yield from _recoveries(history.faults, service, demands.recovery_s_max)
    yield from _reads(history, campaigns, final_reads)


def _phases(history: History, grants_s: list[float], grants_min: int) -> Iterator[str]:
    healthy = [phase for phase in history.phases if phase.healthy]
    if not healthy:
        yield "no healthy phase is marked"
    for phase in healthy:
        count = bisect_right(grants_s, phase.to_s) - bisect_left(grants_s, phase.from_s)
        if count < grants_min:
            yield f"the healthy phase {phase.name} has {count} grants, needs {grants_min}"


def _traces(faults: Iterable[Fault]) -> Iterator[str]:
    if not faults:
        yield "no fault is marked"
    for fault in faults:
        for trace in fault.required:
            if trace not in fault.traces:
                yield f"the fault {fault.what} at {fault.from_s:.3f} s left no trace: {trace}"
        for trace in fault.forbidden:
            if trace in fault.traces:
                yield f"the fault {fault.what} at {fault.from_s:.3f} s cost what it must not: {trace}"


class _Service:
    """When grants came, by when they were asked for."""

    def __init__(self, grants: list[Call]) -> None:
        ordered = sorted(grants, key=lambda call: call.invoked_s)
        self._asked_s = [call.invoked_s for call in ordered]
        self._first_s = list(accumulate(map(answered_s, reversed(ordered)), min))[::-1]

    def first_s(self, after_s: float) -> float | None:
        """When the first grant came that was asked for after that time. One that had been asked for before may have
        been on its way when the fault came."""
        place = bisect_left(self._asked_s, after_s)
        return self._first_s[place] if place < len(self._first_s) else None


def _recoveries(faults: tuple[Fault, ...], service: dict[str, _Service], s_max: float) -> Iterator[str]:
    for fault in faults:
        if any(_takes_over(other, fault, fault.to_s + s_max) for other in faults):
            continue
        for campaign_id in fault.campaign_ids or (_ANY,):
            back_s = service[campaign_id].first_s(fault.to_s) if campaign_id in service else None
            if back_s is not None and back_s <= fault.to_s + s_max:
                continue
            came = "never came back" if back_s is None else f"came back only after {back_s - fault.to_s:.3f} s"
            where = f" in {campaign_id}" if campaign_id else ""
            yield f"service{where} {came}: {fault.what} was healed at {fault.to_s:.3f} s"


def _takes_over(other: Fault, fault: Fault, deadline_s: float) -> bool:
    """Is the next fault there before service has to be back? Then that one's healing is judged."""
    return other.from_s <= deadline_s and other.to_s > fault.to_s


def _reads(history: History, campaigns: Mapping[str, Evidence], final_reads: Iterable[Call]) -> Iterator[str]:
    last_s = max((call.invoked_s for call in history.calls if call.operation is Operation.ISSUE), default=0.0)
    read = {
        call.campaign_id
        for call in final_reads
        if call.ok and call.operation is Operation.READ and call.invoked_s >= last_s
    }
    for campaign_id, evidence in campaigns.items():
        if campaign_id not in read and (evidence.issues or evidence.journaled):
            yield f"{campaign_id} was not read after its last issue"
        if evidence.issues and not any(evidence.creations):
            yield f"the creation of {campaign_id} is not in the history"
