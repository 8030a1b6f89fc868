"""Two versions of the product side by side: from the one to the other and back, under load, and no call fails."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest

from cluster.config import JournalKind
from cluster.kv import Get, Put, Txn
from ops.child import Child, ChildFailed, ChildSpec
from ops.etcd_client import etcd_client
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.support import Cluster, run, running

pytestmark = pytest.mark.cluster
JOURNALS: list[JournalKind] = ["file", "etcd"]
ROOT = Path(__file__).parents[2]
BETWEEN = 40
"""Grants between two steps of a rollout: each mix of versions serves."""


def later(spec: ChildSpec) -> ChildSpec:
    """The same process, of a later version."""
    command = spec.argv[spec.argv.index("ops") + 1 :]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    argv = (spec.argv[0], "-m", "tests.cluster.later", *command)
    return replace(spec, argv=argv, env=dict(spec.env) | {"PYTHONPATH": path})


class Rollout:
    """A cluster under load through both routers, whose processes are exchanged one after the other."""

    def __init__(self, cluster: Cluster, stubs: list[CouponServiceStub]) -> None:
        self.processes = cluster.processes
        self._stubs = stubs
        self._specs = {child.name: child.spec for child in (*self.processes.nodes, *self.processes.routers)}
        self._granted = 0
        self._news = asyncio.Event()
        self.codes: dict[str, str] = {}

    async def load(self, worker: int) -> None:
        """Users one after the other, each asking until one router answers: UNAVAILABLE alone may be repeated."""
        for number in range(1_000_000):
            user = f"user-{worker}-{number}"
            request = coupon_pb2.IssueCouponRequest(campaign_id="spring", user_id=user)
            for attempt in range(worker, worker + 200):
                stub = self._stubs[attempt % len(self._stubs)]
                try:
                    answer = await stub.IssueCoupon(request, timeout=20)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.02)  # both may be on their way
                else:
                    break
            self.codes[user] = answer.coupon.code
            self._granted += 1
            self._news.set()

    async def go_on(self) -> None:
        """Until so many more were granted."""
        enough = self._granted + BETWEEN
        while self._granted < enough:
            self._news.clear()
            await self._news.wait()

    async def node(self, index: int, *, to_later: bool) -> None:
        child = self.processes.nodes[index]
        assert await self.processes.stop_node(index) == 0, "it did not drain"
        self.processes.nodes[index] = self._version(child, to_later=to_later)
        await self.processes.start_node(index)
        await self.processes.wait_owned()
        await self.go_on()

    async def router(self, index: int, *, to_later: bool) -> None:
        child = self.processes.routers[index]
        assert await child.stop(20) == 0
        self.processes.routers[index] = self._version(child, to_later=to_later)
        await self.processes.start_router(index)
        await self.go_on()

    def _version(self, child: Child, *, to_later: bool) -> Child:
        spec = self._specs[child.name]
        return Child(later(spec) if to_later else spec)


@asynccontextmanager
async def rolling_out(data_dir: Path, journal: JournalKind) -> AsyncIterator[tuple[Cluster, Rollout]]:
    async with running(data_dir, journal, routers=2) as cluster:
        await cluster.create("spring", 1_000_000)
        async with AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(address))
                for address in cluster.processes.layout.router_addresses
            ]
            rollout = Rollout(cluster, [CouponServiceStub(channel) for channel in channels])
            async with asyncio.TaskGroup() as tasks:
                workers = [tasks.create_task(rollout.load(worker)) for worker in range(4)]
                await rollout.go_on()
                yield cluster, rollout
                for worker in workers:
                    worker.cancel()


async def check_all_there(cluster: Cluster, rollout: Rollout) -> None:
    """Every code that was answered so far, and no other for its user; the second reader agrees."""
    told = dict(rollout.codes)
    async with grpc.aio.insecure_channel(cluster.processes.router) as channel:
        await channel.channel_ready()  # connections of one process share their pauses between two attempts
        _, coupons = await Cluster(cluster.processes, CouponServiceStub(channel)).read("spring")
    by_user = {coupon.user_id: coupon.code for coupon in coupons}
    assert len(set(by_user.values())) == len(coupons)
    assert told.items() <= by_user.items()
    report = await cluster.verify()
    assert report["ok"], report["violations"]


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_rollout_and_back_under_load(tmp_path: Path, journal: JournalKind) -> None:
    """Nodes and routers to a later version one by one, and one of each back: what a later version says beyond this one
    (fields, frames, outcomes, records) disturbs nobody, no call fails, and the journal holds what was answered."""

    async def main() -> None:
        async with rolling_out(tmp_path, journal) as (cluster, rollout):
            await rollout.node(0, to_later=True)  # a later node, earlier routers
            await rollout.router(1, to_later=True)  # and a later router with earlier nodes
            await rollout.node(1, to_later=True)
            await rollout.node(2, to_later=True)
            await rollout.router(0, to_later=True)
            await rollout.node(0, to_later=False)
            await rollout.router(0, to_later=False)
            await check_all_there(cluster, rollout)

    run(main)


def test_a_new_journal_format_comes_last(tmp_path: Path) -> None:
    """While `cluster/format` is 1 later versions write 1, and both read it. Once it is raised they write 2, and a node
    that does not know 2 refuses to start."""

    async def formats(cluster: Cluster) -> set[bytes]:
        """First field of each entry of the campaign's shard."""
        keys = cluster.processes.keys
        prefix = keys.journal(cluster.shard("spring"))
        async with etcd_client(cluster.processes.layout.etcd_endpoints) as etcd:
            return {kv.value[:2] for kv in (await etcd.pages(prefix, prefix[:-1] + "0", limit=28)).kvs}

    async def main() -> None:
        async with running(tmp_path, "etcd") as cluster:
            earlier = cluster.processes.nodes[0].spec
            await cluster.create("spring", 100)
            for index in range(3):
                assert await cluster.processes.stop_node(index) == 0
                cluster.processes.nodes[index] = Child(later(cluster.processes.nodes[index].spec))
                await cluster.processes.start_node(index)
                await cluster.issue("spring", f"user-{index}")
            assert await formats(cluster) == {b"\x08\x01"}
            async with etcd_client(cluster.processes.layout.etcd_endpoints) as etcd:
                key = cluster.processes.keys.format
                assert (await etcd.get(Get(key))).kvs[0].value == b"1"
                await etcd.txn(Txn((), (Put(key, b"2"),)))
            for index in range(3):
                assert await cluster.processes.stop_node(index) == 0
                await cluster.processes.start_node(index)
            await cluster.issue("spring", "user-new")
            assert await formats(cluster) == {b"\x08\x01", b"\x08\x02"}
            assert (await cluster.issue("spring", "user-0")).already_issued
            # Back to a version that does not know the format: it says so and owns nothing.
            assert await cluster.processes.stop_node(0) == 0
            cluster.processes.nodes[0] = Child(earlier)
            with pytest.raises(ChildFailed, match="the journal format is 2, this node knows 1"):
                await cluster.processes.start_node(0)
            await cluster.issue("spring", "user-last")

    run(main)
