"""How fast a cluster of three nodes on this machine is, its load client included: `python -m bench.cluster`.

Rounds of both journals alternate, since other work may share the machine; the median of each figure counts. Every
figure is of durable grants: an answer leaves only after its entry is in the journal. On asyncio's own loop, since
uvloop's way to start children does not go together with gRPC (see chaos/__main__.py).
"""

import asyncio
import gc
import json
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc.aio
import typer
from rich.console import Console
from rich.table import Table

from cluster.config import JournalKind
from ops.load import LoadSpec, run_load
from ops.load_stats import ISSUED, LoadResult
from ops.local import LocalCluster, LocalSpec
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

OPEN_LOOP_RATE = 1_000
OPEN_LOOP_S = 10
REFUSED = 0.95
"""Share of the open loop's calls that come too late: a launch."""


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    what: str
    spec: LoadSpec
    total: int


def jobs(requests: int) -> list[Job]:
    calls = OPEN_LOOP_RATE * OPEN_LOOP_S
    return [
        Job(
            "unary",
            f"IssueCoupon, closed loop, 64 callers, {requests:,} grants",
            LoadSpec("", "", requests=requests, concurrency=64),
            requests,
        ),
        Job(
            "stream",
            f"IssueCoupons, closed loop, 4 streams, 2,000 items in flight, {10 * requests:,} grants",
            LoadSpec("", "", requests=10 * requests, concurrency=2_000, stream=True),
            10 * requests,
        ),
        Job(
            "launch",
            f"IssueCoupon, open loop, {OPEN_LOOP_RATE:,} calls/s for {OPEN_LOOP_S} s, {REFUSED:.0%} refused",
            LoadSpec("", "", requests=calls, rate=OPEN_LOOP_RATE),
            int(calls * (1 - REFUSED)),
        ),
    ]


async def run_job(cluster: LocalCluster, stub: CouponServiceStub, job: Job, round_number: int) -> LoadResult:
    """Its campaign is new each time. Raises RuntimeError if the campaign does not come out exact."""
    campaign_id = f"{job.name}-{round_number}"
    campaign = coupon_pb2.Campaign(name="벤치마크", total=job.total)
    await stub.CreateCampaign(coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign))
    spec = LoadSpec(
        router=cluster.router,
        campaign_id=campaign_id,
        requests=job.spec.requests,
        concurrency=job.spec.concurrency,
        rate=job.spec.rate,
        stream=job.spec.stream,
    )
    # The load client's own full collections, longer with every job, would be measured as the cluster's latency.
    gc.collect()
    gc.freeze()
    result = await run_load(spec)
    if result.issued != job.total:
        raise RuntimeError(f"{campaign_id}: {result.issued} issued of {job.total}: {result.outcomes}")
    return result


async def measure(rounds: int, requests: int) -> dict[JournalKind, dict[str, list[LoadResult]]]:
    results: dict[JournalKind, dict[str, list[LoadResult]]] = {"file": defaultdict(list), "etcd": defaultdict(list)}
    journals: list[JournalKind] = ["file", "etcd"]
    for round_number in range(rounds):
        for journal in journals:
            with tempfile.TemporaryDirectory() as directory:
                spec = LocalSpec(Path(directory), journal=journal)
                async with LocalCluster(spec) as cluster, grpc.aio.insecure_channel(cluster.router) as channel:
                    for job in jobs(requests):
                        result = await run_job(cluster, CouponServiceStub(channel), job, round_number)
                        results[journal][job.name].append(result)
    return results


def figures(results: list[LoadResult]) -> dict[str, float]:
    """Medians over the rounds."""
    return {
        "grants_per_s": statistics.median(r.outcomes[ISSUED] / r.elapsed_s for r in results),
        "calls_per_s": statistics.median(r.requests_per_s for r in results),
        "p50_ms": statistics.median(r.latency.p50_ms for r in results),
        "p99_ms": statistics.median(r.latency.p99_ms for r in results),
    }


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each journal.")] = 3,
    requests: Annotated[int, typer.Option(help="Grants of the unary job; the stream has ten times as many.")] = 5_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    results = asyncio.run(measure(rounds, requests))
    table = Table("journal", "job", "grants/s", "calls/s", "p50 ms", "p99 ms", title=f"3 nodes, median of {rounds}")
    document: dict[str, dict[str, dict[str, float]]] = {}
    for journal, by_job in results.items():
        for job in jobs(requests):
            row = figures(by_job[job.name])
            document.setdefault(journal, {})[job.name] = row
            cells = [f"{row[name]:,.0f}" for name in ("grants_per_s", "calls_per_s")]
            cells += [f"{row[name]:,.1f}" for name in ("p50_ms", "p99_ms")]
            table.add_row(journal, job.what, *cells)
    if as_json:
        typer.echo(json.dumps(document))
    else:
        Console().print(table)


if __name__ == "__main__":
    typer.run(main)
