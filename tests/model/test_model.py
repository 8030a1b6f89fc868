"""The protocols hold in every order of their steps, and every planted bug breaks what it should."""

from functools import cache

import pytest

from tests.model import etcd_actions, file_actions
from tests.model.catalogue import Kind, Run, runs
from tests.model.checker import Result, Step, TooManyStates, search
from tests.model.properties import Property

FAST = [run for run in runs() if not run.slow]
PLANTED_ONLY = {
    etcd_actions.DECIDES_AND_SAYS,
    etcd_actions.TAKEN_FOR_FAILED,
    etcd_actions.ABSENCE_BELIEVED,
    etcd_actions.GOES_ON,
    etcd_actions.HANDS_OVER_LATE,
    etcd_actions.HANDS_OVER_UNFINISHED,
    etcd_actions.BARRIER_PASSES,
    etcd_actions.INCARNATION_RAISED,
    etcd_actions.COPY_THROWN_AWAY,
    etcd_actions.WARM_OPEN_FAILS,
    file_actions.READS_FIRST,
    file_actions.COPY_THROWN_AWAY,
    file_actions.OPENS_COLD,
    file_actions.SYNC_FAILS_AGAIN,
    file_actions.LOOKS_EARLY,
    file_actions.LOOKS_BETWEEN,
    file_actions.ACKNOWLEDGED_UNSYNCED,
}
"""Actions of planted bugs and variations."""


@cache
def result_of(run: Run) -> Result:
    return run.search()


@pytest.mark.parametrize("run", [run for run in FAST if run.breaks is None], ids=lambda run: run.name)
def test_holds(run: Run) -> None:
    """What is built holds, and so do the variations that are said to."""
    result = result_of(run)
    assert result.broken is None, "\n".join(result.trace)


@pytest.mark.parametrize("run", [run for run in FAST if run.breaks is not None], ids=lambda run: run.name)
def test_planted_bug_is_found(run: Run) -> None:
    """A planted bug breaks what the catalogue says, and its trace shows how."""
    result = result_of(run)
    assert result.broken is run.breaks
    assert result.trace


def test_every_action_is_taken() -> None:
    """No action of the models is impossible in the runs of what is built: what never happens proves nothing."""
    taken: set[str] = set()
    for run in FAST:
        if run.kind is Kind.BUILT:
            taken |= result_of(run).actions.keys()
    named = {
        text
        for module in (etcd_actions, file_actions)
        for name, text in vars(module).items()
        if name.isupper() and isinstance(text, str)
    }
    assert named - PLANTED_ONLY - taken == set()
    assert taken & PLANTED_ONLY == set()


class Counter:
    """Counts to five, in ones or twos. Four is forbidden."""

    initial = 0

    def steps(self, state: int) -> list[Step[int]]:
        return [Step("adds {0}", (by,), state + by) for by in (1, 2) if state + by <= 5]

    def broken(self, state: int) -> Property | None:
        return Property.GAP if state == 4 else None


def test_trace_is_shortest() -> None:
    """The search returns a shortest way to the first broken state."""
    result = search(Counter())
    assert result.broken is Property.GAP
    assert result.trace == ("adds 2", "adds 2")


def test_search_never_ends_in_silence() -> None:
    """A model that is larger than allowed is an error, not a pass."""
    with pytest.raises(TooManyStates):
        search(Counter(), states_max=2)
