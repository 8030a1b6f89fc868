"""A real etcd with a small quota fills up: new campaigns are refused long before it is full, and coupons are not."""

import asyncio
import itertools
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.etcd import GrpcEtcd
from cluster.kv import Delete, Put, Txn
from cluster.session import EtcdClient
from node.space import SCARCE_ABOVE, fullest
from ops.child import ChildSpec
from tests.cluster.machine import ends_well
from tests.cluster.support import Cluster, run, running
from tests.support.errors import failure
from tests.support.etcd_server import post

pytestmark = pytest.mark.cluster
QUOTA_BYTES = 64 << 20
"""30% of it are more than what a busy etcd takes before it says how large it has become."""


def with_small_quota(spec: ChildSpec) -> ChildSpec:
    argv = [f"--quota-backend-bytes={QUOTA_BYTES}" if "--quota" in arg else arg for arg in spec.argv]
    return replace(spec, argv=tuple(argv))


async def refusal(cluster: Cluster, campaign_id: str) -> tuple[grpc.StatusCode, str] | None:
    """Status and reason of what making a campaign came to; None: it was made."""
    try:
        await cluster.create(campaign_id, 1)
    except grpc.aio.AioRpcError as error:
        return error.code(), failure(error).reason
    return None


async def used(etcd: EtcdClient) -> float:
    fill = fullest(await etcd.sizes(), QUOTA_BYTES)
    assert fill is not None
    return fill.used


def test_a_full_etcd_refuses_campaigns_and_grants_coupons(tmp_path: Path) -> None:
    """Above 70% of the quota: RESOURCE_EXHAUSTED, STORAGE_NEARLY_FULL, while coupons are granted and a campaign that
    exists may be created again. What the runbook says makes room, and then campaigns are made again."""
    node_env = {
        "SEONCHAK_SETTLE_S": "0",
        "SEONCHAK_ETCD_QUOTA_BYTES": str(QUOTA_BYTES),
        "SEONCHAK_ETCD_SPACE_CHECK_S": "0.1",
    }

    async def main() -> None:
        async with running(tmp_path, "etcd", nodes=2, node_env=node_env, adapt=with_small_quota) as cluster:
            endpoint = cluster.processes.layout.etcd_endpoints[0]
            etcd = EtcdClient([endpoint], GrpcEtcd, rng=random.Random(1))
            await cluster.create("spring", 100)
            filler = 0
            while await used(etcd) <= SCARCE_ABOVE:
                await etcd.txn(Txn((), (Put(f"filler/{filler:04}", bytes(200_000)),)))
                filler += 1
            for number in range(1_000):
                refused = await refusal(cluster, f"new-{number}")
                if refused is not None:
                    break
            assert refused == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORAGE_NEARLY_FULL")
            assert not (await cluster.issue("spring", "minsu")).already_issued
            assert (await cluster.create("spring", 100)).issued == 0
            said = cluster.logged(0, "etcd_space_scarce") + cluster.logged(1, "etcd_space_scarce")
            assert {line["quota_bytes"] for line in said} == {QUOTA_BYTES}
            # Nothing is gone from the file before it is defragmented.
            deleted = await etcd.txn(Txn((), (Delete("filler/", "filler0"),)))
            await asyncio.to_thread(
                post, endpoint, "/v3/kv/compaction", {"revision": str(deleted.revision), "physical": True}
            )
            await asyncio.to_thread(post, endpoint, "/v3/maintenance/defragment", {})
            assert await used(etcd) < 0.3
            while await refusal(cluster, "again") is not None:
                await asyncio.sleep(0.05)  # the node looks ten times a second; the test's timeout bounds this
            await etcd.close()

    run(main)


@pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcdctl is not installed: apt-get install etcd-client")
def test_members_are_defragmented_while_coupons_are_granted(tmp_path: Path) -> None:
    """One by one and the leader last, after it has handed its part over, as the runbook says: no call fails, and each
    member's file is smaller."""

    async def main() -> None:
        async with running(tmp_path, "etcd", etcd_members=3) as cluster:
            endpoints = cluster.processes.layout.etcd_endpoints
            etcd = EtcdClient(endpoints, GrpcEtcd, rng=random.Random(1))
            for number in range(64):
                await etcd.txn(Txn((), (Put(f"filler/{number:04}", bytes(1_000_000)),)))
            deleted = await etcd.txn(Txn((), (Delete("filler/", "filler0"),)))
            await asyncio.to_thread(
                post, endpoints[0], "/v3/kv/compaction", {"revision": str(deleted.revision), "physical": True}
            )
            await cluster.create("spring", 100_000)
            status = {endpoint: (await member_status(endpoint)) for endpoint in endpoints}
            ids = {endpoint: said["header"]["member_id"] for endpoint, said in status.items()}
            (leader,) = [endpoint for endpoint, said in status.items() if ids[endpoint] == said["leader"]]
            others = [endpoint for endpoint in endpoints if endpoint != leader]
            done = asyncio.Event()

            async def grant(caller: int) -> None:
                for number in itertools.count():
                    answer = await cluster.issue("spring", f"user-{caller}-{number}")
                    assert answer.coupon.code
                    if done.is_set():
                        return

            async with asyncio.TaskGroup() as tasks:
                for caller in range(4):
                    tasks.create_task(grant(caller))
                for endpoint in others:
                    await etcdctl(endpoint, "defrag")
                await etcdctl(leader, "move-leader", f"{ids[others[0]]:x}")
                await etcdctl(leader, "defrag")
                done.set()
            for endpoint in endpoints:
                assert (await member_status(endpoint))["dbSize"] < status[endpoint]["dbSize"] / 2
            await etcd.close()

    run(main)


async def etcdctl(endpoint: str, *words: str) -> str:
    return await ends_well(["etcdctl", f"--endpoints={endpoint}", "--command-timeout=60s", *words])


async def member_status(endpoint: str) -> Any:
    (said,) = json.loads(await etcdctl(endpoint, "endpoint", "status", "--write-out=json"))
    return said["Status"]
