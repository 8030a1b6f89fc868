"""One owned shard: the loop that alone decides, journals and answers.

    batch -> decide (ledger) -> one entry, durable (journal) -> release the answers

At most one entry is in flight, and nobody hears of a decision before its entry is durable. The ledger runs ahead of the
journal by that one entry; when it fails, ledger and loop are thrown away together and the next owner replays.

Calls that wait together may be decided in any order, since none of their callers has heard of another's answer: pages
of coupons or campaigns have a line of their own (`node.pages`).
"""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from node.calls import Call, End, Held, Outcome, Overloaded
from node.commands import Proof
from node.entries import Header, encode, entry_bytes_max_of
from node.events import Event
from node.journal.base import AppendRefused, Fenced, OutcomeUnknown, ShardJournal
from node.ledger import Ledger
from node.observer import UNOBSERVED, Observer
from node.pages import PageLine, is_page
from node.turns import Turns
from node.wallclock import ClockStepped, WallClock
from node.watchers import Watchers

log = structlog.get_logger()

TIMER_S_MAX = 1.0
"""A wait for a campaign's start is cut into pieces, since the wall clock may be slewed meanwhile."""


class Shard:
    """Owns the ledger and the journal's writer from its creation to the end of `run`."""

    def __init__(
        self,
        header: Header,
        ledger: Ledger,
        journal: ShardJournal,
        wall: WallClock,
        lease_stands: Callable[[], bool],
        *,
        entry_bytes_max: int,
        calls_max: int,
        round_calls_max: int = 512,
        has_room: Callable[[], bool] = lambda: True,
        turns: Turns | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        """
        Args:
            has_room: for another campaign, where entries are stored.
            turns: of all shards that share this one's thread; None: there is no other.
        """
        self.header = header
        self.ledger = ledger
        self.journal = journal
        self.watchers = Watchers()
        self._wall = wall
        self._lease_stands = lease_stands
        self._entry_bytes_max = entry_bytes_max
        self._calls_max = calls_max
        self._round_calls_max = round_calls_max
        self._has_room = has_room
        self._observer = observer
        self._inbox: deque[Call] = deque()
        self._wake = asyncio.Event()
        self._pages = PageLine(ledger, turns or Turns(), self._wake.set)
        self._closing = False
        self._call_s = 0.001  # moving average of a call's share of a round

    @property
    def queued(self) -> int:
        return len(self._inbox) + len(self._pages)

    def submit(self, call: Call) -> None:
        """Put a call in line. Raises Overloaded. After `drain` it is answered NOT_OWNER."""
        if self._closing:
            call.reply(Outcome.NOT_OWNER)
            return
        if is_page(call.command):
            self._pages.join(call, asyncio.get_running_loop().time())
        else:
            if len(self._inbox) >= self._calls_max:
                raise Overloaded(len(self._inbox) * self._call_s)
            self._inbox.append(call)
        self._wake.set()

    def drain(self) -> None:
        """Accept no more, finish the round in flight, then let `run` end. What is in line is answered NOT_OWNER."""
        self._closing = True
        self._wake.set()

    async def run(self) -> End:
        """Serve until drained, fenced, or without a lease. Answers every call that was ever submitted."""
        end = End.CANCELLED
        try:
            end = await self._serve()
        finally:
            self._closing = True
            self._observer.put_off(Outcome.NOT_OWNER, self.queued)
            for call in (*self._inbox, *self._pages.close()):
                call.reply(Outcome.NOT_OWNER)
            self._inbox.clear()
            self.watchers.end()
            await self.journal.close()
            log.info("shard_closed", shard=self.header.shard, epoch=self.header.epoch.revision, end=end.value)
        return end

    async def _serve(self) -> End:
        loop = asyncio.get_running_loop()
        while True:
            await self._work_to_do()
            if self._closing:
                return End.DRAINED
            began_s = loop.time()
            calls, pages = self._next_round(began_s)
            try:
                now_us = self._wall.now_us()
            except ClockStepped as stepped:
                log.warning("clock_stepped", shard=self.header.shard, step_us=stepped.step_us)
                self._inbox.extendleft(reversed(calls + pages))
                return End.CLOCK_STEPPED
            end = await self._round(calls + pages, now_us, began_s)
            if end is not None:
                return end
            ended_s = loop.time()
            if pages:
                self._pages.shown(len(pages), ended_s)
            elif calls:
                self._call_s += 0.1 * ((ended_s - began_s) / len(calls) - self._call_s)

    async def _round(self, calls: list[Call], now_us: int, began_s: float) -> End | None:
        """Decide, make durable, answer. Returns why the shard cannot go on, if it cannot."""
        observer = self._observer
        events: list[Event] = list(self.ledger.tick(now_us))
        proved: list[Held] = []
        held: list[Held] = []
        room = self._has_room()
        observer.taken(calls, observer.now())
        for call in calls:
            if call.deadline_s <= began_s:
                call.reply(Outcome.EXPIRED)
                observer.put_off(Outcome.EXPIRED, 1)
                continue
            decision = self.ledger.handle(call.command, now_us, room=room)
            events += decision.events
            item = Held(call, decision.answer, bool(decision.events))
            if decision.proof is Proof.NONE:
                call.reply(item.answer)
                proved.append(item)
            else:
                held.append(item)
        asked_s = observer.now()
        if proved:
            observer.answered(proved, self.header.shard, asked_s)
        try:
            if events:
                entry = encode(self.header, self.journal.position, now_us, events)
                await self.journal.append(entry)
                observer.committed(len(entry), observer.now() - asked_s)
            elif held:
                await self.journal.barrier()
                observer.checked(observer.now() - asked_s)
            if not self._lease_stands():
                return self._fail(held, events, End.LEASE_OVER)
        except Fenced:
            return self._fail(held, events, End.FENCED)
        except OutcomeUnknown:
            return self._fail(held, events, End.UNKNOWN)
        except AppendRefused as refused:
            log.error("append_refused", shard=self.header.shard, reason=str(refused))
            return self._fail(held, events, End.REFUSED)
        except asyncio.CancelledError:
            self._fail(held, events, End.CANCELLED)
            raise
        self.ledger.committed()
        for item in held:
            item.call.reply(item.answer)
        observer.answered(held, self.header.shard, observer.now())
        self._publish(events)
        return None

    def _fail(self, held: list[Held], events: list[Event], end: End) -> End:
        """Nothing of this round may be answered. A refused entry is certainly not in the journal; otherwise who made
        events cannot know, and who made none has certainly changed nothing."""
        self._observer.failed(end, appending=bool(events))
        for item in held:
            in_doubt = item.decided and end is not End.REFUSED
            outcome = Outcome.UNKNOWN if in_doubt else Outcome.NOT_OWNER
            item.call.reply(outcome)
            self._observer.put_off(outcome, 1)
        return end

    def _publish(self, events: list[Event]) -> None:
        changed = {event.campaign_id for event in events if self.watchers.watched(event.campaign_id)}
        for campaign_id in changed:
            campaign = self.ledger.campaign(campaign_id)
            assert campaign is not None, "an event of an unknown campaign"
            self.watchers.publish(campaign)

    async def _work_to_do(self) -> None:
        """Return when there is a call to decide, a campaign's start or end is due, or the shard closes."""
        while not self._inbox and not self._pages.ready and not self._closing:
            due_us = self.ledger.next_due_us()
            self._wake.clear()
            if due_us is None:
                await self._wake.wait()
                continue
            try:
                wait_s = (due_us - self._wall.now_us()) / 1e6
            except ClockStepped:
                return  # the round will say so
            if wait_s <= 0:
                return
            try:
                async with asyncio.timeout(min(wait_s, TIMER_S_MAX)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _next_round(self, now_s: float) -> tuple[list[Call], list[Call]]:
        """As many calls as surely fit in one entry, in order of arrival; and pages, if it is the shard's turn."""
        left = self._entry_bytes_max - ENTRY_OVERHEAD_BYTES
        pages = self._pages.take(now_s, left)
        left -= sum(entry_bytes_max_of(page.command) for page in pages)
        calls: list[Call] = []
        while self._inbox and len(calls) < self._round_calls_max:
            left -= entry_bytes_max_of(self._inbox[0].command)
            if left < 0 and calls:
                break
            calls.append(self._inbox.popleft())
        return calls, pages


ENTRY_OVERHEAD_BYTES = 16 * 1024
"""Room in an entry for its header and for starts and ends that are due in the same round."""
