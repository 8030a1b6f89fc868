"""How a cluster is: who lives and owns what by etcd, and what each owner says of its shards. Asks, changes nothing."""

import asyncio
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc

from cluster.attach import Expectation, attach
from cluster.config import ClusterConfig
from cluster.records import Keyspace
from cluster.tls import TlsIdentity, node_channel
from cluster.topology import Topology
from cluster.types import NodeId, ShardId
from ops.etcd_client import etcd_client
from proto import node_pb2
from proto.node_pb2_grpc import NodeServiceStub

SERVING = "SERVING"
NO_OWNER = "NO_OWNER"
UNKNOWN = "UNKNOWN"
"""Its owner does not answer, or does not say that it has it."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    node_id: str
    address: str
    state: str
    incarnation: str
    shards: int
    """How many etcd says that it owns."""
    error: str
    """Why it did not answer; empty: it did."""


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What the owner says, where it answers; owner and revision as etcd has them."""

    shard: int
    owner: str
    """Empty: nobody."""
    cluster_incarnation: int
    revision: int
    state: str
    position: int
    campaigns: int
    coupons: int
    queued: int
    error: str
    standby: str = ""
    """The node that reads along the journal to own the shard next; empty: none does."""
    standby_lag: int = 0
    """Entries that it has not read."""


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    config: ClusterConfig
    nodes: tuple[NodeStatus, ...]
    shards: tuple[ShardStatus, ...]

    @property
    def all_served(self) -> bool:
        return all(shard.state == SERVING for shard in self.shards)

    def as_json(self) -> dict[str, Any]:
        return {"cluster": asdict(self.config)} | {
            "nodes": [asdict(node) for node in self.nodes],
            "shards": [asdict(shard) for shard in self.shards],
        }


async def read_status(
    endpoints: tuple[str, ...], key_prefix: str, timeout_s: float, tls: TlsIdentity | None = None
) -> ClusterStatus:
    """
    Raises:
        TimeoutError: etcd does not answer. A node that does not is part of the answer.
        ConfigMismatch: etcd holds no cluster.
    """
    keys = Keyspace(key_prefix)
    topology = Topology(keys)
    async with etcd_client(endpoints, tls) as etcd:
        cluster = await attach(etcd, keys, Expectation(), timeout_s=timeout_s)
        async with asyncio.timeout(timeout_s):
            topology.reset((await etcd.pages(*keys.topology)).kvs)
    answers = await _ask_all({id_: node.record.address for id_, node in topology.nodes.items()}, timeout_s, tls)
    owners = {shard: owner.record.incarnation.node_id for shard, owner in topology.owners.items()}
    nodes = tuple(
        NodeStatus(
            node_id,
            node.record.address,
            node.record.state.value,
            str(node.record.incarnation),
            sum(owner == node_id for owner in owners.values()),
            answer if isinstance(answer := answers[node_id], str) else "",
        )
        for node_id, node in sorted(topology.nodes.items())
    )
    said = {
        (node_id, shard.shard, shard.revision): shard
        for node_id, answer in answers.items()
        if not isinstance(answer, str)
        for shard in answer.shards
    }
    standbys = {
        standby.shard: (node_id, standby.position)
        for node_id, answer in answers.items()
        if not isinstance(answer, str)
        for standby in answer.standbys
        if standby.warm
    }
    shards = (_shard(ShardId(n), topology, said, cluster.incarnation) for n in range(cluster.config.shards))
    return ClusterStatus(cluster.config, nodes, tuple(_with_standby(shard, standbys) for shard in shards))


def _with_standby(shard: ShardStatus, standbys: dict[int, tuple[NodeId, int]]) -> ShardStatus:
    if shard.shard not in standbys:
        return shard
    node_id, position = standbys[shard.shard]
    # The two have not been asked at one moment.
    return replace(shard, standby=node_id, standby_lag=max(0, shard.position - position))


def _shard(
    shard: ShardId, topology: Topology, said: dict[tuple[NodeId, int, int], node_pb2.ShardStatus], incarnation: int
) -> ShardStatus:
    owner = topology.owners.get(shard)
    if owner is None:
        return ShardStatus(shard, "", incarnation, 0, NO_OWNER, 0, 0, 0, 0, "")
    node_id = owner.record.incarnation.node_id
    told = said.get((node_id, shard, owner.revision))
    if told is None:
        return ShardStatus(shard, node_id, incarnation, owner.revision, UNKNOWN, 0, 0, 0, 0, "")
    return ShardStatus(
        shard,
        node_id,
        told.cluster_incarnation,
        owner.revision,
        node_pb2.ShardStatus.State.Name(told.state),
        told.position,
        told.campaigns,
        told.coupons,
        told.queued,
        told.error,
    )


async def _ask_all(
    addresses: dict[NodeId, str], timeout_s: float, tls: TlsIdentity | None
) -> dict[NodeId, node_pb2.GetStatusResponse | str]:
    """Each node's answer, or why there is none."""
    answers = await asyncio.gather(*(ask_node(address, timeout_s, tls) for address in addresses.values()))
    return dict(zip(addresses, answers, strict=True))


async def ask_node(address: str, timeout_s: float, tls: TlsIdentity | None = None) -> node_pb2.GetStatusResponse | str:
    """A node's answer, or why there is none: it is not reached, or not registered."""
    async with node_channel(address, tls, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer: node_pb2.GetStatusResponse = await NodeServiceStub(channel).GetStatus(
                node_pb2.GetStatusRequest(), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return answer
