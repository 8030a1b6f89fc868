"""Who may call what, on both servers: keys, roles, revocation, a router that has lost etcd, limits, the audit log."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from cluster.audit_log import AuditLog
from cluster.health import Health
from cluster.keys import KeyRecord, KeyRole, ShownKey, make_key
from cluster.kv import prefix_end
from proto import coupon_pb2 as pb
from router.access import OPEN, ROLES, Access
from router.api import methods
from router.config import RouterSettings
from router.limits import Rate
from tests.router.fake_node import issued, running_node
from tests.router.rig import KEYS, Details, FedWatches, Rig, listening, rig, run, served

pytestmark = pytest.mark.usefixtures("on_every_server")

ISSUE = "/coupon.v1.CouponService/IssueCoupon"
ISSUES = "/coupon.v1.CouponService/IssueCoupons"
CREATE = "/coupon.v1.CouponService/CreateCampaign"
WATCH = "/coupon.v1.CouponService/WatchCampaign"
CHECK = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
COUPON = pb.IssueCouponRequest(campaign_id="c", user_id="u")


class FedEtcd(FedWatches):
    """Hears from etcd until told otherwise."""

    lost_for_s = 0.0

    @property
    def proved_s(self) -> float:
        return asyncio.get_running_loop().time() - self.lost_for_s


@dataclass
class Place:
    """A router that asks for keys."""

    address: str
    router: Rig
    etcd: FedEtcd
    access: Access
    log: io.StringIO
    keys: dict[str, ShownKey] = field(default_factory=dict)
    channel: grpc.aio.Channel = field(init=False)

    async def make(self, *roles: KeyRole) -> ShownKey:
        key, record = make_key(frozenset(roles), "")
        await self.known(lambda: self.etcd.put({KEYS.api_key(key.id): record.encode()}))
        return key

    async def revoke(self, key: ShownKey) -> None:
        await self.known(lambda: self.etcd.delete(KEYS.api_key(key.id)))

    async def known(self, change: object) -> None:
        """Make a change, and wait until the router has heard of it."""
        before = self.access.generation
        assert callable(change)
        change()
        while self.access.generation == before:
            await asyncio.sleep(0)

    def audited(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@asynccontextmanager
async def place(rate: Rate | None = None) -> AsyncIterator[Place]:
    etcd, log = FedEtcd((KEYS.api_keys, prefix_end(KEYS.api_keys))), io.StringIO()
    audit = AuditLog(log)
    access = Access(etcd, KEYS, age_s_max=5.0, clock=asyncio.get_running_loop().time, audit=audit, rate=rate)
    following = asyncio.create_task(access.run())
    await access.ready.wait()
    async with running_node() as node, rig() as router:
        node.script = issued
        router.own(node)
        async with listening(router, access=access, audit=audit) as (_, address):
            here = Place(address, router, etcd, access, log)
            async with grpc.aio.insecure_channel(address) as here.channel:
                yield here
    following.cancel()


def bearer(key: ShownKey | str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key.token() if isinstance(key, ShownKey) else key}"),)


async def call(here: Place, path: str, request: Message, key: ShownKey | str | None) -> bytes:
    metadata = bearer(key) if key is not None else ()
    answer: bytes = await here.channel.unary_unary(path, None, None)(
        request.SerializeToString(), timeout=5, metadata=metadata
    )
    return answer


def opened(here: Place, path: str, key: ShownKey) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
    stream: grpc.aio.StreamStreamCall[bytes, bytes] = here.channel.stream_stream(path, None, None)(
        None, metadata=bearer(key), timeout=5
    )
    return stream


async def drained(
    stream: "grpc.aio.StreamStreamCall[bytes, bytes] | grpc.aio.UnaryStreamCall[bytes, bytes]",
) -> list[bytes]:
    """All that comes until it ends. Raises AioRpcError."""
    messages: list[bytes] = []
    while (message := await stream.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
        messages.append(cast(bytes, message))
    return messages


async def refused(here: Place, path: str, request: Message, key: ShownKey | str | None) -> Details:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(here, path, request, key)
    return Details.of_rpc(error.value)


def test_every_method_has_its_roles() -> None:
    """A method that is added has to say who may call it; one that does not is nobody's."""

    async def test() -> None:
        async with rig() as router:
            assert ROLES.keys() | OPEN == methods(router.service, Health(), AuditLog()).keys()
            assert not ROLES.keys() & OPEN

    run(test())


def test_no_key_or_a_wrong_one() -> None:
    """Every call of a repeated header block is refused, and none reaches a node; health needs no key."""

    async def test() -> None:
        async with place() as here:
            key = await here.make(KeyRole.ISSUE)
            other, _ = make_key(frozenset(KeyRole), "")
            wrong = (None, "", "x", other, f"sck_{key.id}_{other.secret}", f"{key.token()}x", "sck_" + "x" * 3000)
            for shown in wrong:
                for _ in range(3):
                    details = await refused(here, ISSUE, COUPON, shown)
                    assert details.reason == "KEY_INVALID"
            metadata = (("authorization", f"Basic {key.token()}"),)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await here.channel.unary_unary(ISSUE, None, None)(COUPON.SerializeToString(), metadata=metadata)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            await call(here, CHECK, health_pb2.HealthCheckRequest(), None)
            await call(here, ISSUE, COUPON, key)

    run(test())


def test_roles() -> None:
    """Each role does what it is for: whoever lacks it hears so, whoever has it hears something else."""

    async def test() -> None:
        async with place() as here:
            for role in KeyRole:
                key = await here.make(role)
                for path, roles in ROLES.items():
                    reason = ""
                    try:
                        await drained(
                            here.channel.unary_stream(path, None, None)(b"\xff", metadata=bearer(key), timeout=5)
                        )
                    except grpc.aio.AioRpcError as error:
                        reason = Details.of_rpc(error).reason if error.trailing_metadata() else ""
                    assert (reason == "ROLE_MISSING") == (role not in roles), (role, path, reason)

    run(test())


def test_a_revoked_key() -> None:
    """On an open connection, with the very header block that was good before: unary calls, streams, watches."""

    async def test() -> None:
        async with place() as here:
            key, reader = await here.make(KeyRole.ISSUE), await here.make(KeyRole.READ)
            await call(here, ISSUE, COUPON, key)
            stream = opened(here, ISSUES, key)
            batch = pb.IssueCouponsRequest()
            batch.items.add(index=1, request=COUPON)
            await stream.write(batch.SerializeToString())
            assert (
                pb.IssueCouponsResponse.FromString(cast(bytes, await stream.read())).results[0].response.coupon.user_id
                == "u"
            )
            reflect = opened(here, REFLECTION, key)
            asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
            await reflect.write(asked)
            await reflect.read()
            await here.revoke(key)
            assert (await refused(here, ISSUE, COUPON, key)).reason == "KEY_INVALID"
            await stream.write(batch.SerializeToString())
            await reflect.write(asked)
            for one in (stream, reflect):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await drained(one)
                assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert (await refused(here, ISSUE, COUPON, reader)).reason == "ROLE_MISSING"

    run(test())


def test_a_watch_ends_with_its_key() -> None:
    """What happens after the revocation is not told any more."""

    async def test() -> None:
        async with place() as here:
            key = await here.make(KeyRole.READ)
            async with running_node() as node:
                node.campaigns["w"] = [pb.Campaign(campaign_id="w", issued=1)]
                here.router.own(node)
                request = pb.WatchCampaignRequest(campaign_id="w")
                watch = here.channel.unary_stream(WATCH, None, None)(request.SerializeToString(), metadata=bearer(key))
                assert pb.WatchCampaignResponse.FromString(cast(bytes, await watch.read())).campaign.issued == 1
                await here.revoke(key)
                node.campaigns["w"] = [pb.Campaign(campaign_id="w", issued=2)]
                node.end_watches()
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await watch.read()
                assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED

    run(test())


def test_a_key_that_comes_later_and_one_that_cannot_be_read() -> None:
    """A header block that was refused is let in once its key is there. A broken record locks nobody else out."""

    async def test() -> None:
        async with place() as here:
            key, record = make_key(frozenset((KeyRole.ISSUE,)), "")
            assert (await refused(here, ISSUE, COUPON, key)).reason == "KEY_INVALID"
            await here.known(lambda: here.etcd.put({KEYS.api_key(key.id): record.encode(), KEYS.api_key("x"): b"{"}))
            await call(here, ISSUE, COUPON, key)
            await here.known(lambda: here.etcd.put({KEYS.api_key(key.id): b"[]"}))
            assert (await refused(here, ISSUE, COUPON, key)).reason == "KEY_INVALID"
            await here.known(lambda: here.etcd.snapshot({KEYS.api_key(key.id): record.encode()}))
            await call(here, ISSUE, COUPON, key)
            await here.known(lambda: here.etcd.snapshot({}))
            assert (await refused(here, ISSUE, COUPON, key)).reason == "KEY_INVALID"

    run(test())


def test_a_router_that_has_lost_etcd() -> None:
    """It believes what it knows for a while, then says that it does not know; and serves as soon as it hears again."""

    async def test() -> None:
        async with place() as here:
            key = await here.make(KeyRole.ISSUE)
            here.etcd.lost_for_s = 4.0
            await call(here, ISSUE, COUPON, key)
            here.etcd.lost_for_s = 6.0
            for shown in (key, None):
                details = await refused(here, ISSUE, COUPON, shown)
                assert details.reason == "KEYS_UNKNOWN"
                assert details.retry_s
            await call(here, CHECK, health_pb2.HealthCheckRequest(), None)
            here.etcd.lost_for_s = 0.0
            await call(here, ISSUE, COUPON, key)

    run(test())


def test_a_key_s_rate() -> None:
    """Calls and items of streams count, on whatever connection; another key has its own."""

    async def test() -> None:
        async with place(Rate(0.01, 4)) as here:
            key, other = await here.make(KeyRole.ISSUE), await here.make(KeyRole.ISSUE)
            await call(here, ISSUE, COUPON, key)
            stream = opened(here, ISSUES, key)
            batch = pb.IssueCouponsRequest()
            for index in range(4):
                batch.items.add(index=index, request=COUPON)
            await stream.write(batch.SerializeToString())
            await stream.done_writing()
            responses = [pb.IssueCouponsResponse.FromString(data) for data in await drained(stream)]
            results = [result for response in responses for result in response.results]
            limited = {r.index: Details.of(r.status).reason for r in results if r.HasField("status")}
            assert limited == {2: "RATE_LIMITED", 3: "RATE_LIMITED"}
            async with grpc.aio.insecure_channel(
                here.address, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as here.channel:
                details = await refused(here, ISSUE, COUPON, key)
                assert details.reason == "RATE_LIMITED"
                assert 0 < (details.retry_s or 0) <= 100
                await call(here, ISSUE, COUPON, other)

    run(test())


def test_a_user_s_rate() -> None:
    """Without any keys too: IssueCoupon and items of streams count for the user; another user has a rate of his own."""

    async def test() -> None:
        async with running_node() as node, rig(user_rate=Rate(0.01, 3)) as router, served(router) as (_, client):
            node.script = issued
            router.own(node)
            await client.unary("IssueCoupon", COUPON)
            stream = client.stream("IssueCoupons")
            batch = pb.IssueCouponsRequest()
            for index, user in enumerate(("u", "u", "u", "v")):
                batch.items.add(index=index, request=pb.IssueCouponRequest(campaign_id="c", user_id=user))
            await stream.write(batch.SerializeToString())
            await stream.done_writing()
            responses = [pb.IssueCouponsResponse.FromString(data) for data in await drained(stream)]
            results = [result for response in responses for result in response.results]
            limited = {r.index: Details.of(r.status).reason for r in results if r.HasField("status")}
            assert limited == {2: "RATE_LIMITED"}
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await client.unary("IssueCoupon", COUPON)
            details = Details.of_rpc(error.value)
            assert (details.code, details.reason) == (8, "RATE_LIMITED")
            assert 0 < (details.retry_s or 0) <= 100
            assert len(node.calls) == 4

    run(test())


def test_the_audit_log() -> None:
    """Who, what, when, answer: of what was done, of what was refused, of what was tried without the right to."""

    async def test() -> None:
        async with place() as here:
            admin, reader = await here.make(KeyRole.ADMIN), await here.make(KeyRole.READ)
            bad = pb.PauseCampaignRequest(campaign_id="x" * 9_999, request_id="r")
            assert (await refused(here, CREATE.replace("Create", "Pause"), bad, admin)).reason == "INVALID_FIELD"
            good = pb.CreateCampaignRequest(campaign_id="a", campaign=pb.Campaign(name="이름있는것", total=3))
            await call(here, CREATE, good, admin)
            await refused(here, CREATE, good, reader)
            await refused(here, CREATE, good, None)
            await call(here, CHECK, health_pb2.HealthCheckRequest(), None)
            entries = here.audited()
            assert [(e["who"], e["what"], e["answer"]) for e in entries[:3]] == [
                (admin.id, "PauseCampaign", "INVALID_FIELD"),
                (admin.id, "CreateCampaign", "OK"),
                (reader.id, "CreateCampaign", "ROLE_MISSING"),
            ]
            assert (entries[3]["who"], entries[3]["answer"]) == (entries[3]["peer"], "KEY_INVALID")
            assert len(entries) == 4
            assert entries[0]["request_id"] == "r"
            assert len(entries[0]["campaign"]) < 300
            assert all(e["timestamp"] and e["peer"].startswith("127.0.0.1:") for e in entries)
            for _ in range(300):
                await refused(here, CREATE, good, None)
            assert len(here.audited()) < 150
            assert admin.secret not in here.log.getvalue()

    run(test())


@pytest.mark.parametrize(
    ("given", "asks"),
    [
        ({}, False),
        ({"auth": "on"}, True),
        ({"listen": "0.0.0.0:1", "insecure": True}, True),
        ({"listen": "0.0.0.0:1", "insecure": True, "auth": "off"}, False),
        ({"listen": "[::1]:1"}, False),
        ({"listen": "localhost:1", "auth": "auto"}, False),
        ({"listen": "example.org:1", "insecure": True}, True),
    ],
)
def test_when_keys_are_asked_for(given: dict[str, object], asks: bool) -> None:
    assert RouterSettings.model_validate(given).asks_for_keys is asks


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"listen": "0.0.0.0:1"}, "no TLS"),
        ({"listen": "[::]:1"}, "no TLS"),
        ({"listen": "db.internal:1"}, "no TLS"),
        ({"listen": "0.0.0.0:1", "tls_ca": "a", "tls_cert": "b", "tls_key": "c", "auth": "off"}, "auth is off"),
        ({"listen": "0.0.0.0:1", "tls_ca": "a", "tls_cert": "b", "tls_key": "c", "server": "grpcio"}, "comparisons"),
        ({"tls_ca": "a"}, "together"),
        ({"public_tls_cert": "a"}, "together"),
    ],
)
def test_settings_that_are_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RouterSettings.model_validate(given)


def test_a_record_for_nobody() -> None:
    """Keys of no role at all open nothing, not even reflection."""
    _, record = make_key(frozenset((KeyRole.READ,)), "")
    assert KeyRecord.decode(record.encode().replace(b"read", b"none")).roles == frozenset()
