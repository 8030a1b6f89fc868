"""The gateway, when a router stops and when one stands still: what those hear whose connections go through it."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from ops.child import Child
from ops.ports import ReservedPorts
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.gateway import Router, gateway_spec, needs_haproxy, server_states
from tests.cluster.machine import get
from tests.cluster.support import Cluster, run, running

pytestmark = [pytest.mark.cluster, needs_haproxy]
OUTAGE_S = 5.0
"""Longer than the gateway would need to call a router down, and shorter than that waits for its calls."""
CALLS = 20
SERVING = health_pb2.HealthCheckResponse.SERVING


@asynccontextmanager
async def gateway(cluster: Cluster, directory: Path) -> AsyncIterator[str]:
    """HOST:PORT, with both routers up."""
    layout = cluster.processes.layout
    routers = {place.name: Router(place.address, place.metrics_address) for place in layout.routers}
    with ReservedPorts() as ports:
        bind = f"127.0.0.1:{ports.take()}"
        child = Child(gateway_spec(directory, bind, routers))
        await child.start()
        try:
            while not (directory / "haproxy.sock").exists():
                await asyncio.sleep(0.05)
            while {state["status"] for state in (await server_states(directory)).values()} != {"UP"}:
                await asyncio.sleep(0.05)
            yield bind
        finally:
            await child.stop(20)


async def router_of_the_connection(cluster: Cluster, directory: Path) -> tuple[Child, str]:
    """The router that has the one connection there is, and where its metrics are."""
    (name,) = [name for name, state in (await server_states(directory)).items() if state["scur"] == "1"]
    routers = zip(cluster.processes.routers, cluster.processes.layout.routers, strict=True)
    ((router, place),) = [(child, place) for child, place in routers if child.name == name]
    return router, place.metrics_address


async def issue(channel: grpc.aio.Channel, user: str, timeout_s: float) -> coupon_pb2.IssueCouponResponse:
    request = coupon_pb2.IssueCouponRequest(campaign_id="spring", user_id=user)
    answer: coupon_pb2.IssueCouponResponse = await CouponServiceStub(channel).IssueCoupon(request, timeout=timeout_s)
    return answer


async def health(channel: grpc.aio.Channel, timeout_s: float) -> int:
    answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    return int(answer.status)


def test_calls_of_a_router_that_stops_end_well(tmp_path: Path) -> None:
    """They wait for their shard's owner when it is told to stop, for longer than the gateway needs to notice that: each
    gets its coupon. Who comes meanwhile is served at once by the other router, though that has more connections."""

    async def main() -> None:
        async with (
            running(tmp_path / "data", "etcd", nodes=1, routers=2) as cluster,
            gateway(cluster, tmp_path) as address,
            AsyncExitStack() as stack,
        ):

            async def connection() -> grpc.aio.Channel:
                # gRPC gives channels of one process to one address the same connection, unless told otherwise.
                options = [("grpc.use_local_subchannel_pool", 1)]
                return await stack.enter_async_context(grpc.aio.insecure_channel(address, options))

            channel = await connection()
            await cluster.create("spring", 100)
            await issue(channel, "first", 20)
            stopping, metrics = await router_of_the_connection(cluster, tmp_path)
            for _ in range(3):
                assert await health(await connection(), 20) == SERVING
            (node,) = cluster.processes.nodes
            await node.stop(20)
            calls = [asyncio.create_task(issue(channel, f"user-{number}", 30)) for number in range(CALLS)]
            while f"\nseonchak_router_calls_in_flight {CALLS}.0\n" not in await get(metrics, "/metrics"):
                await asyncio.sleep(0.05)
            stopping.send(signal.SIGTERM)
            await asyncio.sleep(OUTAGE_S)
            connections = {name: int(of["scur"]) for name, of in (await server_states(tmp_path)).items()}
            assert min(connections, key=lambda name: connections[name]) == stopping.name, "asked first"
            assert await health(await connection(), 2) == SERVING
            assert stopping.running, "it waits for its calls"
            await node.start()
            answers = await asyncio.gather(*calls)
            assert {answer.coupon.user_id for answer in answers} == {f"user-{number}" for number in range(CALLS)}
            assert await stopping.wait() == 0

    run(main)


def test_clients_of_a_router_that_stands_still_come_to_the_other_one(tmp_path: Path) -> None:
    """Their connection is open and nobody answers on it: the gateway ends it."""

    async def main() -> None:
        async with (
            running(tmp_path / "data", "etcd", nodes=1, routers=2) as cluster,
            gateway(cluster, tmp_path) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            await cluster.create("spring", 100)
            await issue(channel, "first", 20)
            frozen, _ = await router_of_the_connection(cluster, tmp_path)
            frozen.freeze()
            try:
                heard = ""
                while heard != "OK":
                    try:
                        await issue(channel, "second", 1)
                        heard = "OK"
                    except grpc.aio.AioRpcError as error:
                        heard = error.code().name
                        assert heard in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
            finally:
                frozen.thaw()

    run(main)
