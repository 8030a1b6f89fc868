"""A router that takes no replies is asked for no more calls: what a node keeps for it is bounded."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from cluster.types import ShardId
from node.calls import Call
from node.commands import Coupon, Coupons
from node.observer import UNOBSERVED
from node.outbox import FRAME_BYTES_MAX, FRAMES_MAX, Outbox
from node.server import NodeServer
from proto import coupon_pb2, node_pb2

IDENTITY = node_pb2.ClusterIdentity(cluster_id="test")
COUPONS = Coupons(tuple(Coupon("가나다라마1234", "spring", "u" * 100, "", number, 0) for number in range(1_000)))
CALLS = 4
"""In each frame of the router."""


def replies(count: int, size: int = 0) -> list[node_pb2.Reply]:
    return [node_pb2.Reply(call_id=number, response=bytes(size)) for number in range(count)]


class Router:
    """Sends frame after frame for as long as it is listened to."""

    def __init__(self) -> None:
        self.frames = 0
        self.calls = 0

    async def say(self) -> AsyncIterator[node_pb2.RouterFrame]:
        yield node_pb2.RouterFrame(hello=node_pb2.Hello(identity=IDENTITY))
        while True:
            self.frames += 1
            frame = node_pb2.RouterFrame()
            for _ in range(CALLS):
                request = coupon_pb2.GetCouponRequest(code="가나다라마1234").SerializeToString()
                frame.calls.calls.add(call_id=self.calls, method=node_pb2.GET_COUPON, request=request, timeout_ms=1_000)
                self.calls += 1
            yield frame
            await asyncio.sleep(0)


class Keeper:
    """Answers at once, and at length."""

    def submit(self, shard: ShardId, call: Call) -> None:
        call.reply(COUPONS)


def node() -> NodeServer:
    life = SimpleNamespace(me="node-1/1", keeper=Keeper())
    member: Any = SimpleNamespace(life=life, observer=UNOBSERVED)
    return NodeServer(member, IDENTITY)


def test_replies_are_cut_into_frames_in_their_order() -> None:
    async def main() -> None:
        outbox = Outbox()
        for reply in replies(5, FRAME_BYTES_MAX // 2 - 100):
            outbox.put(reply)
        frames = outbox.frames()
        cut = [await anext(frames) for _ in range(3)]
        assert [[reply.call_id for reply in frame.replies.replies] for frame in cut] == [[0, 1], [2, 3], [4]]

    asyncio.run(main())


def test_what_comes_after_a_frame_was_taken_goes_into_the_next() -> None:
    async def main() -> None:
        outbox = Outbox()
        frames = outbox.frames()
        for reply in replies(2):
            outbox.put(reply)
            assert [taken.call_id for taken in (await anext(frames)).replies.replies] == [reply.call_id]

    asyncio.run(main())


def test_there_is_room_until_so_many_frames_wait() -> None:
    async def main() -> None:
        outbox = Outbox()
        for reply in replies(FRAMES_MAX - 1, FRAME_BYTES_MAX):
            outbox.put(reply)
        await outbox.room()
        outbox.put(replies(1, FRAME_BYTES_MAX)[0])
        waiting = asyncio.ensure_future(outbox.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await anext(outbox.frames())
        await waiting

    asyncio.run(main())


def test_a_router_that_takes_no_replies_is_not_heard() -> None:
    async def main() -> None:
        router = Router()
        context: Any = SimpleNamespace()
        said: Any = node().Exchange(router.say(), context)
        assert (await anext(said)).HasField("welcome")
        reply_bytes = len((await anext(said)).replies.replies[0].response)
        async with asyncio.timeout(10):
            heard = -1
            while heard != router.frames:
                heard = router.frames
                for _ in range(100):
                    await asyncio.sleep(0)
        waiting_max = FRAMES_MAX * FRAME_BYTES_MAX // reply_bytes
        assert waiting_max // 2 < router.calls <= waiting_max + 2 * CALLS, "as many as there is room for"
        took = [await anext(said) for _ in range(FRAMES_MAX)]
        assert sum(len(frame.replies.replies) for frame in took) > CALLS, "what was asked for is answered"
        while router.frames == heard:
            await anext(said)
        await said.aclose()

    asyncio.run(main())
