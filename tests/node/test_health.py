"""grpc.health.v1 of a node: on a real server, whoever asks and whoever watches is told the state of each service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.health import NOT_SERVING, SERVING
from node.health import SERVICE_NAME, NodeHealth


@asynccontextmanager
async def served() -> AsyncIterator[tuple[NodeHealth, health_pb2_grpc.HealthStub]]:
    health = NodeHealth()
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health, health_pb2_grpc.HealthStub(channel)
    await server.stop(None)


async def check(stub: health_pb2_grpc.HealthStub, service: str) -> int:
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(answer.status)


def test_each_service_has_its_state() -> None:
    """A node that cannot serve its shards lives all the same; one that ends does neither."""

    async def main() -> None:
        async with served() as (health, stub):
            assert [await check(stub, name) for name in ("", SERVICE_NAME)] == [SERVING, NOT_SERVING]
            health.refresh("")
            assert [await check(stub, name) for name in ("", SERVICE_NAME)] == [SERVING, SERVING]
            health.refresh("1 of 2 shards that it owns are not served")
            assert [await check(stub, name) for name in ("", SERVICE_NAME)] == [SERVING, NOT_SERVING]
            health.shut_down()
            assert [await check(stub, name) for name in ("", SERVICE_NAME)] == [NOT_SERVING, NOT_SERVING]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(stub, "nobody")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(main())


def test_who_watches_is_told_every_change_once() -> None:
    """The state at first, then changes only."""

    async def main() -> None:
        async with served() as (health, stub):
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=10)
            for reason, state in (("not registered", NOT_SERVING), ("", SERVING), ("draining", NOT_SERVING)):
                health.refresh(reason)
                health.refresh(reason)
                assert (await watch.read()).status == state
            watch.cancel()

    asyncio.run(main())
