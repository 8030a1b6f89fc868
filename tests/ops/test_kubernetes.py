"""ops/kubernetes: against Kubernetes' schemas, against the product, and against docker-compose.yml."""

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest

from node.config import NodeSettings
from tests.ops.command_line import VARIABLES, problems
from tests.ops.deployment import IMAGE, containers, etcds, flags, manifests, of_kind, services, variables

VERSIONS = ["1.31", "1.37"]
"""Of Kubernetes: one that is about to go, and the newest that the schemas are there of."""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas(version: str) -> None:
    """Strict: a misspelt field is an error, not ignored as a cluster would."""
    assert manifests()
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_is_found() -> None:
    (router,) = of_kind("Deployment")
    router["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(router, VERSIONS[-1], strict=True)


def labels(workload: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def test_selectors_find_their_pods() -> None:
    """Of workloads, services and disruption budgets: each exactly one workload's pods."""
    workloads = of_kind("StatefulSet", "Deployment")
    selectors = [of["spec"]["selector"]["matchLabels"] for of in of_kind("StatefulSet", "Deployment")]
    selectors += [of["spec"]["selector"]["matchLabels"] for of in of_kind("PodDisruptionBudget")]
    selectors += [of["spec"]["selector"] for of in of_kind("Service")]
    for selector in selectors:
        assert sum(selector.items() <= labels(workload).items() for workload in workloads) == 1, selector
    assert len(of_kind("PodDisruptionBudget")) == len(workloads), "each has one"
    headless = {of["metadata"]["name"] for of in of_kind("Service") if of["spec"].get("clusterIP") == "None"}
    assert {of["spec"]["serviceName"] for of in of_kind("StatefulSet")} <= headless


def test_ports_are_those_that_are_listened_on() -> None:
    """Services and probes name a port of the container; the product listens on its number."""
    for workload in of_kind("StatefulSet", "Deployment"):
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for service in of_kind("Service"):
            if service["spec"]["selector"].items() <= labels(workload).items():
                for port in service["spec"]["ports"]:
                    assert ports[port["targetPort"]] == port["port"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            for how in ("tcpSocket", "httpGet", "grpc"):
                if (asked := container.get(probe, {}).get(how)) is not None:
                    assert asked["port"] in (*ports, *ports.values())
        if container["image"] == IMAGE:
            assert container["args"][-1] == f"0.0.0.0:{ports['grpc']}"
        else:
            listens = {value for key, value in flags(container["command"]).items() if key.startswith("listen")}
            assert listens == {f"http://0.0.0.0:{port}" for port in ports.values()}


def test_every_command_and_variable_exists() -> None:
    """As in docker-compose.yml: arguments, probes and variables of our image are the product's."""
    commands = set()
    for name, _, container in containers():
        if container["image"] != IMAGE:
            continue
        assert "command" not in container, "the image's own"
        assert not [p for p in problems(container["args"]) if "--etcd" not in p], name
        command = container["args"][0]
        commands.add(command)
        known = VARIABLES.get(command, {"SEONCHAK_ETCD_ENDPOINTS"})  # of `init`: its --etcd
        assert not variables(container).keys() - known, name
        if (probe := container.get("readinessProbe", {}).get("exec")) is not None:
            assert probe["command"][0] == "seonchak"
            assert not problems(probe["command"][1:])
    assert commands == {"init", "node", "router"}


def test_everybody_means_the_same_etcd() -> None:
    """Endpoints are the members' names; members know each other; nodes know their quota; compose says the same."""
    (etcd,) = (of for of in of_kind("StatefulSet") if of["metadata"]["name"].endswith("etcd"))
    name = etcd["metadata"]["name"]
    hosts = [f"{name}-{i}.{etcd['spec']['serviceName']}" for i in range(etcd["spec"]["replicas"])]
    (container,) = etcd["spec"]["template"]["spec"]["containers"]
    of = flags(container["command"])
    assert of["initial-cluster"] == ",".join(f"{host.partition('.')[0]}=http://{host}:2380" for host in hosts)
    ours = [variables(container) for _, _, container in containers() if container["image"] == IMAGE]
    assert {v["SEONCHAK_ETCD_ENDPOINTS"] for v in ours} == {",".join(f"{host}:2379" for host in hosts)}
    assert {v["SEONCHAK_ETCD_QUOTA_BYTES"] for v in ours if "SEONCHAK_NODE_ID" in v} == {of["quota-backend-bytes"]}
    in_compose = flags(etcds()["etcd-0"]["command"])
    same = ["quota-backend-bytes", "auto-compaction-mode", "auto-compaction-retention", "snapshot-count"]
    assert [of[key] for key in same] == [in_compose[key] for key in same]
    assert container["image"] == services()["etcd-0"]["image"]


def test_pods_are_confined_and_may_end_in_order() -> None:
    """No root, no writable root, no capability, no token; and the time that a drain may take."""
    for name, pod, container in containers():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert "memory" in container["resources"]["limits"], name
        if not name.endswith("init"):
            assert pod["terminationGracePeriodSeconds"] > NodeSettings.model_fields["drain_s_max"].default + 5
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), name


def test_a_node_keeps_its_id_and_is_found() -> None:
    """Its id is the pod's name, and the address that others are told is that name in the headless service."""
    (node,) = (of for of in of_kind("StatefulSet") if of["metadata"]["name"].endswith("node"))
    (container,) = node["spec"]["template"]["spec"]["containers"]
    own = {variable["name"]: variable for variable in container["env"]}
    assert own["SEONCHAK_NODE_ID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    port = container["ports"][0]["containerPort"]
    assert own["SEONCHAK_ADVERTISE"]["value"] == f"$(SEONCHAK_NODE_ID).{node['spec']['serviceName']}:{port}"
    names = [variable["name"] for variable in container["env"]]
    assert names.index("SEONCHAK_NODE_ID") < names.index("SEONCHAK_ADVERTISE"), "$(...) reads what stands before it"
