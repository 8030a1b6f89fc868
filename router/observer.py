"""What a router tells of its calls to whoever counts them. Nothing here knows how they are counted, or whether."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from router.calls import Issue, PendingCall
from router.errors import ApiError


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

    def turned_away(self, method: str, error: ApiError) -> None:
        """An RPC was refused at the door: for its key."""
        ...

    def call(self, method: str) -> AbstractContextManager[None]:
        """Around one RPC of any method but IssueCoupon; what leaves it as an exception is its status."""
        ...


class _Unobserved:
    @property
    def now(self) -> Callable[[], float]:
        return float

    def ended(self, calls: Sequence[PendingCall]) -> None: ...

    def refused(self, issue: Issue, error: ApiError) -> None: ...

    def turned_away(self, method: str, error: ApiError) -> None: ...

    def call(self, method: str) -> AbstractContextManager[None]:
        return nullcontext()


UNOBSERVED: Observer = _Unobserved()
