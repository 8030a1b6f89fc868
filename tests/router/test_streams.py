"""IssueCoupons and WatchCampaign, over real grpc."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest

from proto import coupon_pb2 as pb
from proto import node_pb2
from router.dispatch import DispatchSettings
from router.service import CallContext, ServiceSettings
from tests.router.fake_node import issued, refusal, running_node, silent
from tests.router.rig import Client, Details, rig, run, served

pytestmark = pytest.mark.usefixtures("on_every_server")


def items(users: Iterable[int], campaign: str = "c") -> bytes:
    message = pb.IssueCouponsRequest()
    for user in users:
        message.items.add(index=user, request=pb.IssueCouponRequest(campaign_id=campaign, user_id=f"u{user}"))
    return message.SerializeToString()


SINGLE = pb.IssueCouponRequest(campaign_id="c", user_id="single")


class Bulk:
    """The client's end of an IssueCoupons stream."""

    def __init__(self, client: Client) -> None:
        self._call = client.stream("IssueCoupons")

    async def write(self, data: bytes) -> None:
        await self._call.write(data)

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def results(self) -> AsyncIterator[pb.IssueCouponsResponse.Result]:
        while (data := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            assert isinstance(data, bytes)
            for result in pb.IssueCouponsResponse.FromString(data).results:
                yield result

    async def until_it_fails(self) -> tuple[list[int], grpc.aio.AioRpcError]:
        """The indices of the results before the stream's failure, and the failure."""
        seen: list[int] = []

        async def read() -> None:
            async for result in self.results():
                seen.append(result.index)  # noqa: PERF401  # a comprehension would lose them when it fails

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read()
        return seen, caught.value

    def cancel(self) -> None:
        self._call.cancel()


def test_half_close_drains() -> None:
    """Everything sent before the half-close is answered, each item once, with its index; then the stream ends OK."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            router.own(node)
            bulk = Bulk(client)
            for first in range(0, 3_000, 1_000):
                await bulk.write(items(range(first, first + 1_000)))
            await bulk.half_close()
            users = {result.index: result.response.coupon.user_id async for result in bulk.results()}
            assert users == {n: f"u{n}" for n in range(3_000)}
            assert node.users == [f"u{n}" for n in range(3_000)]

    run(test())


def test_an_empty_stream_ends() -> None:
    """Half-close at once, and messages without items, are no errors."""

    async def test() -> None:
        async with rig() as router, served(router) as (_, client):
            for messages in ([], [b"", b""]):
                bulk = Bulk(client)
                for message in messages:
                    await bulk.write(message)
                await bulk.half_close()
                assert [result async for result in bulk.results()] == []

    run(test())


def test_results_come_as_they_are_decided() -> None:
    """A later item that is decided first is told first, while the stream is open."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            node.script = lambda call: issued(call) if len(node.calls) > 1 else None
            router.own(node)
            bulk = Bulk(client)
            await bulk.write(items([1]))
            await node.came(1)
            await bulk.write(items([2]))
            results = bulk.results()
            assert (await anext(results)).index == 2
            node.say(issued(node.calls[0]))
            assert (await anext(results)).index == 1
            await bulk.half_close()
            assert [result async for result in results] == []

    run(test())


def test_each_item_has_a_status_of_its_own() -> None:
    """A wrong item, a refused one, one without an owner and a granted one: four results, and the stream goes on."""

    async def test() -> None:
        settings = ServiceSettings(default_timeout_s=0.3)
        async with running_node() as node, rig(service=settings) as router, served(router) as (_, client):

            def script(call: node_pb2.Call) -> node_pb2.Reply | None:
                sold_out = pb.IssueCouponRequest.FromString(call.request).user_id == "u2"
                return refusal(pb.SOLD_OUT)(call) if sold_out else issued(call)

            node.script = script
            router.own(node, "c")
            bulk = Bulk(client)
            await bulk.write(items([1], campaign="Wrong"))
            await bulk.write(items([2, 3]))
            await bulk.write(items([4], campaign="nobodys"))
            await bulk.half_close()
            outcomes = {result.index: result async for result in bulk.results()}
            assert Details.of(outcomes[1].status).fields == ("campaign_id",)
            assert Details.of(outcomes[2].status).reason == "SOLD_OUT"
            assert outcomes[3].response.coupon.user_id == "u3"
            assert Details.of(outcomes[4].status).reason == "NO_OWNER"

    run(test())


def test_too_many_items_fail_the_stream() -> None:
    """1,001 items in a message are INVALID_ARGUMENT for the stream; what was read before is answered first."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            router.own(node)
            bulk = Bulk(client)
            await bulk.write(items([1]))
            await bulk.write(items(range(1_001)))
            seen, error = await bulk.until_it_fails()
            details = Details.of_rpc(error)
            assert (details.reason, details.fields) == ("INVALID_FIELD", ("items",))
            assert seen == [1]
            assert node.users == ["u1"]

    run(test())


def test_items_in_flight_are_bounded() -> None:
    """Beyond stream_items_max the stream is not read: the node sees no more until something is answered."""

    async def test() -> None:
        settings = ServiceSettings(stream_items_max=20)
        async with running_node() as node, rig(service=settings) as router, served(router) as (_, client):
            node.script = silent
            router.own(node)
            bulk = Bulk(client)
            for first in range(0, 100, 10):
                await bulk.write(items(range(first, first + 10)))
            await bulk.half_close()
            await node.came(20)
            await asyncio.sleep(0.1)
            assert len(node.calls) == router.dispatcher.in_flight == 20
            node.script = issued
            node.say(*(issued(call) for call in node.calls))
            assert len({result.index async for result in bulk.results()}) == 100

    run(test())


def test_streams_leave_room_for_those_who_cannot_wait() -> None:
    """Streams fill half of what a node takes, and wait; a single call gets in, and they go on when there is room, or
    another owner. Each item is answered once."""

    async def test() -> None:
        dispatch = DispatchSettings(node_calls_max=8)
        async with (
            running_node() as node,
            running_node() as other,
            rig(dispatch=dispatch) as router,
            served(router) as (_, client),
        ):
            node.script = silent
            router.own(node)
            await router.link_up("c")
            streams = [Bulk(client), Bulk(client)]
            for number, stream in enumerate(streams):
                await stream.write(items(range(10 * number, 10 * number + 10)))
            await node.came(4)
            single = asyncio.create_task(client.unary("IssueCoupon", SINGLE))
            await node.came(5)
            assert node.users[-1] == "single"
            node.say(*(issued(call) for call in node.calls[1:]))
            await single
            await node.came(8)
            assert node.users[-1] != "single"
            router.own(other)
            for stream in streams:
                await stream.half_close()
            node.say(*(issued(call) for call in (node.calls[0], *node.calls[5:])))
            seen = [result.index for stream in streams async for result in stream.results()]
            assert sorted(seen) == list(range(20))
            assert len(node.calls) + len(other.calls) == 21

    run(test())


def test_an_item_that_gets_no_room_in_its_time_is_told_so() -> None:
    """NOT_IN_TIME: the node never heard of it."""

    async def test() -> None:
        dispatch, service = DispatchSettings(node_calls_max=4), ServiceSettings(default_timeout_s=0.2)
        async with (
            running_node() as node,
            rig(dispatch=dispatch, service=service) as router,
            served(router) as (_, client),
        ):
            node.script = silent
            router.own(node)
            await router.link_up("c")
            single = [asyncio.create_task(client.unary("IssueCoupon", SINGLE)) for _ in range(2)]
            await node.came(2)
            bulk = Bulk(client)
            await bulk.write(items(range(2)))
            await bulk.half_close()
            outcomes = {result.index: Details.of(result.status).reason async for result in bulk.results()}
            assert outcomes == {0: "NOT_IN_TIME", 1: "NOT_IN_TIME"}
            assert len(node.calls) == 2
            node.say(*(issued(call) for call in node.calls))
            await asyncio.gather(*single)

    run(test())


def test_stopping_answers_items_that_wait_for_room() -> None:
    """The node has what it takes; the rest of the message was read and is not begun: each item is told so, those that
    the node has are decided, and the stream ends."""

    async def test() -> None:
        dispatch = DispatchSettings(node_calls_max=4)
        async with running_node() as node, rig(dispatch=dispatch) as router, served(router) as (server, client):
            node.script = silent
            router.own(node)
            await router.link_up("c")
            bulk = Bulk(client)
            await bulk.write(items(range(6)))
            await node.came(2)
            stopping = asyncio.create_task(server.stop())
            outcomes: dict[int, str] = {}
            results = bulk.results()
            for _ in range(4):
                result = await anext(results)
                outcomes[result.index] = Details.of(result.status).reason
            assert outcomes == dict.fromkeys(range(2, 6), "ROUTER_STOPPING")
            node.say(*(issued(call) for call in node.calls))
            assert {(await anext(results)).response.coupon.user_id for _ in range(2)} == {"u0", "u1"}
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await anext(results)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            await stopping
            assert len(node.calls) == 2

    run(test())


def test_a_full_router_tells_each_item() -> None:
    """Items that the dispatcher does not take are OVERLOADED, one by one."""

    async def test() -> None:
        async with running_node() as node, rig(dispatch=DispatchSettings(calls_max=5)) as router:
            node.script = silent
            router.own(node)
            async with served(router) as (_, client):
                bulk = Bulk(client)
                await bulk.write(items(range(8)))
                results = bulk.results()
                full = [await anext(results) for _ in range(3)]
                assert {Details.of(result.status).reason for result in full} == {"OVERLOADED"}
                await node.came(5)
                node.say(*(issued(call) for call in node.calls))
                await bulk.half_close()
                assert len([result async for result in results]) == 5

    run(test())


def test_a_stream_that_is_cancelled_leaves_its_calls() -> None:
    """A client that goes away leaves nothing behind but calls that run to their end."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            node.script = silent
            router.own(node)
            bulk = Bulk(client)
            await bulk.write(items(range(10)))
            await node.came(10)
            bulk.cancel()
            await asyncio.sleep(0.05)
            assert router.dispatcher.in_flight == 10
            node.say(*(issued(call) for call in node.calls))
            # Its answer comes behind theirs.
            node.script = issued
            await router.issue()
            assert router.dispatcher.in_flight == 0

    run(test())


def test_stopping_drains_a_stream() -> None:
    """A stopping router reads a stream no further, answers what it has read and ends the stream UNAVAILABLE."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (server, client):
            node.script = silent
            router.own(node)
            bulk = Bulk(client)
            await bulk.write(items([1]))
            await node.came(1)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0.05)
            node.say(issued(node.calls[0]))
            seen, error = await bulk.until_it_fails()
            assert seen == [1]
            assert Details.of_rpc(error).reason == "ROUTER_STOPPING"
            await stopping

    run(test())


# --- WatchCampaign ----------------------------------------------------------------------------------------------------


def campaign(issued_: int, etag: str = "1") -> pb.Campaign:
    return pb.Campaign(campaign_id="c", etag=etag, issued=issued_)


async def told(watch: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> pb.Campaign:
    data = await watch.read()
    assert isinstance(data, bytes)
    return pb.WatchCampaignResponse.FromString(data).campaign


def test_watch_follows_the_owner() -> None:
    """A watch goes on at the next owner as soon as the topology names it, and tells nothing twice."""

    async def test() -> None:
        async with running_node() as first, running_node() as second, rig() as router, served(router) as (_, client):
            first.campaigns["c"] = [campaign(1)]
            second.campaigns["c"] = [campaign(1), campaign(1, etag="2")]
            router.own(second, "other")
            await router.link_up("other")
            router.own(first, "c")
            watch = client.watch("c")
            assert await told(watch) == campaign(1)
            # The old owner says nothing at all: that it lost the shard is known from the topology alone.
            router.own(second, "c")
            assert await told(watch) == campaign(1, etag="2")
            watch.cancel()

    run(test())


@pytest.mark.parametrize("how", ["ended", "link broken"])
def test_watch_subscribes_again(how: str) -> None:
    """A subscription that ends, or whose link breaks, is renewed; the state that was told is not told again."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            node.campaigns["c"] = [campaign(1)]
            router.own(node)
            watch = client.watch("c")
            assert await told(watch) == campaign(1)
            node.campaigns["c"] = [campaign(1), campaign(2)]
            if how == "ended":
                node.end_watches()
            else:
                node.break_stream()
            assert await told(watch) == campaign(2)
            assert node.watches == 2
            watch.cancel()

    run(test())


def test_a_frozen_owner_does_not_keep_a_watch() -> None:
    """The link's silence ends the subscription too: the watch goes on elsewhere."""

    async def test() -> None:
        async with running_node() as frozen, running_node() as owner, rig() as router, served(router) as (_, client):
            frozen.campaigns["c"] = [campaign(1)]
            owner.campaigns["c"] = [campaign(2)]
            router.own(frozen)
            watch = client.watch("c")
            assert await told(watch) == campaign(1)
            frozen.freeze()
            router.disown("c")
            router.own(owner, "c")
            assert await told(watch) == campaign(2)
            watch.cancel()

    run(test())


def test_watch_of_no_campaign() -> None:
    """NOT_FOUND with its reason."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            router.own(node)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.watch("c").read()
            assert Details.of_rpc(caught.value).reason == "CAMPAIGN_NOT_FOUND"

    run(test())


def test_watch_without_an_owner() -> None:
    """Nobody answers for the campaign for too long: UNAVAILABLE, at the beginning as well as later."""

    async def test() -> None:
        settings = ServiceSettings(default_timeout_s=0.2)
        async with running_node() as node, rig(service=settings) as router, served(router) as (_, client):
            node.campaigns["c"] = [campaign(1)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.watch("c").read()
            assert Details.of_rpc(caught.value).reason == "NO_OWNER"
            router.own(node)
            watch = client.watch("c")
            await told(watch)
            # Silence of a campaign is no reason.
            await asyncio.sleep(0.3)
            node.campaigns["c"] = [campaign(2)]
            router.disown("c")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert Details.of_rpc(caught.value).reason == "NO_OWNER"

    run(test())


@pytest.mark.parametrize("how", ["gone", "frozen"])
def test_watch_of_an_owner_that_is_gone(how: str) -> None:
    """A link that goes down ends the subscriptions on it, whether or not the topology has noticed, and whether or not
    the connection tells."""

    async def test() -> None:
        settings = ServiceSettings(default_timeout_s=0.5)
        async with rig(service=settings) as router, served(router) as (_, client):
            async with AsyncExitStack() as until_gone:
                node = await until_gone.enter_async_context(running_node())
                node.campaigns["c"] = [campaign(1)]
                router.own(node)
                watch = client.watch("c")
                await told(watch)
                if how == "gone":
                    await until_gone.aclose()
                else:
                    node.freeze()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await watch.read()
            assert Details.of_rpc(caught.value).reason == "NO_OWNER"

    run(test())


def test_a_slow_watcher_misses_states_but_not_the_latest() -> None:
    """What a reader is too slow for is skipped; the last state arrives."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.campaigns["c"] = [campaign(n) for n in range(1_000)]
            router.own(node)
            seen: list[int] = []
            last = asyncio.Event()

            async def send(response: pb.WatchCampaignResponse) -> None:
                seen.append(response.campaign.issued)
                if seen[-1] == 999:
                    last.set()
                await asyncio.sleep(0.2)

            watch = asyncio.create_task(
                router.service.watch_campaign(pb.WatchCampaignRequest(campaign_id="c"), CallContext(None), send)
            )
            await last.wait()
            watch.cancel()
            assert seen == sorted(seen)
            assert len(seen) < 1_000

    run(test())


def test_stopping_ends_watches() -> None:
    """A watcher is told to go elsewhere."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (server, client):
            node.campaigns["c"] = [campaign(1)]
            router.own(node)
            watch = client.watch("c")
            await told(watch)
            await server.stop()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert Details.of_rpc(caught.value).reason == "ROUTER_STOPPING"

    run(test())
