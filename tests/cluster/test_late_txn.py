"""A Txn that arrives when nobody expects it any more: held back by a proxy, then let through to a real etcd."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import pytest

from cluster.etcd import GrpcEtcd
from cluster.kv import Get, prefix_end
from cluster.session import EtcdClient
from node.commands import CampaignPage, CreateCampaign, GetCampaign, IssueCoupon, Issued
from ops.child import ChildSpec
from ops.layout import Layout
from tests.cluster.stale import SHARD, World
from tests.cluster.support import run, running
from tests.support.etcd_server import running_etcd
from tests.support.proxy import Proxy, running_proxy


async def until(happened: Callable[[], bool]) -> None:
    while not happened():
        await asyncio.sleep(0.001)


def test_a_txn_that_lands_after_a_read_found_nothing_is_not_doubled(tmp_path: Path) -> None:
    """The owner's append is held back; its caller gives up; the read-back finds the position free; *then* the append
    lands, before the same entry that was sent again. The coupon exists once, the caller's repetition gets it, and the
    next entry follows without a gap."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            (server,) = stack.enter_context(running_etcd(tmp_path))
            slow, quick = [await stack.enter_async_context(running_proxy(server.port)) for _ in range(2)]
            etcd = EtcdClient([quick.endpoint, slow.endpoint], GrpcEtcd, rng=random.Random(0))
            stack.push_async_callback(etcd.close)
            observer = EtcdClient([server.endpoint], GrpcEtcd, rng=random.Random(0))
            stack.push_async_callback(observer.close)
            # Both connections stand before anything is held back, or the greeting of a new one would be held instead.
            await etcd.get(Get("any"))
            quick.up.hold()
            await etcd.get(Get("any"))
            quick.up.release()
            assert etcd.endpoints.current.address == slow.endpoint
            world = World(etcd, "etcd", tmp_path)
            entries = Get(world.keys.journal(SHARD), prefix_end(world.keys.journal(SHARD)))

            owner = await world.own("owner")
            await owner.call(CreateCampaign("launch", "런칭", 10, 1, None, None))
            before = len((await observer.get(entries)).kvs)

            slow.up.hold()
            quick.down.hold()
            issue = asyncio.create_task(owner.call(IssueCoupon("launch", "patient", "r1")))
            await until(lambda: b"patient" in slow.up.held)
            slow.up.drop()  # what the owner says on giving up must not reach etcd before the Txn does
            # The read-back goes by the quick proxy. Hold its answer, and then what the owner does because of it.
            await until(lambda: world.keys.owner(SHARD).encode() in quick.down.held)
            quick.up.hold()
            assert len((await observer.get(entries)).kvs) == before, "a linearizable read finds nothing"
            quick.down.release()
            await until(lambda: b"patient" in quick.up.held)
            assert len((await observer.get(entries)).kvs) == before

            slow.up.release()
            async with asyncio.timeout(10):
                while len((await observer.get(entries)).kvs) == before:
                    await asyncio.sleep(0.005)
            assert not issue.done(), "the owner cannot know yet"
            quick.up.release()
            granted = await issue
            assert isinstance(granted, Issued)
            assert len((await observer.get(entries)).kvs) == before + 1, "once"

            again = await owner.call(IssueCoupon("launch", "patient", "r1"))
            assert isinstance(again, Issued)
            assert again.coupon == granted.coupon
            assert again.already_issued
            following = await owner.call(IssueCoupon("launch", "u2", "r2"))
            assert isinstance(following, Issued)
            assert following.coupon.sequence == 2

            successor = await world.own("successor")
            page = await successor.call(GetCampaign("launch", 0, 10))
            assert isinstance(page, CampaignPage)
            assert page.coupons == (granted.coupon, following.coupon)
            for each in (owner, successor):
                each.shard.drain()

    run(main)


@dataclass(frozen=True)
class Held:
    """A call whose Txn is in a proxy, so that its owner can only give up on it."""

    proxy: Proxy
    user_id: str
    call: "asyncio.Task[object]"


async def _held_issue(proxies: list[Proxy], issue: Callable[[str], "asyncio.Task[object]"]) -> Held:
    """Hold the proxy that the owner uses, and lose what the owner says on giving up."""
    for number, proxy in enumerate(proxies):
        held = Held(proxy, f"patient-{number}", issue(f"patient-{number}"))
        proxy.up.hold()
        await until(lambda held=held: held.user_id.encode() in held.proxy.up.held or held.call.done())  # type: ignore[misc]
        if not held.call.done():
            proxy.up.drop()
            return held
        proxy.up.release()
    raise AssertionError("the owner's Txn came by neither proxy")


@pytest.mark.cluster
@pytest.mark.parametrize("owner_dies", [False, True], ids=["owner lives", "owner dies"])
def test_a_txn_that_outlives_its_caller_or_its_owner(tmp_path: Path, owner_dies: bool) -> None:
    """In a real cluster: the Txn is still under way when the caller has given up, and the same entry, or another
    owner's, has been written meanwhile. When it arrives at last, nothing is doubled and nothing is lost."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            proxies: list[Proxy] = []

            async def before_etcd(layout: Layout) -> Mapping[str, str]:
                port = layout.etcd[0].port
                proxies.extend([await stack.enter_async_context(running_proxy(port)) for _ in range(2)])
                return {}

            def nodes_by_the_proxies(child: ChildSpec) -> ChildSpec:
                if not child.name.startswith("node"):
                    return child
                endpoints = ",".join(proxy.endpoint for proxy in proxies)
                return replace(child, env={**child.env, "SEONCHAK_ETCD_ENDPOINTS": endpoints})

            cluster = await stack.enter_async_context(
                running(tmp_path, "etcd", fronts=before_etcd, adapt=nodes_by_the_proxies)
            )
            await cluster.create("launch", 20)
            for number in range(5):
                await cluster.issue("launch", f"early-{number}")
            before = await cluster.owner("launch")

            held = await _held_issue(
                proxies, lambda user_id: asyncio.create_task(cluster.issue("launch", user_id, timeout_s=0.4))
            )
            with pytest.raises(grpc.aio.AioRpcError) as gave_up:
                await held.call
            assert gave_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if owner_dies:
                await cluster.processes.kill_node(before.node)
                await cluster.next_owner("launch", before)
            coupon = (await cluster.issue("launch", held.user_id)).coupon

            answered = held.proxy.down.came_bytes
            held.proxy.up.release()
            await until(lambda: held.proxy.down.came_bytes > answered)
            assert (await cluster.issue("launch", held.user_id)).coupon == coupon
            _, coupons = await cluster.read("launch")
            for number in range(20 - len(coupons)):
                await cluster.issue("launch", f"late-{number}")
            await cluster.check_exact("launch", 20)

    run(main)
