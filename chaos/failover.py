"""How long a campaign stands still when its owner is killed: measured, not judged.

One kill: clients knock open loop every 5 ms at a campaign; its owner gets kill -9; the gap ends with the answer to the
first grant that was sent after the kill. Then the node is started again, and everything is owned as placed before the
next kill.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import grpc.aio

from chaos.cluster import ChaosCluster, ChaosSpec, running
from cluster.config import JournalKind
from ops import errors
from ops.load import LoadSpec, run_load
from ops.load_stats import percentile
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

KNOCK_EVERY_S = 0.005
DEADLINE_S = 3.0
BEFORE_S, AFTER_S = 0.5, 0.5
"""How long clients knock before the kill, and after the gap."""
GAP_S_MAX = 30.0
TOTAL = 100_000_000
FILL_CONCURRENCY = 4_000


@dataclass(frozen=True, slots=True)
class Knock:
    sent_s: float
    answered_s: float
    granted: bool
    reason: str
    """ISSUED, or what the call failed with."""


@dataclass(frozen=True, slots=True)
class Kill:
    node: str
    campaign_id: str
    gap_ms: float
    """From the kill to the answer of the first grant that was sent after it."""
    calls: int
    failed: tuple[str, ...]
    """Reasons of the calls that failed."""


@dataclass(frozen=True, slots=True)
class FailoverResult:
    journal: JournalKind
    etcd_version: str
    coupons: int
    """In the shard before the first kill."""
    kills: tuple[Kill, ...]

    @property
    def failed_calls(self) -> int:
        return sum(len(kill.failed) for kill in self.kills)

    def gap_ms(self, share: float) -> float:
        return percentile(sorted(kill.gap_ms for kill in self.kills), share)

    def as_json(self) -> dict[str, Any]:
        return {
            "journal": self.journal,
            "etcd": self.etcd_version,
            "coupons": self.coupons,
            "kills": len(self.kills),
            "p50_ms": round(self.gap_ms(0.50), 1),
            "p95_ms": round(self.gap_ms(0.95), 1),
            "max_ms": round(self.gap_ms(1.0), 1),
            "calls": sum(kill.calls for kill in self.kills),
            "failed_calls": self.failed_calls,
            "gaps_ms": [round(kill.gap_ms, 1) for kill in self.kills],
            "failures": sorted({reason for kill in self.kills for reason in kill.failed}),
        }


async def measure(data_dir: Path, journal: JournalKind, kills: int, coupons: int = 0) -> FailoverResult:
    """Kill owners one after another, each node in turn.

    Args:
        coupons: so many are issued to one campaign first, and only its owner is killed.
    """
    async with (
        running(ChaosSpec(data_dir, journal, routers=1)) as cluster,
        grpc.aio.insecure_channel(cluster.processes.router) as channel,
    ):
        stub = CouponServiceStub(channel)
        campaigns = await _campaigns(cluster, stub)
        if coupons:
            campaigns = campaigns[:1]
            await _fill(cluster, campaigns[0], coupons)
        users = (f"user-{number:09}" for number in count())
        done = []
        for number in range(kills):
            await cluster.settled()
            done.append(await _kill(cluster, stub, campaigns[number % len(campaigns)], users))
        return FailoverResult(journal, cluster.etcd_version, coupons, tuple(done))


async def _campaigns(cluster: ChaosCluster, stub: CouponServiceStub) -> list[str]:
    """One campaign for each node, which owns it."""
    found: dict[str, str] = {}
    for number in count():
        campaign_id = f"failover-{number}"
        if (owner := await cluster.owner(campaign_id)) not in found:
            found[owner] = campaign_id
            campaign = coupon_pb2.Campaign(name="장애복구", total=TOTAL)
            request = coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
            await stub.CreateCampaign(request, timeout=10)
        if found.keys() == set(cluster.nodes):
            break
    return list(found.values())


async def _fill(cluster: ChaosCluster, campaign_id: str, coupons: int) -> None:
    spec = LoadSpec(
        cluster.processes.router,
        campaign_id,
        requests=coupons,
        concurrency=FILL_CONCURRENCY,
        user_prefix="filler-",
        stream=True,
    )
    result = await run_load(spec)
    if result.issued != coupons:
        raise RuntimeError(f"{result.issued} of {coupons} coupons are issued: {result.outcomes}")


async def _kill(cluster: ChaosCluster, stub: CouponServiceStub, campaign_id: str, users: Iterator[str]) -> Kill:
    owner = await cluster.owner(campaign_id)
    async with _knocking(stub, campaign_id, users) as knocks:
        await asyncio.sleep(BEFORE_S)
        killed_s = time.monotonic()
        await cluster.kill(owner)
        granted_s = await _first_grant(knocks, killed_s)
        await asyncio.sleep(AFTER_S)
    failed = tuple(knock.reason for knock in knocks if not knock.granted)
    await cluster.start(owner)
    return Kill(owner, campaign_id, (granted_s - killed_s) * 1e3, len(knocks), failed)


async def _first_grant(knocks: list[Knock], killed_s: float) -> float:
    """When the first grant that was sent after the kill was answered."""
    try:
        async with asyncio.timeout(GAP_S_MAX):
            while True:
                for knock in knocks:
                    if knock.granted and knock.sent_s > killed_s:
                        return knock.answered_s
                await asyncio.sleep(KNOCK_EVERY_S)
    except TimeoutError:
        raise RuntimeError(f"no grant for {GAP_S_MAX:g} s after the kill") from None


@asynccontextmanager
async def _knocking(stub: CouponServiceStub, campaign_id: str, users: Iterator[str]) -> AsyncIterator[list[Knock]]:
    """Clients who knock, open loop; what they heard, in order of the answers. All are answered at the end."""
    knocks: list[Knock] = []
    stop = asyncio.Event()

    async def knock(user_id: str) -> None:
        sent_s = time.monotonic()
        request = coupon_pb2.IssueCouponRequest(campaign_id=campaign_id, user_id=user_id, request_id=user_id)
        reason = "ISSUED"
        try:
            await stub.IssueCoupon(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            reason = errors.of_call(error).reason
        knocks.append(Knock(sent_s, time.monotonic(), reason == "ISSUED", reason))

    async def crowd() -> None:
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for number in count():
                if stop.is_set():
                    return
                calls.create_task(knock(next(users)))
                await asyncio.sleep(max(0.0, began_s + (number + 1) * KNOCK_EVERY_S - time.monotonic()))

    task = asyncio.create_task(crowd())
    try:
        yield knocks
    finally:
        stop.set()
        await task
