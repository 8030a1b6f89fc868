"""Every method that a router serves, by its path, as bytes in and bytes out: the whole that a transport has to carry.

The API itself, and beside it what gRPC's tools expect: health and reflection.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cluster import health
from cluster.audit_log import AuditLog
from cluster.health import Health
from proto import coupon_pb2
from router import errors, validation
from router.errors import ApiError, reason_name
from router.grpc_wire import Failed
from router.service import Begin, CallContext, CouponService

_AUDITED_MAX = 256
"""Characters of an id that may be wrong in every way."""
SERVICE_NAME = coupon_pb2.DESCRIPTOR.services_by_name["CouponService"].full_name

Send: TypeAlias = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Begun at once and answered by a callback, since a task for each call would cost more than the call."""

    admit: Callable[[bytes], Begin | ApiError]
    """Looks at a request, and returns what begins it, or why it is not begun. Returned, not raised: when too many come,
    most are refused, and those must cost little."""


@dataclass(frozen=True, slots=True)
class Unary:
    handle: Callable[[bytes, CallContext], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Streaming:
    """Messages of the client, as they come; messages to it, by `send`. Both at a time, or one after the other."""

    handle: Callable[[AsyncIterator[bytes], CallContext, Send], Awaitable[None]]
    background: bool = False
    """Stays open for as long as the client likes: nobody waits for it when the server stops."""


Method: TypeAlias = Prompt | Unary | Streaming

Request = TypeVar("Request", bound=Message)


def methods(service: CouponService, state: Health, audit: AuditLog) -> Mapping[str, Method]:
    """By path: /SERVICE/METHOD. Handlers raise ApiError or Failed. What an administrator does is written down."""

    def unary(kind: type[Request], method: Callable[[Request, CallContext], Awaitable[Message]]) -> Unary:
        async def handle(data: bytes, call: CallContext) -> bytes:
            return (await method(validation.parse(kind, data), call)).SerializeToString()

        return Unary(handle)

    def audited(kind: type[Request], method: Callable[[Request, CallContext], Awaitable[Message]]) -> Unary:
        name = kind.DESCRIPTOR.name.removesuffix("Request")

        async def handle(data: bytes, call: CallContext) -> bytes:
            caller = {"who": call.permit.key_id if call.permit is not None else call.peer, "peer": call.peer}
            try:
                request = validation.parse(kind, data)
            except ApiError as error:
                audit.refused(what=name, answer=reason_name(error.reason), **caller)
                raise
            try:
                act = audit.begin(what=name, **caller, **_named(request))
            except OSError:
                raise errors.audit_unwritable() from None
            answer, response = "UNKNOWN", None  # if it comes to none: the caller goes away, or there is a bug
            try:
                response = await method(request, call)
                answer = "OK"
            except ApiError as error:
                answer = reason_name(error.reason)
                raise
            finally:
                act.end(answer, **(_named(response) if response is not None else {}))
            return response.SerializeToString()

        return Unary(handle)

    coupons: dict[str, Method] = {
        "CreateCampaign": audited(coupon_pb2.CreateCampaignRequest, service.create_campaign),
        "GetCampaign": unary(coupon_pb2.GetCampaignRequest, service.get_campaign),
        "ListCampaigns": unary(coupon_pb2.ListCampaignsRequest, service.list_campaigns),
        "UpdateCampaign": audited(coupon_pb2.UpdateCampaignRequest, service.update_campaign),
        "IssueCoupon": Prompt(service.admit_issue_coupon),
        "IssueCoupons": _issue_coupons(service),
        "WatchCampaign": _watch_campaign(service),
        "GetCoupon": unary(coupon_pb2.GetCouponRequest, service.get_coupon),
        "PauseCampaign": audited(coupon_pb2.PauseCampaignRequest, service.pause_campaign),
        "ResumeCampaign": audited(coupon_pb2.ResumeCampaignRequest, service.resume_campaign),
        "CancelCampaign": audited(coupon_pb2.CancelCampaignRequest, service.cancel_campaign),
    }
    others: dict[str, Method] = {
        f"/{health.SERVICE_NAME}/Check": _health_check(state),
        f"/{health.SERVICE_NAME}/Watch": _health_watch(state),
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": _reflection(),
    }
    return {f"/{SERVICE_NAME}/{name}": method for name, method in coupons.items()} | others


def _named(message: Message) -> dict[str, str]:
    """What the audit log says of a request or a response. Ids may be wrong in every way."""
    campaign = getattr(message, "campaign", None)
    ids = {
        "campaign": getattr(message, "campaign_id", "") or getattr(campaign, "campaign_id", ""),
        "request_id": getattr(message, "request_id", ""),
    }
    return {name: value[:_AUDITED_MAX] for name, value in ids.items() if value}


def _issue_coupons(service: CouponService) -> Streaming:
    async def handle(messages: AsyncIterator[bytes], call: CallContext, send: Send) -> None:
        async def requests() -> AsyncIterator[coupon_pb2.IssueCouponsRequest]:
            async for data in messages:
                call.require_permit()
                yield validation.parse(coupon_pb2.IssueCouponsRequest, data)

        await service.issue_coupons(requests(), call, _written(send))

    return Streaming(handle)


def _watch_campaign(service: CouponService) -> Streaming:
    async def handle(messages: AsyncIterator[bytes], call: CallContext, send: Send) -> None:
        async def send_if_permitted(response: Message) -> None:
            call.require_permit()
            await send(response.SerializeToString())

        async with call.permitted():
            request = validation.parse(coupon_pb2.WatchCampaignRequest, await _only(messages))
            await service.watch_campaign(request, call, send_if_permitted)

    return Streaming(handle)


def _health_check(state: Health) -> Unary:
    async def handle(data: bytes, call: CallContext) -> bytes:
        answer = state.check(_parsed(health_pb2.HealthCheckRequest, data))
        if answer is None:
            raise Failed(code_pb2.NOT_FOUND, "no such service")
        response: bytes = answer.SerializeToString()
        return response

    return Unary(handle)


def _health_watch(state: Health) -> Streaming:
    async def handle(messages: AsyncIterator[bytes], call: CallContext, send: Send) -> None:
        request = _parsed(health_pb2.HealthCheckRequest, await _only(messages))
        async for response in state.watch(request):
            await send(response.SerializeToString())

    return Streaming(handle, background=True)


def _reflection() -> Streaming:
    names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    servicer = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]  # the stubs leave it out

    async def handle(messages: AsyncIterator[bytes], call: CallContext, send: Send) -> None:
        async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            async for data in messages:
                call.require_permit()
                yield _parsed(reflection_pb2.ServerReflectionRequest, data)

        async with call.permitted():
            async for response in servicer.ServerReflectionInfo(requests(), None):
                await send(response.SerializeToString())

    return Streaming(handle, background=True)


def _written(send: Send) -> Callable[[Message], Awaitable[None]]:
    return lambda message: send(message.SerializeToString())


def _parsed(kind: type[Request], data: bytes) -> Request:
    """Of the tools' methods, whose errors have no details."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise Failed(code_pb2.INVALID_ARGUMENT, f"this is not a {kind.DESCRIPTOR.full_name}") from error


async def _only(messages: AsyncIterator[bytes]) -> bytes:
    """The first message, where the client has no more to say than one."""
    async for data in messages:
        return data
    raise Failed(code_pb2.INVALID_ARGUMENT, "the call ended without its request")
