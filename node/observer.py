"""What a node tells of its work to whoever counts it. Nothing here knows how it is counted, or whether."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from cluster.types import ShardId
from node.calls import Call, End, Held, Outcome
from node.ledger import Ledger


class Cause(Enum):
    """Why a shard is taken over."""

    NO_OWNER = "no_owner"
    """Nobody owns it: the last owner's lease is over, or it never had one."""
    OWNER_GONE = "owner_gone"
    """Its owner's process is gone, though its lease may run, or it has lost its registration."""
    OWN_AGAIN = "own_again"
    """This node owns it, and its epoch has ended here."""
    PULLED = "pulled"
    """Its owner lives and is asked for it."""


class HandoverCause(Enum):
    """Why a peer asks for a shard."""

    DRAIN = "drain"
    """This node wants to end."""
    PLACEMENT = "placement"
    """The shard should be the peer's, mostly because that has come."""


class Observer(Protocol):
    """Called from the event loop; must not raise."""

    def now(self) -> float:
        """Seconds, of any clock that never steps: all times below are of it."""
        ...

    # --- a shard's rounds: once a round, not once a call --------------------------------------------------------------

    def taken(self, calls: Sequence[Call], at_s: float) -> None:
        """They have left the line, to be decided in one round."""
        ...

    def committed(self, entry_bytes: int, took_s: float) -> None:
        """A round's entry is durable."""
        ...

    def checked(self, took_s: float) -> None:
        """A round without an entry has its barrier."""
        ...

    def answered(self, decided: Sequence[Held], shard: ShardId, at_s: float) -> None: ...

    def put_off(self, outcome: Outcome, calls: int) -> None:
        """So many calls were not decided, or it is unknown whether."""
        ...

    def overloaded(self) -> None:
        """A call has found the line full."""
        ...

    def failed(self, end: End, *, appending: bool) -> None:
        """A round has ended its shard's epoch here. `appending`: it had an entry."""
        ...

    # --- ownership ----------------------------------------------------------------------------------------------------

    def taking(self, shard: ShardId, cause: Cause, at_s: float) -> None:
        """It is being claimed, or pulled."""
        ...

    def serving(self, shard: ShardId, ledger: Ledger, replay_s: float, at_s: float) -> None:
        """It is open."""
        ...

    def handed_over(self, cause: HandoverCause, *, given: bool, took_s: float) -> None:
        """A peer asked for a shard."""
        ...

    def renewed(self, left: float) -> None:
        """The lease was renewed when this share of it was left."""
        ...

    def life_over(self) -> None: ...


class _Unobserved:
    def now(self) -> float:
        return 0.0

    def taken(self, calls: Sequence[Call], at_s: float) -> None: ...

    def committed(self, entry_bytes: int, took_s: float) -> None: ...

    def checked(self, took_s: float) -> None: ...

    def answered(self, decided: Sequence[Held], shard: ShardId, at_s: float) -> None: ...

    def put_off(self, outcome: Outcome, calls: int) -> None: ...

    def overloaded(self) -> None: ...

    def failed(self, end: End, *, appending: bool) -> None: ...

    def taking(self, shard: ShardId, cause: Cause, at_s: float) -> None: ...

    def serving(self, shard: ShardId, ledger: Ledger, replay_s: float, at_s: float) -> None: ...

    def handed_over(self, cause: HandoverCause, *, given: bool, took_s: float) -> None: ...

    def renewed(self, left: float) -> None: ...

    def life_over(self) -> None: ...


UNOBSERVED: Observer = _Unobserved()
