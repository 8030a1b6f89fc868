"""Have a node hand everything over and end, from anywhere: what SIGTERM does on its own machine."""

import asyncio
from contextlib import aclosing

import grpc

from cluster.attach import Expectation, attach
from cluster.identity import identity_of
from cluster.records import Keyspace
from cluster.tls import TlsIdentity, node_channel
from cluster.types import NodeId
from ops.etcd_client import etcd_client, watched_topology
from proto import node_pb2
from proto.node_pb2_grpc import NodeServiceStub


class NotDrained(Exception):
    """The node was not asked, or has not ended."""


async def drain_node(
    endpoints: tuple[str, ...], key_prefix: str, node_id: NodeId, timeout_s: float, tls: TlsIdentity | None = None
) -> int:
    """Returns when the node's registration is gone: how many shards it owned before.

    Raises:
        NotDrained
        ConfigMismatch: etcd holds no cluster.
    """
    keys = Keyspace(key_prefix)
    asked = False
    try:
        async with (
            asyncio.timeout(timeout_s),
            etcd_client(endpoints, tls) as etcd,
            aclosing(watched_topology(etcd, keys)) as views,
        ):
            cluster = await attach(etcd, keys, Expectation(), timeout_s=timeout_s)
            topology = await anext(views)
            node = topology.nodes.get(node_id)
            if node is None:
                raise NotDrained(f"no node {node_id!r} is registered")
            me = node.record.incarnation
            owned = sum(owner.record.incarnation == me for owner in topology.owners.values())
            request = node_pb2.DrainRequest(identity=identity_of(cluster.config), incarnation=str(me))
            await _ask(node.record.address, request, tls)
            asked = True
            while node is not None and node.record.incarnation == me:
                node = (await anext(views)).nodes.get(node_id)
            return owned
    except TimeoutError:
        what = f"{node_id} was asked and has not ended" if asked else "etcd or the node does not answer"
        raise NotDrained(f"{what} after {timeout_s:g} s") from None


async def _ask(address: str, request: node_pb2.DrainRequest, tls: TlsIdentity | None) -> None:
    async with node_channel(address, tls, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            await NodeServiceStub(channel).Drain(request)
        except grpc.aio.AioRpcError as error:
            raise NotDrained(f"{address}: {error.code().name}: {error.details()}") from error
