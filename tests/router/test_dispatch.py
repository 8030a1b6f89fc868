"""Dispatching: order, retries, deadlines, bounds. Against real links and scripted nodes."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from cluster.config import shard_of
from cluster.records import NodeRecord, NodeState
from cluster.types import Incarnation, LeaseId, NodeId
from proto import coupon_pb2, node_pb2
from router.dispatch import DispatchSettings
from router.errors import ApiError
from router.link import LinkSettings
from tests.router.fake_node import issued, not_owner, refusal, running_node, silent, unknown
from tests.router.rig import KEYS, SHARDS, Rig, rig, run, within

PATIENT = DispatchSettings(retry_s=0.02, retry_max_s=0.02)
TWO_PAGES = DispatchSettings(shard_pages_max=2, node_calls_max=2)


async def error_of(call: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


async def read_campaign(router: Rig, timeout_s: float) -> None:
    await router.service.get_campaign(coupon_pb2.GetCampaignRequest(campaign_id="c"), within(timeout_s))


def shown(call: node_pb2.Call) -> node_pb2.Reply:
    """A page with nothing on it."""
    return node_pb2.Reply(call_id=call.call_id, response=b"")


def test_a_call_reaches_the_owner_and_its_answer_the_caller() -> None:
    """The simple way: one owner, one call, one answer; the node sees shard, method and the time that is left."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            router.own(node)
            coupon = await router.issue("kim", "c", timeout_s=5.0)
            assert (coupon.campaign_id, coupon.user_id) == ("c", "kim")
            (call,) = node.calls
            assert call.shard == shard_of("c", SHARDS)
            assert call.method == node_pb2.ISSUE_COUPON
            assert 1_000 < call.timeout_ms <= 5_000
            assert router.dispatcher.in_flight == 0

    run(test())


def test_calls_of_one_tick_share_a_frame() -> None:
    """Calls that come while a write is in flight, or in one turn of the loop, go out together, in order, up to the
    frame's limit."""

    async def test() -> None:
        async with running_node() as node, rig(link=LinkSettings(frame_calls_max=512)) as router:
            router.own(node)
            await router.link_up("c")
            users = [f"u{n}" for n in range(1_100)]
            await asyncio.gather(*(router.issue(user) for user in users))
            assert node.users == users
            assert max(node.frames) == 512
            assert len(node.frames) < 10

    run(test())


def test_calls_wait_for_an_owner() -> None:
    """Without an owner a call waits; it goes out as soon as there is one, and calls go in the order of arrival."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            calls = [asyncio.create_task(router.issue(f"u{n}")) for n in range(20)]
            await asyncio.sleep(0)
            router.own(node)
            await asyncio.gather(*calls)
            assert node.users == [f"u{n}" for n in range(20)]

    run(test())


def test_not_owner_is_routed_to_the_new_owner() -> None:
    """NOT_OWNER sends a call to whom the topology names next, without the caller noticing."""

    async def test() -> None:
        async with running_node() as old, running_node() as new, rig() as router:
            old.script = not_owner
            router.own(old)
            call = asyncio.create_task(router.issue())
            await old.came(1)
            router.own(new)
            assert (await call).user_id == "u"
            assert len(new.calls) == 1

    run(test())


def test_not_owner_goes_to_the_same_node_again_after_a_delay() -> None:
    """A node that does not know of its ownership yet is asked again, though the topology does not change."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = lambda call: issued(call) if len(node.calls) >= 4 else not_owner(call)
            router.own(node)
            await router.issue()
            assert len(node.calls) == 4

    run(test())


def test_a_node_that_keeps_sending_back_is_not_hammered() -> None:
    """Between two attempts at one owner there is a delay, however many calls wait."""

    async def test() -> None:
        async with running_node() as node, rig(dispatch=PATIENT) as router:
            node.script = not_owner
            router.own(node)
            calls = [asyncio.create_task(router.issue(f"u{n}", timeout_s=0.3)) for n in range(10)]
            await asyncio.gather(*calls, return_exceptions=True)
            # The shortest wait is half of the mean: 10 ms.
            assert 2 <= len(node.frames) <= 31

    run(test())


def test_a_retried_call_stays_in_front_of_later_ones() -> None:
    """Order of arrival holds over a retry: what came back goes out before what arrived meanwhile."""

    async def test() -> None:
        async with running_node() as node, rig(dispatch=PATIENT) as router:
            node.script = silent
            router.own(node)
            early = [asyncio.create_task(router.issue(f"u{n}")) for n in range(5)]
            await node.came(5)
            node.script = issued
            # The fourth stays with the node: it is decided there, later.
            node.say(*(not_owner(call) for call in node.calls[:3]), not_owner(node.calls[4]))
            await node_heard(router, 1)
            late = [asyncio.create_task(router.issue(f"u{n}")) for n in range(5, 8)]
            node.say(issued(node.calls[3]))
            await asyncio.gather(*early, *late)
            assert node.users[5:] == ["u0", "u1", "u2", "u4", "u5", "u6", "u7"]

    run(test())


async def node_heard(router: Rig, in_flight: int) -> None:
    """Until so few calls are with nodes: what a node has said has arrived."""
    line = router.dispatcher._lines[shard_of("c", SHARDS)]
    async with asyncio.timeout(2):
        while line.in_flight > in_flight:  # nothing tells a test what a router has read
            await asyncio.sleep(0.001)


def test_later_calls_wait_until_the_old_owner_has_let_go() -> None:
    """When a shard moves while calls are in flight at the owner before, later calls do not overtake them."""

    async def test() -> None:
        settings = DispatchSettings(drain_max_s=5.0)
        async with running_node() as old, running_node() as new, rig(dispatch=settings) as router:
            old.script = silent
            router.own(new, "other")
            router.own(old, "c")
            early = asyncio.create_task(router.issue("early"))
            await old.came(1)
            router.own(new, "c")
            late = asyncio.create_task(router.issue("late"))
            # Another shard of the new owner shows that the move has been seen, and that only this one waits.
            await router.issue("x", "other")
            assert new.users == ["x"]
            old.say(not_owner(old.calls[0]))
            await asyncio.gather(early, late)
            assert new.users == ["x", "early", "late"]

    run(test())


def test_an_old_owner_that_says_nothing_does_not_hold_up_the_new_one() -> None:
    """The wait for the owner before is bounded by drain_max_s."""

    async def test() -> None:
        async with running_node() as old, running_node() as new, rig() as router:
            old.script = silent
            router.own(old)
            early = asyncio.create_task(router.issue("early", timeout_s=9.0))
            await old.came(1)
            router.own(new)
            await router.issue("late")
            assert new.users == ["late"]
            assert not early.done()
            old.say(issued(old.calls[0]))
            await early

    run(test())


def test_a_broken_stream_sends_calls_again() -> None:
    """Calls in flight on a stream that breaks are sent again, in order, on the next one."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = silent
            router.own(node)
            calls = [asyncio.create_task(router.issue(f"u{n}")) for n in range(3)]
            await node.came(3)
            node.script = issued
            node.break_stream()
            await asyncio.gather(*calls)
            assert node.users == ["u0", "u1", "u2"] * 2
            assert node.hellos == 2

    run(test())


def test_unknown_is_sent_again() -> None:
    """A call whose append was fenced may have been done: its repetition finds out."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = lambda call: issued(call) if len(node.calls) >= 3 else unknown(call)
            router.own(node)
            await router.issue()
            assert len(node.calls) == 3

    run(test())


@pytest.mark.parametrize("reason", [coupon_pb2.SOLD_OUT, coupon_pb2.NOT_STARTED, coupon_pb2.CORRUPT_JOURNAL])
def test_a_refusal_is_final(reason: coupon_pb2.ErrorReason) -> None:
    """A refusal reaches the caller at once, with reason and metadata, and is not asked again."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = refusal(reason, "because", start_time="soon")
            router.own(node)
            error = await error_of(router.issue())
            assert (error.reason, error.message, error.metadata) == (reason, "because", {"start_time": "soon"})
            assert len(node.calls) == 1

    run(test())


# --- deadlines --------------------------------------------------------------------------------------------------------


def test_no_owner_until_the_deadline() -> None:
    """A call that nobody took is UNAVAILABLE with NO_OWNER and a RetryInfo: certainly not done."""

    async def test() -> None:
        async with rig() as router:
            error = await error_of(router.issue(timeout_s=0.1))
            assert error.reason == coupon_pb2.NO_OWNER
            assert error.retry_after_s is not None
            assert router.dispatcher.in_flight == 0

    run(test())


def test_not_owner_until_the_deadline() -> None:
    """A call that its owner kept sending back is NO_OWNER too."""

    async def test() -> None:
        async with running_node() as node, rig(dispatch=PATIENT) as router:
            node.script = lambda call: not_owner(call) if len(node.calls) < 3 else None
            router.own(node)
            call = asyncio.create_task(read_campaign(router, 0.3))
            assert (await error_of(call)).reason == coupon_pb2.NO_OWNER

    run(test())


def test_in_flight_at_the_deadline_is_unknown() -> None:
    """A call that a node has and did not answer may be done: OUTCOME_UNKNOWN. The late answer goes nowhere."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = silent
            router.own(node)
            assert (await error_of(router.issue("a", timeout_s=0.1))).reason == coupon_pb2.OUTCOME_UNKNOWN
            node.script = issued
            node.say(issued(node.calls[0]))
            assert (await router.issue("b")).user_id == "b"
            assert router.dispatcher.in_flight == 0

    run(test())


def test_a_read_in_flight_at_the_deadline_is_late_and_no_more() -> None:
    """A read changes nothing, so that nothing is unknown about it."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = silent
            router.own(node)
            assert (await error_of(read_campaign(router, 0.1))).reason == coupon_pb2.NOT_IN_TIME

    run(test())


@pytest.mark.parametrize("how", ["unknown", "broken"])
def test_an_attempt_without_an_answer_is_not_forgotten(how: str) -> None:
    """Once an attempt may have taken effect, no deadline, no missing owner, no full inbox and no late decision makes
    it certain that nothing was done."""

    async def test() -> None:
        async with running_node() as node, rig() as router:

            def script(call: node_pb2.Call) -> node_pb2.Reply | None:
                replies = {
                    "overloaded": node_pb2.Reply(
                        call_id=call.call_id, overloaded=node_pb2.Overloaded(retry_after_ms=10)
                    ),
                    "expired": node_pb2.Reply(call_id=call.call_id, expired=node_pb2.Expired()),
                    "not_owner": not_owner(call),
                }
                user = coupon_pb2.IssueCouponRequest.FromString(call.request).user_id
                if node.users.count(user) == 1:
                    return None if how == "broken" else unknown(call)
                return replies[user]

            node.script = script
            router.own(node)
            users = ("overloaded", "expired", "not_owner")
            calls = [asyncio.create_task(router.issue(user, timeout_s=0.5)) for user in users]
            await node.came(3)
            if how == "broken":
                node.break_stream()
            for call in calls:
                assert (await error_of(call)).reason == coupon_pb2.OUTCOME_UNKNOWN

    run(test())


def test_expired_at_the_node_was_certainly_not_done() -> None:
    """The owner dropped it before deciding: NOT_IN_TIME."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = lambda call: node_pb2.Reply(call_id=call.call_id, expired=node_pb2.Expired())
            router.own(node)
            assert (await error_of(router.issue())).reason == coupon_pb2.NOT_IN_TIME
            assert (await error_of(router.issue(timeout_s=-1.0))).reason == coupon_pb2.NOT_IN_TIME
            assert len(node.calls) == 1

    run(test())


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [replace(PATIENT, calls_max=3), replace(PATIENT, bytes_max=3 * 7)])
def test_what_is_accepted_is_bounded(bound: DispatchSettings) -> None:
    """Beyond so many calls, or bytes, OVERLOADED with a delay; an answer makes room again."""

    async def test() -> None:
        async with running_node() as node, rig(dispatch=bound) as router:
            node.script = silent
            router.own(node)
            calls = [asyncio.create_task(router.issue(f"{n}")) for n in range(3)]
            await node.came(3)
            assert len(node.calls[0].request) <= 7
            error = await error_of(router.issue("3" * 7))
            assert error.reason == coupon_pb2.OVERLOADED
            assert error.retry_after_s is not None
            assert 0 < error.retry_after_s < 10
            node.script = issued
            node.say(*(issued(call) for call in node.calls))
            await asyncio.gather(*calls)
            await router.issue("4")

    run(test())


@pytest.mark.parametrize("ends", ["answered", "expired", "moved", "broken"])
def test_pages_of_one_shard_are_bounded(ends: str) -> None:
    """Whoever reads a lot is refused, alone, and does not make the node crowded for others; he is let in again when a
    page has come to its end, whatever it was."""

    async def test() -> None:
        async with running_node() as node, running_node() as other, rig(dispatch=TWO_PAGES) as router:
            node.script = lambda call: {node_pb2.GET_CAMPAIGN: silent, node_pb2.LIST_CAMPAIGNS: shown}.get(
                call.method, issued
            )(call)
            router.own(node)
            await router.issue("somebody, so that the campaign is known")
            timeout_s = 0.1 if ends == "expired" else 10.0
            pages = [asyncio.create_task(read_campaign(router, timeout_s)) for _ in range(2)]
            await node.came(3)
            listing = router.service.list_campaigns(coupon_pb2.ListCampaignsRequest(), within(10.0))
            for error in (await error_of(read_campaign(router, 10.0)), await error_of(listing)):
                assert error.reason == coupon_pb2.OVERLOADED
                assert error.retry_after_s is not None
                assert 0 < error.retry_after_s < 1
            assert router.dispatcher.has_room(shard_of("c", SHARDS))
            await router.issue("nobody who reads")
            other.script = shown
            if ends == "answered":
                node.say(*(shown(call) for call in node.calls if call.method == node_pb2.GET_CAMPAIGN))
            elif ends == "moved":
                router.own(other)
                node.say(*(not_owner(call) for call in node.calls if call.method == node_pb2.GET_CAMPAIGN))
            elif ends == "broken":
                node.script = shown
                node.break_stream()
            await asyncio.gather(*pages, return_exceptions=True)
            assert all((page.exception() is not None) is (ends == "expired") for page in pages)
            node.script = shown
            await asyncio.gather(*(read_campaign(router, 10.0) for _ in range(2)))
            assert [link.pages_in_flight for link in router.dispatcher._links.values()] == [0] * (1 + (ends == "moved"))

    run(test())


def test_a_full_node_is_not_asked_again() -> None:
    """A node's Overloaded is the caller's to wait for: RESOURCE_EXHAUSTED with at least the node's delay."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = lambda call: node_pb2.Reply(
                call_id=call.call_id, overloaded=node_pb2.Overloaded(retry_after_ms=400)
            )
            router.own(node)
            error = await error_of(router.issue())
            assert error.reason == coupon_pb2.OVERLOADED
            assert error.retry_after_s is not None
            assert 0.4 <= error.retry_after_s <= 0.6
            assert len(node.calls) == 1

    run(test())


def test_a_reader_whom_a_full_node_refuses_holds_up_nobody() -> None:
    """Though his stream broke before: a read that may have been done has done nothing, so that he is told at once, and
    the shard's line goes on."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            full = node_pb2.Overloaded(retry_after_ms=60_000)

            def script(call: node_pb2.Call) -> node_pb2.Reply | None:
                if call.method != node_pb2.GET_CAMPAIGN:
                    return issued(call)
                return node_pb2.Reply(call_id=call.call_id, overloaded=full) if node.hellos == 2 else None

            node.script = script
            router.own(node)
            page = asyncio.create_task(read_campaign(router, 5.0))
            await node.came(1)
            node.break_stream()
            error = await error_of(page)
            assert error.reason == coupon_pb2.OVERLOADED
            assert error.retry_after_s is not None
            assert error.retry_after_s >= 60
            await router.issue("u", timeout_s=5.0)

    run(test())


def test_late_calls_do_not_pile_up_where_nobody_owns() -> None:
    """A line without an owner forgets calls whose time is up, however long that lasts."""

    async def test() -> None:
        async with rig() as router:
            for _ in range(5):
                calls = [asyncio.create_task(router.issue(f"u{n}", timeout_s=0.02)) for n in range(100)]
                await asyncio.gather(*calls, return_exceptions=True)
            line = router.dispatcher._lines[shard_of("c", SHARDS)]
            assert line.empty
            assert len(line._waiting) <= 1

    run(test())


def test_a_caller_that_goes_away_abandons_its_answer_only() -> None:
    """The command of a cancelled call still reaches the owner, counts as in flight until it is answered, and disturbs
    nobody."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            call = asyncio.create_task(router.issue("gone"))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            assert router.dispatcher.in_flight == 1
            router.own(node)
            await node.came(1)
            await router.issue("stays")
            assert node.users == ["gone", "stays"]
            assert router.dispatcher.in_flight == 0

    run(test())


def test_the_last_view_stands_while_etcd_says_nothing() -> None:
    """A node whose registration is gone, and which still owns, is still asked; a link to nobody ends."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            router.own(node)
            await router.issue("a")
            router.watches.delete(f"seonchak/nodes/{node.address}")
            await router.issue("b")
            for shard in range(SHARDS):
                router.watches.delete(f"seonchak/shards/{shard:04}/owner")
            error = await error_of(router.issue("c", timeout_s=0.2))
            assert error.reason == coupon_pb2.NO_OWNER
            assert not router.dispatcher._links

    run(test())


def test_a_new_listing_replaces_the_view() -> None:
    """After a snapshot nothing of the view before counts: who is not in it owns nothing."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            router.own(node)
            await router.issue("a")
            me = Incarnation(NodeId(node.address), LeaseId(1))
            record = NodeRecord(me, node.address, NodeState.ACTIVE)
            router.watches.snapshot({KEYS.node(me.node_id): record.encode()})
            assert (await error_of(router.issue("b", timeout_s=0.2))).reason == coupon_pb2.NO_OWNER
            router.own(node)
            await router.issue("c")
            assert node.users == ["a", "c"]

    run(test())
