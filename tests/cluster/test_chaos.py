"""Short chaos runs: real processes, real faults, and a judge."""

import asyncio
import json
from pathlib import Path

import pytest

from chaos.history_file import read_history
from chaos.run import Refused, RunSpec, run
from chaos.scenarios import SCENARIOS
from cluster.config import JournalKind

pytestmark = pytest.mark.cluster

JOURNALS: list[JournalKind] = ["file", "etcd"]
ALWAYS = [(name, journal) for name in ("kill-owner", "freeze-owner") for journal in JOURNALS]
ONLY_WHEN_ASKED = [
    *((name, journal) for name in ("clock-skew", "storm") for journal in JOURNALS),
    ("full-disk", "file"),
    ("restore-snapshot", "etcd"),
]
RUNS = [*ALWAYS, *(pytest.param(*run, marks=pytest.mark.chaos) for run in ONLY_WHEN_ASKED)]


@pytest.mark.parametrize(("name", "journal"), RUNS)
def test_a_short_run_is_clean(tmp_path: Path, name: str, journal: JournalKind) -> None:
    """Whatever is done to the cluster under load, every call, the journal and GetCampaign agree; the folder holds what
    proves it."""
    try:
        result = asyncio.run(run(RunSpec(SCENARIOS[name], journal, seed=1, seconds=20, out=tmp_path)))
    except Refused as refused:
        pytest.skip(str(refused))
    assert result.verdict.clean, result.verdict.text
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "clean"
    assert read_history(tmp_path / "history.jsonl").faults == result.history.faults
    for left in ("report.txt", "report.svg", "logs/node-0.log", "logs/router-0.log", "logs/etcd-0.log"):
        assert (tmp_path / left).stat().st_size > 0, left
