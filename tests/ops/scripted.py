"""A CouponService that says what a test wants, on a real port: what the command and the load generator talk to."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceServicer, add_CouponServiceServicer_to_server


def refusal(reason: str, message: str = "no", *, field_name: str = "", retry_s: int = 0) -> status_pb2.Status:
    """A status with details as the API documents them."""
    code = "INVALID_ARGUMENT" if field_name else "RESOURCE_EXHAUSTED" if retry_s else "FAILED_PRECONDITION"
    status = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=reason, domain="seonchak", metadata={"k": "v"})]
    if field_name:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field_name, description="must be better")
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if retry_s:
        details.append(error_details_pb2.RetryInfo(retry_delay={"seconds": retry_s}))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


@dataclass
class Scripted(CouponServiceServicer):
    """Grants `total` coupons, one a user, after `early` refusals NOT_STARTED; everything else is refused SOLD_OUT."""

    total: int = 3
    early: int = 0
    refuse: status_pb2.Status | None = None
    """Refuses every unary call."""
    break_stream_after: int | None = None
    """Ends the first stream with UNAVAILABLE after so many results."""
    requests: list[Any] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    """How many items each message of a stream had."""
    granted: dict[str, coupon_pb2.Coupon] = field(default_factory=dict)

    async def _abort(self, context: Any, status: status_pb2.Status) -> NoReturn:
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        await context.abort(code, status.message)
        raise AssertionError("abort raises")

    async def _take(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        if self.refuse is not None:
            await self._abort(context, self.refuse)

    def _campaign(self) -> coupon_pb2.Campaign:
        return coupon_pb2.Campaign(
            campaign_id="spring",
            name="[bold]봄",
            total=self.total,
            issued=len(self.granted),
            state=coupon_pb2.Campaign.ACTIVE,
        )

    def _decide(self, request: coupon_pb2.IssueCouponRequest) -> coupon_pb2.IssueCouponResponse | status_pb2.Status:
        if self.early > 0:
            self.early -= 1
            return refusal("NOT_STARTED")
        if request.user_id in self.granted:
            return coupon_pb2.IssueCouponResponse(coupon=self.granted[request.user_id], already_issued=True)
        if len(self.granted) == self.total:
            return refusal("SOLD_OUT")
        sequence = len(self.granted) + 1
        coupon = coupon_pb2.Coupon(
            code=f"봄날0가나다라마{chr(0xAC00 + sequence)}",
            campaign_id=request.campaign_id,
            user_id=request.user_id,
            request_id=request.request_id,
            sequence=sequence,
            issue_time={"seconds": 1_000},
        )
        self.granted[request.user_id] = coupon
        return coupon_pb2.IssueCouponResponse(coupon=coupon)

    async def CreateCampaign(self, request: Any, context: Any) -> coupon_pb2.Campaign:  # noqa: N802
        await self._take(request, context)
        return coupon_pb2.Campaign(
            campaign_id=request.campaign_id or "chosen", name=request.campaign.name, total=request.campaign.total
        )

    async def GetCampaign(self, request: Any, context: Any) -> coupon_pb2.GetCampaignResponse:  # noqa: N802
        """Two coupons a page, whatever was asked."""
        await self._take(request, context)
        after = int(request.page_token or 0)
        coupons = list(self.granted.values())
        token = str(after + 2) if after + 2 < len(coupons) else ""
        return coupon_pb2.GetCampaignResponse(
            campaign=self._campaign(), coupons=coupons[after : after + 2], next_page_token=token
        )

    async def ListCampaigns(self, request: Any, context: Any) -> coupon_pb2.ListCampaignsResponse:  # noqa: N802
        await self._take(request, context)
        if not request.page_token:
            return coupon_pb2.ListCampaignsResponse(campaigns=[self._campaign()], next_page_token="more")
        return coupon_pb2.ListCampaignsResponse(unreachable=["shards/7"])

    async def UpdateCampaign(self, request: Any, context: Any) -> coupon_pb2.Campaign:  # noqa: N802
        await self._take(request, context)
        return self._campaign()

    PauseCampaign = ResumeCampaign = CancelCampaign = UpdateCampaign

    async def WatchCampaign(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.requests.append(request)
        for state in (coupon_pb2.Campaign.WAITING, coupon_pb2.Campaign.ACTIVE, coupon_pb2.Campaign.COMPLETED):
            campaign = self._campaign()
            campaign.state = state
            yield coupon_pb2.WatchCampaignResponse(campaign=campaign)

    async def IssueCoupon(self, request: Any, context: Any) -> coupon_pb2.IssueCouponResponse:  # noqa: N802
        await self._take(request, context)
        decided = self._decide(request)
        if isinstance(decided, status_pb2.Status):
            await self._abort(context, decided)
        return decided

    async def IssueCoupons(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Answers each message's items in reverse: results come out of order."""
        messages = aiter(requests)
        async for request in messages:
            self.messages.append(len(request.items))
            response = coupon_pb2.IssueCouponsResponse()
            for item in reversed(request.items):
                if self.break_stream_after == len(response.results):
                    self.break_stream_after = None
                    yield response
                    # What the client sends now that it has room: a write that met the end would be INTERNAL to it.
                    await anext(messages)
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
                decided = self._decide(item.request)
                result = response.results.add(index=item.index)
                if isinstance(decided, status_pb2.Status):
                    result.status.CopyFrom(decided)
                else:
                    result.response.CopyFrom(decided)
            yield response

    async def GetCoupon(self, request: Any, context: Any) -> coupon_pb2.GetCouponResponse:  # noqa: N802
        await self._take(request, context)
        return coupon_pb2.GetCouponResponse(coupons=self.granted.values())


@asynccontextmanager
async def serving(service: Scripted) -> AsyncIterator[str]:
    """Its HOST:PORT."""
    server = grpc.aio.server()
    add_CouponServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextmanager
def serving_beside(service: Scripted) -> Iterator[str]:
    """The same on a thread, for the command, which blocks."""
    ready: list[str] = []
    begun, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving(service) as address:
            ready.append(address)
            begun.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        begun.wait()
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
