"""Prometheus and Grafana, as deployed: who is scraped, with which rules, and where dashboards and data meet."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.deployment import GRAFANA, PROMETHEUS, containers, etcds, flags, mounts, of_kind, services, variables
from tests.support.prometheus import binary

CONFIGURATIONS = ["prometheus.yml", "prometheus-tls.yml", "compose.yml", "kubernetes.yml"]
JOBS = {"node", "router", "etcd"}
"""As the dashboards' queries name them."""


def config(name: str) -> Any:
    return yaml.safe_load((PROMETHEUS / name).read_text())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_are_well_formed(name: str, tmp_path: Path) -> None:
    """By promtool. Debian's is built without Kubernetes' discovery: it is shown another one in its place."""
    document = config(name)
    for job in document["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None) is not None:
            job["static_configs"] = [{"targets": ["a:1"]}]
    document["rule_files"] = [str(PROMETHEUS / rules) for rules in document["rule_files"]]
    (tmp_path / name).write_text(yaml.safe_dump(document))
    command = [binary("promtool"), "check", "config", str(tmp_path / name)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_they_differ_in_whom_they_scrape_alone(name: str) -> None:
    """The same rules and the same rhythm everywhere: the rules' windows and the data source's interval depend on it."""
    document, first = config(name), config(CONFIGURATIONS[0])
    assert document["rule_files"] == ["rules.yml", "alerts.yml"]
    assert document["global"] == first["global"]
    (source,) = config("../grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["jsonData"]["timeInterval"] == document["global"]["scrape_interval"]


def test_compose_scrapes_everybody() -> None:
    """Each container of a service by the service's name in Docker's DNS, at the port where it has its metrics."""
    jobs = {job["job_name"]: job for job in config("compose.yml")["scrape_configs"]}
    assert jobs.keys() == JOBS
    for name in ("node", "router"):
        (found,) = jobs[name]["dns_sd_configs"]
        port = services()[name]["environment"]["SEONCHAK_METRICS_LISTEN"].removeprefix("0.0.0.0:")
        assert (found["names"], found["type"], found["port"]) == ([name], "A", int(port))
        assert set(services()[name]["networks"]) & set(services()["prometheus"]["networks"])
    (static,) = jobs["etcd"]["static_configs"]
    ports = {name: flags(of["command"])["listen-metrics-urls"].rpartition(":")[2] for name, of in etcds().items()}
    assert static["targets"] == [f"{name}:{port}" for name, port in ports.items()]


def test_prometheus_finds_its_files() -> None:
    """The configuration that the command names is in the directory that is mounted, and its rules beside it."""
    service = services()["prometheus"]
    path = Path(flags(service["command"])["config.file"])
    mounted = mounts(service)[str(path.parent)]
    assert mounted == PROMETHEUS
    assert path.name == "compose.yml"
    assert not [name for name in config(path.name)["rule_files"] if not (mounted / name).exists()]


def test_grafana_finds_dashboards_and_data() -> None:
    """Provisioning is where Grafana looks; it names the directory with the dashboards; they name its data source, whose
    address is the Prometheus service."""
    service = services()["grafana"]
    mounted = mounts(service)
    assert mounted["/etc/grafana/provisioning"] == GRAFANA / "provisioning"
    (provider,) = config("../grafana/provisioning/dashboards/seonchak.yml")["providers"]
    dashboards = list(mounted[provider["options"]["path"]].glob("*.json"))
    assert len(dashboards) == 2
    (source,) = config("../grafana/provisioning/datasources/prometheus.yml")["datasources"]
    for path in dashboards:
        uids = set(re.findall(r'"datasource": \{[^}]*"uid": "([^"]+)"', path.read_text()))
        assert uids == {source["uid"]}, path.name
        assert json.loads(path.read_text())["uid"]
    assert source["url"] == "$PROMETHEUS_URL"
    (port,) = (port.rpartition(":")[2] for port in services()["prometheus"]["ports"])
    assert service["environment"]["PROMETHEUS_URL"] == f"http://prometheus:{port}"


def test_pods_say_where_they_are_scraped() -> None:
    """Their annotations name the port `metrics`, where the process listens; the component is the job's name."""
    found = {}
    for workload in of_kind("StatefulSet", "Deployment"):
        template = workload["spec"]["template"]
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        listen = (
            variables(container).get("SEONCHAK_METRICS_LISTEN") or flags(container["command"])["listen-metrics-urls"]
        )
        assert listen.rpartition(":")[2] == str(ports["metrics"])
        assert template["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/scheme": "https" if "SEONCHAK_TLS_CERT" in variables(container) else "http",
            "prometheus.io/port": str(ports["metrics"]),
            "prometheus.io/path": "/metrics",
        }
        found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template["metadata"]
    assert found.keys() == JOBS
    assert len(found) == len([name for name, _, _ in containers() if not name.endswith("init")])


def test_kubernetes_reads_what_pods_say() -> None:
    """Every source of a relabelling is something that pods have: an annotation, a name, the name of a port; a job's
    pods are those of one component."""
    jobs = {job["job_name"]: job for job in config("kubernetes.yml")["scrape_configs"]}
    assert jobs.keys() == JOBS
    for workload in of_kind("StatefulSet", "Deployment"):
        metadata = workload["spec"]["template"]["metadata"]
        reads_what_a_pod_says(jobs[metadata["labels"]["app.kubernetes.io/component"]], metadata)


def reads_what_a_pod_says(job: Any, metadata: Any) -> None:
    (discovery,) = job["kubernetes_sd_configs"]

    def meta(kind: str, names: Any) -> set[str]:
        return {f"__meta_kubernetes_pod_{kind}_{re.sub('[^a-zA-Z0-9_]', '_', name)}" for name in names}

    known = {f"__meta_kubernetes_pod_{what}" for what in ("name", "ip", "container_port_name")}
    known |= meta("annotation", metadata["annotations"])
    read = {name for rule in job["relabel_configs"] for name in rule["source_labels"]}
    assert read <= known
    assert meta("annotation", metadata["annotations"]) <= read
    given = {rule["target_label"] for rule in job["relabel_configs"] if "target_label" in rule}
    assert given == {"__scheme__", "__metrics_path__", "__address__", "instance"}
    selected = dict(label.split("=") for label in discovery["selectors"][0]["label"].split(","))
    assert selected == metadata["labels"]
