"""One chaos run: a cluster of its own, load, faults, healing, verdict. Leaves everything in one folder.

OUT/
  history.jsonl   every call, phase and fault
  verdict.json    what it amounts to
  report.txt, report.svg
  logs/           every process's
  etcd/, journal/ the cluster's data, unless the verdict is clean
"""

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chaos.chart import report_svg
from chaos.checker import check
from chaos.client import RecordingClient
from chaos.cluster import LOSES_DATA, ChaosCluster, ChaosSpec, NotSettled, running
from chaos.faults import Faults
from chaos.history import History, Operation, Overload, Phase
from chaos.history_file import HistoryWriter
from chaos.journal import Journal
from chaos.report import report_text
from chaos.restore import tools
from chaos.restored import Restore, check_restored
from chaos.scenarios import Scenario
from chaos.verdict import Verdict
from chaos.workload import Workload, offers_for
from cluster.config import JournalKind
from ops.etcd import EtcdBinary, find_etcd
from ops.verify import Report

HEALTHY_SHARE, FAULTY_SHARE = 0.25, 0.45
"""Of a run's seconds, for the first phase and for the beginning of new faults. What is left: healthy again."""
HEALTHY_GRANTS_MIN = 550
"""A healthy phase lasts until it has so many, a few more than the checker demands."""
HEALTHY_S_MAX = 60.0


class Refused(Exception):
    """This scenario cannot be run here; the message says why."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    scenario: Scenario
    journal: JournalKind
    seed: int
    seconds: float
    """Of load. Faults that have begun are finished, and healthy phases last until they have enough grants."""
    out: Path
    """Made if need be; has to be empty."""


@dataclass(frozen=True, slots=True)
class RunResult:
    spec: RunSpec
    etcd_version: str
    history: History
    verdict: Verdict
    took_s: float

    def as_json(self) -> dict[str, Any]:
        return {
            "scenario": self.spec.scenario.name,
            "journal": self.spec.journal,
            "seed": self.spec.seed,
            "seconds": self.spec.seconds,
            "etcd": self.etcd_version,
            "out": str(self.spec.out),
            "took_s": round(self.took_s, 1),
            "faults": len(self.history.faults),
            **self.verdict.as_json(),
        }


def require_fit(scenario: Scenario, journal: JournalKind, binary: EtcdBinary) -> None:
    """Raises Refused."""
    if journal not in scenario.journals:
        raise Refused(f"{scenario.name} means nothing to the {journal} journal")
    if scenario.apart and len(os.sched_getaffinity(0)) < 2:
        raise Refused(f"{scenario.name} needs two processors: load and cluster would take each other's time")
    if scenario.restores:
        try:
            tools(binary.path)
        except FileNotFoundError as error:
            raise Refused(f"{scenario.name} needs etcd's own tools: {error}") from error
    if scenario.harms_etcd and binary.version in LOSES_DATA:
        raise Refused(
            f"{scenario.name} kills etcd under load, and etcd {binary.version} can lose data then: "
            "put another etcd on PATH, or name it with SEONCHAK_ETCD"
        )


async def run(spec: RunSpec) -> RunResult:
    """
    Raises:
        Refused: with nothing started.
        FileExistsError: `out` is not empty.
    """
    began_s = time.monotonic()
    require_fit(spec.scenario, spec.journal, find_etcd())
    spec.out.mkdir(parents=True, exist_ok=True)
    if any(spec.out.iterdir()):
        raise FileExistsError(f"{spec.out} is not empty")
    with HistoryWriter(spec.out / "history.jsonl") as writer:
        async with running(_cluster_spec(spec)) as cluster:
            version = cluster.etcd_version
            history, restore, problems = await _drive(spec, cluster, writer)
            problems += [f"{name} ended by itself" for name in await cluster.revive_etcd()]
            await cluster.end_nodes()
            report = await cluster.reread({call.campaign_id for call in history.calls})
    reads = [call for call in history.calls if call.operation is Operation.READ]
    judged = {call.campaign_id for call in history.calls}
    journal = Journal.of_audit([each for each in report.campaigns if each.campaign_id in judged], report.violations)
    history = replace(history, overloads=tuple(_counted(each, report) for each in history.overloads))
    with HistoryWriter(spec.out / "history.jsonl") as writer:
        for overload in history.overloads:
            writer.overload(overload)
    verdict = check_restored(history, restore, journal, reads) if restore else check(history, journal, reads)
    verdict = replace(verdict, invalid_because=(*verdict.invalid_because, *problems))
    result = RunResult(spec, version, history, verdict, time.monotonic() - began_s)
    _leave(result)
    return result


def _counted(overload: Overload, report: Report) -> Overload:
    issued = [campaign.issued for campaign in report.campaigns if campaign.campaign_id in overload.campaign_ids]
    return replace(overload, journaled=sum(issued))


def _cluster_spec(spec: RunSpec) -> ChaosSpec:
    scenario = spec.scenario
    return ChaosSpec(
        spec.out,
        spec.journal,
        spare_nodes=scenario.spare_nodes,
        etcd_members=scenario.etcd_members,
        proxied=scenario.proxied,
        bad_machines=scenario.bad_machines,
    )


class _Recorder:
    """Phases and faults, in memory and in the history's file."""

    def __init__(self, client: RecordingClient, writer: HistoryWriter) -> None:
        self._client = client
        self._writer = writer
        self.phases: list[Phase] = []

    @asynccontextmanager
    async def phase(self, name: str, *, healthy: bool) -> AsyncIterator[None]:
        from_s = self._client.now_s()
        try:
            yield
        finally:
            phase = Phase(name, healthy, from_s, self._client.now_s())
            self.phases.append(phase)
            self._writer.phase(phase)


async def _drive(
    spec: RunSpec, cluster: ChaosCluster, writer: HistoryWriter
) -> tuple[History, Restore | None, list[str]]:
    """All phases; the history, whether its journal was taken back, and what went wrong with the run itself."""
    seeds = random.Random(spec.seed)
    users, chance = random.Random(seeds.random()), random.Random(seeds.random())
    problems: list[str] = []
    async with RecordingClient(cluster.layout.router_addresses, writer, users, time.monotonic()) as client:
        workload = Workload(client, users, offers_for(cluster.shard, spec.seconds, spec.scenario.load_share))
        await workload.create()
        recorder = _Recorder(client, writer)
        load = asyncio.create_task(workload.run())
        try:
            async with recorder.phase("healthy", healthy=True):
                await _healthy(client, load, spec.seconds * HEALTHY_SHARE)
            until_s = client.now_s() + spec.seconds * FAULTY_SHARE
            faults = Faults(cluster, chance, workload.rushes, client.now_s, until_s, workload.quiet)
            async with recorder.phase("faulty", healthy=False):
                try:
                    await spec.scenario.inject(faults)
                except NotSettled as problem:
                    problems.append(str(problem))
            async with recorder.phase("healed", healthy=False):
                try:
                    await faults.settled()
                except NotSettled as problem:
                    problems.append(str(problem))
            async with recorder.phase("healthy again", healthy=True):
                await _healthy(client, load, spec.seconds * (1 - HEALTHY_SHARE - FAULTY_SHARE))
        finally:
            workload.stop()
            await load
        await workload.read_all()
        done = faults.records()
        for fault in done:
            writer.fault(fault)
        history = History(tuple(client.calls), tuple(recorder.phases), tuple(done), tuple(faults.overloads))
        return history, faults.restore, problems


async def _healthy(client: RecordingClient, load: asyncio.Task[None], at_least_s: float) -> None:
    """So long, and until there are enough grants. Ends after HEALTHY_S_MAX in any case: the checker will say so."""
    enough = client.grants + HEALTHY_GRANTS_MIN
    began_s = client.now_s()
    while (passed_s := client.now_s() - began_s) < at_least_s or (client.grants < enough and passed_s < HEALTHY_S_MAX):
        await asyncio.wait([load], timeout=0.1)
        if load.done():
            load.result()  # nobody told it to stop: it failed, and raises here
            raise AssertionError("the load ended by itself")


def _leave(result: RunResult) -> None:
    """Write what a reader wants, and throw away the data of a cluster that did nothing wrong."""
    out = result.spec.out
    title = f"{result.spec.scenario.name} on {result.spec.journal}, seed {result.spec.seed}, etcd {result.etcd_version}"
    (out / "report.txt").write_text(report_text(title, result.history, result.verdict))
    (out / "report.svg").write_text(report_svg(title, result.history, result.verdict))
    document = json.dumps(result.as_json(), ensure_ascii=False, indent=2)
    (out / "verdict.json").write_text(document + "\n")
    if result.verdict.clean:
        for name in ("etcd", "journal"):
            shutil.rmtree(out / name, ignore_errors=True)
