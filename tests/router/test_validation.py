"""The form of requests."""

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from proto import coupon_pb2 as pb
from router import validation
from router.errors import ApiError
from router.tokens import coupons_token

NFD = unicodedata.normalize("NFD", "사용자")


def fields_of(check: Callable[[Any], object], request: object) -> list[str]:
    """The fields that a check names; none if it lets the request pass."""
    try:
        check(request)
    except ApiError as error:
        return [violation.field for violation in error.violations] if error.reason == pb.INVALID_FIELD else ["?"]
    return []


def issue(**changes: str) -> pb.IssueCouponRequest:
    return pb.IssueCouponRequest(**({"campaign_id": "c", "user_id": "u"} | changes))


@pytest.mark.parametrize(
    "request_",
    [
        issue(),
        issue(user_id="사용자-1"),
        issue(user_id="x" * 128),
        issue(user_id="가" * 42),
        issue(user_id="a b"),
        issue(request_id="r" * 128),
        issue(campaign_id="a"),
        issue(campaign_id="a-0" + "b" * 61),
        issue(campaign_id="0" * 64),
    ],
)
def test_good_issue_requests_pass(request_: pb.IssueCouponRequest) -> None:
    """What the contract allows is let through."""
    assert fields_of(validation.check_issue_coupon, request_) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 129}, "user_id"),
        ({"user_id": "가" * 43}, "user_id"),
        ({"user_id": "a\x00"}, "user_id"),
        ({"user_id": "a\nb"}, "user_id"),
        ({"user_id": "a\x7f"}, "user_id"),
        ({"user_id": "a\x85"}, "user_id"),
        ({"user_id": "\t"}, "user_id"),
        ({"user_id": NFD}, "user_id"),
        ({"request_id": "r" * 129}, "request_id"),
        ({"request_id": "r\x1b"}, "request_id"),
        ({"campaign_id": ""}, "campaign_id"),
        ({"campaign_id": "x" * 65}, "campaign_id"),
        ({"campaign_id": "-a"}, "campaign_id"),
        ({"campaign_id": "a-"}, "campaign_id"),
        ({"campaign_id": "A"}, "campaign_id"),
        ({"campaign_id": "a_b"}, "campaign_id"),
        ({"campaign_id": "테스트"}, "campaign_id"),
        ({"campaign_id": "a\n"}, "campaign_id"),
    ],
)
def test_bad_issue_requests_name_their_field(changes: dict[str, str], field: str) -> None:
    """Each wrong field of IssueCoupon is INVALID_ARGUMENT by name."""
    assert fields_of(validation.check_issue_coupon, issue(**changes)) == [field]


def test_all_wrong_fields_are_named_at_once() -> None:
    """A client learns everything that is wrong from one answer."""
    request = pb.IssueCouponRequest(request_id="\n")
    assert fields_of(validation.check_issue_coupon, request) == ["campaign_id", "user_id", "request_id"]


def create(**changes: Any) -> pb.CreateCampaignRequest:
    campaign_id = changes.pop("campaign_id", "c")
    fields: dict[str, Any] = {"name": "테스트캠페인", "total": 50} | changes
    return pb.CreateCampaignRequest(campaign_id=campaign_id, campaign=pb.Campaign(**fields))


@pytest.mark.parametrize(
    "request_",
    [
        create(),
        create(campaign_id=""),
        create(name="가" * 200),
        create(total=1),
        create(total=100_000_000),
        create(per_user_limit=1_000),
        create(start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=10, nanos=1_000)),
        create(end_time=Timestamp(seconds=253_402_300_799, nanos=999_999_999)),
    ],
)
def test_good_campaigns_pass(request_: pb.CreateCampaignRequest) -> None:
    """What the contract allows is let through."""
    assert fields_of(validation.check_create_campaign, request_) == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateCampaignRequest(campaign_id="c"), "campaign"),
        (create(campaign_id="Bad"), "campaign_id"),
        (create(name=""), "campaign.name"),
        (create(name="가" * 201), "campaign.name"),
        (create(name="a\tb"), "campaign.name"),
        (create(name=NFD), "campaign.name"),
        (create(total=0), "campaign.total"),
        (create(total=-1), "campaign.total"),
        (create(total=100_000_001), "campaign.total"),
        (create(per_user_limit=-1), "campaign.per_user_limit"),
        (create(per_user_limit=1_001), "campaign.per_user_limit"),
        (create(start_time=Timestamp(seconds=-1)), "campaign.start_time"),
        (create(start_time=Timestamp(seconds=1, nanos=-1)), "campaign.start_time"),
        (create(start_time=Timestamp(seconds=1, nanos=1_000_000_000)), "campaign.start_time"),
        (create(end_time=Timestamp()), "campaign.end_time"),
        (create(end_time=Timestamp(seconds=253_402_300_800)), "campaign.end_time"),
        (create(start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=9)), "campaign.end_time"),
        (create(start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=10)), "campaign.end_time"),
        # They differ only below the microsecond, which is cut off.
        (create(start_time=Timestamp(seconds=10), end_time=Timestamp(seconds=10, nanos=999)), "campaign.end_time"),
    ],
)
def test_bad_campaigns_name_their_field(request_: pb.CreateCampaignRequest, field: str) -> None:
    """Each wrong field of CreateCampaign is INVALID_ARGUMENT by name."""
    assert fields_of(validation.check_create_campaign, request_) == [field]


def update(*paths: str, request_id: str = "r", etag: str = "", **changes: Any) -> pb.UpdateCampaignRequest:
    fields: dict[str, Any] = {"campaign_id": "c", "total": 1} | changes
    campaign = pb.Campaign(**fields)
    return pb.UpdateCampaignRequest(
        campaign=campaign, update_mask=FieldMask(paths=paths), request_id=request_id, etag=etag
    )


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (update("total"), []),
        (update("end_time"), []),
        (update("total", "end_time", end_time=Timestamp(seconds=9), etag="3"), []),
        (update("end_time", total=0), []),
        (update(), ["update_mask"]),
        (update("name"), ["update_mask"]),
        (update("total", "state"), ["update_mask"]),
        (update("total", total=0), ["campaign.total"]),
        (update("end_time", end_time=Timestamp(seconds=-5)), ["campaign.end_time"]),
        (update("total", request_id=""), ["request_id"]),
        (update("total", request_id="r" * 129), ["request_id"]),
        (update("total", etag="e\n"), ["etag"]),
        (pb.UpdateCampaignRequest(), ["campaign.campaign_id", "update_mask", "request_id"]),
    ],
)
def test_updates(request_: pb.UpdateCampaignRequest, fields: list[str]) -> None:
    """update_mask names what may be updated and nothing else; only what it names is looked at."""
    assert fields_of(validation.check_update_campaign, request_) == fields


@pytest.mark.parametrize("kind", [pb.PauseCampaignRequest, pb.ResumeCampaignRequest, pb.CancelCampaignRequest])
def test_administrative_calls_need_ids(kind: Any) -> None:
    """Without a request_id a repetition could not be told from another call."""
    assert fields_of(validation.check_administrative, kind(campaign_id="c", request_id="r")) == []
    assert fields_of(validation.check_administrative, kind()) == ["campaign_id", "request_id"]


@pytest.mark.parametrize(("size", "fields"), [(0, []), (5_000, []), (5_001, ["page_size"]), (-1, ["page_size"])])
def test_page_sizes_of_get(size: int, fields: list[str]) -> None:
    """1 to 5,000, or unset."""
    request = pb.GetCampaignRequest(campaign_id="c", page_size=size)
    assert fields_of(validation.check_get_campaign, request) == fields


@pytest.mark.parametrize(("size", "fields"), [(0, []), (1_000, []), (1_001, ["page_size"]), (-1, ["page_size"])])
def test_page_sizes_of_list(size: int, fields: list[str]) -> None:
    """1 to 1,000, or unset."""
    assert (
        fields_of(lambda r: validation.check_list_campaigns(r, 64), pb.ListCampaignsRequest(page_size=size)) == fields
    )


def test_page_tokens_are_of_the_campaign() -> None:
    """A malformed page token, or another campaign's, is INVALID_ARGUMENT naming page_token."""
    good = pb.GetCampaignRequest(campaign_id="c", page_token=coupons_token("c", 7))
    assert validation.check_get_campaign(good) == 7
    for token in ("nonsense", coupons_token("d", 7)):
        bad = pb.GetCampaignRequest(campaign_id="c", page_token=token)
        assert fields_of(validation.check_get_campaign, bad) == ["page_token"]
    listing = pb.ListCampaignsRequest(page_token="nonsense")
    assert fields_of(lambda r: validation.check_list_campaigns(r, 64), listing) == ["page_token"]


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.GetCouponRequest(code="테스트0가나다라마바"), []),
        (pb.GetCouponRequest(), ["key"]),
        (pb.GetCouponRequest(code=""), ["code"]),
        (pb.GetCouponRequest(code="테스트0가나다라마바사"), ["code"]),
        (pb.GetCouponRequest(code="abc"), ["code"]),
        (pb.GetCouponRequest(code="가\n"), ["code"]),
        (pb.GetCouponRequest(code=unicodedata.normalize("NFD", "가나")), ["code"]),
        (
            pb.GetCouponRequest(campaign_user=pb.GetCouponRequest.CampaignUser()),
            ["campaign_user.campaign_id", "campaign_user.user_id"],
        ),
    ],
)
def test_get_coupon(request_: pb.GetCouponRequest, fields: list[str]) -> None:
    """A key is required, and has the form of a code or of ids."""
    assert fields_of(validation.check_get_coupon, request_) == fields


def test_messages_that_are_none() -> None:
    """Garbage, invalid UTF-8 and more than 1 MiB are INVALID_ARGUMENT before anything looks inside."""
    largest = issue(user_id="x" * (validation.REQUEST_BYTES_MAX - 7)).SerializeToString()
    assert len(largest) == validation.REQUEST_BYTES_MAX
    validation.parse(pb.IssueCouponRequest, largest)
    for data in (b"\xff" * 20, b"\x0a\x02\xff\xfe", largest + b"\x00"):
        assert fields_of(lambda d: validation.parse(pb.IssueCouponRequest, d), data) == [""]
