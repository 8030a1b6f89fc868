"""The public API on grpc.aio: the same methods behind somebody else's transport, to compare our own with.

Messages arrive as bytes, so that garbage and what is too large are answered by our own rules: grpc would call the one
INTERNAL and the other RESOURCE_EXHAUSTED.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import grpc
import grpc.aio
import structlog
from google.rpc import code_pb2

from cluster.audit_log import AuditLog
from cluster.health import SERVING, Health
from cluster.tls import TlsIdentity
from router.access import Access, Permit
from router.api import SERVICE_NAME, Method, Prompt, Streaming, Unary, methods
from router.calls import answer_of
from router.errors import ApiError
from router.grpc_wire import Failed
from router.observer import NO_METHOD, Observer, method_name
from router.peer import deadline_of
from router.server import ServerSettings
from router.service import CallContext, CouponService
from router.streaming import INTERNAL

log = structlog.get_logger()

RECEIVE_BYTES_MAX = 16 << 20
"""Larger messages never reach us; smaller ones over 1 MiB are answered by name."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_UNIMPLEMENTED = Failed(code_pb2.UNIMPLEMENTED, "no such method")

if TYPE_CHECKING:
    _GenericHandler = grpc.GenericRpcHandler[bytes, bytes]
else:
    _GenericHandler = grpc.GenericRpcHandler  # generic for the stubs alone
Context = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class AioServer:
    """As router.server.ApiServer. To be made inside the event loop that it runs in."""

    def __init__(
        self,
        service: CouponService,
        settings: ServerSettings,
        tls: TlsIdentity | None = None,
        access: Access | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self.health = Health()
        self.health.set(SERVICE_NAME, SERVING)
        self._tls = tls
        self._access = access
        self._observer = service.observer
        self._service = service
        self._settings = settings
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
                # Two routers on one port would each get half of the connections, in silence.
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=settings.rpcs_max,
        )
        by_service: dict[str, dict[str, Handler]] = {}
        for path, method in methods(service, self.health, audit or AuditLog()).items():
            _, service_name, name = path.split("/")
            by_service.setdefault(service_name, {})[name] = self._handler(path, method)
        handlers = [grpc.method_handlers_generic_handler(name, handlers) for name, handlers in by_service.items()]
        self._server.add_generic_rpc_handlers((*handlers, _NoMethod(service.observer)))

    def listen(self, address: str) -> str:
        """Binds HOST:PORT, where port 0 is a free one; returns it with the port that it became.

        Raises:
            RuntimeError: it cannot be bound.
        """
        if self._tls is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, self._tls.server_credentials(mutual=False))
        return f"{address.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        """Says NOT_SERVING, refuses what is new, answers what it has (for `drain_s_max` at most), ends."""
        self.health.shut_down()
        self._service.end_streams()
        self._service.refuse()
        try:
            async with asyncio.timeout(self._settings.drain_s_max):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain_cut_short", calls=self._calls)
        # The last answers still have to leave; health watchers would stay for ever.
        await self._server.stop(0.2)

    def _handler(self, path: str, method: Method) -> Handler:
        match method:
            case Prompt():
                return grpc.unary_unary_rpc_method_handler(self._prompt(path, method))
            case Unary():
                return grpc.unary_unary_rpc_method_handler(self._unary(path, method))
            case Streaming():
                return grpc.stream_stream_rpc_method_handler(self._streaming(path, method))

    def _prompt(self, path: str, method: Prompt) -> Callable[[bytes, Context], object]:
        async def handle(data: bytes, context: Context) -> bytes:
            async with self._rpc(path, context, prompt=True) as call:
                admitted = method.admit(data)
                if isinstance(admitted, ApiError):
                    raise admitted.with_traceback(None)  # it may be shared
                return await answer_of(partial(admitted, call))

        return handle

    def _unary(self, path: str, method: Unary) -> Callable[[bytes, Context], object]:
        async def handle(data: bytes, context: Context) -> bytes:
            async with self._rpc(path, context) as call:
                return await method.handle(data, call)

        return handle

    def _streaming(self, path: str, method: Streaming) -> Callable[[AsyncIterator[bytes], Context], object]:
        async def handle(messages: AsyncIterator[bytes], context: Context) -> None:
            async with self._rpc(path, context, background=method.background) as call:
                await method.handle(messages, call, context.write)

        return handle

    def _permit(self, path: str, context: Context) -> Permit | None:
        if self._access is None:
            return None
        shown = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        joined = b",".join(value if isinstance(value, bytes) else value.encode() for value in shown)
        return self._access.permit(path, joined, _address_of(context))

    @asynccontextmanager
    async def _rpc(
        self, path: str, context: Context, *, background: bool = False, prompt: bool = False
    ) -> AsyncIterator[CallContext]:
        """Around one RPC: its key is asked for, it is counted, and its failure becomes its status."""
        if not background:
            self._calls += 1
            self._idle.clear()
        began_s, counted = self._observer.now(), prompt

        def count(code: int) -> None:
            if not counted:
                self._observer.answered(method_name(path), code, self._observer.now() - began_s)

        try:
            permit = self._permit(path, context)
            if permit is not None and (refusal := permit.admit()) is not None:
                counted = True
                raise refusal.with_traceback(None)  # it may be shared
            yield _call_of(context, permit)
        except ApiError as error:
            count(error.code)
            status = error.status()
            details = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(_CODES[status.code], status.message, details)
        except Failed as error:
            count(error.code)
            await context.abort(_CODES[error.code], error.message)
        except asyncio.CancelledError:
            count(code_pb2.CANCELLED)
            raise
        except Exception:
            # A bug: its trace is for the log, nothing of it for the caller.
            log.exception("call_failed")
            if prompt:
                self._observer.turned_away(method_name(path), INTERNAL)
            count(INTERNAL.code)
            await context.abort(grpc.StatusCode.INTERNAL, INTERNAL.message)
        else:
            count(code_pb2.OK)
        finally:
            if not background:
                self._calls -= 1
                if not self._calls:
                    self._idle.set()


class _NoMethod(_GenericHandler):
    """Is asked for what no other handler has, and only counts it."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def service(self, _: grpc.HandlerCallDetails) -> None:
        self._observer.turned_away(NO_METHOD, _UNIMPLEMENTED)


def _call_of(context: Context, permit: Permit | None) -> CallContext:
    left_s: float | None = context.time_remaining()
    deadline = None if left_s is None else deadline_of(left_s, asyncio.get_running_loop().time())
    return CallContext(deadline, permit, _address_of(context))


def _address_of(context: Context) -> str:
    """HOST:PORT; gRPC puts the family before it."""
    return context.peer().partition(":")[2]
