"""Every call between its arrival and its answer. The only layer that retries.

Calls of a shard go to its owner in order of arrival. One that comes back without having been decided (NOT_OWNER,
unknown, a broken stream) takes its old place and goes out again, to the new owner as soon as there is one, else after a
short jittered delay, until its deadline. What is accepted is bounded in number and bytes. A caller that goes away
abandons its answer, never its call.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from cluster.topology import Owner
from cluster.types import ShardId
from proto import node_pb2
from router import errors
from router.calls import Issue, PendingCall, Reply, ShardLine, Stage, answer_of
from router.deadlines import Deadlines
from router.errors import ApiError
from router.interrupt import Interrupt
from router.link import NodeLink
from router.observer import UNOBSERVED, Observer
from router.pace import Pace

_PATIENT_SHARE = 0.5
"""Of `node_calls_max`: so much of a node those get who can wait."""
_PAGES_S = 0.1
"""Mean time after which somebody who was refused a page had better come again."""
_LET_IN_SHARE = 0.75
"""Of that: with so little left they are let in again, many at a time."""


@dataclass(frozen=True, slots=True)
class DispatchSettings:
    calls_max: int = 20_000
    node_calls_max: int = 2_500
    """With one node, beyond which it is `crowded`."""
    shard_pages_max: int = 16
    """Pages of coupons or campaigns that are asked of one shard at a time: an owner shows them one after the other."""
    bytes_max: int = 64 << 20
    """Of requests."""
    retry_s: float = 0.005
    """Mean wait before a call that its owner sent back goes there again; doubles up to `retry_max_s`."""
    retry_max_s: float = 0.05
    drain_max_s: float = 0.05
    """When a shard moves: how long later calls wait for those that are still with the owner before."""


class Dispatcher:
    def __init__(self, shards: int, settings: DispatchSettings, rng: Random, observer: Observer = UNOBSERVED) -> None:
        self._settings = settings
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._expire)
        self._lines = [ShardLine(ShardId(shard)) for shard in range(shards)]
        self._moves = [Interrupt() for _ in range(shards)]
        self._links: dict[str, NodeLink] = {}
        self._ready: dict[str, dict[ShardId, ShardLine]] = {}
        self._arrivals = 0
        self._calls = 0
        self._bytes = 0
        self._pace = Pace(rng)
        self._patient_max = max(1, int(settings.node_calls_max * _PATIENT_SHARE))
        self._patient: dict[str | None, list[asyncio.Future[None]]] = {}
        """Who waits for room, by the address of the node."""
        self._observer = observer
        self._now_s = observer.now
        self._ended: list[PendingCall] = []
        """Of this turn of the loop."""

    # --- for the service ---------------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls accepted and not yet answered."""
        return self._calls

    @property
    def calls_max(self) -> int:
        return self._settings.calls_max

    @property
    def links_up(self) -> int:
        return len(self._links)

    def unowned(self) -> list[ShardId]:
        """Shards that nobody owns, as far as this router has heard."""
        return [line.shard for line in self._lines if line.address is None]

    def unreached(self) -> list[ShardId]:
        """Shards without an owner, or without a link to it."""
        return [line.shard for line in self._lines if line.address not in self._links]

    async def call(self, method: node_pb2.Method, shard: ShardId, request: bytes, deadline: float) -> bytes:
        """The owner's response. `deadline` is loop.time().

        Raises:
            ApiError: refused; not accepted (OVERLOADED); or the deadline came first (NO_OWNER, NOT_IN_TIME,
                OUTCOME_UNKNOWN).
        """
        return await answer_of(partial(self.submit, method, shard, request, deadline))

    def submit(
        self,
        method: node_pb2.Method,
        shard: ShardId,
        request: bytes,
        deadline: float,
        reply: Reply,
        issue: Issue | None = None,
        campaign_id: str = "",
    ) -> None:
        """As `call`, for callers that do not wait: `reply` is called once, later. The observer hears of those that are
        an `issue`.

        Raises:
            ApiError: the call is not accepted; nobody will be called.
        """
        now = self._loop.time()
        if deadline <= now:
            raise errors.not_in_time()
        if self._calls >= self._settings.calls_max or self._bytes + len(request) > self._settings.bytes_max:
            raise self._pace.overloaded(self._calls, now).with_traceback(None)  # it is shared
        line = self._lines[shard]
        call = PendingCall(self._arrivals, shard, method, request, deadline, reply)
        if issue is not None:
            call.issue = issue
            call.campaign_id = campaign_id
            call.began_s = self._now_s()
        elif call.is_page:
            if line.pages >= self._settings.shard_pages_max:
                raise errors.overloaded(_PAGES_S * self._rng.uniform(0.5, 1.5))
            line.pages += 1
        self._arrivals += 1
        self._deadlines.add(call)
        if not self._calls:
            self._pace.begin(now)
        self._calls += 1
        self._bytes += len(request)
        line.push(call)
        self._offer(line)

    def crowded(self, shard: ShardId) -> ApiError | None:
        """OVERLOADED, if its owner has so much to do that whoever comes now had better come again. Never while the
        shard has no owner that is reached: how long that takes has nothing to do with how many wait."""
        calls = self._load(self._lines[shard])
        return self._pace.overloaded(calls, self._loop.time()) if calls >= self._settings.node_calls_max else None

    def has_room(self, shard: ShardId) -> bool:
        """Whether a caller that can wait may send more to the shard's owner: it leaves the other half of what a node
        takes to those who cannot."""
        return self._load(self._lines[shard]) < self._patient_max

    async def room(self, shard: ShardId, deadline: float) -> None:
        """Returns when there is room, or no time left to wait for it."""
        line = self._lines[shard]
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not self.has_room(shard):
                    let_in = self._loop.create_future()
                    self._patient.setdefault(line.address, []).append(let_in)
                    await let_in

    def link_of(self, shard: ShardId) -> NodeLink | None:
        """The link to the shard's owner, if it is up."""
        address = self._lines[shard].address
        return self._links.get(address) if address is not None else None

    def moves_of(self, shard: ShardId) -> Interrupt:
        """Fires when the shard's owner changes, and when the link to it comes up or goes down."""
        return self._moves[shard]

    # --- for the topology --------------------------------------------------------------------------------------------

    def set_owner(self, shard: ShardId, owner: Owner | None) -> None:
        line = self._lines[shard]
        address, revision = (owner.record.address, owner.revision) if owner else (None, 0)
        if (line.address, line.revision) != (address, revision):
            self._move(line, address, revision)

    def _move(self, line: ShardLine, address: str | None, revision: int) -> None:
        elsewhere = line.address != address
        self._let_in(line.address)
        self._unready(line)
        line.address, line.revision = address, revision
        line.failures = 0
        if elsewhere and line.in_flight:
            line.draining = True
            self._hold(line, self._settings.drain_max_s)
        else:
            self._release(line)
        self._moves[line.shard].fire()

    # --- for the links (CallSource) ----------------------------------------------------------------------------------

    def link_up(self, link: NodeLink) -> None:
        self._links[link.address] = link
        self._ready[link.address] = {}
        for line in self._lines:
            if line.address == link.address:
                if not line.draining:
                    self._release(line)
                self._moves[line.shard].fire()

    def link_down(self, link: NodeLink, in_flight: Sequence[PendingCall]) -> None:
        if self._links.get(link.address) is link:
            del self._links[link.address]
            del self._ready[link.address]
            self._let_in(link.address)
        for line in self._lines:
            if line.address == link.address:
                self._moves[line.shard].fire()
        for call in in_flight:
            call.maybe_done = True
            self._send_back(call)

    def take(self, link: NodeLink) -> Sequence[PendingCall]:
        ready = self._ready.get(link.address)
        if not ready or self._links[link.address] is not link:
            return ()
        batch: list[PendingCall] = []
        size = 0
        calls_max, bytes_max = link.settings.frame_calls_max, link.settings.frame_bytes_max
        for shard, line in list(ready.items()):
            while len(batch) < calls_max and size < bytes_max and (call := line.pop()):
                call.stage = Stage.IN_FLIGHT
                line.in_flight += 1
                call.carrier = link
                if call.is_page:
                    link.pages_in_flight += 1
                batch.append(call)
                size += len(call.request)
            del ready[shard]
            if not line.empty:
                # The frame is full: the others come first the next time.
                ready[shard] = line
                link.wake()
                break
        return batch

    def answered(self, call: PendingCall, reply: node_pb2.Reply) -> None:
        match reply.WhichOneof("outcome"):
            case "response":
                self._decided(call, reply.response)
            case "refusal":
                self._decided(call, errors.refused(reply.refusal))
            case "not_owner":
                self._send_back(call)
            case "overloaded" if call.is_read or not call.maybe_done:
                retry_after_s = reply.overloaded.retry_after_ms / 1_000 * self._rng.uniform(1.0, 1.5)
                self._decided(call, errors.overloaded(retry_after_s))
            case "overloaded":
                # "Nothing was done" would be a lie about the earlier attempt: only a decision settles it.
                self._send_back(call, delay_s=reply.overloaded.retry_after_ms / 1_000)
            case "expired":
                unknown = call.maybe_done and not call.is_read
                self._decided(call, errors.outcome_unknown() if unknown else errors.not_in_time())
            case _:
                # Unknown, or an outcome of a later version of the wire, which is as good.
                call.maybe_done = True
                self._send_back(call)

    # --- a call's end, or its next attempt ---------------------------------------------------------------------------

    def _decided(self, call: PendingCall, result: bytes | ApiError) -> None:
        """A node has spoken."""
        line = self._landed(call)
        line.failures = 0
        self._finish(call, result)
        self._pace.decided(self._loop.time())

    def _send_back(self, call: PendingCall, delay_s: float | None = None) -> None:
        """It waits again, at its old place."""
        assert call.carrier is not None, "sent back by nobody"
        sent_to = call.carrier.address
        call.stage = Stage.WAITING
        self._lines[call.shard].push(call)
        line = self._landed(call)
        if line.held or sent_to != line.address:
            self._offer(line)
            return
        if delay_s is None:
            settings = self._settings
            mean_s = min(settings.retry_s * 2.0 ** min(line.failures, 16), settings.retry_max_s)
            delay_s = mean_s * self._rng.uniform(0.5, 1.5)
        line.failures += 1
        self._hold(line, delay_s)

    def _landed(self, call: PendingCall) -> ShardLine:
        """It is no longer in flight, whatever comes of it."""
        line = self._lines[call.shard]
        assert call.carrier is not None, "landed, and was not in flight"
        if call.is_page:
            call.carrier.pages_in_flight -= 1
        call.carrier = None
        line.in_flight -= 1
        assert line.in_flight >= 0, "a call landed twice"
        if line.draining and not line.in_flight:
            self._release(line)
        return line

    def _expire(self, call: PendingCall) -> None:
        """The deadline: say as exactly as we know whether it was done."""
        line = self._lines[call.shard]
        unknown = not call.is_read and (call.maybe_done or call.stage is Stage.IN_FLIGHT)
        if unknown:
            error = errors.outcome_unknown()
        elif line.failures or line.address not in self._links:
            error = errors.no_owner(self._rng.uniform(0.5, 1.5))
        else:
            error = errors.not_in_time()
        if call.carrier is not None:
            call.carrier.forget(call)
            self._landed(call)
            self._finish(call, error)
        else:
            self._finish(call, error)
            line.discard(call)

    def _finish(self, call: PendingCall, result: bytes | ApiError) -> None:
        assert call.stage is not Stage.FINISHED, "answered twice"
        call.stage = Stage.FINISHED
        self._deadlines.remove(call)
        self._calls -= 1
        self._bytes -= len(call.request)
        call.reply(result)
        if self._patient:
            line = self._lines[call.shard]
            if self._load(line) <= self._patient_max * _LET_IN_SHARE:
                self._let_in(line.address)
        if call.issue is not None:
            call.result = result
            if not self._ended:
                self._loop.call_soon(self._tell)
            self._ended.append(call)
        elif call.is_page:
            self._lines[call.shard].pages -= 1

    def _tell(self) -> None:
        ended, self._ended = self._ended, []
        self._observer.ended(ended)

    # --- load --------------------------------------------------------------------------------------------------------

    def _load(self, line: ShardLine) -> int:
        """Calls that the shard's owner has to decide before a new one, which does not wait for pages; 0 while it is not
        reached."""
        link = self._links.get(line.address) if line.address is not None else None
        return link.calls_in_flight - link.pages_in_flight + line.waiting if link is not None else 0

    def _let_in(self, address: str | None) -> None:
        """Those who wait for room look again."""
        for waiting in self._patient.pop(address, ()):
            if not waiting.done():
                waiting.set_result(None)

    # --- lines -------------------------------------------------------------------------------------------------------

    def _offer(self, line: ShardLine) -> None:
        """Let the owner's link take what waits, if it may."""
        if line.held or line.empty or line.address is None:
            return
        ready = self._ready.get(line.address)
        if ready is not None:
            ready[line.shard] = line
            self._links[line.address].wake()

    def _hold(self, line: ShardLine, delay_s: float) -> None:
        self._unready(line)
        line.held = True
        if line.timer is None:
            line.timer = self._loop.call_later(delay_s, self._release, line)

    def _release(self, line: ShardLine) -> None:
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        line.held = line.draining = False
        self._offer(line)

    def _unready(self, line: ShardLine) -> None:
        if line.address in self._ready:
            self._ready[line.address].pop(line.shard, None)
