"""grpc.health.v1.Health of a node: whether its process lives, and whether it can serve the shards that it owns.

Decides nothing: what is so it is told by `refresh`.
"""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.health import NOT_SERVING, SERVING, Health
from proto import node_pb2

SERVICE_NAME = node_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name

Context = grpc.aio.ServicerContext[object, object]


class NodeHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """The empty name is the process; the service's name says whether it is ready."""

    def __init__(self) -> None:
        self._health = Health()
        self._health.set(SERVICE_NAME, NOT_SERVING)

    def refresh(self, not_ready: str) -> None:
        """`not_ready`: why the node cannot serve its shards; "" if it can."""
        self._health.set(SERVICE_NAME, NOT_SERVING if not_ready else SERVING)

    def shut_down(self) -> None:
        self._health.shut_down()

    async def Check(  # noqa: N802  # gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        answer = self._health.check(request)
        if answer is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return answer

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        async for answer in self._health.watch(request):
            yield answer
