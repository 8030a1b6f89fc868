"""Between coupon.v1 messages and the ledger's commands and answers.

No rules live here: the router has checked the form, the ledger checks the rest.
"""

from collections.abc import Mapping

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from node import commands
from node.commands import Answer, Command
from proto import coupon_pb2, node_pb2

Message = (
    coupon_pb2.IssueCouponResponse
    | coupon_pb2.Campaign
    | coupon_pb2.GetCampaignResponse
    | coupon_pb2.ListCampaignsResponse
    | coupon_pb2.GetCouponResponse
)


class MalformedCall(ValueError):
    """The router sent what it should have refused: a bug, or a router of another version."""


def command_of(method: node_pb2.Method, request: bytes) -> Command:
    """Raises MalformedCall."""
    try:
        return _command_of(method, request)
    except (DecodeError, ValueError) as error:
        raise MalformedCall(f"method {method}: {error}") from error


def _command_of(method: node_pb2.Method, request: bytes) -> Command:
    match method:
        case node_pb2.ISSUE_COUPON:
            issue = coupon_pb2.IssueCouponRequest.FromString(request)
            return commands.IssueCoupon(issue.campaign_id, issue.user_id, issue.request_id)
        case node_pb2.CREATE_CAMPAIGN:
            return _create(coupon_pb2.CreateCampaignRequest.FromString(request))
        case node_pb2.GET_CAMPAIGN:
            get = coupon_pb2.GetCampaignRequest.FromString(request)
            return commands.GetCampaign(get.campaign_id, int(get.page_token or "0"), get.page_size)
        case node_pb2.LIST_CAMPAIGNS:
            listing = coupon_pb2.ListCampaignsRequest.FromString(request)
            return commands.ListCampaigns(listing.page_token, listing.page_size)
        case node_pb2.UPDATE_CAMPAIGN:
            return _update(coupon_pb2.UpdateCampaignRequest.FromString(request))
        case node_pb2.GET_COUPON:
            coupon = coupon_pb2.GetCouponRequest.FromString(request)
            if coupon.WhichOneof("key") == "code":
                return commands.GetCouponByCode(coupon.code)
            return commands.GetCouponsOfUser(coupon.campaign_user.campaign_id, coupon.campaign_user.user_id)
        case node_pb2.PAUSE_CAMPAIGN:
            pause = coupon_pb2.PauseCampaignRequest.FromString(request)
            return commands.PauseCampaign(pause.campaign_id, pause.request_id, _version(pause.etag))
        case node_pb2.RESUME_CAMPAIGN:
            resume = coupon_pb2.ResumeCampaignRequest.FromString(request)
            return commands.ResumeCampaign(resume.campaign_id, resume.request_id, _version(resume.etag))
        case node_pb2.CANCEL_CAMPAIGN:
            cancel = coupon_pb2.CancelCampaignRequest.FromString(request)
            return commands.CancelCampaign(cancel.campaign_id, cancel.request_id, _version(cancel.etag))
        case _:
            raise MalformedCall(f"unknown method {method}")


def _create(request: coupon_pb2.CreateCampaignRequest) -> commands.CreateCampaign:
    campaign = request.campaign
    return commands.CreateCampaign(
        campaign_id=request.campaign_id,
        name=campaign.name,
        total=campaign.total,
        per_user_limit=campaign.per_user_limit or 1,
        start_us=_optional_us(campaign, "start_time"),
        end_us=_optional_us(campaign, "end_time"),
    )


def _update(request: coupon_pb2.UpdateCampaignRequest) -> commands.UpdateCampaign:
    paths = set(request.update_mask.paths)
    return commands.UpdateCampaign(
        campaign_id=request.campaign.campaign_id,
        request_id=request.request_id,
        expected_version=_version(request.etag),
        total=request.campaign.total if "total" in paths else None,
        end_us=_optional_us(request.campaign, "end_time") if "end_time" in paths else None,
        set_end="end_time" in paths,
    )


def _version(etag: str) -> int | None:
    """An etag is the campaign's version in decimal; one that is none can never be the present one."""
    if not etag:
        return None
    return int(etag) if etag.isascii() and etag.isdigit() else -1


def _optional_us(campaign: coupon_pb2.Campaign, field: str) -> int | None:
    if not campaign.HasField(field):
        return None
    timestamp: Timestamp = getattr(campaign, field)
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1_000


def reply_of(call_id: int, answer: Answer) -> node_pb2.Reply:
    if isinstance(answer, commands.Refused):
        return node_pb2.Reply(
            call_id=call_id,
            refusal=node_pb2.Refusal(
                reason=answer.reason.value,  # type: ignore[arg-type]  # the same numbers, by test
                message=answer.message,
                metadata=dict(answer.metadata),
                field=answer.field,
            ),
        )
    return node_pb2.Reply(call_id=call_id, response=message_of(answer).SerializeToString())


def message_of(answer: Answer) -> Message:
    """The response of a successful call."""
    match answer:
        case commands.Issued(coupon, already_issued):
            return coupon_pb2.IssueCouponResponse(coupon=_fields_of(coupon), already_issued=already_issued)
        case commands.CampaignAnswer(campaign):
            return campaign_of(campaign)
        case commands.CampaignPage(campaign, coupons, more):
            return coupon_pb2.GetCampaignResponse(
                campaign=campaign_of(campaign),
                coupons=[_fields_of(coupon) for coupon in coupons],
                next_page_token=str(coupons[-1].sequence) if more else "",
            )
        case commands.CampaignList(campaigns, more):
            return coupon_pb2.ListCampaignsResponse(
                campaigns=[campaign_of(campaign) for campaign in campaigns],
                next_page_token=campaigns[-1].campaign_id if more else "",
            )
        case commands.Coupons(coupons):
            return coupon_pb2.GetCouponResponse(coupons=[_fields_of(coupon) for coupon in coupons])
        case commands.Refused():
            raise AssertionError("a refusal is no response")


def campaign_of(campaign: commands.Campaign) -> coupon_pb2.Campaign:
    return coupon_pb2.Campaign(
        campaign_id=campaign.campaign_id,
        name=campaign.name,
        total=campaign.total,
        issued=campaign.issued,
        per_user_limit=campaign.per_user_limit,
        start_time=_timestamp(campaign.start_us),
        end_time=_optional_timestamp(campaign.end_us),
        state=campaign.state.value,  # type: ignore[arg-type]  # the same numbers, by test
        etag=str(campaign.version),
        create_time=_timestamp(campaign.create_us),
        activate_time=_optional_timestamp(campaign.activate_us),
        complete_time=_optional_timestamp(campaign.complete_us),
    )


def _fields_of(coupon: commands.Coupon) -> Mapping[str, object]:
    """Of a Coupon, for the response that it is part of. A message would be copied there, and costs twice as much."""
    return {
        "code": coupon.code,
        "campaign_id": coupon.campaign_id,
        "user_id": coupon.user_id,
        "sequence": coupon.sequence,
        "issue_time": _timestamp(coupon.issue_us),
        "request_id": coupon.request_id,
    }


def _timestamp(us: int) -> Mapping[str, int]:
    """Of a Timestamp, as `_fields_of`."""
    seconds, us = divmod(us, 1_000_000)
    return {"seconds": seconds, "nanos": us * 1_000}


def _optional_timestamp(us: int | None) -> Mapping[str, int] | None:
    return None if us is None else _timestamp(us)
