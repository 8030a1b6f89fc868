"""What the harness says of its scenarios."""

import re
from pathlib import Path

import pytest

from chaos.run import Refused, require_fit
from chaos.scenarios import SCENARIOS
from ops.etcd import EtcdBinary

README = (Path(__file__).parents[2] / "README.md").read_text()


def etcd(version: str) -> EtcdBinary:
    return EtcdBinary(Path("etcd"), version, from_wheel=False)


def test_the_readme_lists_every_scenario() -> None:
    """By name, with what it does, in the order in which `make chaos` runs them."""
    chapter = README[README.index("## Chaos") :].split("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|$", chapter, re.MULTILINE)
    assert rows == [(scenario.name, scenario.about) for scenario in SCENARIOS.values()]


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2"])
def test_an_etcd_that_can_lose_data_is_not_killed(version: str) -> None:
    """Scenarios that kill etcd refuse 3.5.0 to 3.5.2, and say so; the others do not mind."""
    killers = [scenario for scenario in SCENARIOS.values() if scenario.harms_etcd]
    assert {"power-cut", "kill-etcd-leader", "kill-etcd-majority"} <= {scenario.name for scenario in killers}
    for scenario in killers:
        with pytest.raises(Refused, match=re.escape(version)):
            require_fit(scenario, etcd(version))
        require_fit(scenario, etcd("3.4.23"))
        require_fit(scenario, etcd("3.5.21"))
    require_fit(SCENARIOS["kill-owner"], etcd(version))
