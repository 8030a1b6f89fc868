"""`router.nodes` over grpc.aio."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import TypeAlias, cast

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs leave it out

from cluster.tls import TlsIdentity, node_channel
from proto import coupon_pb2, node_pb2
from proto.node_pb2_grpc import NodeServiceStub
from router.nodes import NodeConnection, NodeRefused, NodeStream, NodeUnavailable

_FRAME_BYTES_MAX = 64 << 20

_OPTIONS = (
    ("grpc.max_receive_message_length", _FRAME_BYTES_MAX),
    ("grpc.max_send_message_length", _FRAME_BYTES_MAX),
    # Retries are the dispatcher's.
    ("grpc.enable_retries", 0),
    # A connection is reset because it is silent: the next one must not share its socket.
    ("grpc.use_local_subchannel_pool", 1),
    # Proxies of the environment are for the outside world.
    ("grpc.enable_http_proxy", 0),
)

_REFUSALS = {
    grpc.StatusCode.FAILED_PRECONDITION: coupon_pb2.ERROR_REASON_UNSPECIFIED,
    grpc.StatusCode.NOT_FOUND: coupon_pb2.CAMPAIGN_NOT_FOUND,
    grpc.StatusCode.DATA_LOSS: coupon_pb2.CORRUPT_JOURNAL,
}

ExchangeCall: TypeAlias = "grpc.aio.StreamStreamCall[node_pb2.RouterFrame, node_pb2.NodeFrame]"


class GrpcNodes:
    def __init__(self, tls: TlsIdentity | None = None) -> None:
        self._tls = tls

    def connect(self, address: str) -> NodeConnection:
        return _Connection(node_channel(address, self._tls, _OPTIONS))


class _Connection:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub = NodeServiceStub(channel)
        self._exchanges: list[ExchangeCall] = []

    def exchange(self) -> NodeStream:
        call: ExchangeCall = self._stub.Exchange()
        self._exchanges.append(call)
        return _Stream(call)

    async def watch(self, request: node_pb2.WatchRequest) -> AsyncGenerator[coupon_pb2.Campaign, None]:
        call: grpc.aio.UnaryStreamCall[node_pb2.WatchRequest, coupon_pb2.Campaign] = self._stub.Watch(request)
        try:
            while True:
                with _failures():
                    campaign = await call.read()
                if campaign is EOF:
                    raise NodeUnavailable("the node ended the stream")
                yield cast(coupon_pb2.Campaign, campaign)
        finally:
            call.cancel()

    async def close(self) -> None:
        # Closing a channel does not end a call that nobody reads at that moment.
        for call in self._exchanges:
            call.cancel()
        await self._channel.close(None)


class _Stream:
    def __init__(self, call: ExchangeCall) -> None:
        self._call = call

    async def write(self, frame: node_pb2.RouterFrame) -> None:
        with _failures():
            await self._call.write(frame)

    async def read(self) -> node_pb2.NodeFrame:
        with _failures():
            frame = await self._call.read()
        if frame is EOF:
            raise NodeUnavailable("the node ended the stream")
        return cast(node_pb2.NodeFrame, frame)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        reason = _REFUSALS.get(error.code())
        if reason is not None:
            raise NodeRefused(reason, details) from error
        raise NodeUnavailable(f"{error.code().name}: {details}") from error
    except asyncio.InvalidStateError as error:
        # What grpc says to a write on a stream that the node has ended.
        raise NodeUnavailable(str(error)) from error
