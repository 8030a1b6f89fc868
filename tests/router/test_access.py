"""Who may call what, on both servers: keys, roles, revocation, a router that has lost etcd, limits, the audit log."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
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
from proto import node_pb2
from router.access import OPEN, ROLES, Access
from router.api import methods
from router.config import RouterSettings
from router.dispatch import DispatchSettings
from router.limits import Rate
from tests.router.fake_node import FakeNode, issued, running_node, silent
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
    node: FakeNode
    etcd: FedEtcd
    access: Access
    log: io.BytesIO
    keys: dict[str, ShownKey] = field(default_factory=dict)
    channel: grpc.aio.Channel = field(init=False)

    async def make(self, *roles: KeyRole) -> ShownKey:
        key, record = make_key(frozenset(roles), "")
        await self.known(lambda: self.etcd.put({KEYS.api_key(key.id): record.encode()}))
        return key

    async def change(self, key: ShownKey, *roles: KeyRole) -> None:
        record = replace(self.access._records[key.id], roles=frozenset(roles))
        await self.known(lambda: self.etcd.put({KEYS.api_key(key.id): record.encode()}))

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
        return [json.loads(line) for line in self.log.getvalue().decode().splitlines()]


@asynccontextmanager
async def place(
    rate: Rate | None = None, *, age_s_max: float = 5.0, dispatch: DispatchSettings | None = None
) -> AsyncIterator[Place]:
    etcd, log = FedEtcd((KEYS.api_keys, prefix_end(KEYS.api_keys))), io.BytesIO()
    audit = AuditLog(log.write)
    access = Access(etcd, KEYS, age_s_max=age_s_max, clock=asyncio.get_running_loop().time, audit=audit, rate=rate)
    following = asyncio.create_task(access.run())
    await access.ready.wait()
    async with running_node() as node, rig(dispatch=dispatch) as router:
        node.script = issued
        router.own(node)
        async with listening(router, access=access, audit=audit) as (_, address):
            here = Place(address, router, node, etcd, access, log)
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
    """On an open connection, with the very header block that was good before."""

    async def test() -> None:
        async with place() as here:
            key, reader = await here.make(KeyRole.ISSUE), await here.make(KeyRole.READ)
            await call(here, ISSUE, COUPON, key)
            await here.revoke(key)
            assert (await refused(here, ISSUE, COUPON, key)).reason == "KEY_INVALID"
            assert (await refused(here, ISSUE, COUPON, reader)).reason == "ROLE_MISSING"

    run(test())


def test_a_call_whose_request_comes_after_the_revocation() -> None:
    """It had been let in by its header fields: that is not enough."""

    async def test() -> None:
        async with place() as here:
            key = await here.make(KeyRole.ISSUE)
            begun = opened(here, ISSUE, key)
            await begun.wait_for_connection()
            await call(here, CHECK, health_pb2.HealthCheckRequest(), None)  # behind it, on the same connection
            await here.revoke(key)
            await begun.write(COUPON.SerializeToString())
            await begun.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await drained(begun)
            assert Details.of_rpc(error.value).reason == "KEY_INVALID"
            assert not here.node.calls

    run(test())


def test_streams_ask_with_every_message() -> None:
    """What comes is refused, and what happens is not told, as soon as a call would be refused, though nobody has looked
    whether streams have to end."""

    async def test() -> None:
        async with place() as here:
            key = await here.make(KeyRole.ISSUE, KeyRole.READ)
            watch, bulk, reflect = await open_streams(here, key)
            here.etcd.lost_for_s = 6.0
            here.node.campaigns["c"] = [pb.Campaign(campaign_id="c", issued=2)]
            here.node.end_watches()
            batch = pb.IssueCouponsRequest(items=[pb.IssueCouponsRequest.Item(index=2, request=COUPON)])
            await bulk.write(batch.SerializeToString())
            await reflect.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
            for stream in (watch, bulk, reflect):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await stream.read()
                assert Details.of_rpc(error.value).reason == "KEYS_UNKNOWN"
            assert len(here.node.calls) == 1

    run(test())


async def open_streams(here: Place, key: ShownKey) -> "list[grpc.aio.StreamStreamCall[bytes, bytes]]":
    """One of each method, in use, and nothing happens on it."""
    here.node.campaigns["c"] = [pb.Campaign(campaign_id="c")]
    batch = pb.IssueCouponsRequest(items=[pb.IssueCouponsRequest.Item(index=1, request=COUPON)])
    said = {
        WATCH: pb.WatchCampaignRequest(campaign_id="c"),
        ISSUES: batch,
        REFLECTION: reflection_pb2.ServerReflectionRequest(list_services=""),
    }
    streams = []
    for path, request in said.items():
        stream = opened(here, path, key)
        await stream.write(request.SerializeToString())
        await stream.read()
        streams.append(stream)
    return streams


@pytest.mark.parametrize(
    ("how", "reason"), [("revoked", "KEY_INVALID"), ("less", "ROLE_MISSING"), ("silence", "KEYS_UNKNOWN")]
)
def test_streams_on_which_nothing_happens_end_too(monkeypatch: pytest.MonkeyPatch, how: str, reason: str) -> None:
    """Their key is revoked, or has lost the role, or nobody knows which keys are valid: a watch without news, an idle
    IssueCoupons, reflection. Those of another key go on unless all end."""

    async def test() -> None:
        monkeypatch.setattr("router.access._STALE_LOOK_S", 0.01)
        async with place(age_s_max=0.05) as here:
            key, other = await here.make(KeyRole.ISSUE, KeyRole.READ), await here.make(KeyRole.ISSUE, KeyRole.READ)
            streams, others = await open_streams(here, key), await open_streams(here, other)
            match how:
                case "revoked":
                    await here.revoke(key)
                case "less":
                    await here.change(key, KeyRole.ADMIN)
                    streams, others = [streams[1]], [streams[0], streams[2], *others]  # an admin may look
                case _:
                    here.etcd.lost_for_s = 60.0
                    streams, others = streams + others, []
            for stream in streams:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await drained(stream)
                assert Details.of_rpc(error.value).reason == reason
            await here.make(KeyRole.READ)
            assert not [stream for stream in others if stream.done()]
            assert len(here.access._lasting) == len(others)

    run(test())


def test_a_revoked_stream_tells_what_came_of_its_items() -> None:
    """The node has some of them: they are decided, and their coupons told. The rest was read and not begun: those are
    refused, and never reach a node. Then the stream ends."""

    async def test() -> None:
        async with place(dispatch=DispatchSettings(node_calls_max=4)) as here:
            here.node.script = silent
            key = await here.make(KeyRole.ISSUE)
            await here.router.link_up("c")
            stream = opened(here, ISSUES, key)
            batch = pb.IssueCouponsRequest()
            for index in range(6):
                batch.items.add(index=index, request=pb.IssueCouponRequest(campaign_id="c", user_id=f"u{index}"))
            await stream.write(batch.SerializeToString())
            await here.node.came(2)
            await here.revoke(key)
            results: dict[int, str] = {}

            async def heard(count: int) -> None:
                while len(results) < count:
                    for result in pb.IssueCouponsResponse.FromString(cast(bytes, await stream.read())).results:
                        coupon = result.response.coupon.user_id
                        results[result.index] = coupon or Details.of(result.status).reason

            await heard(4)
            assert results == dict.fromkeys(range(2, 6), "KEY_INVALID")
            here.node.say(*(issued(call) for call in here.node.calls))
            await heard(6)
            assert (results[0], results[1]) == ("u0", "u1")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await drained(stream)
            assert Details.of_rpc(error.value).reason == "KEY_INVALID"
            assert here.node.users == ["u0", "u1"]

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


def created(call: node_pb2.Call) -> node_pb2.Reply:
    return node_pb2.Reply(call_id=call.call_id, response=pb.Campaign(campaign_id="made").SerializeToString())


def test_the_audit_log() -> None:
    """Who, what, when, answer: of what was done, of what was refused, of what was tried without the right to."""

    async def test() -> None:
        async with place() as here:
            admin, reader = await here.make(KeyRole.ADMIN), await here.make(KeyRole.READ)
            here.node.script = created
            bad = pb.PauseCampaignRequest(campaign_id="x" * 9_999, request_id="r")
            assert (await refused(here, CREATE.replace("Create", "Pause"), bad, admin)).reason == "INVALID_FIELD"
            good = pb.CreateCampaignRequest(campaign=pb.Campaign(name="이름있는것", total=3))
            await call(here, CREATE, good, admin)
            await refused(here, CREATE, good, reader)
            await refused(here, CREATE, good, None)
            await call(here, CHECK, health_pb2.HealthCheckRequest(), None)
            entries = here.audited()
            assert [(e["who"], e["what"], e["answer"]) for e in entries[:5]] == [
                (admin.id, "PauseCampaign", "BEGUN"),
                (admin.id, "PauseCampaign", "INVALID_FIELD"),
                (admin.id, "CreateCampaign", "BEGUN"),
                (admin.id, "CreateCampaign", "OK"),
                (reader.id, "CreateCampaign", "ROLE_MISSING"),
            ]
            assert (entries[5]["who"], entries[5]["answer"]) == (entries[5]["peer"], "KEY_INVALID")
            assert len(entries) == 6
            assert entries[0]["act"] == entries[1]["act"] != entries[2]["act"] == entries[3]["act"]
            assert [e["request_id"] for e in entries[:2]] == ["r", "r"]
            assert len(entries[0]["campaign"]) < 300
            assert "campaign" not in entries[2], "it has no id yet"
            assert entries[3]["campaign"] == "made"
            assert all(e["timestamp"] and e["peer"].startswith("127.0.0.1:") for e in entries)
            for _ in range(300):
                await refused(here, CREATE, good, None)
            assert len(here.audited()) < 150
            assert admin.secret not in here.log.getvalue().decode()

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
