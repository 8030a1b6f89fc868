"""What can go wrong between a client and etcd. Decides nothing: fates come from a `Faults`, gates from a test."""

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

R = TypeVar("R")


class Gate:
    """Holds what comes until it is opened, then lets it go in the order in which it came."""

    def __init__(self) -> None:
        self._open = False
        self._held: list[Callable[[], None]] = []
        self._reached = asyncio.Event()

    async def reached(self) -> None:
        """Returns when something has come."""
        await self._reached.wait()

    def open(self) -> None:
        self._open = True
        held, self._held = self._held, []
        for action in held:
            action()

    def enter(self, action: Callable[[], None]) -> None:
        self._reached.set()
        if self._open:
            action()
        else:
            self._held.append(action)


class Loss(enum.Enum):
    NONE = 0
    SILENT = 1
    """It is gone, and nobody ever hears so. On a stream: nothing that follows arrives either."""
    BROKEN = 2
    """It is gone, and the client hears EtcdUnavailable."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What becomes of one message on its way."""

    delay_s: float = 0.0
    loss: Loss = Loss.NONE
    gate: Gate | None = None
    """Only for single calls; streams have their link's gates."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one request and of its answer."""

    request: Leg = Leg()
    answer: Leg = Leg()
    refusal: str = ""
    """If set, etcd says this instead of carrying it out: `TOO_MANY_REQUESTS`, for instance."""
    quota_used_up: bool = False
    """A Txn: the quota runs out after etcd admitted it, so etcd carries it out and says "no space"."""


@dataclass(frozen=True, slots=True)
class Call:
    client: str
    endpoint: str
    method: str
    """get, txn, lease_grant, lease_revoke, keep_alive (each message of the stream), watch (its begin), watch_batch."""
    request: object


class Faults(Protocol):
    def fate(self, call: Call) -> Fate: ...


class NoFaults:
    def fate(self, call: Call) -> Fate:
        return Fate()


class Script:
    """Faults of a test that knows which call it means: a fate for the next call of a method, else none."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        """All so far, in the order in which they were sent."""
        self._next: dict[tuple[str, str], deque[Fate]] = {}

    def next(self, method: str, *fates: Fate, client: str = "") -> None:
        """The client's next calls of this method, one after the other, meet these fates."""
        self._next.setdefault((client, method), deque()).extend(fates)

    def fate(self, call: Call) -> Fate:
        self.calls.append(call)
        fates = self._next.get((call.client, call.method))
        return fates.popleft() if fates else Fate()


@dataclass(eq=False, slots=True)
class Link:
    """The state of the way between one client and one endpoint; tests set its fields."""

    requests: Gate | None = None
    """If set, nothing reaches etcd before it is opened."""
    answers: Gate | None = None
    """If set, nothing reaches the client before it is opened."""
    is_cut: bool = False
    """Set by `cut`: whatever the client tries fails at once."""
    on_break: dict[Callable[[str], None], None] = field(default_factory=dict)
    """Called with the reason when what is open breaks, in the order in which it was opened."""

    def freeze(self) -> None:
        """The endpoint stands still: takes requests, carries out and answers nothing until `thaw`."""
        self.requests, self.answers = Gate(), Gate()

    def thaw(self) -> None:
        requests, answers = self.requests, self.answers
        self.requests = self.answers = None
        for gate in (requests, answers):
            if gate is not None:
                gate.open()

    def cut(self) -> None:
        """Break what is open. Requests under way still arrive: their bytes may have left before."""
        self.is_cut = True
        self.break_connections("the connection was cut")

    def heal(self) -> None:
        self.is_cut = False

    def break_connections(self, why: str) -> None:
        for break_one in tuple(self.on_break):
            break_one(why)


def carry(
    leg: Leg, link_gate: Callable[[], Gate | None], deliver: Callable[[], None], broken: Callable[[], None]
) -> None:
    """Bring a message of a single call to the other side, or not. `link_gate` is asked when it gets there."""
    if leg.loss is Loss.SILENT:
        return

    def at_link() -> None:
        _pass(link_gate(), broken if leg.loss is Loss.BROKEN else deliver)

    def under_way() -> None:
        _pass(leg.gate, at_link)

    loop = asyncio.get_running_loop()
    # A context of its own: what is under way is not part of its sender any more, and goes on if that stands still.
    if leg.delay_s > 0:
        loop.call_later(leg.delay_s, under_way, context=Context())
    else:
        loop.call_soon(under_way, context=Context())


def _pass(gate: Gate | None, action: Callable[[], None]) -> None:
    if gate is None:
        action()
    else:
        gate.enter(action)


class Stream(Generic[R]):
    """etcd's side of a stream: messages arrive in the order in which they were sent, or not at all."""

    def __init__(self, gate: Callable[[], Gate | None], arrive: Callable[[R], None]) -> None:
        self._gate = gate
        self._arrive = arrive
        self._under_way: deque[R] = deque()
        self._due_s = 0.0
        self._lost = False

    def send(self, message: R, leg: Leg) -> None:
        self._lost = self._lost or leg.loss is not Loss.NONE
        if self._lost:
            return
        self._under_way.append(message)
        loop = asyncio.get_running_loop()
        self._due_s = max(self._due_s, loop.time() + leg.delay_s)
        loop.call_at(self._due_s, self._pass_gate, context=Context())

    def _pass_gate(self) -> None:
        _pass(self._gate(), self._next)

    def _next(self) -> None:
        self._arrive(self._under_way.popleft())
