"""A launch at noon, through the router's own server and through grpc.aio's: `python -m bench.launch`.

The same cluster of three nodes and one router on this machine, the crowd in a process of its own beside it. Rounds of
both servers alternate; the median of each figure counts. Every grant is durable when it is answered, and every round
ends with its campaigns exact. The crowd speaks HTTP/2 by hand (chaos/http2.py), since grpc.aio's client would cost
more than all the rest together; bench/cluster.py measures with that.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import grpc.aio
import typer
from rich.console import Console
from rich.table import Table

from chaos.commands import output_of
from cluster.config import JournalKind
from ops.child import ChildSpec
from ops.cli_cluster import JournalChoice, JournalOption
from ops.local import LocalCluster, LocalSpec
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

SERVERS = ("http2", "grpcio")
ENOUGH = 10_000_000
"""Coupons that do not run out."""


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    total: int
    options: tuple[str, ...]
    """Of chaos.crowd."""


def jobs(seconds: float) -> list[Job]:
    def launch(rate: int) -> Job:
        total = int(rate * seconds * 0.05)
        return Job(f"{rate:,} calls/s, open loop, {total:,} coupons for 20 times as many", total, ("--rate", str(rate)))

    return [
        Job("64 callers, closed loop, all granted", ENOUGH, ("--callers", "64")),
        Job("512 callers, closed loop, all granted", ENOUGH, ("--callers", "512")),
        launch(1_000),
        launch(10_000),
    ]


@dataclass(frozen=True, slots=True)
class Result:
    answered_per_s: float
    grants_per_s: float
    p50_ms: float
    p99_ms: float
    late: int
    """Calls that were not answered within 3 s."""


async def measure(rounds: int, seconds: float, journal: JournalKind) -> dict[str, dict[str, list[Result]]]:
    results: dict[str, dict[str, list[Result]]] = {server: defaultdict(list) for server in SERVERS}
    for _ in range(rounds):
        for server in SERVERS:
            with tempfile.TemporaryDirectory() as directory:

                def adapt(spec: ChildSpec, server: str = server) -> ChildSpec:
                    return replace(spec, env={**spec.env, "SEONCHAK_SERVER": server})

                spec = LocalSpec(Path(directory), journal=journal, adapt=adapt)
                async with LocalCluster(spec) as cluster, grpc.aio.insecure_channel(cluster.router) as channel:
                    for number, job in enumerate(jobs(seconds)):
                        stub = CouponServiceStub(channel)
                        results[server][job.name].append(await run_job(cluster, stub, job, f"job-{number}", seconds))
    return results


async def run_job(cluster: LocalCluster, stub: CouponServiceStub, job: Job, campaign_id: str, seconds: float) -> Result:
    """Raises RuntimeError if the campaign does not come out exact."""
    campaign = coupon_pb2.Campaign(name="벤치마크", total=job.total)
    await stub.CreateCampaign(coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign))
    command = [sys.executable, "-P", "-m", "chaos.crowd", cluster.router, campaign_id, "--seconds", str(seconds)]
    crowd = json.loads(await output_of([*command, *job.options], timeout_s=seconds + 60))
    outcomes = crowd["outcomes"]
    granted, late = outcomes.get("granted", 0), outcomes.get("late", 0)
    issued = (await stub.GetCampaign(coupon_pb2.GetCampaignRequest(campaign_id=campaign_id))).campaign.issued
    # Of a call that nobody waited for, the coupon may be issued all the same.
    if not granted <= issued <= min(job.total, granted + late):
        raise RuntimeError(f"{campaign_id}: {issued} of {job.total} issued, {granted} heard of it, {late} did not wait")
    answered = sum(outcomes.values()) - late
    latency_ms = crowd["latency_ms"]
    return Result(answered / seconds, granted / seconds, latency_ms["p50"], latency_ms["p99"], late)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each server.")] = 3,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of each job.")] = 5.0,
    journal: JournalOption = JournalChoice.ETCD,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    results = asyncio.run(measure(rounds, seconds, journal.kind))
    columns = ("answered_per_s", "grants_per_s", "p50_ms", "p99_ms", "late")
    document = {
        server: {
            job: {column: statistics.median(getattr(result, column) for result in found) for column in columns}
            for job, found in by_job.items()
        }
        for server, by_job in results.items()
    }
    if as_json:
        typer.echo(json.dumps(document))
        return
    table = Table("job", "server", "answers/s", "grants/s", "p50 ms", "p99 ms", "late", "times grpc.aio's answers")
    for job in jobs(seconds):
        base = document["grpcio"][job.name]["answered_per_s"]
        for server in SERVERS:
            row = document[server][job.name]
            cells = [f"{row[column]:,.1f}" if column.endswith("ms") else f"{row[column]:,.0f}" for column in columns]
            table.add_row(job.name, server, *cells, f"{row['answered_per_s'] / base:.1f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
