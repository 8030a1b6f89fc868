"""What goes wrong around a cluster, and what its callers hear."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cluster.config import JournalKind
from cluster.kv import Get, Put, Txn
from cluster.records import Keyspace
from ops.etcd_client import etcd_client
from ops.layout import journal_dir
from proto import coupon_pb2
from tests.cluster.support import Cluster, run, running
from tests.support.errors import failure

pytestmark = pytest.mark.cluster

JOURNALS: list[JournalKind] = ["file", "etcd"]


@pytest.mark.parametrize("journal", JOURNALS)
def test_without_etcd_nothing_is_granted_and_it_comes_back_by_itself(tmp_path: Path, journal: JournalKind) -> None:
    """etcd is gone: past the lease no grant and no read is answered (UNAVAILABLE, or unknown for what was under way);
    when etcd answers again, so does the cluster, without anybody's help, and the campaign is exact."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 20)
            coupon = (await cluster.issue("launch", "u0")).coupon
            owner = await cluster.owner("launch")
            cluster.processes.etcds[0].freeze()
            while not cluster.logged(owner.node, "life_over"):
                await asyncio.sleep(0.05)
            get = coupon_pb2.GetCampaignRequest(campaign_id="launch")
            await _no_owner(lambda: cluster.issue("launch", "u1", timeout_s=1.0), under_way="OUTCOME_UNKNOWN")
            await _no_owner(lambda: cluster.stub.GetCampaign(get, timeout=1.0), under_way="NOT_IN_TIME")
            cluster.processes.etcds[0].thaw()
            assert (await cluster.issue("launch", "u1", timeout_s=20)).coupon.sequence == 2
            assert (await cluster.issue("launch", "u0")).coupon == coupon
            for number in range(2, 20):
                await cluster.issue("launch", f"u{number}")
            await cluster.check_exact("launch", 20)

    run(main)


async def _no_owner(call: Callable[[], Awaitable[object]], *, under_way: str) -> None:
    """Call until the refusal is NO_OWNER. The node is asked again and again, and answers that it owns nothing: a
    deadline that comes while it is being asked is told as `under_way`, for the router cannot know that answer."""
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call()
        said = failure(refused.value)
        if said.reason != under_way:
            break
    assert (said.status, said.reason) == ("UNAVAILABLE", "NO_OWNER")
    assert said.retry_after_s is not None


def test_no_owner_until_the_deadline(tmp_path: Path) -> None:
    """All nodes are dead: a call is held until its deadline, then it is UNAVAILABLE with a time to come again."""

    async def main() -> None:
        async with running(tmp_path, "file", nodes=2) as cluster:
            await cluster.create("launch", 20)
            for index in range(2):
                await cluster.processes.kill_node(index)
            loop = asyncio.get_running_loop()

            async def issue() -> None:
                began_s = loop.time()
                try:
                    await cluster.issue("launch", "u1", timeout_s=1.5)
                finally:
                    assert loop.time() - began_s > 1.0, "it was given up early"

            # Unknown, where the router had sent it before it heard that the node is dead.
            await _no_owner(issue, under_way="OUTCOME_UNKNOWN")

    run(main)


async def _node_that_refuses(cluster: Cluster, **settings: str) -> str:
    """Start another node process with these settings; what it says when it gives up."""
    layout = cluster.processes.layout
    env = {
        "NODE_ID": "intruder",
        "LISTEN": "127.0.0.1:0",
        "JOURNAL_DIR": str(journal_dir(cluster.processes.spec.data_dir)),
        "ETCD_ENDPOINTS": ",".join(layout.etcd_endpoints),
    } | settings
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops", "node"),
        env=os.environ | {f"SEONCHAK_{name}": value for name, value in env.items()},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode != 0
    assert not stdout, "it said that it was ready"
    return stderr.decode()


def test_a_process_that_means_another_cluster_refuses_to_serve(tmp_path: Path) -> None:
    """Another number of shards, cluster id or code key than in cluster/config: the process ends and says which. A
    second process with a living node's id ends, too, and the living one goes on."""

    async def main() -> None:
        async with running(tmp_path, "file", nodes=1) as cluster:
            assert "shards is 9 here and 8 in cluster/config" in await _node_that_refuses(cluster, EXPECT_SHARDS="9")
            assert "cluster_id is 'x' here" in await _node_that_refuses(cluster, EXPECT_CLUSTER_ID="x")
            said = await _node_that_refuses(cluster, EXPECT_CODE_KEY_FINGERPRINT="0123")
            assert "code_key_fingerprint is '0123' here" in said
            assert "belongs to the living node-0/" in await _node_that_refuses(cluster, NODE_ID="node-0")
            async with etcd_client(cluster.processes.layout.etcd_endpoints) as etcd:
                key = Keyspace().code_key(0)
                (stored,) = (await etcd.get(Get(key))).kvs
                await etcd.txn(Txn((), (Put(key, b"00" * 32),)))
                assert "code_key_fingerprint" in await _node_that_refuses(cluster)
                await etcd.txn(Txn((), (Put(key, stored.value),)))
            await cluster.create("launch", 1)
            await cluster.issue("launch", "u0")
            await cluster.check_exact("launch", 1)

    run(main)


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_corrupt_journal_stops_its_shard_and_no_other(tmp_path: Path, journal: JournalKind) -> None:
    """A flipped bit in the middle of a journal: calls for that shard are DATA_LOSS, a log line names the place, the
    other shards go on, and `verify` says so as well."""

    async def main() -> None:
        async with running(tmp_path, journal, nodes=1) as cluster:
            await cluster.create("broken", 100)
            sound = next(f"sound-{n}" for n in range(99) if cluster.shard(f"sound-{n}") != cluster.shard("broken"))
            await cluster.create(sound, 100)
            for number in range(5):
                await cluster.issue("broken", f"u{number}")
                await cluster.issue(sound, f"u{number}")
            shard = cluster.shard("broken")
            await cluster.processes.stop_node(0)
            if journal == "file":
                (segment,) = (journal_dir(tmp_path) / f"shard-{shard:04}").iterdir()
                data = bytearray(segment.read_bytes())
                data[len(data) // 2] ^= 0x10
                segment.write_bytes(data)
                place = segment.name
            else:
                place = Keyspace().entry(shard, 2)
                async with etcd_client(cluster.processes.layout.etcd_endpoints) as etcd:
                    (entry,) = (await etcd.get(Get(place))).kvs
                    await etcd.txn(Txn((), (Put(place, entry.value),)))  # written twice
            await cluster.processes.start_node(0)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await cluster.issue("broken", "late", timeout_s=10)
            said = failure(refused.value)
            assert (said.status, said.reason) == ("DATA_LOSS", "CORRUPT_JOURNAL")
            (line,) = cluster.logged(0, "journal_corrupt")
            assert place in line["place"]
            assert line["shard"] == shard
            assert (await cluster.issue(sound, "late")).coupon.sequence == 6
            report = await cluster.verify()
            assert not report["ok"]
            assert any(place in str(violation) for violation in report["violations"])

    run(main)


def test_a_node_that_joins_takes_its_shards_without_a_failed_call(tmp_path: Path) -> None:
    """Under load a node leaves and comes back twice: shards move by handover, and no call fails."""

    async def main() -> None:
        async with running(tmp_path, "etcd", nodes=3) as cluster:
            campaigns = [f"c{n}" for n in range(6)]
            for campaign_id in campaigns:
                await cluster.create(campaign_id, 5_000)
            stop = asyncio.Event()
            granted: list[str] = []

            async def knock(campaign_id: str) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    granted.append((await cluster.issue(campaign_id, f"u{number}", timeout_s=5)).coupon.code)

            async with asyncio.TaskGroup() as crowd:
                for campaign_id in campaigns:
                    crowd.create_task(knock(campaign_id))
                for _ in range(2):
                    assert await cluster.processes.stop_node(1) == 0
                    await cluster.processes.start_node(1)
                    before = len(granted)
                    while len(granted) < before + 200:
                        await asyncio.sleep(0.01)
                stop.set()
            assert len(granted) == len(set(granted))
            report = await cluster.verify()
            assert report["ok"], report["violations"]
            assert sum(c["issued"] for c in report["campaigns"]) == len(granted)

    run(main)
