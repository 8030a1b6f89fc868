"""What ops/kubernetes says to run, run with TLS: each pod's command, variables, certificates and probes."""

import asyncio
import json
import os
import re
import shlex
import shutil
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml

from ops.certs import make_certs
from ops.child import Child
from ops.credentials import Credentials
from ops.errors import of_call
from ops.etcd import find_etcd
from ops.ports import ReservedPorts
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.machine import Machine, ends_well, get, seonchak
from tests.cluster.support import run
from tests.ops.deployment import KUBERNETES, PROMETHEUS, of_kind

pytestmark = pytest.mark.cluster
NAMES = r"(seonchak-\w+-\d)\.seonchak-\w+"
README = (KUBERNETES / "README.md").read_text().replace("\\\n", "")
TLS = "/etc/seonchak/tls"


JOBS = {job["job_name"]: job for job in yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())["scrape_configs"]}


def kubelet() -> ssl.SSLContext:
    """It does not look at the certificate. Source: Kubernetes' documentation of HTTP probes."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Named(ssl.SSLContext):
    """Of a client that expects this name, whatever it has dialled."""

    name: str

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*args, **(kwargs | {"server_hostname": self.name}))


def scraper(certs: Path, told: dict[str, str]) -> ssl.SSLContext:
    """
    Args:
        told: a job's tls_config.
    """
    assert told["ca_file"] == f"{TLS}/ca.crt"
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certs / "ca.crt")
    context.name = told["server_name"]
    return context


class Pod:
    def __init__(self, machine: Machine, name: str, workload: dict[str, Any]) -> None:
        self._machine = machine
        self.name = name
        self._spec = workload["spec"]["template"]["spec"]
        (self._container,) = self._spec["containers"]
        self._annotations = workload["spec"]["template"]["metadata"].get("annotations", {})

    def mount(self, certs: Path) -> None:
        """Of the Secret what it asks for, and no other file."""
        own = self._machine.directory / self.name
        (own / "tls").mkdir(parents=True)
        (volume,) = self._spec["volumes"]
        for item in volume["secret"]["items"]:
            (own / "tls" / item["path"]).write_bytes((certs / item["key"]).read_bytes())

    @property
    def _volumes(self) -> dict[str, Path]:
        own = self._machine.directory / self.name
        return {TLS: own / "tls", "/var/lib/etcd": own / "etcd"}

    def _given(self) -> dict[str, str]:
        """Its variables, of which later ones may name earlier ones."""
        found: dict[str, str] = {}
        for variable in self._container.get("env", []):
            if variable.get("valueFrom", {}).get("configMapKeyRef", {}).get("optional"):
                continue  # there is none as a rule
            value = variable.get("value", self.name)  # what comes from the pod is its name
            found[variable["name"]] = self._expand(value, found)
        return found

    @staticmethod
    def _expand(text: str, variables: dict[str, str]) -> str:
        return re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], text)

    def env(self) -> dict[str, str]:
        """For a command that is run in it."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SEONCHAK_")}
        return clean | {n: self._machine.here(self.name, v, self._volumes) for n, v in self._given().items()}

    def child(self) -> Child:
        given = self._given()
        if "args" in self._container:
            argv, says_ready = seonchak(self._container["args"]), True
        else:
            argv = [str(find_etcd().path), *(self._expand(word, given) for word in self._container["command"][1:])]
            says_ready = False
        return self._machine.child(self.name, argv, given, self._volumes, says_ready=says_ready)

    async def etcdctl(self, *words: str) -> str:
        """`kubectl exec POD -- etcdctl ...`"""
        return await ends_well(["etcdctl", *(self._machine.here(self.name, word) for word in words)], self.env())

    async def run(self) -> None:
        """A Job's."""
        await ends_well(seonchak(self._container["args"]), self.env())

    async def probed(self) -> None:
        """Each probe, until it succeeds."""
        ports = {port["name"]: port["containerPort"] for port in self._container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = self._container[probe]["httpGet"]
            tls = kubelet() if asked.get("scheme") == "HTTPS" else None
            await get(self._machine.at(self.name, str(ports[asked["port"]])), asked["path"], tls)

    async def scraped(self, certs: Path) -> None:
        """As Prometheus is told to: by the pod's annotations, believing the certificate as its job says."""
        says = self._annotations
        scheme, port, path = (says[f"prometheus.io/{name}"] for name in ("scheme", "port", "path"))
        name = next(job for job in JOBS if f"seonchak-{job}-" in self.name)
        tls = scraper(certs, JOBS[name]["tls_config"]) if scheme == "https" else None
        metrics = await get(self._machine.at(self.name, port), path, tls)
        assert ("etcd_server_has_leader" if name == "etcd" else f'role="{name}"') in metrics


def pods(machine: Machine, component: str) -> Iterator[Pod]:
    (workload,) = (
        of for of in of_kind("StatefulSet", "Deployment") if of["metadata"]["name"] == f"seonchak-{component}"
    )
    return (Pod(machine, f"seonchak-{component}-{i}", workload) for i in range(workload["spec"]["replicas"]))


def test_the_commands_make_a_cluster(tmp_path: Path) -> None:
    """etcd, init, nodes and routers with nothing but their own certificates; every probe and every scrape succeeds; the
    README's commands make keys and look; a coupon is granted to who has a key, and nobody else."""

    async def main() -> None:
        (command,) = re.findall(r"^    seonchak certs (.+)$", README, re.MULTILINE)
        make_certs(tmp_path / "certs", hosts=re.findall(r"--host (\S+)", command))
        with ReservedPorts() as ports:
            machine = Machine(tmp_path, ports, NAMES)
            async with AsyncExitStack() as stack:
                for component in ("etcd", "init", "node", "router"):
                    if component == "init":
                        (job,) = of_kind("Job")
                        init = Pod(machine, "seonchak-init", job)
                        init.mount(tmp_path / "certs")
                        await init.run()
                        await init.run()  # it may run again
                        continue
                    found = list(pods(machine, component))
                    for pod in found:
                        pod.mount(tmp_path / "certs")
                        child = pod.child()
                        await child.start()
                        stack.push_async_callback(child.stop, 20)
                    await asyncio.gather(*(pod.probed() for pod in found))
                    await asyncio.gather(*(pod.scraped(tmp_path / "certs") for pod in found))
                    if component == "etcd" and shutil.which("etcdctl") is not None:
                        await found[0].etcdctl("--endpoints", "127.0.0.1:2379", "endpoint", "health")
                assert "exec --namespace seonchak deployment/seonchak-router -- seonchak status\n" in README
                status = json.loads(await ends_well(seonchak(["status", "--json"]), found[0].env()))
                assert [node["error"] for node in status["nodes"]] == [""] * 3
                keys = await create_keys(machine, tmp_path)
                await grant(machine.at(found[0].name, "50051"), (tmp_path / "certs" / "ca.crt").read_bytes(), keys)

    run(main)


async def create_keys(machine: Machine, directory: Path) -> list[str]:
    """The README's own lines: admin's and issue's key, by the operator's certificate and one member of etcd."""
    (exported,) = re.findall(r"^    export (.+)$", README, re.MULTILINE)
    env = dict(os.environ) | {
        name: str(directory / path) for name, _, path in (word.partition("=") for word in shlex.split(exported))
    }
    keys = []
    for line in re.findall(r"^    seonchak (key create .+)$", README, re.MULTILINE):
        words = [machine.here("seonchak-etcd-0", word) for word in shlex.split(line)]
        keys.append((await ends_well(seonchak(words), env)).strip())
    return keys


async def grant(router: str, ca: bytes, keys: list[str]) -> None:
    admin, issuer = (Credentials(ca, key) for key in keys)
    async with admin.aio_channel(router) as channel:
        stub = CouponServiceStub(channel)
        campaign = coupon_pb2.Campaign(name="봄날", total=50)
        create = coupon_pb2.CreateCampaignRequest(campaign_id="spring", campaign=campaign)
        request = coupon_pb2.IssueCouponRequest(campaign_id="spring", user_id="minsu")
        # A router hears of new keys by its watch.
        while await refusal(stub.CreateCampaign(create, timeout=30, metadata=admin.metadata)) == "KEY_INVALID":
            await asyncio.sleep(0.05)
        while await refusal(stub.IssueCoupon(request, timeout=30, metadata=issuer.metadata)) == "KEY_INVALID":
            await asyncio.sleep(0.05)
        again = await stub.IssueCoupon(request, timeout=30, metadata=issuer.metadata)
        assert again.coupon.sequence == 1
        assert await refusal(stub.IssueCoupon(request, timeout=30)) == "KEY_INVALID"


async def refusal(call: Any) -> str:
    """Why not; empty: it is done."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return of_call(error).reason
    return ""
