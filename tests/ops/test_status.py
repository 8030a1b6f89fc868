"""`status` puts together what etcd has and what nodes say: who serves a shard, who reads along, and how far behind."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest

from cluster.kv import Put, Txn
from cluster.records import Keyspace, NodeRecord, NodeState, OwnerRecord
from cluster.session import EtcdClient
from cluster.tls import TlsIdentity
from cluster.types import Incarnation, LeaseId, NodeId, ShardId
from ops import status
from ops.bootstrap import ensure_cluster
from ops.status import UNKNOWN, ClusterStatus, read_status
from proto import node_pb2
from proto.node_pb2_grpc import NodeServiceServicer, add_NodeServiceServicer_to_server
from tests.fakes.etcd import FakeEtcd

KEYS = Keyspace()
Standby = node_pb2.StandbyStatus


class Node(NodeServiceServicer):
    """Says what the test tells it to."""

    def __init__(self, name: str) -> None:
        self.me = Incarnation(NodeId(name), LeaseId(1))
        self.answer = node_pb2.GetStatusResponse()
        self.address = ""

    async def GetStatus(  # noqa: N802 (gRPC's name)
        self, request: node_pb2.GetStatusRequest, context: object
    ) -> node_pb2.GetStatusResponse:
        return self.answer

    def stands_by(self, *standbys: Standby) -> None:
        self.answer.standbys.extend(standbys)


class Cluster:
    """Nodes "a" and "b" and 4 shards: "a" owns the first three, with 100 entries each."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        # The nodes' servers are real and need real time, so the fake etcd may take its time as well.
        dial = partial(self.etcd.connect, client="ops")
        self.client = EtcdClient(["fake:2379"], dial, rng=random.Random(0), answer_max_s=60.0)
        self.a, self.b = Node("a"), Node("b")

    async def begin(self) -> None:
        await ensure_cluster(self.client, KEYS, shards=4, journal="file", cluster_id="test", code_key=bytes(32))
        for node in (self.a, self.b):
            record = NodeRecord(node.me, node.address, NodeState.ACTIVE)
            await self.client.txn(Txn((), (Put(KEYS.node(node.me.node_id), record.encode()),)))
        for shard in range(3):
            owner = OwnerRecord(self.a.me, self.a.address).encode()
            put = await self.client.txn(Txn((), (Put(KEYS.owner(ShardId(shard)), owner),)))
            self.a.answer.shards.add(
                shard=shard,
                cluster_incarnation=1,
                revision=put.revision,
                state=node_pb2.ShardStatus.SERVING,
                position=100,
                coupons=1_000,
            )


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    cluster = Cluster()

    @asynccontextmanager
    async def client(endpoints: Sequence[str], tls: TlsIdentity | None) -> AsyncIterator[EtcdClient]:
        yield cluster.client

    monkeypatch.setattr(status, "etcd_client", client)
    servers = [grpc.aio.server(), grpc.aio.server()]
    try:
        for node, server in zip((cluster.a, cluster.b), servers, strict=True):
            add_NodeServiceServicer_to_server(node, server)
            node.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
        await cluster.begin()
        yield cluster
    finally:
        for server in servers:
            await server.stop(None)


async def seen() -> ClusterStatus:
    return await read_status(("fake:2379",), KEYS.prefix, 10.0)


def test_standby_and_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each shard the node that is warm, and how many entries it has not read; it may be asked later than the owner,
    and have read more."""

    async def main() -> None:
        async with running(monkeypatch) as cluster:
            cluster.b.stands_by(
                Standby(shard=0, warm=True, position=93, coupons=930),
                Standby(shard=1, warm=False, position=10, coupons=100),
                Standby(shard=2, warm=True, position=104, coupons=1_040),
                Standby(shard=3, warm=True, position=8),
            )
            found = await seen()
            assert [(s.standby, s.standby_lag) for s in found.shards] == [("b", 7), ("", 0), ("b", 0), ("b", 0)]
            assert [s.state for s in found.shards] == ["SERVING", "SERVING", "SERVING", "NO_OWNER"]
            assert not found.all_served
            shown = found.as_json()["shards"]
            assert (shown[0]["standby"], shown[0]["standby_lag"]) == ("b", 7)

    asyncio.run(main())


def test_a_node_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards are shown with who reads along, its standbys are not."""

    async def main() -> None:
        async with running(monkeypatch) as cluster:
            cluster.a.stands_by(Standby(shard=3, warm=True, position=1))
            cluster.b.stands_by(Standby(shard=0, warm=True, position=93))
            record = NodeRecord(cluster.a.me, "127.0.0.1:1", NodeState.ACTIVE)
            await cluster.client.txn(Txn((), (Put(KEYS.node(cluster.a.me.node_id), record.encode()),)))
            found = await seen()
            assert [node.error != "" for node in found.nodes] == [True, False]
            assert [(s.state, s.standby, s.standby_lag) for s in found.shards[:2]] == [
                (UNKNOWN, "b", 0),
                (UNKNOWN, "", 0),
            ]
            assert found.shards[3].standby == ""

    asyncio.run(main())
