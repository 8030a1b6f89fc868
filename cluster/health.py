"""grpc.health.v1.Health: which services are served, for whoever asks and whoever watches. Knows no transport."""

import asyncio
from collections.abc import AsyncIterator

from grpc_health.v1 import health_pb2

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The empty name is the whole server."""

    def __init__(self) -> None:
        self._states: dict[str, int] = {"": SERVING}
        self._changed = asyncio.Event()

    def set(self, service: str, state: int) -> None:
        self._states[service] = state
        # Whoever waits on the old event looks again; whoever comes waits on the next.
        self._changed.set()
        self._changed = asyncio.Event()

    def shut_down(self) -> None:
        for service in self._states:
            self.set(service, NOT_SERVING)

    def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse | None:
        """None: there is no such service, which callers hear as NOT_FOUND."""
        state = self._states.get(request.service)
        return None if state is None else health_pb2.HealthCheckResponse(status=state)

    async def watch(self, request: health_pb2.HealthCheckRequest) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The state now, then whenever it has changed."""
        told = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, _UNKNOWN)
            if state != told:
                told = state
                yield health_pb2.HealthCheckResponse(status=state)
            else:
                await changed.wait()
