"""Breadth-first search over the states of a model, so that the first trace found is a shortest one.

Knows nothing of what the states mean. A state is any hashable value; two that are equal have the same future.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from tests.model.properties import Property

S = TypeVar("S")


class Step(NamedTuple, Generic[S]):
    """One atomic action of somebody. Nobody has to act: who does not is paused."""

    action: str
    """The template of its description; the same for all steps of one kind."""
    args: tuple[object, ...]
    """What the template's fields stand for."""
    state: S
    """Afterwards."""
    broken: Property | None = None
    """What the action itself broke, which the state does not show."""

    @property
    def description(self) -> str:
        return self.action.format(*self.args)


class Model(Protocol[S]):
    @property
    def initial(self) -> S: ...

    def steps(self, state: S) -> Iterable[Step[S]]:
        """Everything that may happen next."""
        ...

    def broken(self, state: S) -> Property | None:
        """What does not hold in the state."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    broken: Property | None
    trace: tuple[str, ...]
    """How it came to that: descriptions, one a step. Empty if nothing is broken."""
    states: int
    steps: int
    depth: int
    cpu_s: float
    actions: Counter[str]
    """How many steps of each kind were taken: one that never was proves nothing."""


class TooManyStates(Exception):
    """The search was given up: the model is larger than it was meant to be."""


def search(model: Model[S], *, states_max: int = 3_000_000) -> Result:
    """Visit every state that can be reached, until something is broken.

    Raises:
        TooManyStates: more than `states_max`.
    """
    began_s = time.process_time()
    came_from: dict[S, S | None] = {model.initial: None}
    queue = deque([(model.initial, 0)])
    actions: Counter[str] = Counter()
    depth = 0

    def result(broken: Property | None, trace: tuple[str, ...]) -> Result:
        cpu_s = time.process_time() - began_s
        return Result(broken, trace, len(came_from), actions.total(), depth, cpu_s, actions)

    while queue:
        state, depth = queue.popleft()
        for step in model.steps(state):
            actions[step.action] += 1
            new = step.state not in came_from
            broken = step.broken or (model.broken(step.state) if new else None)
            if broken is not None:
                return result(broken, (*_trace(model, came_from, state), step.description))
            if new:
                came_from[step.state] = state
                queue.append((step.state, depth + 1))
        if len(came_from) > states_max:
            raise TooManyStates(f"more than {states_max:,} states at depth {depth}")
    return result(None, ())


def _trace(model: Model[S], came_from: dict[S, S | None], state: S) -> tuple[str, ...]:
    """The way to `state`. Only the states on it were kept, so the steps between them are worked out again."""
    way: list[str] = []
    while (before := came_from[state]) is not None:
        way.append(next(step.description for step in model.steps(before) if step.state == state))
        state = before
    return tuple(reversed(way))
