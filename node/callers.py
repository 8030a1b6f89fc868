"""Which caller may call which method of a node, by the role in its certificate. A method that is not listed: nobody."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
import structlog

from cluster import health
from cluster.roles import Role, role_of
from proto import node_pb2

log = structlog.get_logger()

_SERVICE = node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name

CALLERS: Mapping[str, frozenset[Role]] = {
    f"/{_SERVICE}/Exchange": frozenset((Role.ROUTER,)),
    f"/{_SERVICE}/Watch": frozenset((Role.ROUTER,)),
    f"/{_SERVICE}/Handover": frozenset((Role.NODE,)),
    f"/{_SERVICE}/Presence": frozenset((Role.NODE,)),
    f"/{_SERVICE}/Drain": frozenset((Role.OPERATOR,)),
    f"/{_SERVICE}/GetStatus": frozenset(Role),
    f"/{health.SERVICE_NAME}/Check": frozenset(Role),
    f"/{health.SERVICE_NAME}/Watch": frozenset(Role),
}

if TYPE_CHECKING:
    _Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    _Interceptor = grpc.aio.ServerInterceptor  # generic for the stubs alone
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OnlyCallers(_Interceptor):
    """Around every method of the node, so that none can be added without it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler: Any = await continuation(details)
        if handler is None:
            return cast(Handler, None)  # no such method: grpc says so itself
        method = str(details.method)
        for kind in ("unary_unary", "unary_stream", "stream_stream"):
            if (behaviour := getattr(handler, kind)) is not None:
                wrap = _one if kind == "unary_unary" else _many
                return handler._replace(**{kind: wrap(method, behaviour)})  # type: ignore[no-any-return]  # a named tuple
        raise AssertionError(f"{method} is of a kind that nobody guards")


def _one(method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def guarded(request: Any, context: Context) -> Any:
        await _require(method, context)
        return await behaviour(request, context)

    return guarded


def _many(
    method: str, behaviour: Callable[[Any, Context], AsyncGenerator[Any, None]]
) -> Callable[[Any, Context], AsyncGenerator[Any, None]]:
    async def guarded(request: Any, context: Context) -> AsyncGenerator[Any, None]:
        await _require(method, context)
        async with aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                yield message

    return guarded


async def _require(method: str, context: Context) -> None:
    role = role_of(context.auth_context())
    if role not in CALLERS.get(method, frozenset()):
        log.warning("caller_refused", peer=context.peer(), role=role, method=method)
        await _refuse(context, f"a {role or 'stranger'} may not call {method}")


async def _refuse(context: Context, why: str) -> NoReturn:
    await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)
    raise AssertionError("abort raises")
