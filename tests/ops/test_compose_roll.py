"""ops/compose_roll.sh on a docker of its own: whoever upgrades by it has no outage, and notices when it goes wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.ops.container_lines import wrong
from tests.ops.deployment import ROOT

SCRIPT = ROOT / "ops" / "compose_roll.sh"
FAKE = Path(__file__).with_name("fake_docker.py")


class Docker:
    """With three containers of the service node, which have the old image."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = directory / "state.json"
        (directory / "fake.py").write_text(FAKE.read_text())
        docker = directory / "docker"
        docker.write_text(f'#!/bin/sh\nexec {sys.executable} {directory / "fake.py"} "$@"\n')
        docker.chmod(0o755)
        # The script's pauses are docker's own time, of which there is none here.
        (directory / "sleep").symlink_to("/bin/true")
        containers = {f"c{i}": {"image": "old", "running": True, "code": 0} for i in range(3)}
        self.set(containers=containers, image="new", next=3, least=3, most=3, asked=0, lines=[])
        self.set(sick=0, stop_code=0, served_after=0)

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._state.read_text()) if self._state.exists() else {}
        return state

    def set(self, **values: Any) -> None:
        self._state.write_text(json.dumps(self.state | values))

    def roll(self) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"PATH": f"{self._directory}:{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", str(SCRIPT), "node"], env=env, capture_output=True, text=True, timeout=120, check=False
        )

    def images(self) -> list[str]:
        return [of["image"] for of in self.state["containers"].values() if of["running"]]


def test_containers_are_replaced_one_by_one(tmp_path: Path) -> None:
    """As many as before, all new; never fewer at a time, and never more than one above. Docker has every flag."""
    docker = Docker(tmp_path)
    done = docker.roll()
    assert done.returncode == 0, done.stderr
    assert not [f"{line}: {what}" for line in docker.state["lines"] for what in wrong(line)]
    assert docker.images() == ["new"] * 3
    assert (docker.state["least"], docker.state["most"]) == (3, 4)


def test_it_waits_until_every_shard_is_served(tmp_path: Path) -> None:
    """Before each one goes, and before it ends; where they never are, it says so, and nothing goes."""
    docker = Docker(tmp_path)
    docker.set(served_after=20)
    done = docker.roll()
    assert done.returncode == 0, done.stderr
    assert docker.images() == ["new"] * 3
    assert docker.state["asked"] > 20, "not after the last one"
    docker.set(image="newer", asked=0, served_after=1_000_000)
    done = docker.roll()
    assert (done.returncode, docker.images()) == (1, ["new"] * 3 + ["newer"])
    assert "a shard is not served" in done.stderr


def test_a_new_one_that_is_not_healthy_replaces_nothing(tmp_path: Path) -> None:
    docker = Docker(tmp_path)
    docker.set(sick=1)
    assert docker.roll().returncode == 1
    assert docker.images().count("old") == 3


def test_one_that_did_not_drain_ends_it(tmp_path: Path) -> None:
    """It was killed: somebody should look before the next one goes."""
    docker = Docker(tmp_path)
    docker.set(stop_code=137)
    done = docker.roll()
    assert done.returncode == 1
    assert "did not drain: it ended with 137" in done.stderr
    assert docker.images().count("old") == 2


def test_a_stopped_container_is_replaced_too(tmp_path: Path) -> None:
    """It would be started again, with the old image, by the next `up`."""
    docker = Docker(tmp_path)
    docker.set(containers=docker.state["containers"] | {"c9": {"image": "old", "running": False, "code": 0}})
    assert docker.roll().returncode == 0
    assert [of["image"] for of in docker.state["containers"].values()] == ["new"] * 4
