"""Prometheus and Grafana in Kubernetes: what they mount is made by the README's lines, of the files compose has."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.deployment import GRAFANA, KUBERNETES, PROMETHEUS, ROOT, flags, monitoring, of_kind, services, variables

README = (KUBERNETES / "README.md").read_text().replace("\\\n", "")


def workload(name: str) -> Any:
    (found,) = (
        of for of in monitoring() if of["kind"] in ("StatefulSet", "Deployment") and name in str(of["metadata"])
    )
    return found


def container(name: str) -> Any:
    (found,) = workload(name)["spec"]["template"]["spec"]["containers"]
    return found


def config_maps() -> dict[str, dict[str, Path]]:
    """Files by their keys, by the ConfigMap's name."""
    found = {}
    for line in re.findall(r"^    kubectl create configmap (.+)$", README, re.MULTILINE):
        name, *words = shlex.split(line)
        sources = [ROOT / word for flag, word in pairwise(words) if flag == "--from-file"]
        files = [file for path in sources for file in (path.iterdir() if path.is_dir() else [path])]
        found[name] = {file.name: file for file in files}
    return found


def mounted(name: str) -> dict[str, dict[str, Path]]:
    """Files by their names, by the directory of the container."""
    volumes = {of["name"]: of for of in workload(name)["spec"]["template"]["spec"]["volumes"]}
    return {
        mount["mountPath"]: config_maps()[volumes[mount["name"]]["configMap"]["name"]]
        for mount in container(name)["volumeMounts"]
        if "configMap" in volumes.get(mount["name"], {})
    }


def test_every_config_map_fits() -> None:
    """Each is mounted; its files exist; all of it is as much as `kubectl apply` can remember."""
    used = {
        volume["configMap"]["name"]
        for name in ("prometheus", "grafana")
        for volume in workload(name)["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    }
    assert used == config_maps().keys()
    for files in config_maps().values():
        assert sum(len(file.read_bytes()) for file in files.values()) < 256 << 10


def test_prometheus_finds_its_files() -> None:
    """The configuration of Kubernetes, its rules beside it, and the CA that it is told to believe."""
    told = flags(container("prometheus")["args"])
    path = Path(told["config.file"])
    files = mounted("prometheus")[str(path.parent)]
    assert files[path.name] == PROMETHEUS / "kubernetes.yml"
    config = yaml.safe_load(files[path.name].read_text())
    assert set(config["rule_files"]) == files.keys() - {path.name}
    believed = {job["tls_config"]["ca_file"] for job in config["scrape_configs"] if "tls_config" in job}
    (secret,) = (of for of in workload("prometheus")["spec"]["template"]["spec"]["volumes"] if "secret" in of)
    (mount,) = (of for of in container("prometheus")["volumeMounts"] if of["name"] == secret["name"])
    assert secret["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "no key is its business"
    assert believed == {f"{mount['mountPath']}/ca.crt"}
    assert told["storage.tsdb.path"] in {of["mountPath"] for of in container("prometheus")["volumeMounts"]}


def test_prometheus_may_list_pods_and_nothing_else() -> None:
    """In its namespace, as the account that its pod has."""
    found = {of["kind"]: of for of in monitoring()}
    assert not {"ClusterRole", "ClusterRoleBinding"} & found.keys()
    assert found["Role"]["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    account = found["ServiceAccount"]["metadata"]["name"]
    binding = found["RoleBinding"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", found["Role"]["metadata"]["name"])
    pod = workload("prometheus")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account
    assert pod.get("automountServiceAccountToken", True), "it is how it asks"
    for job in yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())["scrape_configs"]:
        for discovery in job["kubernetes_sd_configs"]:
            assert (discovery["role"], discovery["namespaces"]) == ("pod", {"own_namespace": True})


def test_grafana_is_as_in_compose() -> None:
    """The same image, files at the same places, and settings; data from the Service of Prometheus."""
    compose = services()["grafana"]
    assert container("grafana")["image"] == compose["image"]
    files = mounted("grafana")
    for kind in ("datasources", "dashboards"):
        there = files[f"/etc/grafana/provisioning/{kind}"]
        assert set(there.values()) == set((GRAFANA / "provisioning" / kind).iterdir())
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/seonchak.yml").read_text())["providers"]
    assert set(files[provider["options"]["path"]].values()) == set((GRAFANA / "dashboards").iterdir())
    env = variables(container("grafana"))
    assert env.keys() == compose["environment"].keys()
    same = {"GF_SECURITY_ADMIN_PASSWORD": "", "PROMETHEUS_URL": "http://seonchak-prometheus:9090"}
    assert env == compose["environment"] | same
    secret = next(of for of in container("grafana")["env"] if of["name"] == "GF_SECURITY_ADMIN_PASSWORD")
    reference = secret["valueFrom"]["secretKeyRef"]
    line = f"kubectl create secret generic {reference['name']} --namespace seonchak --from-literal={reference['key']}="
    assert line in README
    assert container("prometheus")["image"] == services()["prometheus"]["image"]


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_they_are_reached_and_confined(name: str) -> None:
    """Their Service finds them, and no Service or disruption budget of the cluster does; no root, no writable root."""
    of = workload(name)
    labels = of["spec"]["template"]["metadata"]["labels"]
    assert of["spec"]["selector"]["matchLabels"] == labels
    (service,) = (s for s in monitoring() if s["kind"] == "Service" and s["metadata"]["name"] == of["metadata"]["name"])
    assert service["spec"]["selector"] == labels
    (port,) = service["spec"]["ports"]
    assert container(name)["ports"] == [{"name": port["targetPort"], "containerPort": port["port"]}]
    selectors = [s["spec"]["selector"] for s in of_kind("Service")]
    selectors += [s["spec"]["selector"]["matchLabels"] for s in of_kind("PodDisruptionBudget")]
    assert not [selector for selector in selectors if selector.items() <= labels.items()]
    assert of["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container(name)["resources"]["limits"]
