"""How a router reaches a node: the transport behind `router.link`, as a seam. The simulation brings its own."""

from collections.abc import AsyncGenerator
from typing import Protocol

from proto import coupon_pb2, node_pb2


class NodeUnavailable(Exception):
    """The connection or the stream is gone. What was in flight on it is unknown."""


class NodeRefused(Exception):
    """The node ended the stream with a reason that trying again at once does not change.

    Args:
        reason: an ErrorReason; 0: the handshake failed (`message` names the fields).
    """

    def __init__(self, reason: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class NodeStream(Protocol):
    """An Exchange stream. Raises NodeUnavailable or NodeRefused from every method."""

    async def write(self, frame: node_pb2.RouterFrame) -> None:
        """Returns when the transport has taken it: until then the next batch gathers."""
        ...

    async def read(self) -> node_pb2.NodeFrame: ...


class NodeConnection(Protocol):
    """One connection of its own: closing it ends every stream on it."""

    def exchange(self) -> NodeStream: ...

    def watch(self, request: node_pb2.WatchRequest) -> AsyncGenerator[coupon_pb2.Campaign, None]:
        """The campaign now, then whenever it has changed. Raises NodeUnavailable, NodeRefused."""
        ...

    async def close(self) -> None: ...


class NodeTransport(Protocol):
    def connect(self, address: str) -> NodeConnection:
        """A new connection to HOST:PORT; errors come with its first use."""
        ...
