"""The files with which Seonchak is deployed, as values, for tests that hold them against the product and each other."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
KUBERNETES = ROOT / "ops" / "kubernetes"
MONITORING = KUBERNETES / "monitoring"
PROMETHEUS = ROOT / "ops" / "prometheus"
GRAFANA = ROOT / "ops" / "grafana"
IMAGE = "seonchak"


def compose() -> dict[str, Any]:
    """With every ${NAME:-default} at its default, as Docker would see it without an environment."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text())
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def ours() -> dict[str, Any]:
    """The services that run this product."""
    return {name: service for name, service in services().items() if service["image"] == IMAGE}


def etcds() -> dict[str, Any]:
    return {name: service for name, service in services().items() if "/etcd:" in service["image"]}


def mounts(service: Mapping[str, Any]) -> dict[str, Path]:
    """Directories of this repository, by their path in the container."""
    found = (volume.split(":") for volume in service["volumes"] if volume.startswith("."))
    return {target: (ROOT / source).resolve() for source, target, *_ in found}


def flags(command: list[str]) -> dict[str, str]:
    """--name=value"""
    return dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--"))


def manifests() -> list[dict[str, Any]]:
    """All of Kubernetes', in the order of the files."""
    return [document for path in sorted(KUBERNETES.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def monitoring() -> list[dict[str, Any]]:
    """What watches over it, in Kubernetes."""
    return [document for path in sorted(MONITORING.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def everything_in_kubernetes() -> dict[tuple[str, str], dict[str, Any]]:
    """By kind, as kubectl takes it, and name."""
    return {(of["kind"].lower(), of["metadata"]["name"]): of for of in [*manifests(), *monitoring()]}


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [manifest for manifest in manifests() if manifest["kind"] in kinds]


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name of the workload, the pod's spec, container)"""
    for workload in of_kind("StatefulSet", "Deployment", "Job"):
        pod = workload["spec"]["template"]["spec"]
        for container in pod["containers"]:
            yield workload["metadata"]["name"], pod, container


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    """Of a container in Kubernetes; "" where the value comes from the pod."""
    return {variable["name"]: variable.get("value", "") for variable in container.get("env", [])}
