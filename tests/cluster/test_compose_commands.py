"""What docker-compose.yml says to run, run: each service's command, word for word, on this machine.

What a container would have of its own is put in its place: its name, its ports on its own address, its volumes. What
is not on this machine is not run, and a test that is skipped names it: Grafana, and whatever else is not installed.
"""

import asyncio
import json
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import yaml

from ops.child import Child, ChildSpec
from ops.etcd import find_etcd, is_healthy
from ops.ports import ReservedPorts
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.gateway import Router, gateway_spec
from tests.cluster.machine import Machine, ends_well, get, seonchak
from tests.cluster.support import run
from tests.ops.deployment import PROMETHEUS, etcds, mounts, ours, services
from tests.support.prometheus import Prometheus

pytestmark = pytest.mark.cluster
GRANTED = 20


def replicas(name: str) -> list[str]:
    """Names of a service's containers."""
    return [f"{name}-{number}" for number in range(services()[name]["deploy"]["replicas"])]


class Compose:
    """The file's services as processes; all end with the stack."""

    def __init__(self, directory: Path, ports: ReservedPorts, stack: AsyncExitStack) -> None:
        self.services = services()
        self.directory = directory
        self.machine = Machine(directory, ports, r"(etcd-\d)")
        self.children: dict[str, Child] = {}
        self._stack = stack

    async def start(self, child: Child) -> None:
        await child.start()
        self._stack.push_async_callback(child.stop, 20)
        self.children[child.name] = child

    async def start_etcd(self) -> None:
        """New, or again on what the volumes keep."""
        for name, service in etcds().items():
            argv = [str(find_etcd().path), *service["command"][1:]]
            volumes = {"/var/lib/etcd": self.directory / name}
            await self.start(self.machine.child(name, argv, {}, volumes, says_ready=False))
        for name in etcds():
            while not await is_healthy(self.machine.at(name, "2379")):
                await asyncio.sleep(0.1)
            await self.healthy(name, name)

    async def start_replica(self, service: str, name: str) -> None:
        found = self.services[service]
        # A container's name is its own; here all are on one machine.
        env = found["environment"] | {"SEONCHAK_NODE_ID": name, "SEONCHAK_ROUTER_ID": name}
        await self.start(self.machine.child(name, seonchak(found["command"]), env, says_ready=True))
        await self.children[name].ready(60)

    async def start_healthy(self, service: str, name: str) -> None:
        await self.start_replica(service, name)
        await self.healthy(service, name)
        # It is ready, and shows its metrics, where Prometheus and probes ask.
        metrics = self.machine.at(name, "9464")
        assert await get(metrics, "/readyz") == "ok\n"
        assert f'seonchak_build_info{{name="{name}",role="{service}",' in await get(metrics, "/metrics")

    async def healthy(self, service: str, container: str) -> None:
        """By the file's own healthcheck, where its tool is here."""
        kind, tool, *words = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"
        if tool == "nc":
            host, port = self.machine.at(container, words.pop()).split(":")
            words[-1:] = [host, port]
        words = [self.machine.here(container, word) for word in words]
        if tool == "seonchak":
            await ends_well(seonchak(words))
        elif shutil.which(tool) is not None:
            await ends_well([tool, *words])

    async def status(self) -> dict[str, Any]:
        command = ["status", "--json", "--etcd", self.services["cli"]["environment"]["SEONCHAK_ETCD_ENDPOINTS"]]
        answer: dict[str, Any] = json.loads(await ends_well(seonchak(self.machine.here("cli", w) for w in command)))
        return answer


def test_the_commands_make_a_cluster(tmp_path: Path) -> None:
    """etcd, init, nodes, routers, gateway, Prometheus: each becomes healthy by its own healthcheck. Coupons are granted
    through the one address, and go on when a router ends; `--scale node=5` takes its share; Prometheus hears everybody;
    when all have died and are started again on the same volumes, every coupon is there."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            compose = Compose(tmp_path, stack.enter_context(ReservedPorts()), stack)
            await compose.start_etcd()
            init = [compose.machine.here("init", word) for word in compose.services["init"]["command"]]
            await ends_well(seonchak(init))
            await ends_well(seonchak(init))  # with every `up` again
            for service in ("node", "router"):
                for name in replicas(service):
                    await compose.start_healthy(service, name)
            address = await gateway(compose)
            codes = await grant(address, compose)
            await compose.start_replica("router", "router-1")

            more = ["node-3", "node-4"]
            for name in more:
                await compose.start_replica("node", name)
            while not all(shards for node, shards in (await shards_of(compose)).items() if node in more):
                await asyncio.sleep(0.2)  # they take them one by one; the test's timeout bounds it
            if shutil.which("prometheus") is not None:
                await monitored(compose, [*replicas("node"), *more])

            for name in (*replicas("node"), *more, *replicas("router"), *etcds()):
                await compose.children[name].kill()
            await compose.start_etcd()
            await ends_well(seonchak(init))
            for service in ("node", "router"):
                for name in replicas(service):
                    await compose.start_replica(service, name)
            assert await read(address) == codes

    run(main)


async def gateway(compose: Compose) -> str:
    """HOST:PORT of the one address; without haproxy a router's."""
    argv = compose.services["gateway"]["command"]
    assert argv[:2] == ["haproxy", "-f"]
    if shutil.which("haproxy") is None:
        return compose.machine.at("router-0", "50051")
    at = compose.machine.at
    routers = {name: Router(at(name, "50051"), at(name, "9464")) for name in replicas("router")}
    address = at("gateway", "50051")
    await compose.start(Child(gateway_spec(compose.directory, address, routers)))
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
    await compose.healthy("gateway", "gateway")
    return address


async def grant(address: str, compose: Compose) -> list[str]:
    """The codes, in the order in which they were granted."""
    codes = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = CouponServiceStub(channel)
        await stub.CreateCampaign(
            coupon_pb2.CreateCampaignRequest(campaign_id="spring", campaign=coupon_pb2.Campaign(name="봄날", total=50)),
            timeout=60,
            wait_for_ready=True,
        )
        for number in range(GRANTED):
            if number == GRANTED // 2:
                assert await compose.children["router-1"].stop(20) == 0
            request = coupon_pb2.IssueCouponRequest(campaign_id="spring", user_id=f"user-{number}")
            answer = await stub.IssueCoupon(request, timeout=30, wait_for_ready=True)
            assert answer.coupon.sequence == number + 1
            codes.append(answer.coupon.code)
    return codes


async def read(address: str) -> list[str]:
    async with grpc.aio.insecure_channel(address) as channel:
        request = coupon_pb2.GetCampaignRequest(campaign_id="spring")
        answer = await CouponServiceStub(channel).GetCampaign(request, timeout=30, wait_for_ready=True)
        return [coupon.code for coupon in answer.coupons]


async def shards_of(compose: Compose) -> dict[str, int]:
    return {node["node_id"]: node["shards"] for node in (await compose.status())["nodes"]}


async def monitored(compose: Compose, nodes: list[str]) -> None:
    """Prometheus by its own command, with its own configuration and rules: every target is up, every rule evaluated."""
    service = compose.services["prometheus"]
    at = compose.machine.at
    mounted, data = compose.directory / "prometheus-config", compose.directory / "prometheus-data"
    shutil.copytree(PROMETHEUS, mounted)
    config = yaml.safe_load((mounted / "compose.yml").read_text())
    containers = {"node": nodes, "router": replicas("router"), "etcd": list(etcds())}
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)  # Docker's DNS
        port = "2381" if job["job_name"] == "etcd" else "9464"
        job["static_configs"] = [{"targets": [at(name, port) for name in containers[job["job_name"]]]}]
    (mounted / "compose.yml").write_text(yaml.safe_dump(config))
    (path,) = [path for path, of in mounts(service).items() if of == PROMETHEUS]
    words = [word.replace(f"={path}/", f"={mounted}/") for word in service["command"]]
    words = [word.replace("=/prometheus", f"={data}") for word in words]
    server = Prometheus(at("prometheus", "9090"))
    argv = ("prometheus", *words, f"--web.listen-address={server.address}")
    spec = ChildSpec("prometheus", argv, compose.directory / "prometheus.log", says_ready=False)
    await compose.start(Child(spec))
    while not await server.serves():
        await asyncio.sleep(0.1)
    await compose.healthy("prometheus", "prometheus")
    count = sum(map(len, containers.values()))
    while [sample["value"][1] for sample in await server.query("sum(up)")] != [str(count)]:
        await asyncio.sleep(0.2)  # it scrapes when it likes; the test's timeout bounds it
    assert {rule["health"] for rule in await server.rules()} <= {"ok", "unknown"}, "unknown: not yet"


def tools() -> list[str]:
    """What has to be on a machine for every command and healthcheck to be run there. etcd itself always is."""
    checks = [service["healthcheck"]["test"][1] for service in services().values() if "test" in service["healthcheck"]]
    servers = {"gateway": "haproxy"}
    others = [servers.get(name, name) for name in services() if name not in ours() and name not in etcds()]
    return sorted({*checks, *others} - {"seonchak"})


@pytest.mark.parametrize("tool", tools())
def test_nothing_was_left_out(tool: str) -> None:
    """Of what the test above runs if it is here."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: what docker-compose.yml runs by it was not tried")
