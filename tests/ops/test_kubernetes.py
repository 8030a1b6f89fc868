"""ops/kubernetes: against Kubernetes' schemas, against the product, and against docker-compose.yml."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no types
import pytest
from cryptography import x509

from node.config import NodeSettings
from ops.certs import make_certs
from ops.etcd import EtcdTls
from router.config import RouterSettings
from tests.ops.command_line import SETTINGS, VARIABLES, problems, settings_of
from tests.ops.deployment import (
    IMAGE,
    KUBERNETES,
    containers,
    etcds,
    everything_in_kubernetes,
    flags,
    of_kind,
    services,
    variables,
)

IDENTITY = ("SEONCHAK_TLS_CA", "SEONCHAK_TLS_CERT", "SEONCHAK_TLS_KEY")
README = (KUBERNETES / "README.md").read_text().replace("\\\n", "")
VERSIONS = ["1.31", "1.37"]
"""Of Kubernetes: one that is about to go, and the newest that the schemas are there of."""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas(version: str) -> None:
    """Strict: a misspelt field is an error, not ignored as a cluster would."""
    assert everything_in_kubernetes()
    for manifest in everything_in_kubernetes().values():
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
            listens = {key: value for key, value in flags(container["command"]).items() if key.startswith("listen")}
            assert listens == {
                f"listen-{name}-urls": f"{'http' if name == 'metrics' else 'https'}://0.0.0.0:{port}"
                for name, port in ports.items()
            }


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
        known = VARIABLES.get(command, {"SEONCHAK_ETCD_ENDPOINTS", *IDENTITY})  # of `init`: its --etcd, and who it is
        assert not variables(container).keys() - known, name
    assert commands == {"init", "node", "router"}


def test_everybody_means_the_same_etcd() -> None:
    """Endpoints are the members' names; members know each other; nodes know their quota; compose says the same."""
    (etcd,) = (of for of in of_kind("StatefulSet") if of["metadata"]["name"].endswith("etcd"))
    name = etcd["metadata"]["name"]
    hosts = [f"{name}-{i}.{etcd['spec']['serviceName']}" for i in range(etcd["spec"]["replicas"])]
    (container,) = etcd["spec"]["template"]["spec"]["containers"]
    of = flags(container["command"])
    assert of["initial-cluster"] == ",".join(f"{host.partition('.')[0]}=https://{host}:2380" for host in hosts)
    ours = [variables(container) for _, _, container in containers() if container["image"] == IMAGE]
    assert {v["SEONCHAK_ETCD_ENDPOINTS"] for v in ours} == {",".join(f"{host}:2379" for host in hosts)}
    assert {v["SEONCHAK_ETCD_QUOTA_BYTES"] for v in ours if "SEONCHAK_NODE_ID" in v} == {of["quota-backend-bytes"]}
    in_compose = flags(etcds()["etcd-0"]["command"])
    same = ["quota-backend-bytes", "auto-compaction-mode", "auto-compaction-retention", "snapshot-count"]
    assert [of[key] for key in same] == [in_compose[key] for key in same]
    assert container["image"] == services()["etcd-0"]["image"]


def identity(container: dict[str, Any]) -> list[str]:
    """Paths of CA, certificate and key."""
    if container["image"] == IMAGE:
        return [variables(container)[name] for name in IDENTITY]
    of = flags(container["command"])
    return [of["trusted-ca-file"], of["cert-file"], of["key-file"]]


def test_everybody_has_his_own_certificate() -> None:
    """Mounted read-only from the one Secret: the files that he names, and nobody else's key."""
    roles = {"seonchak-etcd": "etcd", "seonchak-init": "operator", "seonchak-node": "node", "seonchak-router": "router"}
    for workload, pod, container in containers():
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "tls")
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "tls")
        assert mount["readOnly"] is True
        assert "subPath" not in mount, "such a file is not replaced when the Secret is"
        files = ["ca.crt", f"{roles[workload]}.crt", f"{roles[workload]}.key"]
        assert volume["secret"]["secretName"] == "seonchak-tls"
        assert volume["secret"]["items"] == [{"key": name, "path": name} for name in files]
        assert identity(container) == [f"{mount['mountPath']}/{name}" for name in files]
        assert volume["secret"]["defaultMode"] == 0o440, "for the group, which is the pod's"
        assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_etcd_asks_for_certificates() -> None:
    """Of clients and of members, and for the name in them that says which they are: as `seonchak up` does."""
    (container,) = (container for name, _, container in containers() if name.endswith("etcd"))
    ours = EtcdTls(*map(Path, identity(container))).flags()
    assert ours.items() <= flags(container["command"]).items()


@pytest.mark.parametrize("name", SETTINGS)
def test_the_product_takes_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS, without `insecure`, with keys."""
    (container,) = (container for _, _, container in containers() if container.get("args", [""])[0] == name)
    given = {of: value or "pod-0" for of, value in variables(container).items()}
    settings = settings_of(container["args"], given, monkeypatch)
    assert settings.tls
    assert not settings.insecure
    if isinstance(settings, RouterSettings):
        assert settings.asks_for_keys
        assert settings.auth == "on"


def test_the_certificates_have_every_name(tmp_path: Path) -> None:
    """`seonchak certs` as the README says it: etcd's members and the routers' services are believed by their names."""
    (command,) = re.findall(r"^    seonchak (certs .+)$", README, re.MULTILINE)
    hosts = re.findall(r"--host (\S+)", command)
    make_certs(tmp_path, hosts=hosts)
    certificate = x509.load_pem_x509_certificate((tmp_path / "router.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = set(names.get_values_for_type(x509.DNSName))
    endpoints = {
        v["SEONCHAK_ETCD_ENDPOINTS"] for v in (variables(of) for _, _, of in containers()) if "SEONCHAK_TLS_CA" in v
    }
    members = {endpoint.partition(":")[0] for of in endpoints for endpoint in of.split(",")}
    services = {of["metadata"]["name"] for of in of_kind("Service") if "router" in of["metadata"]["name"]}
    wanted = members | {name + rest for name in services for rest in ("", ".seonchak", ".seonchak.svc.cluster.local")}
    assert len(members) == 3
    assert wanted <= known
    assert set(hosts) == wanted, "and no other"


def test_the_secret_has_every_file() -> None:
    """`kubectl create secret`, both times: what pods mount, and not the CA's key."""
    mounted = {
        item["key"] for _, pod, _ in containers() for volume in pod["volumes"] for item in volume["secret"]["items"]
    }
    commands = re.findall(r"^    kubectl create secret (generic seonchak-tls .+)$", README, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.partition(" | ")[0])
        assert words[:2] == ["generic", "seonchak-tls"]
        assert {Path(path).name for flag, path in pairwise(words) if flag == "--from-file"} == mounted
        assert "ca.key" not in command


def test_files_and_objects_in_the_readme_exist() -> None:
    """What kubectl is told to apply, watch, scale and enter."""
    named = set(re.findall(r"\b(statefulset|deployment|service)[/ ](seonchak-\S+?)[`\s]", README))
    assert named
    assert named <= everything_in_kubernetes().keys()
    assert set(re.findall(r"`(\w+\.yaml)`", README)) == {path.name for path in KUBERNETES.glob("*.yaml")}


def test_probes_ask_the_operator_port() -> None:
    """Of our processes, over TLS: alive is that the loop turns, ready that it can work; nobody is killed while it
    starts."""
    for name, _, container in containers():
        if container["image"] == IMAGE and not name.endswith("init"):
            asked = {of: probe["httpGet"] for of, probe in container.items() if of.endswith("Probe")}
            health = {"path": "/healthz", "port": "metrics", "scheme": "HTTPS"}
            ready = {"path": "/readyz", "port": "metrics", "scheme": "HTTPS"}
            assert asked == {"startupProbe": health, "livenessProbe": health, "readinessProbe": ready}


def test_pods_are_confined_and_may_end_in_order() -> None:
    """No root, no writable root, no capability, no token; and the time that a drain may take."""
    for name, pod, container in containers():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
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


def test_routers_go_on_until_nobody_sends_them_anybody() -> None:
    """A pause before SIGTERM, which closes the port; then the whole drain still has its time."""
    (router,) = of_kind("Deployment")
    (container,) = router["spec"]["template"]["spec"]["containers"]
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause_s >= 5
    drain_s = RouterSettings.model_fields["drain_s_max"].default
    assert router["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > pause_s + drain_s + 5


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
