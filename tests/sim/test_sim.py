"""Whole clusters under everything at once, from seeds; and the bugs that this finds when they are planted."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.plants import PLANTS
from tests.sim.points import DISK_POINTS, ETCD_JOURNAL_POINTS, ETCD_POINTS, NODE_POINTS, ROUTER_POINTS
from tests.sim.run import simulate

ROOT = Path(__file__).parents[2]
SEEDS = 300

HAPPENED = (
    "grants",
    "already issued",
    "refused SOLD_OUT",
    "refused LIMIT_REACHED",
    "refused PAUSED",
    "refused NOT_STARTED",
    "refused ENDED",
    "refused CANCELLED",
    "refused NO_OWNER",
    "calls of unknown outcome",
    "unknown outcomes resolved",
    "appends fenced",
    "barriers fenced",
    "opens fenced",
    "appends of unknown outcome",
    "log append_sent_again",
    "log shard_claimed",
    "log shard_handed_over",
    "log clock_stepped",
    "log lease_lost",
    "log etcd_revision_went_back",
    "log torn_frame_ignored",
    "entries read along",
    "shard closed: drained",
    "shard closed: fenced",
    "life over: lease lost",
    "life over: drained",
    "restores",
    "disk faults",
    "watched",
)
"""What has to have happened in so many seeds: else they show nothing."""


def test_any_seed_keeps_every_promise() -> None:
    """Whatever happens in whatever order: clients are told nothing that the journal does not bear out, no entry of a
    fenced owner gets in, every call is answered, and the cluster heals by itself. And everything did happen."""
    totals: Counter[str] = Counter()
    points: Counter[str] = Counter()
    for seed in range(SEEDS):
        result = simulate(seed, with_log=False)
        assert not result.violations, f"{result.violations}\npython -m tests.sim --seeds 1 --first {seed} --log"
        totals += result.totals
        points += result.points
    assert not [name for name in HAPPENED if not totals[name]], totals
    everywhere = (*ROUTER_POINTS, *NODE_POINTS, *ETCD_JOURNAL_POINTS, *ETCD_POINTS, *DISK_POINTS)
    hit = {point: points[f"kill at {point}"] + points[f"stop at {point}"] for point in everywhere}
    assert sum(times > 0 for times in hit.values()) >= 0.9 * len(hit), hit
    operations = {point.partition(".")[0] for point in everywhere}
    assert operations == {point.partition(".")[0] for point, times in hit.items() if times}, hit
    for what in ("kill", "stop", "power cut"):
        assert sum(times for name, times in points.items() if name.startswith(what)) >= 10, points


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bugs_are_found(name: str) -> None:
    """Within the number of seeds that the plant states; and that seed without the bug keeps every promise."""
    plant = PLANTS[name]
    for seed in range(plant.seeds_max):
        if simulate(seed, plant.kind, name, with_log=False).violations:
            assert not simulate(seed, plant.kind, focus=plant.focus, with_log=False).violations
            return
    pytest.fail(f"{name}: {plant.what}: not found")


def test_same_seed_same_log() -> None:
    """Here, and in other processes, whatever the environment says about the hashes of strings."""
    assert simulate(3).log == simulate(3).log
    said = [
        subprocess.run(
            [sys.executable, "-m", "tests.sim", "--seeds", "2", "--first", "3", "--log", "--workers", "1"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert said[0].count(b"\n") > 200
    assert said[0] == said[1]


def test_the_command_runs_seeds_in_several_processes() -> None:
    """`python -m tests.sim`, as the README says it, comes to an end."""
    command = [sys.executable, "-m", "tests.sim", "--seeds", "8", "--workers", "2"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "8 seeds from 0, no violation" in ended.stdout
