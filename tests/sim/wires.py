"""The seams of router and node towards each other, over the simulated network: what `router.grpc_nodes` and
`node.peers` are over gRPC."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import cast

import grpc

from cluster.types import Incarnation, Revision, ShardId
from node.peers import RECONNECT_S, HandoverFailed
from proto import coupon_pb2, node_pb2
from router.nodes import NodeConnection, NodeRefused, NodeStream, NodeUnavailable
from tests.sim.network import Call, Failed, Network
from tests.sim.points import Pointed

_REFUSALS = {
    grpc.StatusCode.FAILED_PRECONDITION: coupon_pb2.ERROR_REASON_UNSPECIFIED,
    grpc.StatusCode.NOT_FOUND: coupon_pb2.CAMPAIGN_NOT_FOUND,
    grpc.StatusCode.DATA_LOSS: coupon_pb2.CORRUPT_JOURNAL,
}


class SimNodes:
    """Implements router.nodes.NodeTransport for one router."""

    def __init__(self, network: Network, router: str, process: Pointed) -> None:
        self._network = network
        self._router = router
        self._process = process

    def connect(self, address: str) -> NodeConnection:
        return _Connection(self._network, self._router, address, self._process)


class _Connection:
    def __init__(self, network: Network, router: str, address: str, process: Pointed) -> None:
        self._network = network
        self._router = router
        self._address = address
        self._process = process
        self._calls: list[Call] = []

    def exchange(self) -> NodeStream:
        return _Stream(self._call("Exchange"), self._process)

    async def watch(self, request: node_pb2.WatchRequest) -> AsyncGenerator[coupon_pb2.Campaign, None]:
        call = self._call("Watch")
        try:
            call.write(request)
            while (campaign := await call.read()) is not None:
                yield campaign
            raise NodeUnavailable("the node ended the stream")
        except Failed as failed:
            raise _node_error(failed) from failed
        finally:
            call.cancel()

    async def close(self) -> None:
        for call in self._calls:
            call.cancel()

    def _call(self, method: str) -> Call:
        call = self._network.call(self._router, self._address, method)
        self._calls.append(call)
        return call


class _Stream:
    def __init__(self, call: Call, process: Pointed) -> None:
        self._call = call
        self._process = process

    async def write(self, frame: node_pb2.RouterFrame) -> None:
        has_calls = frame.WhichOneof("kind") == "calls"
        if has_calls:
            await self._process.reach("calls.before")
        try:
            self._call.write(frame)
        except Failed as failed:
            raise _node_error(failed) from failed
        if has_calls:
            await self._process.reach("calls.after")

    async def read(self) -> node_pb2.NodeFrame:
        try:
            frame = await self._call.read()
        except Failed as failed:
            raise _node_error(failed) from failed
        if frame is None:
            raise NodeUnavailable("the node ended the stream")
        return cast(node_pb2.NodeFrame, frame)


def _node_error(failed: Failed) -> NodeUnavailable | NodeRefused:
    reason = _REFUSALS.get(failed.code)
    if reason is not None:
        return NodeRefused(reason, failed.details)
    return NodeUnavailable(f"{failed.code.name}: {failed.details}")


class SimPeers:
    """Implements node.peers.Peers for one node: what GrpcPeers does, over the simulated network."""

    def __init__(
        self,
        network: Network,
        me: str,
        identity: node_pb2.ClusterIdentity,
        *,
        handover_s_max: float,
        rng: random.Random,
    ) -> None:
        self._network = network
        self._me = me
        self._identity = identity
        self._handover_s_max = handover_s_max
        self._rng = rng

    async def gone(self, address: str, incarnation: Incarnation) -> None:
        while not await self._ended(address, incarnation):
            await asyncio.sleep(RECONNECT_S * self._rng.uniform(0.5, 1.5))

    async def _ended(self, address: str, incarnation: Incarnation) -> bool:
        call = self._network.call(self._me, address, "Presence")
        try:
            with suppress(Failed):  # the end of the stream is what is waited for, however it comes
                call.write(node_pb2.PresenceRequest(identity=self._identity, incarnation=str(incarnation)))
                while (presence := await call.read()) is not None:
                    if presence.incarnation != str(incarnation):
                        return True
        finally:
            call.cancel()
        return await self._network.refuses(self._me, address)

    async def hand_over(self, address: str, shard: ShardId, revision: Revision, successor: Incarnation) -> Revision:
        call = self._network.call(self._me, address, "Handover")
        try:
            async with asyncio.timeout(self._handover_s_max):
                call.write(
                    node_pb2.HandoverRequest(
                        identity=self._identity, shard=shard, revision=revision, incarnation=str(successor)
                    )
                )
                response = await call.read()
        except TimeoutError as error:
            raise HandoverFailed("DEADLINE_EXCEEDED") from error
        except Failed as failed:
            raise HandoverFailed(f"{failed.code.name}: {failed.details}") from failed
        finally:
            call.cancel()
        return Revision(response.revision)
