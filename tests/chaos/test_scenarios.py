"""What the harness says of its scenarios."""

import os
import re
from pathlib import Path

import pytest

from chaos.run import Refused, require_fit
from chaos.scenarios import SCENARIOS
from ops.etcd import EtcdBinary

README = (Path(__file__).parents[2] / "README.md").read_text()


def etcd(version: str, directory: Path = Path()) -> EtcdBinary:
    return EtcdBinary(directory / "etcd", version, from_wheel=False)


def test_the_readme_lists_every_scenario() -> None:
    """By name, with what it does, in the order in which `make chaos` runs them."""
    chapter = README[README.index("## Chaos") :].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|$", chapter, re.MULTILINE)
    assert rows == [(scenario.name, scenario.about) for scenario in SCENARIOS.values()]


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2"])
def test_an_etcd_that_can_lose_data_is_not_killed(version: str, tmp_path: Path) -> None:
    """Scenarios that kill etcd refuse 3.5.0 to 3.5.2, and say so; the others do not mind."""
    killers = [scenario for scenario in SCENARIOS.values() if scenario.harms_etcd]
    names = {scenario.name for scenario in killers}
    assert {"power-cut", "kill-etcd-leader", "kill-etcd-majority", "restore-snapshot"} <= names
    (tmp_path / "etcdctl").touch()
    for scenario in killers:
        with pytest.raises(Refused, match=re.escape(version)):
            require_fit(scenario, "etcd", etcd(version, tmp_path))
        require_fit(scenario, "etcd", etcd("3.4.23", tmp_path))
        require_fit(scenario, "etcd", etcd("3.5.21", tmp_path))
    require_fit(SCENARIOS["kill-owner"], "etcd", etcd(version))


def test_what_a_scenario_cannot_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails says nothing of a journal in etcd; a restore needs etcd's tools, an overload two processors."""
    for name in ("full-disk", "failing-fsync"):
        require_fit(SCENARIOS[name], "file", etcd("3.6.0"))
        with pytest.raises(Refused, match="etcd journal"):
            require_fit(SCENARIOS[name], "etcd", etcd("3.6.0"))
    with pytest.raises(Refused, match="no etcdctl beside"):
        require_fit(SCENARIOS["restore-snapshot"], "file", etcd("3.6.0", tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(Refused, match="two processors"):
        require_fit(SCENARIOS["overload"], "file", etcd("3.6.0"))
