"""What a router tells of its calls to whoever counts them. Nothing here knows how they are counted, or whether."""

from collections.abc import Callable, Sequence
from typing import Protocol

from router.calls import Issue, PendingCall
from router.errors import ApiError
from router.grpc_wire import Failed

NO_METHOD = "unimplemented"
"""Stands for all methods that there are not: callers choose their names."""


def method_name(path: str) -> str:
    """Of /SERVICE/METHOD."""
    return path.rpartition("/")[2]


class Observer(Protocol):
    """Called from the event loop; must not raise."""

    @property
    def now(self) -> Callable[[], float]:
        """Seconds, of any clock that never steps."""
        ...

    def ended(self, calls: Sequence[PendingCall]) -> None:
        """Requests for a coupon that were answered in one turn of the loop. They are nearly all that a router does, so
        they are told of together."""
        ...

    def refused(self, issue: Issue, error: ApiError) -> None:
        """One was refused as it came."""
        ...

    def turned_away(self, method: str, error: ApiError | Failed) -> None:
        """An RPC, of any method, was refused at the door: for its key, its form, or because there are too many."""
        ...

    def answered(self, method: str, code: int, took_s: float) -> None:
        """One RPC of any method but IssueCoupon has ended with this google.rpc.Code."""
        ...


class _Unobserved:
    @property
    def now(self) -> Callable[[], float]:
        return float

    def ended(self, calls: Sequence[PendingCall]) -> None: ...

    def refused(self, issue: Issue, error: ApiError) -> None: ...

    def turned_away(self, method: str, error: ApiError | Failed) -> None: ...

    def answered(self, method: str, code: int, took_s: float) -> None: ...


UNOBSERVED: Observer = _Unobserved()
