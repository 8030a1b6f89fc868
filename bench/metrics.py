"""What recording metrics costs: `python -m bench.metrics`.

Two clusters of three nodes and one router stand side by side, one with an operator's port that is scraped, one without
and so without any recording. Short loads go to the one and the other in turn, so that what else happens on the machine
happens to both. Of two equal clusters one may be faster than the other as long as they run, by as much as recording
costs: they are made anew every few rounds, and which of them is made first changes. Throughput says what a caller sees;
the processor time of routers and nodes for an answered call says it with less noise, since the crowd and etcd share the
machine with them.
"""

import asyncio
import json
import os
import statistics
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import grpc.aio
import typer
from rich.console import Console
from rich.table import Table

from bench.launch import ENOUGH, Job, run_job
from cluster.config import JournalKind
from ops.child import ChildSpec
from ops.cli_cluster import JournalChoice, JournalOption
from ops.local import LocalCluster, LocalSpec
from proto.coupon_pb2_grpc import CouponServiceStub

OFF, ON = "without", "with"
JOBS = (
    Job("512 callers, closed loop, all granted", ENOUGH, ("--callers", "512")),
    Job("512 callers, closed loop, all sold out", 100, ("--callers", "512")),
)
PAIR_ROUNDS = 2
"""So many rounds are run on a pair of clusters."""
SCRAPE_S = 5.0
"""As Prometheus does: see ops/prometheus/prometheus.yml."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    answers_per_s: float
    cpu_us: float
    """Of routers and nodes, for an answered call."""


async def measure(rounds: int, seconds: float, journal: JournalKind) -> dict[str, dict[str, list[Round]]]:
    """By job, by variant."""
    results: dict[str, dict[str, list[Round]]] = {job.name: {OFF: [], ON: []} for job in JOBS}
    for number in range(0, rounds, PAIR_ROUNDS):
        variants = (OFF, ON) if number // PAIR_ROUNDS % 2 else (ON, OFF)
        async with _cluster(variants[0], journal) as first, _cluster(variants[1], journal) as second:
            clusters = dict(zip(variants, (first, second), strict=True))
            await _measure_pair(clusters, min(PAIR_ROUNDS, rounds - number), seconds, results)
    return results


async def _measure_pair(
    clusters: dict[str, LocalCluster], rounds: int, seconds: float, results: dict[str, dict[str, list[Round]]]
) -> None:
    for number in range(rounds):
        # Whoever comes second finds a warmer machine: they take turns in that as well.
        order = (OFF, ON) if number % 2 else (ON, OFF)
        for index, job in enumerate(JOBS):
            for variant in order:
                found = await _run(clusters[variant], job, f"job-{index}-{number}", seconds)
                results[job.name][variant].append(found)


@asynccontextmanager
async def _cluster(variant: str, journal: JournalKind) -> AsyncIterator[LocalCluster]:
    def adapt(spec: ChildSpec) -> ChildSpec:
        if variant == ON or "SEONCHAK_METRICS_LISTEN" not in spec.env:
            return spec
        return replace(spec, env={**spec.env, "SEONCHAK_METRICS_LISTEN": ""})

    with tempfile.TemporaryDirectory() as directory:
        async with LocalCluster(LocalSpec(Path(directory), journal=journal, adapt=adapt)) as cluster:
            scraping = asyncio.create_task(_scrape(cluster)) if variant == ON else None
            yield cluster
            if scraping is not None:
                scraping.cancel()
                await asyncio.wait([scraping])


async def _scrape(cluster: LocalCluster) -> None:
    jobs = cluster.layout.scraped()
    while True:
        for address in (*jobs["node"].values(), *jobs["router"].values()):
            await asyncio.to_thread(_get, f"http://{address}/metrics")
        await asyncio.sleep(SCRAPE_S)


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as answer:
        answer.read()


async def _run(cluster: LocalCluster, job: Job, campaign_id: str, seconds: float) -> Round:
    async with grpc.aio.insecure_channel(cluster.router) as channel:
        before_s = _cpu_s(cluster)
        result = await run_job(cluster, CouponServiceStub(channel), job, campaign_id, seconds)
        took_s = _cpu_s(cluster) - before_s
    return Round(result.answered_per_s, took_s / (result.answered_per_s * seconds) * 1e6)


def _cpu_s(cluster: LocalCluster) -> float:
    """User and system time of the cluster's own processes. Source: proc(5), /proc/PID/stat, fields 14 and 15."""
    ticks = 0
    for child in (*cluster.nodes, *cluster.routers):
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def figures(found: dict[str, list[Round]]) -> dict[str, float]:
    """Medians, and the median of the rounds' ratios: with recording to without."""
    pairs = list(zip(found[OFF], found[ON], strict=True))
    return (
        {
            f"{variant}_{column}": statistics.median(asdict(result)[column] for result in found[variant])
            for variant in (OFF, ON)
            for column in ("answers_per_s", "cpu_us")
        }
        | {
            "throughput_ratio": statistics.median(on.answers_per_s / off.answers_per_s for off, on in pairs),
            "cpu_ratio": statistics.median(on.cpu_us / off.cpu_us for off, on in pairs),
        }
        | _spread("throughput", [on.answers_per_s / off.answers_per_s for off, on in pairs])
        | _spread("cpu", [on.cpu_us / off.cpu_us for off, on in pairs])
    )


def _spread(name: str, ratios: list[float]) -> dict[str, float]:
    """How much the rounds' ratios differ: on a busy machine by more than what is measured."""
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {f"{name}_ratio_p25": low, f"{name}_ratio_p75": high}


def main(
    rounds: Annotated[int, typer.Option(min=2, help="Of each variant.")] = 10,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of each load.")] = 4.0,
    journal: JournalOption = JournalChoice.ETCD,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")] = False,
) -> None:
    results = asyncio.run(measure(rounds, seconds, journal.kind))
    document = {job: figures(found) for job, found in results.items()}
    if as_json:
        typer.echo(json.dumps(document))
        return
    table = Table("job", "answers/s without", "with", "ratio", "µs of cpu a call without", "with", "ratio")
    for job, row in document.items():
        table.add_row(
            job,
            *(f"{row[f'{variant}_answers_per_s']:,.0f}" for variant in (OFF, ON)),
            _ratio(row, "throughput"),
            *(f"{row[f'{variant}_cpu_us']:,.1f}" for variant in (OFF, ON)),
            _ratio(row, "cpu"),
        )
    Console().print(table)


def _ratio(row: dict[str, float], name: str) -> str:
    low, high = row[f"{name}_ratio_p25"], row[f"{name}_ratio_p75"]
    return f"{row[f'{name}_ratio']:.3f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    typer.run(main)
