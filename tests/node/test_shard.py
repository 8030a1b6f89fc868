"""The shard's loop: nobody hears of what is not durable, everybody hears once, and failures are told rightly."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster.codes import CodeCodec
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.calls import Call, End, Outcome, Overloaded
from node.commands import (
    Answer,
    CampaignAnswer,
    CampaignPage,
    Command,
    CreateCampaign,
    GetCampaign,
    IssueCoupon,
    Issued,
    ListCampaigns,
    PauseCampaign,
    Reason,
    Refused,
    State,
)
from node.entries import Header
from node.journal.base import AppendRefused, Fenced, OutcomeUnknown
from node.ledger import Ledger
from node.observer import UNOBSERVED, Observer
from node.pages import PAGES_MAX
from node.replay import Replayer
from node.shard import Shard
from node.turns import PAGE_ITEMS, Turns
from node.wallclock import WallClock
from tests.fakes import virtual_time

SHARD = ShardId(3)
EPOCH = Epoch(1, Revision(7))
ME = Incarnation(NodeId("a"), LeaseId(1))
NOW_US = 1_800_000_000_000_000


@dataclass
class GatedJournal:
    """A ShardJournal whose appends and barriers wait until the test lets them end, one by one."""

    entries: list[bytes] = field(default_factory=list)
    appending: list[tuple[bytes, asyncio.Future[None]]] = field(default_factory=list)
    barriers: list[asyncio.Future[None]] = field(default_factory=list)
    gated: bool = False
    closed: bool = False

    @property
    def position(self) -> int:
        return len(self.entries)

    async def append(self, entry: bytes) -> None:
        assert not self.appending, "one append in flight"
        if self.gated:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.appending.append((entry, gate))
            try:
                await gate
            finally:
                self.appending.clear()
        self.entries.append(entry)

    async def barrier(self) -> None:
        if self.gated:
            gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.barriers.append(gate)
            await gate

    async def close(self) -> None:
        self.closed = True


class LoopClock:
    """A clock on the event loop's time."""

    def __init__(self) -> None:
        self.step_us = 0

    def wall_us(self) -> int:
        return NOW_US + self.step_us + int(asyncio.get_running_loop().time() * 1e6)

    def boottime_s(self) -> float:
        return asyncio.get_running_loop().time()


class Bench:
    """A shard that runs, and what its callers heard."""

    def __init__(
        self,
        *,
        calls_max: int = 1_000,
        entry_bytes_max: int = 128 * 1024,
        turns: Turns | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.journal = GatedJournal()
        self.clock = LoopClock()
        self.lease_stands = True
        self.has_room = True
        self.ledger = Ledger(SHARD, CodeCodec({0: b"k" * 32}))
        self.shard = Shard(
            Header(SHARD, EPOCH, ME),
            self.ledger,
            self.journal,
            WallClock(self.clock),
            lambda: self.lease_stands,
            entry_bytes_max=entry_bytes_max,
            calls_max=calls_max,
            has_room=lambda: self.has_room,
            turns=turns,
            observer=observer,
        )
        self.running = asyncio.create_task(self.shard.run())

    def send(self, command: Command, timeout_s: float = 60.0) -> "asyncio.Future[Answer | Outcome]":
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[Answer | Outcome] = loop.create_future()
        self.shard.submit(Call(command, loop.time(), loop.time() + timeout_s, heard.set_result))  # twice would raise
        return heard

    async def call(self, command: Command) -> Answer | Outcome:
        return await self.send(command)

    def issue(self, user: str, campaign: str = "c") -> "asyncio.Future[Answer | Outcome]":
        return self.send(IssueCoupon(campaign, user, "r"))

    async def create(self, total: int, start_us: int | None = None, campaign: str = "c") -> None:
        answer = await self.call(CreateCampaign(campaign, "테스트", total, 1, start_us, None))
        assert isinstance(answer, CampaignAnswer)

    async def fill(self, coupons: int) -> None:
        """A campaign of which so many coupons are issued."""
        await self.create(10 * coupons)
        for first in range(0, coupons, 500):
            await asyncio.gather(*(self.issue(f"owner-{n}") for n in range(first, min(first + 500, coupons))))

    def let_go(self) -> None:
        """What the journal has in hand."""
        for gate in [gate for _, gate in self.journal.appending] + self.journal.barriers:
            gate.set_result(None)
        self.journal.barriers.clear()

    async def turn(self) -> None:
        """Let everything that is ready run."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def end(self) -> End:
        self.shard.drain()
        return await self.running


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a virtual clock: whoever waits for what never comes is Stuck."""
    virtual_time.run(main())


def reason(said: Answer | Outcome) -> Reason:
    assert isinstance(said, Refused)
    return said.reason


def test_nobody_hears_of_a_grant_before_its_entry_is_durable() -> None:
    """The answer is held while the append is in flight and released after it."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.journal.gated = True
        heard = bench.issue("u1")
        await bench.turn()
        assert len(bench.journal.appending) == 1
        assert not heard.done()
        bench.journal.appending[0][1].set_result(None)
        assert isinstance(await heard, Issued)
        await bench.end()

    run(main)


def test_calls_gather_while_an_entry_is_in_flight() -> None:
    """What comes during an append is one next round, with one entry, in order of arrival."""

    async def main() -> None:
        bench = Bench()
        await bench.create(100)
        before = bench.journal.position
        bench.journal.gated = True
        first = bench.issue("u0")
        await bench.turn()
        others = [bench.issue(f"u{n}") for n in range(1, 50)]
        bench.journal.appending[0][1].set_result(None)
        await first
        await bench.turn()
        bench.journal.appending[0][1].set_result(None)
        answers = [await heard for heard in others]
        assert [a.coupon.sequence for a in answers if isinstance(a, Issued)] == list(range(2, 51))
        assert bench.journal.position == before + 2
        await bench.end()

    run(main)


def test_a_refusal_waits_for_a_barrier_begun_after_the_question() -> None:
    """Refusals and reads rest on no entry of their own: they leave only when the epoch was seen to stand since."""

    async def main() -> None:
        bench = Bench()
        await bench.create(1)
        await bench.issue("u1")
        bench.journal.gated = True
        refusal, read = bench.issue("u2"), bench.send(GetCampaign("c", 0, 10))
        await bench.turn()
        assert len(bench.journal.barriers) == 1
        assert not refusal.done()
        assert not read.done()
        late = bench.issue("u3")
        await bench.turn()
        bench.journal.barriers[0].set_result(None)
        assert reason(await refusal) is Reason.SOLD_OUT
        assert isinstance(await read, CampaignPage)
        await bench.turn()
        assert not late.done(), "a question that came during a barrier needs another one"
        assert len(bench.journal.barriers) == 2
        bench.journal.barriers[1].set_result(None)
        assert reason(await late) is Reason.SOLD_OUT
        await bench.end()

    run(main)


def test_a_refusal_that_rests_on_an_entry_in_flight_waits_for_it() -> None:
    """SOLD_OUT because of grants of this very round is not said before they are durable."""

    async def main() -> None:
        bench = Bench()
        await bench.create(1)
        bench.journal.gated = True
        grant, refusal = bench.issue("u1"), bench.issue("u2")
        await bench.turn()
        assert not bench.journal.barriers
        assert not refusal.done()
        bench.journal.appending[0][1].set_exception(OutcomeUnknown())
        assert await grant is Outcome.UNKNOWN
        assert await refusal is Outcome.NOT_OWNER
        assert await bench.running is End.UNKNOWN

    run(main)


def test_a_repetition_of_a_durable_grant_waits_for_nothing() -> None:
    """A coupon that is in the journal can be shown by anybody, at any time."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        first = await bench.issue("u1")
        bench.journal.gated = True
        again = bench.issue("u1")
        await bench.turn()
        assert not bench.journal.barriers
        said = again.result()
        assert isinstance(first, Issued)
        assert isinstance(said, Issued)
        assert said.already_issued
        assert said.coupon == first.coupon
        await bench.end()

    run(main)


@pytest.mark.parametrize(
    ("failure", "end", "granted_hears"),
    [
        (Fenced(), End.FENCED, Outcome.UNKNOWN),
        (OutcomeUnknown(), End.UNKNOWN, Outcome.UNKNOWN),
        (AppendRefused("no space"), End.REFUSED, Outcome.NOT_OWNER),
    ],
)
def test_a_failed_append_ends_the_loop(failure: Exception, end: End, granted_hears: Outcome) -> None:
    """Who might have a coupon hears *unknown*; who certainly has none, and who waits in line, is routed again."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.journal.gated = True
        granted = bench.issue("u1")
        await bench.turn()
        in_line = bench.issue("u2")
        bench.journal.appending[0][1].set_exception(failure)
        assert await granted is granted_hears
        assert await in_line is Outcome.NOT_OWNER
        assert await bench.running is end
        assert bench.journal.closed
        assert await bench.issue("u3") is Outcome.NOT_OWNER

    run(main)


def test_a_fenced_barrier_lets_no_refusal_and_no_read_through() -> None:
    """A stale owner's SOLD_OUT and its reads do not reach a caller."""

    async def main() -> None:
        bench = Bench()
        await bench.create(1)
        await bench.issue("u1")
        bench.journal.gated = True
        refusal, read = bench.issue("u2"), bench.send(GetCampaign("c", 0, 10))
        await bench.turn()
        bench.journal.barriers[0].set_exception(Fenced())
        assert await refusal is Outcome.NOT_OWNER
        assert await read is Outcome.NOT_OWNER
        assert await bench.running is End.FENCED

    run(main)


def test_past_the_lease_nothing_is_answered() -> None:
    """An entry that became durable after the lease's deadline is not acknowledged by this owner."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.lease_stands = False
        assert await bench.issue("u1") is Outcome.UNKNOWN
        assert await bench.running is End.LEASE_OVER

    run(main)


def test_a_cancelled_loop_tells_everybody() -> None:
    """When a life ends, what is in flight is unknown and what is in line was not done."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.journal.gated = True
        granted = bench.issue("u1")
        await bench.turn()
        in_line = bench.issue("u2")
        bench.running.cancel()
        assert await granted is Outcome.UNKNOWN
        assert await in_line is Outcome.NOT_OWNER

    run(main)


def test_a_drain_finishes_what_is_in_flight() -> None:
    """A handover waits for the entry in flight and acknowledges it; what is in line goes back."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.journal.gated = True
        granted = bench.issue("u1")
        await bench.turn()
        in_line = bench.issue("u2")
        bench.shard.drain()
        await bench.turn()
        assert not bench.running.done()
        bench.journal.appending[0][1].set_result(None)
        assert isinstance(await granted, Issued)
        assert await in_line is Outcome.NOT_OWNER
        assert await bench.running is End.DRAINED

    run(main)


def test_what_is_late_is_dropped_before_it_is_decided() -> None:
    """An expired call changes nothing: the user has no coupon afterwards."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        assert await bench.send(IssueCoupon("c", "u1", "r"), timeout_s=-0.001) is Outcome.EXPIRED
        page = await bench.call(GetCampaign("c", 0, 10))
        assert isinstance(page, CampaignPage)
        assert page.coupons == ()
        await bench.end()

    run(main)


def test_the_inbox_is_bounded() -> None:
    """Beyond calls_max a call is refused at once, with an estimate of when to come again."""

    async def main() -> None:
        bench = Bench(calls_max=5)
        await bench.create(10)
        bench.journal.gated = True
        in_flight = bench.issue("u0")
        await bench.turn()
        in_line = [bench.issue(f"u{n}") for n in range(1, 6)]
        with pytest.raises(Overloaded) as overloaded:
            bench.issue("u6")
        assert overloaded.value.retry_after_s > 0
        bench.journal.gated = False
        bench.journal.appending[0][1].set_result(None)
        for heard in [in_flight, *in_line]:
            assert isinstance(await heard, Issued)
        await bench.end()

    run(main)


def test_who_wants_a_coupon_does_not_stand_behind_who_reads() -> None:
    """A round takes all that ask for coupons and one page, though the pages came first."""

    async def main() -> None:
        bench = Bench()
        await bench.fill(PAGE_ITEMS)
        bench.journal.gated = True
        in_flight = bench.issue("u0")
        await bench.turn()
        pages = [bench.send(GetCampaign("c", 0, PAGE_ITEMS)) for _ in range(5)]
        coupons = [bench.issue(f"u{n}") for n in range(1, 50)]
        for read in range(6):
            assert [page.done() for page in pages] == [n < read - 1 for n in range(5)]
            bench.let_go()
            await bench.turn()
            assert all(coupon.done() for coupon in coupons) is (read > 0)
        assert in_flight.done()
        shown = [page.result() for page in pages]
        assert [len(page.coupons) for page in shown if isinstance(page, CampaignPage)] == [PAGE_ITEMS] * 5
        await bench.end()

    run(main)


@pytest.mark.parametrize(
    ("items", "together"), [(PAGE_ITEMS // 4, 4), (PAGE_ITEMS // 4 + 1, 3), (PAGE_ITEMS, 1), (5 * PAGE_ITEMS, 1)]
)
def test_small_pages_share_a_round(items: int, together: int) -> None:
    """What counts is what they show, however much they ask for."""

    async def main() -> None:
        bench = Bench()
        await bench.fill(items)
        bench.journal.gated = True
        in_flight = bench.issue("u0")
        await bench.turn()
        pages = [bench.send(GetCampaign("c", 1, 5 * PAGE_ITEMS)) for _ in range(8)]
        nothing = [bench.send(ListCampaigns("c", PAGE_ITEMS)), bench.send(GetCampaign("other", 0, PAGE_ITEMS))]
        bench.let_go()
        await in_flight
        await bench.turn()
        bench.let_go()
        await bench.turn()
        assert sum(page.done() for page in pages) == together
        assert not any(page.done() for page in nothing), "they came later"
        bench.journal.gated = False
        bench.let_go()
        await asyncio.gather(*pages, *nothing)
        await bench.end()

    run(main)


def test_pages_that_show_nothing_cost_no_turn() -> None:
    """Nothing is there, or their time is up: all of them are answered in one round, with a page that does show much."""

    async def main() -> None:
        bench = Bench()
        await bench.fill(PAGE_ITEMS)
        bench.journal.gated = True
        bench.issue("u0")
        await bench.turn()
        late = [bench.send(GetCampaign("c", 0, PAGE_ITEMS), timeout_s=0.5) for _ in range(5)]
        empty = [bench.send(GetCampaign("other", 0, PAGE_ITEMS)) for _ in range(5)]
        beyond = [bench.send(GetCampaign("c", 2 * PAGE_ITEMS, PAGE_ITEMS)), bench.send(ListCampaigns("c", PAGE_ITEMS))]
        page, next_page = (bench.send(GetCampaign("c", 0, PAGE_ITEMS)) for _ in range(2))
        await asyncio.sleep(1.0)
        bench.let_go()
        await bench.turn()
        bench.let_go()
        await bench.turn()
        assert [call.result() for call in late] == [Outcome.EXPIRED] * 5
        assert all(call.done() for call in [*empty, *beyond, page])
        assert not next_page.done()
        bench.journal.gated = False
        bench.let_go()
        assert isinstance(await next_page, CampaignPage)
        await bench.end()

    run(main)


@pytest.mark.parametrize("ends", ["shown", "drained", "fenced", "cancelled", "clock stepped"])
def test_the_shards_of_a_node_show_pages_in_turn(ends: str) -> None:
    """While one of them shows a page the others issue coupons, and show nothing; however it ends, they go on."""

    async def main() -> None:
        turns = Turns()
        first, second = Bench(turns=turns), Bench(turns=turns)
        for bench in (first, second):
            await bench.fill(PAGE_ITEMS)
            bench.journal.gated = True
        page = first.send(GetCampaign("c", 0, PAGE_ITEMS))
        await first.turn()
        other = second.send(GetCampaign("c", 0, PAGE_ITEMS))
        for n in range(3):
            coupon = second.issue(f"u{n}")
            await second.turn()
            second.let_go()
            assert isinstance(await coupon, Issued)
        assert not second.journal.barriers
        (gate,) = first.journal.barriers
        if ends == "cancelled":
            first.running.cancel()
        elif ends == "fenced":
            gate.set_exception(Fenced)
        else:
            gate.set_result(None)
        if ends == "drained":
            first.shard.drain()
        if ends == "clock stepped":
            first.send(GetCampaign("c", 0, PAGE_ITEMS))
            first.clock.step_us = 10**9
        await first.turn()
        assert isinstance(page.result(), Outcome) is (ends in ("cancelled", "fenced"))
        assert second.journal.barriers, "it is the other's turn"
        second.let_go()
        assert isinstance(await other, CampaignPage)
        await second.end()
        if ends == "shown":
            await first.end()
        await asyncio.wait([first.running])

    run(main)


def test_who_waits_for_a_turn_and_ends_holds_nobody_up() -> None:
    """A page of a shard that is drained meanwhile is sent back, and the next shard is not kept waiting."""

    async def main() -> None:
        turns = Turns()
        benches = [Bench(turns=turns) for _ in range(3)]
        pages = []
        for bench in benches:
            await bench.fill(PAGE_ITEMS)
            bench.journal.gated = True
        for bench in benches:
            pages.append(bench.send(GetCampaign("c", 0, PAGE_ITEMS)))
            await bench.turn()
        assert await benches[1].end() is End.DRAINED
        assert await pages[1] is Outcome.NOT_OWNER
        benches[0].let_go()
        assert isinstance(await pages[0], CampaignPage)
        await benches[2].turn()
        benches[2].let_go()
        assert isinstance(await pages[2], CampaignPage)
        for bench in (benches[0], benches[2]):
            await bench.end()

    run(main)


def test_who_is_refused_a_page_is_told_the_pace_of_pages() -> None:
    """A line of pages is worked off at the pace at which the shard has had its turns, which others take as well."""

    async def main() -> None:
        turns = Turns()
        bench, others = Bench(turns=turns), Bench(turns=turns)
        for one in (bench, others):
            await one.fill(PAGE_ITEMS)
            one.journal.gated = True
        page = GetCampaign("c", 0, PAGE_ITEMS)
        pages = [bench.send(page, timeout_s=1_000.0) for _ in range(PAGES_MAX)]
        for _ in range(PAGES_MAX // 2):
            busy = others.send(page)
            for one in (bench, others):
                await one.turn()
                await asyncio.sleep(1.0)
                one.let_go()
                await one.turn()
            assert isinstance(await busy, CampaignPage)
        while True:
            try:
                pages.append(bench.send(page))
            except Overloaded as overloaded:
                retry_after_s = overloaded.retry_after_s
                break
        assert retry_after_s == pytest.approx(2.0 * PAGES_MAX, rel=0.1), "2 s a page"
        bench.journal.gated = False
        bench.let_go()
        await asyncio.gather(*pages)
        for one in (bench, others):
            await one.end()

    run(main)


def test_the_line_of_pages_is_bounded() -> None:
    """And a line of its own: whoever wants a coupon is still let in. Small reads are no pages."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.journal.gated = True
        in_flight = bench.issue("u0")
        await bench.turn()
        pages = [bench.send(GetCampaign("c", 0, 1)) for _ in range(PAGES_MAX)]
        with pytest.raises(Overloaded) as overloaded:
            bench.send(ListCampaigns("", 1))
        assert overloaded.value.retry_after_s > 0
        coupon, campaign = bench.issue("u1"), bench.send(GetCampaign("c", 0, 0))
        assert bench.shard.queued == PAGES_MAX + 2
        bench.journal.gated = False
        bench.journal.appending[0][1].set_result(None)
        for heard in [in_flight, coupon]:
            assert isinstance(await heard, Issued)
        for page in [campaign, *pages]:
            assert isinstance(await page, CampaignPage)
        await bench.end()

    run(main)


def test_pages_in_line_are_told_of_the_end() -> None:
    """By a drain, and by a clock that has stepped, which ends a round that was taken from the line already."""

    async def main() -> None:
        for step_us in (0, 10**9):
            bench = Bench()
            await bench.create(10)
            bench.journal.gated = True
            in_flight = bench.issue("u0")
            await bench.turn()
            pages = [bench.send(GetCampaign("c", 0, PAGE_ITEMS)) for _ in range(3)]
            bench.clock.step_us = step_us
            if not step_us:
                bench.shard.drain()
            bench.journal.appending[0][1].set_result(None)
            assert await bench.running is (End.CLOCK_STEPPED if step_us else End.DRAINED)
            assert isinstance(await in_flight, Issued)
            assert [await page for page in pages] == [Outcome.NOT_OWNER] * 3

    run(main)


def test_an_entry_never_exceeds_its_bound() -> None:
    """However large the calls, a round stops before its entry would be too long."""

    async def main() -> None:
        bench = Bench(entry_bytes_max=20 * 1024)
        await bench.create(1_000)
        bench.journal.gated = True
        first = bench.issue("u")
        await bench.turn()
        heard = [bench.send(IssueCoupon("c", f"{n:03}" + "가" * 40, "r" * 128)) for n in range(300)]
        bench.journal.gated = False
        bench.journal.appending[0][1].set_result(None)
        await first
        for one in heard:
            assert isinstance(await one, Issued)
        assert max(map(len, bench.journal.entries)) <= 20 * 1024
        assert len(bench.journal.entries) > 3
        await bench.end()

    run(main)


def test_the_owner_starts_a_campaign_itself() -> None:
    """Nobody asks, and yet the start is journaled when it comes, and watchers hear of it."""

    async def main() -> None:
        bench = Bench()
        start_us = bench.clock.wall_us() + 50_000
        await bench.create(10, start_us)
        assert reason(await bench.issue("early")) is Reason.NOT_STARTED
        with bench.shard.watchers.subscribe("c") as news:
            campaign = await news.next()
        assert campaign is not None
        assert campaign.state is State.ACTIVE
        assert campaign.activate_us is not None
        assert campaign.activate_us >= start_us
        await bench.end()

    run(main)


def test_watchers_hear_of_durable_states_only_and_of_the_latest() -> None:
    """A state is published after its entry is durable; a slow watcher sees the last one."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        with bench.shard.watchers.subscribe("c") as news:
            bench.journal.gated = True
            pause = bench.send(PauseCampaign("c", "p", None))
            await bench.turn()
            nothing_yet = asyncio.ensure_future(news.next())
            await bench.turn()
            assert not nothing_yet.done()
            bench.journal.appending[0][1].set_result(None)
            await pause
            campaign = await nothing_yet
            assert campaign is not None
            assert campaign.state is State.PAUSED
            await bench.end()
            assert await news.next() is None, "the watcher has to ask the next owner"

    run(main)


def test_a_clock_that_steps_ends_the_loop() -> None:
    """A step of the wall clock yields the shard before anything is decided with it."""

    async def main() -> None:
        bench = Bench()
        await bench.create(10)
        bench.clock.step_us = 3_600_000_000
        assert await bench.issue("u1") is Outcome.NOT_OWNER
        assert await bench.running is End.CLOCK_STEPPED
        assert bench.journal.position == 1

    run(main)


def test_a_replay_of_the_journal_is_the_memory() -> None:
    """What the next owner replays shows every coupon that was answered."""

    async def main() -> None:
        bench = Bench()
        await bench.create(500)
        answers = [await heard for heard in [bench.issue(f"u{n}") for n in range(300)]]
        before = await bench.call(GetCampaign("c", 0, 1_000))
        await bench.end()
        ledger = Ledger(SHARD, CodeCodec({0: b"k" * 32}))
        replayer = Replayer(ledger)
        for entry in bench.journal.entries:
            replayer.feed(entry)
        ledger.committed()
        page = ledger.handle(GetCampaign("c", 0, 1_000), NOW_US).answer
        assert page == before
        assert isinstance(page, CampaignPage)
        assert list(page.coupons) == [a.coupon for a in answers if isinstance(a, Issued)]
        assert len(page.coupons) == 300

    run(main)


def test_room_is_looked_for_in_every_round() -> None:
    """A campaign is refused while there is no room and made when there is again; coupons are granted meanwhile."""

    async def main() -> None:
        bench = Bench()
        await bench.create(total=5)
        bench.has_room = False
        refused = await bench.call(CreateCampaign("new", "테스트", 1, 1, None, None))
        assert reason(refused) is Reason.STORAGE_NEARLY_FULL
        assert isinstance(await bench.issue("u"), Issued)
        bench.has_room = True
        await bench.create(total=1, campaign="new")
        assert await bench.end() is End.DRAINED

    run(main)
