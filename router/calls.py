"""A call that a router has accepted, and the line in which the calls of one shard wait for a node. No I/O."""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from cluster.types import ShardId
from proto import node_pb2
from router.errors import ApiError

Reply = Callable[[bytes | ApiError], None]
"""Called once, with the coupon.v1 response or what came instead of it."""


async def answer_of(begin: Callable[[Reply], None]) -> bytes:
    """The response of a call that `begin` begins, for those who can wait for it. Who stops waiting abandons the answer,
    not the call.

    Raises:
        ApiError: what came instead, or what `begin` has raised.
    """
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def reply(result: bytes | ApiError) -> None:
        if answer.done():
            return  # the caller has gone
        if isinstance(result, ApiError):
            answer.set_exception(result.with_traceback(None))  # it may be shared
        else:
            answer.set_result(result)

    begin(reply)
    return await answer


_PAGES = frozenset((node_pb2.GET_CAMPAIGN, node_pb2.LIST_CAMPAIGNS))
_READS = _PAGES | {node_pb2.GET_COUPON}


class Issue(Enum):
    """How somebody has asked for a coupon."""

    UNARY = "IssueCoupon"
    ITEM = "IssueCoupons"
    """On a stream."""


class Stage(Enum):
    WAITING = auto()
    """In its shard's line."""
    IN_FLIGHT = auto()
    """With a node that has not answered."""
    FINISHED = auto()


class Carrier(Protocol):
    """What a call is in flight on: a link."""

    address: str
    pages_in_flight: int
    """Counted by who sends them."""

    def forget(self, call: "PendingCall") -> None: ...


@dataclass(slots=True, eq=False)
class PendingCall:
    """One call, from its arrival until it is answered or its time is up."""

    arrival: int
    """Its place among all calls of this router."""
    shard: ShardId
    method: node_pb2.Method
    request: bytes
    """The coupon.v1 request, checked."""
    deadline: float
    """loop.time() by which the caller wants an answer, whatever it is."""
    reply: Reply
    """Whether the caller is still there is its own matter: the call goes on."""
    stage: Stage = Stage.WAITING
    carrier: Carrier | None = None
    """While in flight."""
    call_id: int = 0
    """While in flight: its id on the carrier's stream."""
    maybe_done: bool = False
    """An attempt ended without an answer: it may have taken effect."""
    issue: Issue | None = None
    """It asks for a coupon, of this campaign:"""
    campaign_id: str = ""
    began_s: float = 0.0
    """By the observer's clock."""
    result: bytes | ApiError = b""
    """Once finished: what its caller was told."""

    @property
    def is_read(self) -> bool:
        return self.method in _READS

    @property
    def is_page(self) -> bool:
        """A read that costs its owner as much as many other calls."""
        return self.method in _PAGES


@dataclass(slots=True)
class ShardLine:
    """The calls of one shard that wait, in order of arrival, and where they may go."""

    shard: ShardId
    address: str | None = None
    """Its owner's NodeService; None: nobody owns it."""
    revision: int = 0
    """mod_revision of the owner's key."""
    held: bool = False
    """Nothing is sent, though there is an owner: it sent calls back, or calls are still with the owner before."""
    draining: bool = False
    """Held only until the owner before has answered what it has."""
    failures: int = 0
    """How often calls were sent back since one was answered."""
    in_flight: int = 0
    pages: int = 0
    """Of the calls, waiting or in flight: those that ask for a page."""
    timer: asyncio.TimerHandle | None = None
    """Ends the hold."""
    _waiting: list[tuple[int, PendingCall]] = field(default_factory=list)
    _discarded: int = 0
    """Of `_waiting`: no longer there, but in the heap."""

    @property
    def waiting(self) -> int:
        return len(self._waiting) - self._discarded

    @property
    def empty(self) -> bool:
        return not self.waiting

    def push(self, call: PendingCall) -> None:
        """A call that comes back stands where it stood: in front of all that arrived later."""
        heapq.heappush(self._waiting, (call.arrival, call))

    def pop(self) -> PendingCall | None:
        """The first that waits; None: nobody does."""
        while self._waiting:
            _, call = heapq.heappop(self._waiting)
            if call.stage is Stage.WAITING:
                return call
            self._discarded -= 1
        return None

    def discard(self, call: PendingCall) -> None:
        """Its time is up while it waits. Where nobody takes calls for hours, none may pile up."""
        assert call.stage is Stage.FINISHED, "discarded alive"
        self._discarded += 1
        if self._discarded * 2 > len(self._waiting):
            self._waiting = [entry for entry in self._waiting if entry[1].stage is Stage.WAITING]
            heapq.heapify(self._waiting)
            self._discarded = 0
