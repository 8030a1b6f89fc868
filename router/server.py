"""The public API on grpc.aio: bytes in, bytes out, errors as google.rpc statuses; health and reflection beside it.

Everything that a call means is `router.service`'s. Messages arrive as bytes, so that garbage and what is too large are
answered by our own rules: grpc would call the one INTERNAL and the other RESOURCE_EXHAUSTED.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from proto import coupon_pb2
from router import validation
from router.errors import ApiError
from router.service import CallContext, CouponService

log = structlog.get_logger()

SERVICE_NAME = coupon_pb2.DESCRIPTOR.services_by_name["CouponService"].full_name
RECEIVE_BYTES_MAX = 16 << 20
"""Larger messages never reach us; smaller ones over 1 MiB are answered by name."""
_MARGIN_S = 0.03
"""So much before the client's deadline the answer has to be ready: when the deadline comes, grpc drops every detail."""
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[bytes, bytes]
Request = TypeVar("Request", bound=Message)
Method = Callable[[Request, CallContext], Awaitable[Message]]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    rpcs_max: int = 30_000
    """At a time, streams included; beyond it grpc itself says RESOURCE_EXHAUSTED."""
    drain_s_max: float = 10.0
    """How long a stopping server waits for the calls that it has."""


class GrpcServer:
    """To be made inside the event loop that it runs in."""

    def __init__(self, service: CouponService, settings: ServerSettings) -> None:
        self._service = service
        self._settings = settings
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs leave it out
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
                # Two routers on one port would each get half of the connections, in silence.
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=settings.rpcs_max,
        )
        handlers = grpc.method_handlers_generic_handler(SERVICE_NAME, self._handlers())
        self._server.add_generic_rpc_handlers((handlers,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def listen(self, address: str) -> str:
        """Binds HOST:PORT, where port 0 is a free one; returns it with the port that it became.

        Raises:
            RuntimeError: it cannot be bound.
        """
        port = self._server.add_insecure_port(address)
        return f"{address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        await self._server.start()
        await self._health.set(SERVICE_NAME, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Says NOT_SERVING, refuses what is new, answers what it has (for `drain_s_max` at most), ends."""
        await self._health.enter_graceful_shutdown()
        self._service.stop()
        try:
            async with asyncio.timeout(self._settings.drain_s_max):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain_cut_short", calls=self._calls)
        # The last answers still have to leave; health watchers would stay for ever.
        await self._server.stop(0.2)

    def _handlers(self) -> dict[str, Handler]:
        service = self._service
        return {
            "CreateCampaign": self._unary(coupon_pb2.CreateCampaignRequest, service.create_campaign),
            "GetCampaign": self._unary(coupon_pb2.GetCampaignRequest, service.get_campaign),
            "ListCampaigns": self._unary(coupon_pb2.ListCampaignsRequest, service.list_campaigns),
            "UpdateCampaign": self._unary(coupon_pb2.UpdateCampaignRequest, service.update_campaign),
            "IssueCoupon": grpc.unary_unary_rpc_method_handler(self._issue_coupon),
            "IssueCoupons": grpc.stream_stream_rpc_method_handler(self._issue_coupons),
            "WatchCampaign": grpc.unary_stream_rpc_method_handler(self._watch_campaign),
            "GetCoupon": self._unary(coupon_pb2.GetCouponRequest, service.get_coupon),
            "PauseCampaign": self._unary(coupon_pb2.PauseCampaignRequest, service.pause_campaign),
            "ResumeCampaign": self._unary(coupon_pb2.ResumeCampaignRequest, service.resume_campaign),
            "CancelCampaign": self._unary(coupon_pb2.CancelCampaignRequest, service.cancel_campaign),
        }

    def _unary(self, kind: type[Request], method: Method[Request]) -> Handler:
        async def handle(data: bytes, context: Context) -> bytes:
            async with self._rpc(context):
                response = await method(validation.parse(kind, data), _call_of(context))
            return response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _issue_coupon(self, data: bytes, context: Context) -> bytes:
        async with self._rpc(context):
            return await self._service.issue_coupon_bytes(data, _call_of(context))

    async def _issue_coupons(self, messages: AsyncIterator[bytes], context: Context) -> None:
        async with self._rpc(context):
            requests = _parsed(coupon_pb2.IssueCouponsRequest, messages)
            await self._service.issue_coupons(requests, _call_of(context), partial(_send, context))

    async def _watch_campaign(self, data: bytes, context: Context) -> None:
        async with self._rpc(context):
            request = validation.parse(coupon_pb2.WatchCampaignRequest, data)
            await self._service.watch_campaign(request, _call_of(context), partial(_send, context))

    @asynccontextmanager
    async def _rpc(self, context: Context) -> AsyncIterator[None]:
        """Around one RPC: it is counted, and its failure becomes its status."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        except ApiError as error:
            status = error.status()
            details = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(_GRPC_CODES[status.code], status.message, details)
        except Exception:
            # A bug: its trace is for the log, nothing of it for the caller.
            log.exception("call_failed")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


def _call_of(context: Context) -> CallContext:
    left_s: float | None = context.time_remaining()
    if left_s is None:
        return CallContext(deadline=None)
    margin_s = min(_MARGIN_S, left_s / 5)
    return CallContext(deadline=asyncio.get_running_loop().time() + left_s - margin_s)


async def _parsed(kind: type[Request], messages: AsyncIterator[bytes]) -> AsyncIterator[Request]:
    async for data in messages:
        yield validation.parse(kind, data)


async def _send(context: Context, message: Message) -> None:
    await context.write(message.SerializeToString())
