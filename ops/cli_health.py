"""`seonchak health`: does one process serve? For whatever watches containers; asks once, changes nothing."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli_common import DEFAULT_ROUTER, fail
from ops.cli_identity import credentials, operator

if TYPE_CHECKING:
    from cluster.tls import TlsIdentity
    from ops.credentials import Credentials


def health(
    node: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ask this node.")] = None,
    router: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help=f"Ask this router. Default: {DEFAULT_ROUTER}.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that the answer may take.")] = 3.0,
) -> None:
    """Exit code 0 if a node is registered, or a router takes calls."""
    if node is not None and router is not None:
        raise typer.BadParameter("--node and --router exclude each other")
    if node is not None:
        why = asyncio.run(_node(node, timeout, operator()))
    else:
        why = asyncio.run(_router(router or DEFAULT_ROUTER, timeout, credentials()))
    if why:
        fail(why)
    typer.echo("serving")


async def _node(address: str, timeout_s: float, tls: "TlsIdentity | None") -> str:
    """Why not; empty: it does."""
    from ops.status import ask_node

    answer = await ask_node(address, timeout_s, tls)
    return answer if isinstance(answer, str) else ""


async def _router(address: str, timeout_s: float, who: "Credentials") -> str:
    import grpc.aio
    from grpc_health.v1 import health_pb2
    from grpc_health.v1.health_pb2_grpc import HealthStub

    async with who.aio_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else "NOT_SERVING"
