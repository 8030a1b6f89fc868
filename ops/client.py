"""The public API as the command uses it: one call, one answer, blocking. Follows pages; retries nothing."""

from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from ops.credentials import ANYBODY, Credentials
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

_COUPONS_A_PAGE = 5_000
_CAMPAIGNS_A_PAGE = 1_000


def to_json(message: Message) -> dict[str, Any]:
    """Protobuf's JSON mapping with the proto's field names; numbers and lists that are 0 or empty are shown."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


class Client:
    """A context manager. Every method raises grpc.RpcError; see `ops.errors`."""

    def __init__(self, router: str, timeout_s: float, credentials: Credentials = ANYBODY) -> None:
        self._channel = credentials.channel(
            router, options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_http_proxy", 0)]
        )
        self._stub = CouponServiceStub(self._channel)
        self._metadata = credentials.metadata
        self._call: dict[str, Any] = {"timeout": timeout_s, "metadata": self._metadata}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def create_campaign(self, request: coupon_pb2.CreateCampaignRequest) -> coupon_pb2.Campaign:
        return cast(coupon_pb2.Campaign, self._stub.CreateCampaign(request, **self._call))

    def campaign_pages(self, campaign_id: str) -> Iterator[coupon_pb2.GetCampaignResponse]:
        """Every page of a campaign's coupons; the last one's `campaign` is the newest."""
        request = coupon_pb2.GetCampaignRequest(campaign_id=campaign_id, page_size=_COUPONS_A_PAGE)
        while True:
            page = self._stub.GetCampaign(request, **self._call)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def get_campaign(self, campaign_id: str) -> tuple[coupon_pb2.Campaign, list[coupon_pb2.Coupon]]:
        """A campaign and all its coupons."""
        coupons: list[coupon_pb2.Coupon] = []
        campaign = coupon_pb2.Campaign()
        for page in self.campaign_pages(campaign_id):
            campaign = page.campaign
            coupons.extend(page.coupons)
        return campaign, coupons

    def get_campaign_head(self, campaign_id: str) -> coupon_pb2.Campaign:
        """A campaign without its coupons."""
        request = coupon_pb2.GetCampaignRequest(campaign_id=campaign_id, page_size=1)
        return cast(
            coupon_pb2.Campaign,
            self._stub.GetCampaign(request, **self._call).campaign,
        )

    def list_campaigns(self) -> tuple[list[coupon_pb2.Campaign], list[str]]:
        """All campaigns, and the shards that did not answer."""
        request = coupon_pb2.ListCampaignsRequest(page_size=_CAMPAIGNS_A_PAGE)
        campaigns: list[coupon_pb2.Campaign] = []
        unreachable: list[str] = []
        while True:
            page = self._stub.ListCampaigns(request, **self._call)
            campaigns.extend(page.campaigns)
            unreachable.extend(page.unreachable)
            if not page.next_page_token:
                return campaigns, unreachable
            request.page_token = page.next_page_token

    def update_campaign(self, request: coupon_pb2.UpdateCampaignRequest) -> coupon_pb2.Campaign:
        return cast(coupon_pb2.Campaign, self._stub.UpdateCampaign(request, **self._call))

    def pause_campaign(self, request: coupon_pb2.PauseCampaignRequest) -> coupon_pb2.Campaign:
        return cast(coupon_pb2.Campaign, self._stub.PauseCampaign(request, **self._call))

    def resume_campaign(self, request: coupon_pb2.ResumeCampaignRequest) -> coupon_pb2.Campaign:
        return cast(coupon_pb2.Campaign, self._stub.ResumeCampaign(request, **self._call))

    def cancel_campaign(self, request: coupon_pb2.CancelCampaignRequest) -> coupon_pb2.Campaign:
        return cast(coupon_pb2.Campaign, self._stub.CancelCampaign(request, **self._call))

    def watch_campaign(self, campaign_id: str) -> Iterator[coupon_pb2.Campaign]:
        """The campaign now, then at every change, for as long as the caller goes on."""
        request = coupon_pb2.WatchCampaignRequest(campaign_id=campaign_id)
        for response in self._stub.WatchCampaign(request, metadata=self._metadata):
            yield response.campaign

    def issue_coupon(self, request: coupon_pb2.IssueCouponRequest) -> coupon_pb2.IssueCouponResponse:
        return cast(
            coupon_pb2.IssueCouponResponse,
            self._stub.IssueCoupon(request, **self._call),
        )

    def get_coupon(self, request: coupon_pb2.GetCouponRequest) -> coupon_pb2.GetCouponResponse:
        return cast(
            coupon_pb2.GetCouponResponse,
            self._stub.GetCoupon(request, **self._call),
        )
