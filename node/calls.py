"""What a shard's loop takes and gives: calls, what becomes of them, and why it ends."""

from collections.abc import Callable
from enum import Enum

from cluster.value import value
from node.commands import Answer, Command


class Outcome(Enum):
    """What a caller hears instead of an answer."""

    NOT_OWNER = "not_owner"
    """Certainly not done; route again."""
    UNKNOWN = "unknown"
    """May have been done."""
    EXPIRED = "expired"
    """Certainly not done: it was late already."""


class Overloaded(Exception):
    """The line is full. `retry_after_s`: how long it takes to work off, by its recent speed."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__()
        self.retry_after_s = retry_after_s


@value
class Call:
    command: Command
    arrived_s: float
    """By the observer's clock: when this node heard of it."""
    deadline_s: float
    """By the event loop's clock: when nobody waits for the answer any more."""
    reply: Callable[[Answer | Outcome], None]
    """Called exactly once, from the event loop. Must not raise and must not block."""


@value
class Held:
    """A decision whose answer waits for its proof."""

    call: Call
    answer: Answer
    decided: bool
    """It made events: if their entry fails, whether it was done is unknown."""


class End(Enum):
    """Why a shard's loop ended."""

    DRAINED = "drained"
    """Asked to: everything decided is durable and answered."""
    FENCED = "fenced"
    UNKNOWN = "outcome_unknown"
    REFUSED = "append_refused"
    LEASE_OVER = "lease_over"
    CLOCK_STEPPED = "clock_stepped"
    CANCELLED = "cancelled"
