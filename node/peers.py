"""What a node asks of the other nodes: whether they live, and to hand a shard over."""

import asyncio
import random
from contextlib import suppress
from typing import Protocol

import grpc.aio

from cluster.tls import TlsIdentity, node_channel
from cluster.types import Incarnation, Revision, ShardId
from proto import node_pb2, node_pb2_grpc

RECONNECT_S = 0.1
"""How soon a broken presence stream is tried again, while the peer's port still answers."""


class HandoverFailed(Exception):
    """The peer did not, or may not have, given the shard away."""


class Peers(Protocol):
    async def gone(self, address: str, incarnation: Incarnation) -> None:
        """Return when the process that was this incarnation has certainly ended, or is another incarnation now."""
        ...

    async def hand_over(self, address: str, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        """Have the owner give the shard to `successor`; its epoch's revision.

        Raises:
            HandoverFailed
        """
        ...


class GrpcPeers:
    """Peers by their NodeService. A process is gone when its connection ended and its port refuses another."""

    def __init__(
        self,
        identity: node_pb2.ClusterIdentity,
        *,
        handover_s_max: float,
        rng: random.Random,
        tls: TlsIdentity | None = None,
    ) -> None:
        self._identity = identity
        self._tls = tls
        self._handover_s_max = handover_s_max
        self._rng = rng

    async def gone(self, address: str, incarnation: Incarnation) -> None:
        while not await self._ended(address, incarnation):  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(RECONNECT_S * self._rng.uniform(0.5, 1.5))

    async def _ended(self, address: str, incarnation: Incarnation) -> bool:
        """Follow the presence stream to its end, then see whether somebody still listens."""
        request = node_pb2.PresenceRequest(identity=self._identity, incarnation=str(incarnation))
        async with node_channel(address, self._tls) as channel:
            with suppress(grpc.aio.AioRpcError):  # the end of the stream is what is waited for, however it comes
                async for presence in node_pb2_grpc.NodeServiceStub(channel).Presence(request):
                    if presence.incarnation != str(incarnation):
                        return True
        return await _refused(address)

    async def hand_over(self, address: str, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        request = node_pb2.HandoverRequest(
            identity=self._identity, shard=shard, revision=revision, incarnation=str(successor)
        )
        async with node_channel(address, self._tls) as channel:
            try:
                response = await node_pb2_grpc.NodeServiceStub(channel).Handover(request, timeout=self._handover_s_max)
            except grpc.aio.AioRpcError as error:
                raise HandoverFailed(f"{error.code().name}: {error.details()}") from error
        return Revision(response.revision)


async def _refused(address: str) -> bool:
    """Nobody listens there: the kernel of that machine says so itself. A timeout says nothing."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(1.0):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
