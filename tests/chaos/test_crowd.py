"""The harness's own gRPC client says of every call what became of it, against gRPC's own server."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from chaos.crowd import FAILED, GRANTED, LATE, Crowd, CrowdSpec
from proto import coupon_pb2, coupon_pb2_grpc

Context = grpc.aio.ServicerContext[coupon_pb2.IssueCouponRequest, coupon_pb2.IssueCouponResponse]


class Service(coupon_pb2_grpc.CouponServiceServicer):
    """Grants the first of every three, refuses the second, leaves the third without an answer."""

    def __init__(self) -> None:
        self.asked: list[coupon_pb2.IssueCouponRequest] = []
        self.left_s: list[float] = []

    async def IssueCoupon(  # noqa: N802  # the generated name
        self, request: coupon_pb2.IssueCouponRequest, context: Context
    ) -> coupon_pb2.IssueCouponResponse:
        self.asked.append(request)
        self.left_s.append(context.time_remaining() or 0.0)
        match int(request.user_id.removeprefix("u")) % 3:
            case 1:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "not now")
            case 2:
                await asyncio.sleep(60)
        return coupon_pb2.IssueCouponResponse(coupon=coupon_pb2.Coupon(code="봄0가나다라마바"))


@asynccontextmanager
async def serving(streams_max: int | None = None) -> AsyncIterator[tuple[Service, str]]:
    options = [("grpc.max_concurrent_streams", streams_max)] if streams_max else []
    server, service = grpc.aio.server(options=options), Service()
    coupon_pb2_grpc.add_CouponServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield service, address
    finally:
        await server.stop(0)


@pytest.mark.parametrize("streams_max", [None, 1])
def test_what_becomes_of_an_open_loop(streams_max: int | None) -> None:
    """Who was granted, who was refused, who heard nothing in time: all are counted, also where the server lets only a
    few at a time."""

    async def main() -> None:
        async with serving(streams_max) as (service, address), asyncio.timeout(20):
            crowd = Crowd(CrowdSpec(address, "spring", "u", seconds=0.5, rate=200, connections=2, deadline_s=0.6))
            await crowd.run()
        assert crowd.asked > 50
        assert crowd.outcomes.total() == crowd.asked
        if streams_max is None:
            kinds = Counter(number % 3 for number in range(crowd.asked))
            assert crowd.outcomes[GRANTED] == kinds[0]
            # Server and caller count the same deadline: either may be the first to say that it is over.
            assert crowd.outcomes[LATE] + crowd.outcomes[FAILED] == kinds[1] + kinds[2]
            assert crowd.outcomes[FAILED] >= kinds[1]
            assert len(service.asked) == crowd.asked
        else:
            assert 0 < crowd.outcomes[GRANTED] < crowd.asked / 3
        assert {request.campaign_id for request in service.asked} == {"spring"}
        assert all(request.user_id == request.request_id for request in service.asked)
        assert all(0 < left_s <= 0.6 for left_s in service.left_s)

    asyncio.run(main())


def test_a_closed_loop_asks_when_it_was_answered() -> None:
    """So many at a time and no more: those that hang keep their callers busy until they give up."""

    async def main() -> None:
        async with serving() as (service, address), asyncio.timeout(20):
            crowd = Crowd(CrowdSpec(address, "spring", "u", seconds=0.5, callers=2, connections=1, deadline_s=0.8))
            await crowd.run()
        assert crowd.outcomes.total() == crowd.asked == len(service.asked) == 6
        assert crowd.outcomes[GRANTED] == 2

    asyncio.run(main())


def test_a_server_that_dies() -> None:
    """What was in flight has failed; nobody waits for ever."""

    async def main() -> None:
        async with asyncio.timeout(20):
            async with serving() as (service, address):
                crowd = Crowd(CrowdSpec(address, "spring", "u", seconds=1.0, rate=100, connections=2, deadline_s=5.0))
                running = asyncio.create_task(crowd.run())
                while len(service.asked) < 10:
                    await asyncio.sleep(0.01)
            await running
        assert crowd.outcomes.total() == crowd.asked
        assert crowd.outcomes[FAILED] > crowd.outcomes[GRANTED]
        assert not crowd.outcomes[LATE]

    asyncio.run(main())
