"""The API over real grpc: statuses with details, garbage, deadlines, health, reflection, stopping."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from proto import coupon_pb2 as pb
from proto import coupon_pb2_grpc
from router.api import SERVICE_NAME
from router.errors import CODES
from router.server import ServerSettings
from tests.router.fake_node import issued, refusal, running_node, silent
from tests.router.rig import Client, Details, rig, run, served

pytestmark = pytest.mark.usefixtures("on_every_server")

ISSUE = pb.IssueCouponRequest(campaign_id="c", user_id="u")
UNARY = [
    "CreateCampaign",
    "GetCampaign",
    "UpdateCampaign",
    "IssueCoupon",
    "GetCoupon",
    "PauseCampaign",
    "ResumeCampaign",
    "CancelCampaign",
]

REFUSALS = [number for number in range(pb.NOT_STARTED, pb.REQUEST_ID_REUSED + 1) if number != pb.INVALID_FIELD]
REFUSALS.append(pb.CORRUPT_JOURNAL)
"""What a node may refuse with. INVALID_FIELD has more to it, and a test of its own."""


async def failure(client: Client, method: str, data: bytes, timeout_s: float | None = 5.0) -> Details:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.unary(method, data, timeout_s)
    return Details.of_rpc(caught.value)


def test_a_generated_client_gets_a_coupon() -> None:
    """The whole way with the generated stub: what anybody's client does."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            router.own(node)
            response = await coupon_pb2_grpc.CouponServiceStub(client.channel).IssueCoupon(ISSUE)
            assert response.coupon.user_id == "u"

    run(test())


@pytest.mark.parametrize("reason", REFUSALS, ids=pb.ErrorReason.Name)
def test_every_refusal_of_a_node_arrives_with_its_status(reason: pb.ErrorReason) -> None:
    """The reason's status, ErrorInfo with reason and metadata, and the node's words."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            node.script = refusal(reason, "아직 아닙니다", start_time="2026-01-01T00:00:00Z")
            router.own(node)
            details = await failure(client, "IssueCoupon", ISSUE.SerializeToString())
            metadata = {"start_time": "2026-01-01T00:00:00Z"}
            assert details == Details(CODES[reason], pb.ErrorReason.Name(reason), metadata)

    run(test())


def test_a_field_that_the_node_refuses_is_named() -> None:
    """INVALID_FIELD of the ledger (the total lowered, say) is a BadRequest too."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            node.script = refusal(pb.INVALID_FIELD, "never falls", field="campaign.total")
            router.own(node)
            details = await failure(client, "IssueCoupon", ISSUE.SerializeToString())
            assert details == Details(code_pb2.INVALID_ARGUMENT, "INVALID_FIELD", {}, ("campaign.total",))

    run(test())


@pytest.mark.parametrize("method", UNARY)
@pytest.mark.parametrize("data", [b"\xff" * 30, b"", b"\x0a\x02\xff\xfe", bytes((1 << 20) + 1)], ids=len)
def test_garbage_is_an_invalid_argument(method: str, data: bytes) -> None:
    """Bytes that are no message, no fields at all, invalid UTF-8, over 1 MiB: INVALID_ARGUMENT with BadRequest, no node
    is asked."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            router.own(node)
            details = await failure(client, method, data)
            assert (details.code, details.reason) == (code_pb2.INVALID_ARGUMENT, "INVALID_FIELD")
            assert details.fields
            assert not node.calls

    run(test())


@pytest.mark.parametrize("method", ["ListCampaigns", "WatchCampaign", "IssueCoupons"])
def test_garbage_on_the_other_methods(method: str) -> None:
    """The same for a listing and for streams."""

    async def test() -> None:
        async with rig() as router, served(router) as (_, client):
            for data in (b"\xff" * 30, bytes((1 << 20) + 1)):
                call = client.channel.stream_stream(f"/{SERVICE_NAME}/{method}", None, None)(iter([data]))
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()
                assert Details.of_rpc(caught.value).reason == "INVALID_FIELD"

    run(test())


def test_an_unknown_method_is_unimplemented() -> None:
    """grpc's own answer."""

    async def test() -> None:
        async with rig() as router, served(router) as (_, client):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.unary("Nonsense", b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED

    run(test())


@pytest.mark.parametrize(("owned", "reason"), [(True, "OUTCOME_UNKNOWN"), (False, "NO_OWNER")])
def test_the_answer_comes_before_the_clients_deadline(owned: bool, reason: str) -> None:
    """A client whose time runs out gets reason and details, not grpc's bare DEADLINE_EXCEEDED."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router) as (_, client):
            node.script = silent
            if owned:
                router.own(node)
                await router.link_up("c")
            details = await failure(client, "IssueCoupon", ISSUE.SerializeToString(), timeout_s=0.4)
            assert details.reason == reason
            assert (details.retry_s is not None) == (not owned)

    run(test())


def test_a_bug_is_internal_and_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected is INTERNAL without a word of the exception; the router goes on."""

    async def test() -> None:
        async with rig() as router:

            async def broken(*_: object) -> None:
                raise ZeroDivisionError("secret")

            monkeypatch.setattr(router.service, "get_coupon", broken)
            async with served(router) as (_, client):
                request = pb.GetCouponRequest(code="가")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await client.unary("GetCoupon", request)
                assert caught.value.code() == grpc.StatusCode.INTERNAL
                assert "secret" not in str(caught.value)

    run(test())


def test_health_and_reflection_answer() -> None:
    """Standard health for the whole server and for the service, and reflection that knows the API."""

    async def test() -> None:
        async with rig() as router, served(router) as (_, client):
            stub = health_pb2_grpc.HealthStub(client.channel)
            for name in ("", SERVICE_NAME):
                response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert response.status == health_pb2.HealthCheckResponse.SERVING
            asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME)
            listed = reflection_pb2.ServerReflectionRequest(list_services="")
            info = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo
            answers = [answer async for answer in info(iter([asked, listed]))]
            assert b"IssueCoupon" in answers[0].file_descriptor_response.file_descriptor_proto[0]
            names = {service.name for service in answers[1].list_services_response.service}
            assert {SERVICE_NAME, "grpc.health.v1.Health"} <= names

    run(test())


def test_two_routers_do_not_share_a_port() -> None:
    """The second one is told, instead of getting every other connection."""

    async def test() -> None:
        async with rig() as router, served(router) as (server, _):
            address = server.listen("127.0.0.1:0")
            async with rig() as other, served(other) as (second, _):
                with pytest.raises(RuntimeError):
                    second.listen(address)

    run(test())


def test_stopping_answers_what_it_has() -> None:
    """Health says NOT_SERVING, the call in flight gets its answer, then the server ends and a new call is
    UNAVAILABLE."""

    async def test() -> None:
        async with running_node() as node, rig() as router, served(router, ServerSettings()) as (server, client):
            node.script = silent
            router.own(node)
            call = asyncio.create_task(client.unary("IssueCoupon", ISSUE))
            await node.came(1)
            health = health_pb2_grpc.HealthStub(client.channel)
            watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopping = asyncio.create_task(server.stop())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not stopping.done()
            node.say(issued(node.calls[0]))
            assert pb.IssueCouponResponse.FromString(await call).coupon.user_id == "u"
            await stopping
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.unary("IssueCoupon", ISSUE)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    run(test())


def test_stopping_does_not_wait_for_ever() -> None:
    """A call that nobody answers holds a stopping server for drain_s_max and no longer."""

    async def test() -> None:
        settings = ServerSettings(drain_s_max=0.1)
        async with running_node() as node, rig() as router, served(router, settings) as (server, client):
            node.script = silent
            router.own(node)
            call = asyncio.create_task(client.unary("IssueCoupon", ISSUE))
            await node.came(1)
            await server.stop()
            with pytest.raises(grpc.aio.AioRpcError):
                await call

    run(test())
