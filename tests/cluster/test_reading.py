"""Somebody reads all campaigns at a time, as much as he can, and others go on getting coupons."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from proto import coupon_pb2
from tests.cluster.support import Cluster, run, running

pytestmark = pytest.mark.cluster
SHARDS = 32
CALLS = 2_000
"""Outstanding, of the reader."""
COUPONS = 5_000
"""On each page: as many as there may be."""
CALLERS, EACH = 4, 25
SLOWEST_S_MAX = 5.0
"""Of a coupon meanwhile: 0.3 s where eight others want each processor."""


def one_in_each_shard(cluster: Cluster) -> list[str]:
    found: dict[int, str] = {}
    names = (f"campaign-{number}" for number in count())
    while len(found) < SHARDS:
        found.setdefault(cluster.shard(name := next(names)), name)
    return list(found.values())


async def fill(cluster: Cluster, campaign_id: str) -> None:
    """It has a whole page of coupons."""
    await cluster.create(campaign_id, 10 * COUPONS)

    async def messages() -> AsyncIterator[coupon_pb2.IssueCouponsRequest]:
        for first in range(0, COUPONS, 1_000):
            message = coupon_pb2.IssueCouponsRequest()
            for index in range(first, first + 1_000):
                request = coupon_pb2.IssueCouponRequest(campaign_id=campaign_id, user_id=f"owner-{index}")
                message.items.add(index=index, request=request)
            yield message

    results = [result async for answer in cluster.stub.IssueCoupons(messages()) for result in answer.results]
    assert sum(result.HasField("response") for result in results) == COUPONS


@asynccontextmanager
async def reading(cluster: Cluster, campaigns: Sequence[str]) -> AsyncIterator[list[int]]:
    """Somebody reads inside. Afterwards: how many pages he was shown, and how many he was refused."""
    told: list[int] = []
    argv = ("-m", "tests.cluster.reader", cluster.processes.router, f"{CALLS}", f"{COUPONS}", *campaigns)
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"reading\n"
        yield told
        process.stdin.close()
        told += map(int, (await process.stdout.readline()).split())
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_who_reads_all_he_can_keeps_nobody_from_a_coupon(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """2,000 pages of 5,000 coupons are asked for at a time, of all the shards of one node: 20 s of its time. Every
    coupon that others want is issued, and soon; the node keeps its lease; the reader is shown pages meanwhile."""

    async def main() -> None:
        async with running(tmp_path, "etcd", nodes=1, shards=SHARDS) as cluster:
            campaigns = one_in_each_shard(cluster)
            for campaign_id in campaigns:
                await fill(cluster, campaign_id)
            loop = asyncio.get_running_loop()

            async def asks(caller: int) -> float:
                slowest_s = 0.0
                for number in range(EACH):
                    began_s = loop.time()
                    await cluster.issue(campaigns[(caller * EACH + number) % SHARDS], f"caller-{caller}-{number}")
                    slowest_s = max(slowest_s, loop.time() - began_s)
                return slowest_s

            async with reading(cluster, campaigns) as told:
                slowest_s = max(await asyncio.gather(*map(asks, range(CALLERS))))
            assert slowest_s < SLOWEST_S_MAX
            assert not cluster.logged(0, "lease_lost")
            pages, refused = told
            assert pages > 1
            assert refused > 0
            record_property("meanwhile", f"the slowest coupon {slowest_s:.2f} s; {pages} pages, {refused} refused")

    run(main)
