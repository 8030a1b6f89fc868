"""The API's methods: what goes to which shard, and what comes of the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import chain
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from cluster.config import shard_of
from cluster.types import ShardId
from proto import coupon_pb2 as pb
from proto import node_pb2
from router.calls import answer_of
from router.errors import ApiError
from router.service import CallContext, CouponService
from router.tokens import coupons_token
from tests.router.fake_node import refusal, running_node
from tests.router.rig import CODEC, SHARDS, rig, run, within

CAMPAIGN = pb.Campaign(campaign_id="c", name="n", total=5)


def answers(message: Any) -> Callable[[node_pb2.Call], node_pb2.Reply]:
    return lambda call: node_pb2.Reply(call_id=call.call_id, response=message.SerializeToString())


@pytest.mark.parametrize(
    ("method", "request_", "number"),
    [
        ("create_campaign", pb.CreateCampaignRequest(campaign_id="c", campaign=CAMPAIGN), node_pb2.CREATE_CAMPAIGN),
        (
            "update_campaign",
            pb.UpdateCampaignRequest(campaign=CAMPAIGN, update_mask=FieldMask(paths=["total"]), request_id="r"),
            node_pb2.UPDATE_CAMPAIGN,
        ),
        ("pause_campaign", pb.PauseCampaignRequest(campaign_id="c", request_id="r"), node_pb2.PAUSE_CAMPAIGN),
        ("resume_campaign", pb.ResumeCampaignRequest(campaign_id="c", request_id="r"), node_pb2.RESUME_CAMPAIGN),
        ("cancel_campaign", pb.CancelCampaignRequest(campaign_id="c", request_id="r"), node_pb2.CANCEL_CAMPAIGN),
    ],
)
def test_administrative_calls(method: str, request_: Any, number: node_pb2.Method) -> None:
    """The request goes unchanged to the campaign's shard, and the campaign comes back; garbage goes nowhere."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = answers(CAMPAIGN)
            router.own(node)
            call: Callable[[Any, CallContext], Awaitable[pb.Campaign]] = getattr(router.service, method)
            assert await call(request_, within(5)) == CAMPAIGN
            (sent,) = node.calls
            assert (sent.method, sent.shard) == (number, shard_of("c", SHARDS))
            assert type(request_).FromString(sent.request) == request_
            with pytest.raises(ApiError) as caught:
                await call(type(request_)(), within(5))
            assert caught.value.reason == pb.INVALID_FIELD
            assert len(node.calls) == 1

    run(test())


def test_a_campaign_without_an_id_gets_one() -> None:
    """The router chooses it, before the shard is known, and another one each time."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = answers(CAMPAIGN)
            router.own(node)
            for _ in range(2):
                await router.service.create_campaign(pb.CreateCampaignRequest(campaign=CAMPAIGN), within(5))
            ids = [pb.CreateCampaignRequest.FromString(call.request).campaign_id for call in node.calls]
            assert [call.shard for call in node.calls] == [shard_of(campaign_id, SHARDS) for campaign_id in ids]
            assert len(set(ids)) == 2
            assert all(len(campaign_id) == 24 for campaign_id in ids)

    run(test())


def test_get_campaign_pages() -> None:
    """The node sees plain sequences and an explicit size; the client sees opaque tokens that lead on."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            page = pb.GetCampaignResponse(campaign=CAMPAIGN, next_page_token="1000")
            node.script = answers(page)
            router.own(node)
            first = await router.service.get_campaign(pb.GetCampaignRequest(campaign_id="c"), within(5))
            assert first.next_page_token == coupons_token("c", 1_000)
            node.script = answers(pb.GetCampaignResponse(campaign=CAMPAIGN))
            request = pb.GetCampaignRequest(campaign_id="c", page_size=7, page_token=first.next_page_token)
            second = await router.service.get_campaign(request, within(5))
            assert second.next_page_token == ""
            asked = [pb.GetCampaignRequest.FromString(call.request) for call in node.calls]
            assert [(get.page_size, get.page_token) for get in asked] == [(1_000, ""), (7, "1000")]

    run(test())


def test_a_code_leads_to_its_shard() -> None:
    """GetCoupon by code needs no campaign: the code says where; one that says nothing is NOT_FOUND without asking."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            coupons = pb.GetCouponResponse(coupons=[pb.Coupon(code="x")])
            node.script = answers(coupons)
            router.own(node)
            code = CODEC.encode("테스트", ShardId(41), 7)
            assert await router.service.get_coupon(pb.GetCouponRequest(code=code), within(5)) == coupons
            assert node.calls[-1].shard == 41
            beyond = CODEC.encode("테스트", ShardId(SHARDS), 7)
            for nobodys in (beyond, "가나다", code[:3] + "9" + code[4:]):
                with pytest.raises(ApiError) as caught:
                    await router.service.get_coupon(pb.GetCouponRequest(code=nobodys), within(5))
                assert caught.value.reason == pb.COUPON_NOT_FOUND
            assert len(node.calls) == 1
            of_user = pb.GetCouponRequest(campaign_user=pb.GetCouponRequest.CampaignUser(campaign_id="c", user_id="u"))
            await router.service.get_coupon(of_user, within(5))
            assert node.calls[-1].shard == shard_of("c", SHARDS)

    run(test())


# --- listing ----------------------------------------------------------------------------------------------------------


def shelf(contents: dict[int, list[str]], silent: frozenset[int] = frozenset()) -> Callable[..., Any]:
    """A node that holds these campaigns by shard, and pages as the node does."""

    def script(call: node_pb2.Call) -> node_pb2.Reply | None:
        assert call.method == node_pb2.LIST_CAMPAIGNS
        if call.shard in silent:
            return None
        request = pb.ListCampaignsRequest.FromString(call.request)
        rest = sorted(name for name in contents.get(call.shard, []) if name > request.page_token)
        names = rest[: request.page_size]
        response = pb.ListCampaignsResponse(
            campaigns=[pb.Campaign(campaign_id=name) for name in names],
            next_page_token=names[-1] if len(rest) > len(names) else "",
        )
        return node_pb2.Reply(call_id=call.call_id, response=response.SerializeToString())

    return script


async def walk(service: CouponService, page_size: int, timeout_s: float = 5.0) -> tuple[list[list[str]], set[str]]:
    pages, unreachable, token = [], set[str](), ""
    while True:
        request = pb.ListCampaignsRequest(page_size=page_size, page_token=token)
        response = await service.list_campaigns(request, within(timeout_s))
        pages.append([campaign.campaign_id for campaign in response.campaigns])
        unreachable |= set(response.unreachable)
        token = response.next_page_token
        if not token:
            return pages, unreachable


CONTENTS = {0: ["a", "b", "c"], 1: ["d"], 17: ["e", "f"], 40: ["g"], 63: ["h", "i"]}
EVERYTHING = list("abcdefghi")


@pytest.mark.parametrize("page_size", [1, 2, 3, 4, 5, 8, 9, 10, 1_000])
def test_listing_walks_all_shards(page_size: int) -> None:
    """Whatever the page size, all pages together are all campaigns once, by shard and id, and none is overfull."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = shelf(CONTENTS)
            router.own(node)
            pages, unreachable = await walk(router.service, page_size)
            assert [*chain(*pages)] == EVERYTHING
            assert all(len(page) <= page_size for page in pages)
            assert not unreachable

    run(test())


@pytest.mark.parametrize("page_size", [1, 4, 1_000])
def test_listing_names_what_is_missing(page_size: int) -> None:
    """A shard that does not answer is named, within the deadline, and the rest is there."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = shelf(CONTENTS, silent=frozenset((1, 63)))
            router.own(node)
            begun = asyncio.get_running_loop().time()
            pages, unreachable = await walk(router.service, page_size, timeout_s=0.6)
            assert [*chain(*pages)] == list("abcefg")
            assert unreachable == {"shards/1", "shards/63"}
            assert asyncio.get_running_loop().time() - begun < 0.6 * len(pages)

    run(test())


def test_a_shard_that_cannot_answer_is_unreachable() -> None:
    """A corrupt journal of one shard does not fail the list of the others."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            good, corrupt = shelf(CONTENTS), refusal(pb.CORRUPT_JOURNAL)
            node.script = lambda call: corrupt(call) if call.shard == 0 else good(call)
            router.own(node)
            pages, unreachable = await walk(router.service, 1_000)
            assert [*chain(*pages)] == list("defghi")
            assert unreachable == {"shards/0"}

    run(test())


def test_without_any_owner_every_shard_is_named() -> None:
    """Nobody owns anything: the answer says so for every shard, and is in time."""

    async def test() -> None:
        async with rig() as router:
            pages, unreachable = await walk(router.service, 10, timeout_s=0.5)
            assert [*chain(*pages)] == []
            assert len(unreachable) == SHARDS

    run(test())


def _of(campaign: str, user: str = "u") -> bytes:
    return pb.IssueCouponRequest(campaign_id=campaign, user_id=user).SerializeToString()


@pytest.mark.parametrize(
    "said",
    [
        _of("c") + pb.IssueCouponRequest(campaign_id="d").SerializeToString(),
        pb.IssueCouponRequest(user_id="c").SerializeToString()
        + pb.IssueCouponRequest(campaign_id="d").SerializeToString(),
        pb.IssueCouponRequest(request_id="c", user_id="u").SerializeToString() + _of("d"),
    ],
    ids=["the campaign twice", "the user first", "the request first"],
)
def test_however_a_request_is_written_its_campaign_counts(said: bytes) -> None:
    """Protobuf leaves fields' order open, and of a field that comes twice the last one counts; also when the router has
    learned where requests with such a beginning go."""

    async def test() -> None:
        async with running_node() as node, rig() as router:
            router.own(node)
            assert shard_of("c", SHARDS) != shard_of("d", SHARDS)
            for _ in range(2):
                await router.issue("u", "c")
                admitted = router.service.admit_issue_coupon(said)
                assert not isinstance(admitted, ApiError)
                await answer_of(partial(admitted, within(5)))
                assert node.calls[-1].shard == shard_of("d", SHARDS)

    run(test())


@pytest.mark.parametrize("said", [b"", b"\n", b"\x12", b"\xff", b"\n\x05c"], ids=repr)
def test_what_is_hardly_a_request_is_invalid(said: bytes) -> None:
    async def test() -> None:
        async with rig() as router:
            admitted = router.service.admit_issue_coupon(said)
            assert isinstance(admitted, ApiError)
            assert admitted.reason == pb.INVALID_FIELD

    run(test())
