"""What docker-compose.yml says to run, run: each service's command, word for word, on this machine.

What a container would have of its own is put in its place: its name, its ports on its own address, its volumes.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest

from ops.child import Child
from ops.etcd import find_etcd, is_healthy
from ops.ports import ReservedPorts
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.gateway import Router, gateway_spec, needs_haproxy
from tests.cluster.machine import Machine, ends_well, get, seonchak
from tests.cluster.support import run
from tests.ops.deployment import etcds, services

pytestmark = pytest.mark.cluster


def replicas(name: str) -> Iterator[str]:
    """Names of a service's containers."""
    return (f"{name}-{number}" for number in range(services()[name]["deploy"]["replicas"]))


@needs_haproxy
def test_the_commands_make_a_cluster(tmp_path: Path) -> None:
    """etcd, init, nodes, routers, gateway: each becomes healthy by its own healthcheck, coupons are granted through
    the one address, and go on when a router ends."""

    async def main() -> None:
        found = services()
        with ReservedPorts() as ports:
            machine = Machine(tmp_path, ports, r"(etcd-\d)")
            async with AsyncExitStack() as stack:

                async def start(child: Child) -> Child:
                    await child.start()
                    stack.push_async_callback(child.stop, 20)
                    return child

                for name, service in etcds().items():
                    argv = [str(find_etcd().path), *service["command"][1:]]
                    volumes = {"/var/lib/etcd": tmp_path / name}
                    await start(machine.child(name, argv, {}, volumes, says_ready=False))
                for name in etcds():
                    while not await is_healthy(machine.at(name, "2379")):
                        await asyncio.sleep(0.1)
                init = [machine.here("init", word) for word in found["init"]["command"]]
                await ends_well(seonchak(init))
                await ends_well(seonchak(init))  # with every `up` again
                for service in ("node", "router"):
                    for name in replicas(service):
                        # A container's name is its own; here all are on one machine.
                        env = found[service]["environment"] | {"SEONCHAK_NODE_ID": name, "SEONCHAK_ROUTER_ID": name}
                        argv = seonchak(found[service]["command"])
                        child = await start(machine.child(name, argv, env, says_ready=True))
                        await child.ready(60)
                        if name == "router-1":
                            stopping = child
                        kind, command, *check = found[service]["healthcheck"]["test"]
                        assert (kind, command) == ("CMD", "seonchak")
                        await ends_well(seonchak([machine.here(name, word) for word in check]))
                        await scraped(machine.at(name, "9464"), service, name)
                assert found["gateway"]["command"][:2] == ["haproxy", "-f"]
                address = machine.at("gateway", "50051")
                routers = {n: Router(machine.at(n, "50051"), machine.at(n, "9464")) for n in replicas("router")}
                await start(Child(gateway_spec(tmp_path, address, routers)))
                await grant(address, stopping)

    run(main)


async def scraped(address: str, service: str, name: str) -> None:
    """It is ready, and shows its metrics, where Prometheus and probes ask."""
    assert await get(address, "/readyz") == "ok\n"
    assert f'seonchak_build_info{{name="{name}",role="{service}",' in await get(address, "/metrics")


async def grant(gateway: str, stopping: Child) -> None:
    async with grpc.aio.insecure_channel(gateway) as channel:
        stub = CouponServiceStub(channel)
        await stub.CreateCampaign(
            coupon_pb2.CreateCampaignRequest(campaign_id="spring", campaign=coupon_pb2.Campaign(name="봄날", total=50)),
            timeout=60,
            wait_for_ready=True,
        )
        for number in range(20):
            if number == 10:
                assert await stopping.stop(20) == 0
            request = coupon_pb2.IssueCouponRequest(campaign_id="spring", user_id=f"user-{number}")
            answer = await stub.IssueCoupon(request, timeout=30, wait_for_ready=True)
            assert answer.coupon.sequence == number + 1
