"""What a router counts: every request once, by what its caller was told."""

import asyncio
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.audit_log import AuditLog
from cluster.metrics import CAMPAIGNS_MAX
from cluster.types import ShardId
from cluster.watch import Changes, Snapshot
from proto import coupon_pb2 as pb
from proto import node_pb2
from router.access import Access
from router.api import SERVICE_NAME
from router.calls import Issue, PendingCall
from router.dispatch import DispatchSettings
from router.errors import ApiError
from router.metrics import RouterMetrics, RouterView, is_new
from router.service import ServiceSettings
from tests.metrics.reading import said
from tests.router.fake_node import issued, refusal, running_node
from tests.router.rig import KEYS, SHARDS, Client, Rig, rig, run, served
from tests.router.test_streams import Bulk, items


def said_of(router: Rig) -> dict[tuple[str, ...], float]:
    """By its view and by what it has counted. What was answered in a turn of the loop counts at its end."""
    assert isinstance(router.service.observer, RouterMetrics)
    return said(router.service.observer) | said(RouterView(router.dispatcher, AuditLog()))


def grants(found: dict[tuple[str, ...], float]) -> dict[str, float]:
    """By campaign."""
    return {key[1]: value for key, value in found.items() if key[0] == "router_grants_total"}


def script(call: node_pb2.Call) -> node_pb2.Reply | None:
    """By the user's name."""
    user = pb.IssueCouponRequest.FromString(call.request).user_id
    if user.startswith("late"):
        return refusal(pb.SOLD_OUT)(call)
    if user.startswith("again"):
        response = pb.IssueCouponResponse(coupon=pb.Coupon(campaign_id="c", user_id=user), already_issued=True)
        return node_pb2.Reply(call_id=call.call_id, response=response.SerializeToString())
    return issued(call)


async def issue(client: Client, user: str, campaign: str = "c") -> None:
    with pytest.raises(grpc.aio.AioRpcError) if user.startswith("late") or campaign != "c" else _nothing():
        await client.unary("IssueCoupon", pb.IssueCouponRequest(campaign_id=campaign, user_id=user))


class _nothing:  # noqa: N801  # as contextlib's
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_every_request_for_a_coupon_counts_once(on_every_server: None) -> None:
    """By what its caller was told, from which the RPCs' statuses follow; of new coupons the campaign is known."""

    async def test() -> None:
        async with running_node() as node, rig(observer=RouterMetrics()) as router, served(router) as (_, client):
            node.script = script
            router.own(node)
            for user in ("ann", "bob", "again", "late", "later", "latest"):
                await issue(client, user)
            await issue(client, "ann", campaign="No Such Id")
            found = said_of(router)
            outcomes = {key[2]: found[key] for key in found if key[:2] == ("issue_outcomes_total", "IssueCoupon")}
            assert {outcome: count for outcome, count in outcomes.items() if count} == {
                "ISSUED": 2,
                "ALREADY_ISSUED": 1,
                "SOLD_OUT": 3,
                "INVALID_FIELD": 1,
            }
            assert found["calls_total", "IssueCoupon", "OK"] == 3
            assert found["calls_total", "IssueCoupon", "FAILED_PRECONDITION"] == 3
            assert found["calls_total", "IssueCoupon", "INVALID_ARGUMENT"] == 1
            assert grants(found)["c"] == 2
            assert found["call_duration_seconds_count", "IssueCoupon"] == 6
            assert found["router_calls_in_flight",] == 0

    run(test())


def test_refusals_are_known_before_the_first() -> None:
    """As 0, for both ways to ask, and so the statuses that follow: a rate does not see a series that begins as 1."""
    found = said(RouterMetrics())
    for method in ("IssueCoupon", "IssueCoupons"):
        for outcome in ("ISSUED", "SOLD_OUT", "OVERLOADED", "NO_OWNER", "OUTCOME_UNKNOWN", "KEY_INVALID"):
            assert found["issue_outcomes_total", method, outcome] == 0
    assert found["calls_total", "IssueCoupon", "RESOURCE_EXHAUSTED"] == 0


def test_items_of_a_stream_count_as_requests_and_the_stream_as_a_call(on_every_server: None) -> None:
    """Each item once, a wrong one too; the RPC by its own status."""

    async def test() -> None:
        async with running_node() as node, rig(observer=RouterMetrics()) as router, served(router) as (_, client):
            node.script = script
            router.own(node)
            bulk = Bulk(client)
            await bulk.write(items(range(5)))
            await bulk.write(items([5], campaign="Wrong"))
            await bulk.half_close()
            assert len([result async for result in bulk.results()]) == 6
            found = said_of(router)
            assert found["issue_outcomes_total", "IssueCoupons", "ISSUED"] == 5
            assert found["issue_outcomes_total", "IssueCoupons", "INVALID_FIELD"] == 1
            assert found["calls_total", "IssueCoupons", "OK"] == 1
            assert found["item_duration_seconds_count",] == 5
            assert grants(found)["c"] == 5

    run(test())


def test_other_methods_count_by_status(on_every_server: None) -> None:
    """What was answered, what was refused by the node, and what was refused by the router."""

    async def test() -> None:
        async with running_node() as node, rig(observer=RouterMetrics()) as router, served(router) as (_, client):
            node.script = refusal(pb.CAMPAIGN_NOT_FOUND)
            router.own(node)
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary("GetCampaign", pb.GetCampaignRequest(campaign_id="c"))
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary("GetCampaign", b"\xff")
            node.script = lambda call: node_pb2.Reply(call_id=call.call_id, response=b"")
            await client.unary("GetCampaign", pb.GetCampaignRequest(campaign_id="c"))
            found = said_of(router)
            calls = {key[2]: found[key] for key in found if key[:2] == ("calls_total", "GetCampaign")}
            assert calls == {"NOT_FOUND": 1, "INVALID_ARGUMENT": 1, "OK": 1}
            assert found["call_duration_seconds_count", "GetCampaign"] == 3

    run(test())


def test_who_finds_a_crowd_is_counted() -> None:
    """OVERLOADED as the call came: it costs little, and counts."""

    async def test() -> None:
        limits = DispatchSettings(node_calls_max=1)
        settings = ServiceSettings(default_timeout_s=0.2)
        async with (
            running_node() as node,
            rig(observer=RouterMetrics(), dispatch=limits, service=settings) as router,
            served(router) as (_, client),
        ):
            router.own(node)
            await issue(client, "ann")  # the router learns where the campaign is
            node.script = lambda call: None
            waiting = asyncio.create_task(router.issue("bob", timeout_s=0.5))
            await node.came(2)
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary("IssueCoupon", pb.IssueCouponRequest(campaign_id="c", user_id="eve"))
            with pytest.raises(ApiError):
                await waiting
            found = said_of(router)
            assert found["issue_outcomes_total", "IssueCoupon", "OVERLOADED"] == 1
            assert found["calls_total", "IssueCoupon", "RESOURCE_EXHAUSTED"] == 1
            assert found["issue_outcomes_total", "IssueCoupon", "OUTCOME_UNKNOWN"] == 1

    run(test())


def test_campaigns_are_bounded() -> None:
    """However many there are, the last ones with a grant have a series; of one that was forgotten it begins anew."""
    metrics = RouterMetrics()

    def grant(number: int) -> None:
        call = PendingCall(1, ShardId(0), node_pb2.ISSUE_COUPON, b"", 0.0, lambda result: None)
        call.issue, call.campaign_id, call.result = Issue.UNARY, f"c{number}", b"\x0a\x00"
        metrics.ended([call])

    for number in range(3 * CAMPAIGNS_MAX):
        grant(number)
    assert list(grants(said(metrics))) == [f"c{number}" for number in range(2 * CAMPAIGNS_MAX, 3 * CAMPAIGNS_MAX)]
    grant(0)
    assert grants(said(metrics))["c0"] == 1


def test_each_run_of_a_router_has_series_of_its_own() -> None:
    """So that what was handed out before a restart still counts, though the counter begins anew."""
    runs = []
    for _ in range(2):
        metrics = RouterMetrics()
        call = PendingCall(1, ShardId(0), node_pb2.ISSUE_COUPON, b"", 0.0, lambda result: None)
        call.issue, call.campaign_id, call.result = Issue.UNARY, "c", b"\x0a\x00"
        metrics.ended([call])
        (run_of,) = [key[2] for key in said(metrics) if key[0] == "router_grants_total"]
        assert [key[2] for key in said(metrics) if key[0] == "router_grants_total"] == [run_of]
        runs.append(run_of)
    assert len(set(runs)) == 2


def test_shards_without_owner_and_without_link() -> None:
    """A shard that nobody owns, and one whose owner is not reached, are told apart."""

    async def test() -> None:
        async with running_node() as node, rig(observer=RouterMetrics()) as router:
            found = said_of(router)
            assert found["router_shards_without_owner",] == found["router_shards_unreached",] == SHARDS
            router.own(node)
            await router.link_up("c")
            router.disown("c")
            while not router.dispatcher.unowned():
                await asyncio.sleep(0.005)
            found = said_of(router)
            assert found["router_shards_without_owner",] == found["router_shards_unreached",] == 1
            assert found["router_links_up",] == 1
            node.break_stream()
            while said_of(router)["router_links_up",]:
                await asyncio.sleep(0.005)
            found = said_of(router)
            assert (found["router_shards_without_owner",], found["router_shards_unreached",]) == (1, SHARDS)

    run(test())


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, 2**31 - 1), st.integers(0, 10**12), st.booleans())
def test_a_new_coupon_is_told_from_a_repetition(
    user: str, request_id: str, sequence: int, us: int, already: bool
) -> None:
    """Whatever the coupon's bytes are, its last ones too: by the bytes of the response alone."""
    coupon = pb.Coupon(code="봄1가나다라마바", campaign_id="c", user_id=user, sequence=sequence, request_id=request_id)
    coupon.issue_time.FromMicroseconds(us)
    response = pb.IssueCouponResponse(coupon=coupon, already_issued=already)
    assert is_new(response.SerializeToString()) is not already


def test_what_looks_like_a_repetition_at_its_end_is_none() -> None:
    """A request_id that ends with the bytes of `already_issued`."""
    coupon = pb.Coupon(request_id="\x10\x01")
    assert is_new(pb.IssueCouponResponse(coupon=coupon).SerializeToString())
    assert not is_new(pb.IssueCouponResponse(coupon=coupon, already_issued=True).SerializeToString())
    metrics = RouterMetrics()
    calls = []
    for already_issued in (False, True):
        call = PendingCall(1, ShardId(0), node_pb2.ISSUE_COUPON, b"", 0.0, lambda result: None)
        response = pb.IssueCouponResponse(coupon=coupon, already_issued=already_issued)
        call.issue, call.campaign_id, call.result = Issue.UNARY, "c", response.SerializeToString()
        calls.append(call)
    metrics.ended(calls)
    found = said(metrics)
    assert found["issue_outcomes_total", "IssueCoupon", "ISSUED"] == grants(found)["c"] == 1
    assert found["issue_outcomes_total", "IssueCoupon", "ALREADY_ISSUED"] == 1


def test_administrative_calls_count_too(on_every_server: None) -> None:
    """Like any other, by status and by how long they took."""

    async def test() -> None:
        async with running_node() as node, rig(observer=RouterMetrics()) as router, served(router) as (_, client):
            node.script = lambda call: node_pb2.Reply(call_id=call.call_id, response=b"")
            router.own(node)
            await client.unary("PauseCampaign", pb.PauseCampaignRequest(campaign_id="c", request_id="r"))
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary("PauseCampaign", b"")
            found = said_of(router)
            assert found["calls_total", "PauseCampaign", "OK"] == 1
            assert found["calls_total", "PauseCampaign", "INVALID_ARGUMENT"] == 1
            assert found["call_duration_seconds_count", "PauseCampaign"] == 2

    run(test())


def test_who_is_turned_away_counts_too() -> None:
    """For want of a key: by status, and where coupons were asked for by the reason as well."""

    async def test() -> None:
        metrics = RouterMetrics()
        loop = asyncio.get_running_loop()
        etcd, audit = _Etcd(loop.time() + 3_600), AuditLog(io.BytesIO().write)
        access = Access(etcd, KEYS, age_s_max=5.0, clock=loop.time, audit=audit, observer=metrics)
        for method in ("IssueCoupon", "IssueCoupon", "CreateCampaign"):
            permit = access.permit(f"/{SERVICE_NAME}/{method}", b"", "10.0.0.1:1")
            assert permit is not None
            assert permit.admit() is not None
        found = said(metrics)
        assert found["calls_total", "IssueCoupon", "UNAUTHENTICATED"] == 2
        assert found["issue_outcomes_total", "IssueCoupon", "KEY_INVALID"] == 2
        assert found["calls_total", "CreateCampaign", "UNAUTHENTICATED"] == 1

    run(test())


@dataclass
class _Etcd:
    proved_s: float

    def watch(self, start: str, end: str) -> AsyncGenerator[Snapshot | Changes, None]:
        raise AssertionError("nobody follows the keys here")
