"""What docker-compose.yml says to run, run: each service's command, word for word, on this machine.

What a container would have of its own is put in its place: its name, its ports on its own address, its volumes.
"""

import asyncio
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
import pytest

from ops.child import Child, ChildSpec
from ops.etcd import find_etcd, is_healthy
from ops.ports import ReservedPorts
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.support import run
from tests.ops.deployment import ROOT, etcds, services

pytestmark = pytest.mark.cluster
HAPROXY = shutil.which("haproxy")


class Machine:
    """Where each container's addresses are here."""

    def __init__(self, directory: Path, ports: ReservedPorts) -> None:
        self.directory = directory
        self._ports = ports
        self._at: dict[tuple[str, str], str] = {}

    def at(self, container: str, port: str) -> str:
        """HOST:PORT here of what is PORT of the container there."""
        return self._at.setdefault((container, port), f"127.0.0.1:{self._ports.take()}")

    def here(self, container: str, word: str) -> str:
        """A word of its command: names of containers and its own addresses are replaced, and its volume's path."""
        word = re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", lambda found: self.at(container, found[1]), word)
        word = re.sub(r"(etcd-\d):(\d+)", lambda found: self.at(found[1], found[2]), word)
        return word.replace("/var/lib/etcd", str(self.directory / container))

    def child(self, container: str, argv: list[str], env: dict[str, str], *, says_ready: bool) -> Child:
        return Child(
            ChildSpec(
                container,
                tuple(self.here(container, word) for word in argv),
                self.directory / f"{container}.log",
                {name: self.here(container, value) for name, value in env.items()},
                says_ready=says_ready,
            )
        )


def seonchak(arguments: list[str]) -> list[str]:
    """The image's entry point, with these arguments."""
    return [sys.executable, "-m", "ops", *arguments]


async def ends_well(argv: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


def replicas(name: str) -> Iterator[str]:
    """Names of a service's containers."""
    return (f"{name}-{number}" for number in range(services()[name]["deploy"]["replicas"]))


def gateway_config(machine: Machine) -> Path:
    """The gateway's, with the routers' addresses in place of what Docker's DNS would say."""
    text = (ROOT / "ops/haproxy/haproxy.cfg").read_text()
    routers = [f"server {name} {machine.at(name, '50051')}" for name in replicas("router")]
    text, templates = re.subn(r"server-template .*", "\n    ".join(routers), text)
    text, binds = re.subn(r"bind :(\d+)", lambda found: f"bind {machine.at('gateway', found[1])}", text)
    assert (templates, binds) == (1, 1)
    path = machine.directory / "haproxy.cfg"
    path.write_text(text.replace("/tmp/haproxy.sock", str(machine.directory / "haproxy.sock")))
    return path


@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: the file's one address cannot be tried")
def test_the_commands_make_a_cluster(tmp_path: Path) -> None:
    """etcd, init, nodes, routers, gateway: each becomes healthy by its own healthcheck, coupons are granted through
    the one address, and go on when a router ends."""

    async def main() -> None:
        found = services()
        with ReservedPorts() as ports:
            machine = Machine(tmp_path, ports)
            async with AsyncExitStack() as stack:

                async def start(child: Child) -> Child:
                    await child.start()
                    stack.push_async_callback(child.stop, 20)
                    return child

                for name, service in etcds().items():
                    argv = [str(find_etcd().path), *service["command"][1:]]
                    await start(machine.child(name, argv, {}, says_ready=False))
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
                config = gateway_config(machine)
                await start(machine.child("gateway", [str(HAPROXY), "-f", str(config)], {}, says_ready=False))
                await grant(machine.at("gateway", "50051"), stopping)

    run(main)


async def scraped(address: str, service: str, name: str) -> None:
    """It is ready, and shows its metrics, where Prometheus and probes ask."""

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as response:
            text: str = response.read().decode()
            return text

    while True:
        try:
            assert await asyncio.to_thread(get, "/readyz") == "ok\n"
            break
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            await asyncio.sleep(0.1)  # it has just begun; the test's timeout bounds this
    metrics = await asyncio.to_thread(get, "/metrics")
    assert f'seonchak_build_info{{name="{name}",role="{service}",' in metrics


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
