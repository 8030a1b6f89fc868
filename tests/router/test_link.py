"""One link: handshake, pings, silence, reconnection."""

import asyncio
from dataclasses import replace

import grpc
import pytest
from structlog.testing import capture_logs

from proto import coupon_pb2, node_pb2
from router.errors import ApiError
from router.link import LinkSettings
from tests.router.fake_node import IDENTITY, issued, running_node, silent
from tests.router.rig import rig, run


def test_a_silent_router_pings() -> None:
    """After 250 ms without a call a link says that it lives, and a stream with pings only is not reset."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            router.own(node)
            await node.reached(lambda: node.pings >= 5)
            await router.issue()
            assert node.hellos == 1

    run(test())


def test_a_frozen_node_is_reset() -> None:
    """A node from which nothing was heard for 1 s is given up, and its calls go where they can be answered."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with running_node() as frozen, running_node() as next_owner, rig() as router:
            router.own(frozen)
            await router.issue("before")
            frozen.script = silent
            frozen.freeze()
            begun = loop.time()
            call = asyncio.create_task(router.issue("during"))
            await asyncio.sleep(0.1)
            router.own(next_owner)
            await call
            assert 0.7 < loop.time() - begun < 5.0
            assert next_owner.users == ["during"]

    run(test())


def test_a_node_that_never_shakes_hands_is_given_up() -> None:
    """A connection on which no Welcome comes does not hold the link for ever."""

    async def test() -> None:
        connections: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        settings = LinkSettings(silence_max_s=0.1)
        async with running_node() as node, server:
            async with rig(link=settings) as router:
                node.address = f"127.0.0.1:{port}"
                router.own(node)
                with pytest.raises(ApiError) as caught:
                    await router.issue(timeout_s=1.0)
            assert caught.value.reason == coupon_pb2.NO_OWNER
            assert len(connections) >= 2
            for connection in connections:
                connection.transport.abort()

    run(test())


def test_a_node_that_restarts_is_found_again() -> None:
    """A link reconnects by itself while the node is in the topology."""

    async def test() -> None:
        async with rig() as router:
            async with running_node() as node:
                router.own(node)
                await router.issue()
                address = node.address
            call = asyncio.create_task(router.issue("later"))
            await asyncio.sleep(0.2)
            async with running_node(address) as node:
                await call
                assert node.users == ["later"]

    run(test())


@pytest.mark.parametrize(
    ("field", "value"),
    [("cluster_id", "other"), ("shards", 32), ("hash_version", 2), ("code_key_fingerprint", "g"), ("wire_version", 9)],
)
@pytest.mark.parametrize("who", ["node refuses", "router refuses"])
def test_another_cluster_is_not_talked_to(field: str, value: object, who: str) -> None:
    """Any difference of identity refuses the link, whichever side looks; the log names the field; no call goes out."""

    async def test() -> None:
        async with running_node() as node:
            other = node_pb2.ClusterIdentity()
            other.CopyFrom(IDENTITY)
            setattr(other, field, value)
            node.identity = other
            node.checks = who == "node refuses"
            with capture_logs() as logs:
                async with rig() as router:
                    router.own(node)
                    with pytest.raises(ApiError) as caught:
                        await router.issue(timeout_s=0.15)
            assert caught.value.reason == coupon_pb2.NO_OWNER
            assert not node.calls
            assert node.hellos == 1, "tried again too soon"
            (refused,) = [entry for entry in logs if entry["event"] == "link_refused"]
            assert refused["log_level"] == "error"
            assert field in refused["reason"]

    run(test())


def test_a_mismatch_that_is_mended_is_noticed() -> None:
    """A refused link is tried again, slowly."""

    async def test() -> None:
        async with running_node() as node, rig(link=LinkSettings(mismatch_wait_s=0.1)) as router:
            node.identity = node_pb2.ClusterIdentity(cluster_id="other")
            router.own(node)
            call = asyncio.create_task(router.issue())
            await node.reached(lambda: node.hellos >= 2)
            node.identity = IDENTITY
            await call

    run(test())


def test_frames_keep_their_distance() -> None:
    """A lone call goes at once; those that come within the gap after a frame share the next one."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with running_node() as node, rig(link=LinkSettings(frame_gap_s=0.1)) as router:
            router.own(node)
            await router.link_up("c")
            begun = loop.time()
            calls = []
            for _ in range(30):
                calls.append(asyncio.create_task(router.issue()))
                await asyncio.sleep(0.005)
            await asyncio.gather(*calls)
            assert node.frames[0] == 1
            assert len(node.frames) <= 2 + (loop.time() - begun) / 0.1

    run(test())


def test_frames_are_bounded_in_bytes() -> None:
    """A frame takes no further call once it has its bytes."""

    async def test() -> None:
        settings = replace(LinkSettings(), frame_bytes_max=300)
        async with running_node() as node, rig(link=settings) as router:
            calls = [asyncio.create_task(router.issue("x" * 100)) for _ in range(9)]
            await asyncio.sleep(0)
            router.own(node)
            await asyncio.gather(*calls)
            assert node.frames == [3, 3, 3]

    run(test())


def test_a_stream_that_the_node_cancels_is_opened_again() -> None:
    """CANCELLED from a node is a break like any other, not the end of the link."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = silent
            node.break_code = grpc.StatusCode.CANCELLED
            router.own(node)
            call = asyncio.create_task(router.issue())
            await node.came(1)
            node.script = issued
            node.break_stream()
            await call
            assert node.hellos == 2

    run(test())
