"""Every process of a cluster is restarted in turn, under load, as for a new version: no call fails.

The client is what the README tells callers to be: one gRPC channel that knows both routers, and calls that wait for a
connection (`wait_for_ready`) until their deadline. It repeats nothing.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cluster.config import JournalKind
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.cluster.support import Cluster, run, running

pytestmark = pytest.mark.cluster
JOURNALS: list[JournalKind] = ["file", "etcd"]
KNOCK_S = 0.005
BETWEEN = 40
"""Grants between two restarts."""
ROUND_ROBIN = '{"loadBalancingConfig": [{"round_robin": {}}]}'


class Knocking:
    """Users who come every KNOCK_S, whether those before them were answered or not."""

    def __init__(self, stub: CouponServiceStub) -> None:
        self._stub = stub
        self._coming = True
        self._news = asyncio.Event()
        self.users = 0
        self.codes: dict[str, str] = {}

    async def run(self) -> None:
        """Until `stop`. Raises ExceptionGroup of AioRpcError: a call failed."""
        async with asyncio.TaskGroup() as calls:
            while self._coming:
                calls.create_task(self._ask(f"user-{self.users}"))
                self.users += 1
                await asyncio.sleep(KNOCK_S)

    async def _ask(self, user: str) -> None:
        request = coupon_pb2.IssueCouponRequest(campaign_id="spring", user_id=user)
        answer = await self._stub.IssueCoupon(request, timeout=3, wait_for_ready=True)
        self.codes[user] = answer.coupon.code
        self._news.set()

    async def go_on(self) -> None:
        """Until so many more were granted."""
        enough = len(self.codes) + BETWEEN
        while len(self.codes) < enough:
            self._news.clear()
            await self._news.wait()

    def stop(self) -> None:
        self._coming = False


async def restart_all(cluster: Cluster, go_on: Callable[[], "asyncio.Future[None]"]) -> None:
    processes = cluster.processes
    for index in range(len(processes.nodes)):
        assert await processes.stop_node(index) == 0, "it did not drain"
        await processes.start_node(index)
        await processes.wait_owned()
        await go_on()
    for index, router in enumerate(processes.routers):
        assert await router.stop(20) == 0
        await go_on()
        await processes.start_router(index)
        await go_on()


@pytest.mark.parametrize("journal", JOURNALS)
def test_no_call_fails_while_everything_is_restarted(tmp_path: Path, journal: JournalKind) -> None:
    """Calls with deadlines of 3 s, sent once each; afterwards journal, GetCampaign and answers agree."""

    async def main() -> None:
        async with running(tmp_path, journal, routers=2) as cluster:
            await cluster.create("spring", 1_000_000)
            both = f"ipv4:{','.join(cluster.processes.layout.router_addresses)}"
            options = [("grpc.service_config", ROUND_ROBIN), ("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(both, options=options) as channel:
                users = Knocking(CouponServiceStub(channel))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(users.run())
                    await users.go_on()
                    await restart_all(cluster, lambda: asyncio.ensure_future(users.go_on()))
                    users.stop()
            assert len(users.codes) == users.users
            assert len(set(users.codes.values())) == users.users
            _, coupons = await cluster.read("spring")
            assert {coupon.user_id: coupon.code for coupon in coupons} == users.codes

    run(main)
