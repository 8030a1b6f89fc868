"""What a router tells of its calls to whoever counts them. Nothing here knows how they are counted, or whether."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from router.calls import Reply
from router.errors import ApiError


class Issues(Protocol):
    """Requests for a coupon, that is nearly all there are: so each costs one call here and one at its answer."""

    def begun(self, campaign_id: str, reply: Reply) -> Reply:
        """One has come. Returns what is to be called with its answer instead of `reply`."""
        ...

    def refused(self, error: ApiError) -> None:
        """One was refused as it came."""
        ...


class Observer(Protocol):
    @property
    def unary(self) -> Issues:
        """Those of IssueCoupon."""
        ...

    @property
    def items(self) -> Issues:
        """Those on streams of IssueCoupons."""
        ...

    def call(self, method: str) -> AbstractContextManager[None]:
        """Around one RPC of any method but IssueCoupon; what leaves it as an exception is its status."""
        ...


class _Unobserved:
    def begun(self, campaign_id: str, reply: Reply) -> Reply:
        return reply

    def refused(self, error: ApiError) -> None:
        pass

    @property
    def unary(self) -> Issues:
        return self

    @property
    def items(self) -> Issues:
        return self

    def call(self, method: str) -> AbstractContextManager[None]:
        return nullcontext()


UNOBSERVED: Observer = _Unobserved()
