"""`seonchak drain` on a real cluster: nobody notices but the node."""

import asyncio
import json
import sys
from pathlib import Path

import grpc.aio
import pytest

from cluster.placement import preference
from cluster.types import NodeId, ShardId
from ops.child import Child, ChildSpec
from ops.drain import NotDrained, drain_node
from ops.load import LoadSpec, run_load
from ops.local import LocalCluster, LocalSpec, supervise
from ops.status import ClusterStatus, read_status
from proto import coupon_pb2, node_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from proto.node_pb2_grpc import NodeServiceStub
from tests.ops.test_up import command, run

pytestmark = pytest.mark.cluster

SHARDS = 16
CAMPAIGNS = 8
GRANTS = 60


async def status_of(cluster: LocalCluster) -> ClusterStatus:
    return await read_status(cluster.layout.etcd_endpoints, cluster.keys.prefix, 10)


async def _grant_all(router: str, campaign_id: str) -> int:
    result = await run_load(LoadSpec(router, campaign_id, requests=GRANTS, rate=GRANTS / 3, timeout_s=3.0, channels=1))
    return result.issued


def test_drain_hands_over_and_ends_the_node(tmp_path: Path) -> None:
    """In the middle of issuing: the node's process ends with 0, its shards are owned, no call fails."""

    async def main() -> None:
        spec = LocalSpec(tmp_path, nodes=2, shards=SHARDS, restart=False, node_env={"SEONCHAK_SETTLE_S": "0"})
        async with LocalCluster(spec) as cluster, grpc.aio.insecure_channel(cluster.router) as channel:
            names = [f"campaign-{number}" for number in range(CAMPAIGNS)]
            for name in names:
                request = coupon_pb2.CreateCampaignRequest(
                    campaign_id=name, campaign=coupon_pb2.Campaign(name="이사", total=GRANTS)
                )
                await CouponServiceStub(channel).CreateCampaign(request, timeout=10)
            names_of_nodes = [NodeId("node-0"), NodeId("node-1")]
            owned = sum(preference(ShardId(shard), names_of_nodes)[0] == "node-0" for shard in range(SHARDS))
            while {node.node_id: node.shards for node in (await status_of(cluster)).nodes}["node-0"] != owned:
                await asyncio.sleep(0.1)
            async with asyncio.TaskGroup() as tasks:
                loads = [tasks.create_task(_grant_all(cluster.router, name)) for name in names]
                code, out, err = await command("drain", "node-0", "--data-dir", str(tmp_path), "--json")
                assert code == 0
                assert [json.loads(line)["answer"] for line in err.splitlines()] == ["BEGUN", "OK"]
                assert json.loads(out) == {"node": "node-0", "shards": owned}
                assert not all(load.done() for load in loads), "the drain came too late to be noticed"
            assert [load.result() for load in loads] == [GRANTS] * CAMPAIGNS
            assert await cluster.nodes[0].wait() == 0
            after = await status_of(cluster)
            assert after.all_served
            assert {shard.owner for shard in after.shards} == {"node-1"}

    run(main)


def test_a_node_that_was_drained_is_not_started_again(tmp_path: Path) -> None:
    """`up` restarts what dies, and leaves alone what ends of its own accord."""

    async def main() -> None:
        child = Child(ChildSpec("child", (sys.executable, "-c", ""), tmp_path / "child.log"))
        await child.start()
        async with asyncio.timeout(20):
            await supervise(child)

    run(main)


def test_drain_asks_only_whom_it_means(tmp_path: Path) -> None:
    """No such node, or another life of it: nobody drains."""

    async def main() -> None:
        async with LocalCluster(LocalSpec(tmp_path, nodes=1, shards=8)) as cluster:
            command_line = ["drain", "node-7", "--data-dir", str(tmp_path), "--audit-log", str(tmp_path / "audit")]
            code, out, err = await command(*command_line)
            assert (code, out, err) == (1, "", "error: no node 'node-7' is registered\n")
            assert '"node": "node-7"' in (tmp_path / "audit").read_text()
            status = await status_of(cluster)
            (node,) = status.nodes
            async with grpc.aio.insecure_channel(node.address) as channel:
                stub = NodeServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Drain(node_pb2.DrainRequest(incarnation=node.incarnation), timeout=10)
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            with pytest.raises(NotDrained, match="etcd or the node does not answer"):
                await drain_node(("127.0.0.1:1",), cluster.keys.prefix, NodeId("node-0"), 0.5)
            assert (await status_of(cluster)).all_served

    run(main)
