"""Rules and alerts, by promtool: they say what they should, and their tests would notice if they did not."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from cluster.certificates import Certificates
from cluster.clock import SystemClock
from cluster.metrics import EtcdTimes, Process, registry_of
from node.metered_disk import SyncTimes
from node.metrics import NodeMetrics
from router.metrics import RouterMetrics
from tests.support.certs import certs_in, identity
from tests.support.prometheus import CONFIG, binary

ALERTS = (CONFIG / "alerts.yml").read_text()
CASES = (CONFIG / "tests" / "alerts_test.yml").read_text()
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


def promtool(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary("promtool"), *args], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def test_configuration_and_rules_are_well_formed() -> None:
    """By the server's own checks."""
    for what, name in (("config", "prometheus.yml"), ("rules", "rules.yml"), ("rules", "alerts.yml")):
        checked = promtool("check", what, str(CONFIG / name))
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", ["alerts_test.yml", "rules_test.yml"])
def test_rules_say_what_they_should(name: str) -> None:
    """Every case of ops/prometheus/tests."""
    tested = promtool("test", "rules", str(CONFIG / "tests" / name))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_for_and_against() -> None:
    """One in which it fires and one in which it does not; a severity, and words for who has to look."""
    for name in NAMES:
        cases = CASES.split(f'- name: "{name}: ')[1:]
        quiet = ["exp_samples: []" in case.split("- name:")[0] for case in cases]
        assert set(quiet) == {True, False}, f"{name} fires or is quiet in all of its cases"
    for block in ALERTS.split("- alert: ")[1:]:
        assert re.search(r"severity: (page|ticket)", block), block
        assert "summary:" in block, block
        assert "description:" in block, block


def test_every_recorded_series_has_a_case() -> None:
    """Of what the dashboards and alerts show nothing is recorded without an example whose answer is known."""
    recorded = re.findall(r"- record: (\S+)", (CONFIG / "rules.yml").read_text())
    cases = (CONFIG / "tests" / "rules_test.yml").read_text()
    asked = " ".join(re.findall(r"- expr: (.+)", cases))
    assert [name for name in recorded if not re.search(rf"(?<![\w:]){name}(?![\w:])", asked)] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("expr", ["vector(1) < 0", "vector(1)"])
def test_a_broken_alert_is_noticed(tmp_path: Path, name: str, expr: str) -> None:
    """An alert that never fires, and one that always does, fail their cases."""
    document = yaml.safe_load(CASES)
    document["tests"] = [case for case in document["tests"] if case["name"].startswith(f"{name}: ")]
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "alerts_test.yml").write_text(yaml.safe_dump(document))
    (tmp_path / "rules.yml").write_text((CONFIG / "rules.yml").read_text())
    block = re.compile(rf"(- alert: {name}\n\s+expr:).*?(\n\s+(?:for|labels|#))", re.DOTALL)
    broken, count = block.subn(rf"\1 {expr}\2", ALERTS)
    assert count == 1
    (tmp_path / "alerts.yml").write_text(broken)
    tested = promtool("test", "rules", str(tmp_path / "tests" / "alerts_test.yml"))
    assert tested.returncode == 1
    assert f'FAILED:\n    expr: "ALERTS{{alertname=\\"{name}\\"' in tested.stderr


def test_alerts_name_the_process(tmp_path: Path) -> None:
    """Whatever an instance is called by those who find it: the id of the node, also when it has just died. Every alert
    that is of one process says it."""
    groups = yaml.safe_load(ALERTS)["groups"]
    of_one = {
        rule["alert"]: rule["annotations"].get("process")
        for group in groups
        for rule in group["rules"]
        if "$labels.instance" in rule["annotations"]["summary"] and "etcd" not in rule["expr"]
    }
    assert len(of_one) > 10
    (template,) = set(of_one.values())
    rule = {"alert": "Any", "expr": "up == 0", "annotations": {"process": template}}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "any", "rules": [rule]}]}))
    wanted = [("10.0.0.5:9464", "node", "f3a9c1"), ("10.0.0.6:9464", "router", "router-b"), ("etcd-0:2381", "etcd", "")]
    series = [{"series": f'up{{instance="{at}",job="{job}"}}', "values": "1x5 0x20"} for at, job, _ in wanted]
    series += [
        {"series": f'seonchak_build_info{{instance="{at}",name="{name}",role="{job}"}}', "values": "1x5 stale"}
        for at, job, name in wanted[:2]
    ]
    firing = [
        {"exp_labels": {"instance": at, "job": job}, "exp_annotations": {"process": name}} for at, job, name in wanted
    ]
    case = {
        "interval": "5s",
        "input_series": series,
        "alert_rule_test": [{"alertname": "Any", "eval_time": "1m", "exp_alerts": firing}],
    }
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "5s", "tests": [case]})
    )
    tested = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_names_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    """promtool's lint: units, suffixes, words. Both processes' counters, as they are before the first call."""
    certificates = Certificates(identity(certs_in(tmp_path), "node"))
    sources = (
        Process("node", "a", "b", 8, "etcd"),
        EtcdTimes(),
        certificates,
        NodeMetrics(SystemClock().wall_us),
        SyncTimes(),
    )
    for found in (sources, (Process("router", "a", "b", 8, "etcd"), RouterMetrics())):
        text = generate_latest(registry_of(*found)).decode()
        ours = "".join(line for line in text.splitlines(keepends=True) if "seonchak_" in line)
        checked = promtool("check", "metrics", stdin=ours)
        assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr


def test_the_lint_notices() -> None:
    """A counter without _total, and a time that is not in seconds."""
    text = "# HELP x_milliseconds X.\n# TYPE x_milliseconds counter\nx_milliseconds 1\n"
    checked = promtool("check", "metrics", stdin=text)
    assert checked.returncode == 3
    assert "_total" in checked.stderr
    assert "base unit" in checked.stderr
