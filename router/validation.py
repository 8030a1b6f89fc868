"""The form of every request, checked before a node hears of it. Pure: requests in, ApiError or nothing out.

All wrong fields of a request are named at once. What depends on a campaign's state (does it exist, is the total
lowered) is the owner's matter, not ours.
"""

import re
import unicodedata
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from proto import coupon_pb2
from router.errors import ApiError, Violation, invalid
from router.tokens import InvalidToken, ListPosition, parse_campaigns_token, parse_coupons_token

REQUEST_BYTES_MAX = 1 << 20
ITEMS_MAX = 1_000
ID_BYTES_MAX = 128
NAME_CHARACTERS_MAX = 200
TOTAL_MAX = 100_000_000
PER_USER_LIMIT_MAX = 1_000
COUPONS_PAGE_MAX = 5_000
COUPONS_PAGE_DEFAULT = 1_000
CAMPAIGNS_PAGE_MAX = 1_000
CAMPAIGNS_PAGE_DEFAULT = 100
CODE_CHARACTERS_MAX = 10

_CAMPAIGN_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?", re.ASCII)
_CODE = re.compile(rf"[0-9가-힣]{{1,{CODE_CHARACTERS_MAX}}}")
_SECONDS_MAX = 253_402_300_799
"""9999-12-31T23:59:59Z, the end of a Timestamp's range."""
_UPDATABLE = frozenset(("total", "end_time"))

Request = TypeVar("Request", bound=Message)


class AdministrativeRequest(Protocol):
    """Pause, resume and cancel look alike."""

    campaign_id: str
    request_id: str
    etag: str


def parse(kind: type[Request], data: bytes) -> Request:
    """The request in `data`. Raises ApiError for bytes that are none, and for more than 1 MiB of them."""
    if len(data) > REQUEST_BYTES_MAX:
        raise oversized(len(data))
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise invalid(Violation("", f"is not a {kind.DESCRIPTOR.full_name}")) from error


def oversized(size: int) -> ApiError:
    return invalid(Violation("", f"must be at most {REQUEST_BYTES_MAX} bytes, not {size}"))


def check_issue_coupon(request: coupon_pb2.IssueCouponRequest) -> None:
    violations = _campaign_id("campaign_id", request.campaign_id)
    violations += _identifier("user_id", request.user_id, required=True)
    violations += _identifier("request_id", request.request_id, required=False)
    if violations:
        raise invalid(*violations)


def check_issue_coupons(request: coupon_pb2.IssueCouponsRequest) -> None:
    """The message as a whole; each item's request is checked by itself and answered by itself."""
    if len(request.items) > ITEMS_MAX:
        raise invalid(Violation("items", f"must be at most {ITEMS_MAX}, not {len(request.items)}"))


def check_create_campaign(request: coupon_pb2.CreateCampaignRequest) -> None:
    """An empty campaign_id is the server's to choose."""
    violations = _campaign_id("campaign_id", request.campaign_id) if request.campaign_id else []
    campaign = request.campaign
    if not request.HasField("campaign"):
        violations.append(Violation("campaign", "is required"))
    else:
        violations += _name("campaign.name", campaign.name)
        violations += _between("campaign.total", campaign.total, 1, TOTAL_MAX)
        violations += _between("campaign.per_user_limit", campaign.per_user_limit or 1, 1, PER_USER_LIMIT_MAX)
        times = _timestamp(campaign, "start_time") + _timestamp(campaign, "end_time")
        both = campaign.HasField("start_time") and campaign.HasField("end_time")
        if not times and both and _us(campaign.end_time) <= _us(campaign.start_time):
            times.append(Violation("campaign.end_time", "must be after start_time"))
        violations += times
    if violations:
        raise invalid(*violations)


def check_update_campaign(request: coupon_pb2.UpdateCampaignRequest) -> None:
    violations = _campaign_id("campaign.campaign_id", request.campaign.campaign_id)
    paths = set(request.update_mask.paths)
    if not paths:
        violations.append(Violation("update_mask", 'is required: "total", "end_time" or both'))
    elif not paths <= _UPDATABLE:
        violations.append(Violation("update_mask", 'may name "total" and "end_time" only'))
    if "total" in paths:
        violations += _between("campaign.total", request.campaign.total, 1, TOTAL_MAX)
    if "end_time" in paths:
        violations += _timestamp(request.campaign, "end_time")
    violations += _identifier("request_id", request.request_id, required=True)
    violations += _identifier("etag", request.etag, required=False)
    if violations:
        raise invalid(*violations)


def check_administrative(request: AdministrativeRequest) -> None:
    violations = [
        *_campaign_id("campaign_id", request.campaign_id),
        *_identifier("request_id", request.request_id, required=True),
        *_identifier("etag", request.etag, required=False),
    ]
    if violations:
        raise invalid(*violations)


def check_get_campaign(request: coupon_pb2.GetCampaignRequest) -> int:
    """Returns the sequence behind which the page begins."""
    violations = _campaign_id("campaign_id", request.campaign_id)
    violations += _page_size(request.page_size, COUPONS_PAGE_MAX)
    after_sequence = 0
    if request.page_token:
        try:
            after_sequence = parse_coupons_token(request.campaign_id, request.page_token)
        except InvalidToken:
            violations.append(Violation("page_token", "is not a next_page_token of this campaign"))
    if violations:
        raise invalid(*violations)
    return after_sequence


def check_list_campaigns(request: coupon_pb2.ListCampaignsRequest, shards: int) -> ListPosition | None:
    """Returns where the page begins; None: at the beginning."""
    violations = _page_size(request.page_size, CAMPAIGNS_PAGE_MAX)
    position = None
    if request.page_token:
        try:
            position = parse_campaigns_token(request.page_token, shards)
        except InvalidToken:
            violations.append(Violation("page_token", "is not a next_page_token of ListCampaigns"))
    if violations:
        raise invalid(*violations)
    return position


def check_watch_campaign(request: coupon_pb2.WatchCampaignRequest) -> None:
    if violations := _campaign_id("campaign_id", request.campaign_id):
        raise invalid(*violations)


def check_get_coupon(request: coupon_pb2.GetCouponRequest) -> None:
    """A code of the right form may still be nobody's: that is NOT_FOUND, and found out later."""
    violations: list[Violation] = []
    match request.WhichOneof("key"):
        case "code":
            if not _CODE.fullmatch(request.code):
                violations.append(
                    Violation("code", f"must be 1 to {CODE_CHARACTERS_MAX} Hangul syllables (NFC) and digits")
                )
        case "campaign_user":
            key = request.campaign_user
            violations += _campaign_id("campaign_user.campaign_id", key.campaign_id)
            violations += _identifier("campaign_user.user_id", key.user_id, required=True)
        case _:
            violations.append(Violation("key", "code or campaign_user is required"))
    if violations:
        raise invalid(*violations)


def _campaign_id(field: str, value: str) -> list[Violation]:
    if _CAMPAIGN_ID.fullmatch(value):
        return []
    if not value:
        return [Violation(field, "is required")]
    return [Violation(field, "must be 1 to 64 of a-z, 0-9 and '-', beginning and ending with a letter or digit")]


def _identifier(field: str, value: str, *, required: bool) -> list[Violation]:
    """An id that the client chose: bytes to us, but bytes that look the same must be the same, hence NFC."""
    if not value:
        return [Violation(field, "is required")] if required else []
    # One check for the ids that nearly everybody uses; both conditions are cheaper than the encoding below.
    if value.isascii() and value.isprintable() and len(value) <= ID_BYTES_MAX:
        return []
    size = len(value.encode())
    if size > ID_BYTES_MAX:
        return [Violation(field, f"must be at most {ID_BYTES_MAX} bytes of UTF-8, not {size}")]
    return _text(field, value)


def _name(field: str, value: str) -> list[Violation]:
    if not value:
        return [Violation(field, "is required")]
    if len(value) > NAME_CHARACTERS_MAX:
        return [Violation(field, f"must be at most {NAME_CHARACTERS_MAX} characters, not {len(value)}")]
    return _text(field, value)


def _text(field: str, value: str) -> list[Violation]:
    violations = []
    if any(unicodedata.category(character) == "Cc" for character in value):
        violations.append(Violation(field, "must not contain control characters"))
    if not unicodedata.is_normalized("NFC", value):
        violations.append(Violation(field, "must be in Unicode normalization form C"))
    return violations


def _between(field: str, value: int, least: int, most: int) -> list[Violation]:
    if least <= value <= most:
        return []
    return [Violation(field, f"must be {least} to {most:,}, not {value:,}")]


def _page_size(value: int, most: int) -> list[Violation]:
    """Unset is 0, and the default."""
    return _between("page_size", value, 1, most) if value else []


def _timestamp(campaign: coupon_pb2.Campaign, name: str) -> list[Violation]:
    if not campaign.HasField(name):
        return []
    value: Timestamp = getattr(campaign, name)
    field = f"campaign.{name}"
    if not 0 <= value.nanos < 1_000_000_000:
        return [Violation(field, "must have 0 to 999,999,999 nanos")]
    # The journal writes 0 for "no end", so that the first second of 1970 cannot be said.
    if not 1 <= value.seconds <= _SECONDS_MAX:
        return [Violation(field, "must lie between 1970-01-01T00:00:01Z and 9999-12-31T23:59:59Z")]
    return []


def _us(value: Timestamp) -> int:
    return value.seconds * 1_000_000 + value.nanos // 1_000
