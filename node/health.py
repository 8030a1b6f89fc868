"""grpc.health.v1.Health of a node: whether its process lives, and whether it can serve the shards that it owns.

Decides nothing: what is so it is told by `refresh`.
"""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto import node_pb2

SERVICE_NAME = node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Context = grpc.aio.ServicerContext[object, object]


class NodeHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The empty name is the process; the service's name says whether it is ready."""

    def __init__(self) -> None:
        self._states = {"": SERVING, SERVICE_NAME: NOT_SERVING}
        self._changed = asyncio.Event()

    def refresh(self, not_ready: str) -> None:
        """`not_ready`: why the node cannot serve its shards; "" if it can."""
        self._set(SERVICE_NAME, NOT_SERVING if not_ready else SERVING)

    def shut_down(self) -> None:
        for service in self._states:
            self._set(service, NOT_SERVING)

    def _set(self, service: str, state: int) -> None:
        self._states[service] = state
        # Whoever waits on the old event looks again; whoever comes waits on the next.
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802  # gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._states:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._states[request.service])

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, _UNKNOWN)
            if state != told:
                told = state
                yield health_pb2.HealthCheckResponse(status=state)
            else:
                await changed.wait()
