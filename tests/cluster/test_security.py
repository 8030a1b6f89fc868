"""A whole cluster with TLS and keys: who gets in, who does not, what a revocation and new certificates change, and that
no secret is written down anywhere."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cluster.attach import Expectation, attach
from cluster.kv import Get, prefix_end
from cluster.records import Keyspace
from cluster.tls import node_channel
from ops.certs import make_certs
from ops.credentials import Credentials
from ops.errors import of_call
from ops.etcd_client import etcd_client
from ops.keys import revoke_key
from ops.layout import certs_dir
from ops.local import LocalCluster, LocalSpec
from proto import coupon_pb2 as pb
from proto import node_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from proto.node_pb2_grpc import NodeServiceStub
from tests.cluster.support import run
from tests.support.certs import certs_in

pytestmark = pytest.mark.cluster


@dataclass
class Place:
    cluster: LocalCluster
    ca: bytes
    said: list[str] = field(default_factory=list)
    """Everything that a caller or an operator was told."""
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.cluster.spec.data_dir

    async def command(self, *arguments: str) -> Any:
        """A seonchak command, with --json."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ops", *arguments, "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        self.said.append(err.decode())
        assert process.returncode == 0, err.decode()
        return json.loads(out)

    async def key(self, *roles: str) -> tuple[str, Credentials]:
        flags = [flag for role in roles for flag in ("--role", role)]
        made = await self.command("key", "create", *flags, "--data-dir", str(self.data_dir))
        self.secrets[f"key {made['id']}"] = made["key"][-24:]
        return made["id"], Credentials(self.ca, made["key"])

    async def call(
        self, method: str, request: object, who: Credentials, channel: grpc.aio.Channel | None = None
    ) -> Any:
        """On a connection of its own, unless told otherwise. Raises grpc.aio.AioRpcError."""
        if channel is not None:
            return await self._call(channel, method, request, who)
        async with self.channel(who) as own:
            return await self._call(own, method, request, who)

    async def _call(self, channel: grpc.aio.Channel, method: str, request: object, who: Credentials) -> Any:
        try:
            stub = getattr(CouponServiceStub(channel), method)
            return await stub(request, timeout=10, metadata=who.metadata)
        except grpc.aio.AioRpcError as error:
            self.said.append(f"{error!r} {of_call(error)}")
            raise

    def channel(self, who: Credentials) -> grpc.aio.Channel:
        return who.aio_channel(self.cluster.router, [("grpc.use_local_subchannel_pool", 1)])

    async def refusal(self, method: str, request: object, who: Credentials) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.call(method, request, who)
        return of_call(error.value).reason

    async def until(self, reason: str, request: pb.IssueCouponRequest, who: Credentials) -> None:
        """Ask again until this is the answer; "" is a coupon. The test's own timeout bounds it."""
        async with self.channel(who) as channel:
            while True:
                try:
                    await self.call("IssueCoupon", request, who, channel)
                    heard = ""
                except grpc.aio.AioRpcError as error:
                    heard = of_call(error).reason
                if heard == reason:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def secured(data_dir: Path, server: str) -> AsyncIterator[Place]:
    environment = {"SEONCHAK_AUTH": "on", "SEONCHAK_KEY_CACHE_MAX_AGE_S": "2", "SEONCHAK_SERVER": server}
    spec = LocalSpec(data_dir, nodes=2, shards=4, tls=True, restart=False, router_env=environment)
    async with LocalCluster(spec) as cluster:
        yield Place(cluster, read(certs_dir(data_dir) / "ca.crt"))


def read(path: Path) -> bytes:
    return path.read_bytes()


def issue(user: str) -> pb.IssueCouponRequest:
    return pb.IssueCouponRequest(campaign_id="c", user_id=user)


@pytest.mark.parametrize("server", ["http2", "grpcio"])
def test_tls_and_keys(tmp_path: Path, server: str) -> None:
    async def test() -> None:
        data_dir = tmp_path / "data"
        async with secured(data_dir, server) as here:
            await who_gets_in(here, certs_in(tmp_path / "others"))
            await nodes_choose_their_callers(here)
            await new_certificates(here)
            await revocation_and_open_streams(here, server)
            await revocation_and_etcd(here)
            await collect_secrets(here)
            await here.command("drain", "node-1", "--data-dir", str(data_dir))
        check_audit(here, (data_dir / "logs" / "router-0.log").read_text())
        check_drain((data_dir / "logs" / "node-1.log").read_text())
        check_nothing_is_written(here)

    run(test)


async def who_gets_in(here: Place, others: Path) -> None:
    """Create, issue, get, each with its key; without one, with the wrong one, with another CA: refused."""
    _, admin = await here.key("admin")
    _, issuer = await here.key("issue")
    create = pb.CreateCampaignRequest(campaign_id="c", campaign=pb.Campaign(name="열쇠있는곳", total=100))
    await here.call("CreateCampaign", create, admin)
    coupon = (await here.call("IssueCoupon", issue("u"), issuer)).coupon
    assert (await here.call("GetCoupon", pb.GetCouponRequest(code=coupon.code), issuer)).coupons[0] == coupon
    page = await here.call("GetCampaign", pb.GetCampaignRequest(campaign_id="c"), admin)
    assert list(page.coupons) == [coupon]
    assert await here.refusal("IssueCoupon", issue("v"), admin) == "ROLE_MISSING"
    pause = pb.PauseCampaignRequest(campaign_id="c", request_id="p")
    assert await here.refusal("PauseCampaign", pause, issuer) == "ROLE_MISSING"
    assert await here.refusal("IssueCoupon", issue("v"), Credentials(here.ca)) == "KEY_INVALID"
    wrong = replace(issuer, api_key=issuer.api_key[:-1] + ("A" if issuer.api_key[-1] != "A" else "B"))
    assert await here.refusal("IssueCoupon", issue("v"), wrong) == "KEY_INVALID"
    stranger = replace(issuer, ca=read(others / "ca.crt"))
    assert await here.refusal("IssueCoupon", issue("v"), stranger) == "UNAVAILABLE"
    assert await here.refusal("IssueCoupon", issue("v"), replace(issuer, ca=None)) == "UNAVAILABLE"
    status = await here.command("status", "--data-dir", str(here.data_dir))
    assert all(not node["error"] for node in status["nodes"])


async def nodes_choose_their_callers(here: Place) -> None:
    """Without a certificate, or as somebody else than a router, nobody issues at a node behind the routers' backs."""
    address = here.cluster.layout.nodes[0].address
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(here.ca)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest(), timeout=10)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    async with node_channel(address, here.cluster.operator) as channel:
        await NodeServiceStub(channel).GetStatus(node_pb2.GetStatusRequest(), timeout=10)
        call = NodeServiceStub(channel).Exchange()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call.read()
        assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def new_certificates(here: Place) -> None:
    """Made anew under everybody's feet: connections that are open go on, later ones use the new ones, and a node that
    is started again is found and believed."""
    _, issuer = await here.key("issue")
    certs = certs_dir(here.data_dir)
    before = {name: read(certs / f"{name}.key") for name in ("router", "node", "etcd", "operator")}
    async with here.channel(issuer) as open_before:
        await here.call("IssueCoupon", issue("before"), issuer, open_before)
        make_certs(certs)
        await here.call("IssueCoupon", issue("between"), issuer, open_before)
        await here.call("IssueCoupon", issue("after"), issuer)
        await here.cluster.stop_node(0)
        await here.cluster.start_node(0)
        await here.cluster.stop_node(1)
        await here.call("IssueCoupon", issue("on the new node"), issuer, open_before)
        await here.cluster.start_node(1)
    for name, key in before.items():
        here.secrets[f"old {name}.key"] = key.decode().splitlines()[1]


async def revocation_and_open_streams(here: Place, server: str) -> None:
    """A watch that hears nothing, and a stream of coupons on which nothing is asked, end because their key is revoked:
    nothing else happens. How soon is printed; the bound is one that a busy machine keeps."""
    key_id, holder = await here.key("read", "issue")
    loop = asyncio.get_running_loop()
    async with here.channel(holder) as channel:
        stub = CouponServiceStub(channel)
        watch = stub.WatchCampaign(pb.WatchCampaignRequest(campaign_id="c"), metadata=holder.metadata)
        bulk = stub.IssueCoupons(metadata=holder.metadata)
        await bulk.write(pb.IssueCouponsRequest(items=[pb.IssueCouponsRequest.Item(index=1, request=issue("bulk"))]))
        assert (await bulk.read()).results[0].HasField("response")
        while (await watch.read()).campaign.issued < (await count(here, holder)):
            pass  # what had happened before
        async with etcd_client(here.cluster.layout.etcd_endpoints, here.cluster.operator) as etcd:
            assert await revoke_key(etcd, Keyspace(), key_id)
        written_s = loop.time()
        for name, stream in (("watch", watch), ("bulk", bulk)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream.read()
            took_s = loop.time() - written_s
            assert of_call(error.value).reason == "KEY_INVALID"
            sys.stdout.write(f"{server}: an open {name} ended {took_s * 1000:.1f} ms after its key was revoked\n")
            assert took_s < 5.0


async def count(here: Place, who: Credentials) -> int:
    page = await here.call("GetCampaign", pb.GetCampaignRequest(campaign_id="c"), who)
    issued: int = page.campaign.issued
    return issued


async def revocation_and_etcd(here: Place) -> None:
    """A revoked key is refused on the connection that it is used on. A router that is cut off from etcd refuses every
    key after a while, and takes them again when it is not."""
    key_id, revoked = await here.key("issue")
    _, issuer = await here.key("issue")
    async with here.channel(revoked) as channel:
        await here.call("IssueCoupon", issue("r1"), revoked, channel)
        await here.command("key", "revoke", key_id, "--data-dir", str(here.data_dir))
        await here.until("KEY_INVALID", issue("r2"), revoked)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await here.call("IssueCoupon", issue("r1"), revoked, channel)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    listed = await here.command("key", "list", "--data-dir", str(here.data_dir))
    assert key_id not in [key["id"] for key in listed]
    await here.call("IssueCoupon", issue("e1"), issuer)
    here.cluster.etcds[0].freeze()
    try:
        await here.until("KEYS_UNKNOWN", issue("e1"), issuer)
    finally:
        here.cluster.etcds[0].thaw()
    await here.until("", issue("e1"), issuer)


async def collect_secrets(here: Place) -> None:
    keys = Keyspace()
    async with etcd_client(here.cluster.layout.etcd_endpoints, here.cluster.operator) as etcd:
        await attach(etcd, keys, Expectation())
        found = await etcd.get(Get(keys.code_keys, prefix_end(keys.code_keys)))
    for kv in found.kvs:
        here.secrets[kv.key] = kv.value.decode()
    for path in certs_dir(here.data_dir).glob("*.key"):
        here.secrets[path.name] = read(path).decode().splitlines()[1]


def check_audit(here: Place, log: str) -> None:
    """Every administrative call, and who tried one without the right to."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    audited = [(line["what"], line["answer"]) for line in lines if line["event"] == "audit"]
    assert ("CreateCampaign", "OK") in audited
    assert ("PauseCampaign", "ROLE_MISSING") in audited
    by_command = [json.loads(line) for text in here.said for line in text.splitlines() if '"audit"' in line]
    assert {(line["what"], line["answer"]) for line in by_command} == {
        (what, answer) for what in ("CreateKey", "RevokeKey", "Drain") for answer in ("BEGUN", "OK")
    }


def check_drain(log: str) -> None:
    """A node says whose certificate had it drained."""
    lines = [json.loads(line) for line in log.splitlines() if '"audit"' in line]
    assert [(line["who"], line["what"], line["answer"]) for line in lines] == [
        ("seonchak://operator/operator", "Drain", "BEGUN"),
        ("seonchak://operator/operator", "Drain", "OK"),
    ]
    assert lines[0]["act"] == lines[1]["act"]


def check_nothing_is_written(here: Place) -> None:
    """No secret in any process's log, nor in anything that anybody was told. The check knows one when it sees it."""
    texts = {path.name: path.read_text(errors="replace") for path in (here.data_dir / "logs").iterdir()}
    texts["what callers were told"] = "\n".join(here.said)
    texts["cluster.json"] = (here.data_dir / "cluster.json").read_text()
    assert len(here.secrets) > 10
    assert all(len(secret) >= 24 for secret in here.secrets.values())
    assert all(text for name, text in texts.items() if name.startswith(("router", "node")))
    found = [(name, where) for name, secret in here.secrets.items() for where, text in texts.items() if secret in text]
    assert found == []
