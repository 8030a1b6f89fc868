"""How long a campaign stands still when its owner ends: measured, not judged.

One end: clients knock open loop every 5 ms at a campaign; its owner gets kill -9 (or SIGTERM: a planned move); the gap
ends with the answer to the first grant that was sent after the signal. Then the node is started again, and everything
is owned as placed, with every standby warm, before the next.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import grpc.aio

from chaos.cluster import ChaosCluster, ChaosSpec, running
from cluster.config import JournalKind
from ops import errors
from ops.load import LoadSpec, run_load
from ops.load_stats import percentile
from ops.status import read_status
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

KNOCK_EVERY_S = 0.005
DEADLINE_S = 3.0
BEFORE_S, AFTER_S = 0.5, 0.5
"""How long clients knock before the kill, and after the gap."""
GAP_S_MAX = 30.0
WARM_S_MAX = 60.0
TOTAL = 100_000_000
FILL_CONCURRENCY = 4_000


@dataclass(frozen=True, slots=True)
class Knock:
    sent_s: float
    answered_s: float
    granted: bool
    reason: str
    """ISSUED, or what the call failed with."""


class Ending(Enum):
    """What becomes of an owner."""

    KILLED = "SIGKILL"
    PLANNED = "SIGTERM"
    """And it comes back."""
    FROZEN = "SIGSTOP"
    """Its connections stay open: only its lease tells. It wakes up when another one serves."""


@dataclass(frozen=True, slots=True)
class FailoverSpec:
    journal: JournalKind
    kills: int
    coupons: int = 0
    """So many are issued to one campaign first, and only its owner is ended."""
    ending: Ending = Ending.KILLED
    standby: bool = True


@dataclass(frozen=True, slots=True)
class Kill:
    node: str
    campaign_id: str
    gap_ms: float
    """From the signal to the answer of the first grant that was sent after it."""
    longest_ms: float
    """Between two answers of grants, from before the signal to after the node is back: a planned move has no other."""
    calls: int
    failed: tuple[str, ...]
    """Reasons of the calls that failed."""


@dataclass(frozen=True, slots=True)
class FailoverResult:
    spec: FailoverSpec
    etcd_version: str
    kills: tuple[Kill, ...]

    @property
    def failed_calls(self) -> int:
        return sum(len(kill.failed) for kill in self.kills)

    def gap_ms(self, share: float) -> float:
        return percentile(sorted(kill.gap_ms for kill in self.kills), share)

    def as_json(self) -> dict[str, Any]:
        return {
            "journal": self.spec.journal,
            "etcd": self.etcd_version,
            "coupons": self.spec.coupons,
            "standby": self.spec.standby,
            "signal": self.spec.ending.value,
            "kills": len(self.kills),
            "p50_ms": round(self.gap_ms(0.50), 1),
            "p95_ms": round(self.gap_ms(0.95), 1),
            "max_ms": round(self.gap_ms(1.0), 1),
            "longest_ms": round(max(kill.longest_ms for kill in self.kills), 1),
            "calls": sum(kill.calls for kill in self.kills),
            "failed_calls": self.failed_calls,
            "gaps_ms": [round(kill.gap_ms, 1) for kill in self.kills],
            "failures": sorted({reason for kill in self.kills for reason in kill.failed}),
        }


async def measure(data_dir: Path, spec: FailoverSpec) -> FailoverResult:
    """End owners one after another, each node in turn."""
    node_env = {} if spec.standby else {"SEONCHAK_STANDBY_COUPONS_MAX": "0"}
    async with (
        running(ChaosSpec(data_dir, spec.journal, routers=1, node_env=node_env)) as cluster,
        grpc.aio.insecure_channel(cluster.processes.router) as channel,
    ):
        stub = CouponServiceStub(channel)
        campaigns = await _campaigns(cluster, stub)
        if spec.coupons:
            campaigns = campaigns[:1]
            await _fill(cluster, campaigns[0], spec.coupons)
        users = (f"user-{number:09}" for number in count())
        done = []
        for number in range(spec.kills):
            await cluster.settled()
            if spec.standby:
                await _warm(cluster)
            done.append(await _end(cluster, stub, campaigns[number % len(campaigns)], users, spec.ending))
        return FailoverResult(spec, cluster.etcd_version, tuple(done))


async def _warm(cluster: ChaosCluster) -> None:
    """Wait until every shard has a standby that has read its journal, as `seonchak status` shows it."""
    processes = cluster.processes
    async with asyncio.timeout(WARM_S_MAX):
        while True:
            status = await read_status(processes.layout.etcd_endpoints, processes.keys.prefix, 5.0)
            # The newest entry of the file journal is read when the next one is there.
            if all(shard.standby and shard.standby_lag <= 1 for shard in status.shards):
                return
            await asyncio.sleep(0.1)


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


async def _end(
    cluster: ChaosCluster, stub: CouponServiceStub, campaign_id: str, users: Iterator[str], ending: Ending
) -> Kill:
    owner = await cluster.owner(campaign_id)
    async with _knocking(stub, campaign_id, users) as knocks:
        await asyncio.sleep(BEFORE_S)
        ended_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            match ending:
                case Ending.KILLED:
                    tasks.create_task(cluster.kill(owner))
                case Ending.PLANNED:
                    tasks.create_task(cluster.stop(owner))
                case Ending.FROZEN:
                    cluster.freeze(owner)
            granted_s = await _first_grant(knocks, ended_s)
        await asyncio.sleep(AFTER_S)
        if ending is Ending.FROZEN:
            cluster.thaw(owner)
            await cluster.settled()
        elif ending is Ending.PLANNED:
            # It is a planned move too when the node comes back and takes its shards.
            await cluster.start(owner)
            await cluster.settled()
            await asyncio.sleep(AFTER_S)
    failed = tuple(knock.reason for knock in knocks if not knock.granted)
    if ending is Ending.KILLED:
        await cluster.start(owner)
    return Kill(owner, campaign_id, (granted_s - ended_s) * 1e3, _longest_s(knocks) * 1e3, len(knocks), failed)


def _longest_s(knocks: list[Knock]) -> float:
    answered = [knock.answered_s for knock in knocks if knock.granted]
    return max(after - before for before, after in pairwise(answered))


async def _first_grant(knocks: list[Knock], ended_s: float) -> float:
    """When the first grant that was sent after the signal was answered."""
    try:
        async with asyncio.timeout(GAP_S_MAX):
            while True:
                for knock in knocks:
                    if knock.granted and knock.sent_s > ended_s:
                        return knock.answered_s
                await asyncio.sleep(KNOCK_EVERY_S)
    except TimeoutError:
        raise RuntimeError(f"no grant for {GAP_S_MAX:g} s after the signal") from None


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
