"""docker-compose.yml and the Dockerfile: against the schema, against the product, and against themselves."""

import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from node.config import NodeSettings
from ops.command import app
from router.config import RouterSettings
from tests.ops.command_line import SETTINGS, VARIABLES, problems, settings_of
from tests.ops.deployment import COMPOSE, DOCKERFILE, IMAGE, ROOT, compose, etcds, flags, ours, services


def test_the_schema() -> None:
    """Of the Compose Specification, which check-jsonschema carries. Unknown keys are errors there."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_a_whole_cluster_is_in_it() -> None:
    """3 etcd members, 3 nodes, 2 routers, one address, metrics and dashboards; volumes for what has to survive."""
    found = services()
    assert (len(etcds()), found["node"]["deploy"]["replicas"], found["router"]["deploy"]["replicas"]) == (3, 3, 2)
    assert {"init", "gateway", "prometheus", "grafana"} <= found.keys()
    keep = [volume.split(":")[0] for service in found.values() for volume in service.get("volumes", [])]
    named = [source for source in keep if not source.startswith(".")]
    assert sorted(named) == sorted(compose()["volumes"])
    assert {*etcds(), "prometheus", "grafana"} == set(named), "each its own"


def test_every_command_of_ours_exists() -> None:
    """Commands and healthchecks of our image, with flags that the product has."""
    assert set(ours()) == {"init", "cli", "node", "router"}
    for name, service in ours().items():
        assert not problems(service["command"]), name
        if not service.get("healthcheck", {}).get("disable"):
            kind, command, *arguments = service["healthcheck"]["test"]
            assert (kind, command) == ("CMD", "seonchak")
            assert not problems(arguments), name


def test_every_variable_of_ours_is_a_setting() -> None:
    """Of the command that the service runs: one that nobody reads would be a setting that has no effect."""
    for name, service in ours().items():
        of_commands = {"SEONCHAK_ETCD_ENDPOINTS", "SEONCHAK_ROUTER", "SEONCHAK_API_KEY"} if name == "cli" else set()
        of_command = VARIABLES.get(service["command"][0], of_commands)
        assert not service.get("environment", {}).keys() - of_command, name


def test_the_service_for_commands_is_no_part_of_the_cluster() -> None:
    """`docker compose run --rm cli ...`: `up` does not start it; it reaches etcd and the gateway where they listen, and
    hands on the API key of who typed it."""
    found = services()
    assert {name: of["profiles"] for name, of in found.items() if "profiles" in of} == {"cli": ["cli"]}
    own = found["cli"]["environment"]
    (bound,) = re.findall(r"bind :(\d+)", (ROOT / "ops/haproxy/haproxy.cfg").read_text())
    assert own["SEONCHAK_ROUTER"] == f"gateway:{bound}"
    for name in ("gateway", *etcds()):
        assert set(found["cli"]["networks"]) & set(found[name]["networks"])
    assert 'SEONCHAK_API_KEY: "${SEONCHAK_API_KEY:-}"' in COMPOSE.read_text()


class Reached(Exception):
    """An address that a command would talk to."""


@pytest.mark.parametrize(
    "command", ["init", "status", "key list", "drain node-0", "verify", "backup BACKUP", "campaign list", "issue a b"]
)
def test_commands_go_by_its_variables(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an option that says where to: all of etcd's members, or the gateway."""
    own = services()["cli"]["environment"]
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    reached: list[str] = []

    def dial(address: str, *_: object, **__: object) -> NoReturn:
        reached.append(address)
        raise Reached(address)

    monkeypatch.setattr("ops.etcd_client.GrpcEtcd", dial)
    monkeypatch.setattr("ops.credentials.Credentials.channel", lambda _, router, **__: dial(router))
    ended = CliRunner().invoke(app, [word.replace("BACKUP", str(tmp_path / "new")) for word in command.split()])
    assert isinstance(ended.exception, Reached), ended.output
    assert set(reached) <= {*own["SEONCHAK_ETCD_ENDPOINTS"].split(","), own["SEONCHAK_ROUTER"]}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_product_takes_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together: it listens without TLS since this file says so, and asks for keys if it is told to."""
    service = services()[name]
    settings = settings_of(service["command"], service["environment"], monkeypatch)
    assert not settings.tls
    assert settings.insecure
    assert settings.metrics_listen == "0.0.0.0:9464"
    if isinstance(settings, RouterSettings):
        assert not settings.asks_for_keys
        assert 'SEONCHAK_AUTH: "${SEONCHAK_AUTH:-off}"' in COMPOSE.read_text()
        told = settings_of(service["command"], service["environment"] | {"SEONCHAK_AUTH": "on"}, monkeypatch)
        assert isinstance(told, RouterSettings)
        assert told.asks_for_keys


def test_nodes_and_routers_find_etcd() -> None:
    """Their endpoints are the members' client addresses; the members' own flags agree with each other."""
    members = {name: flags(service["command"]) for name, service in etcds().items()}
    clients = ",".join(f"{name}:2379" for name in members)
    found = {service["environment"]["SEONCHAK_ETCD_ENDPOINTS"] for name, service in ours().items() if name != "init"}
    assert found == {clients}
    assert clients in ours()["init"]["command"]
    initial = ",".join(f"{name}=http://{name}:2380" for name in members)
    for name, of in members.items():
        own = {key: value for key, value in of.items() if key not in ("listen-metrics-urls", "log-level")}
        assert etcds()[name]["hostname"] == of["name"] == name
        assert of["initial-cluster"] == initial
        assert of["advertise-client-urls"] == f"http://{name}:2379"
        assert of["initial-advertise-peer-urls"] == f"http://{name}:2380"
        same = {key: value.replace(name, "NAME") for key, value in own.items() if key != "initial-cluster"}
        first = {k: v.replace("etcd-0", "NAME") for k, v in members["etcd-0"].items() if k in same}
        assert same == first, "members are told the same"
        assert f"{name}:{of['data-dir']}" in etcds()[name]["volumes"]


def test_nodes_know_the_quota() -> None:
    """SEONCHAK_ETCD_QUOTA_BYTES is what the members were started with."""
    quotas = {flags(service["command"])["quota-backend-bytes"] for service in etcds().values()}
    assert quotas == {services()["node"]["environment"]["SEONCHAK_ETCD_QUOTA_BYTES"]}


def test_ports_are_those_that_are_listened_on() -> None:
    """Healthchecks ask, the gateway reaches, and the machine publishes what somebody listens on."""
    found = services()
    listens = {name: found[name]["command"][-1].rpartition(":")[2] for name in ("node", "router")}
    for name, port in listens.items():
        assert found[name]["healthcheck"]["test"][-1] == f"127.0.0.1:{port}"
    config = (ROOT / "ops/haproxy/haproxy.cfg").read_text()
    assert f" router:{listens['router']} " in config
    (bound,) = re.findall(r"bind :(\d+)", config)
    assert found["gateway"]["ports"] == [f"127.0.0.1:50051:{bound}"]
    assert found["gateway"]["healthcheck"]["test"][-1] == bound
    (metrics,) = {
        of["environment"]["SEONCHAK_METRICS_LISTEN"].rpartition(":")[2] for of in (found["node"], found["router"])
    }
    assert f" check port {metrics} " in config, "which is open for as long as a router lives"
    assert f"EXPOSE {listens['node']} {listens['router']} {metrics}\n" in DOCKERFILE.read_text()


def test_everything_published_is_on_loopback() -> None:
    """Nothing is offered to the network of the machine: there is no TLS in this file."""
    for name, service in services().items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    assert compose()["networks"]["inside"] == {"internal": True}
    assert {name for name, of in services().items() if "outside" in of["networks"]} == {
        "gateway",
        "prometheus",
        "grafana",
    }


def test_every_container_is_confined() -> None:
    """A read-only root, no capability, no way to more; health is watched where others wait for it."""
    found = services()
    for name, service in found.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "user" not in service, "the image's own"
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "test" in found[other]["healthcheck"], f"{name} waits for {other}"
            else:
                assert condition["condition"] == "service_completed_successfully"
                assert found[other]["restart"] == "no", f"{other} has to end"
        tag = service["image"].partition(":")[2]
        assert service["image"] == IMAGE or re.search(r"\d+\.\d+", tag), f"{name}: a release, not {tag!r}"


def test_paths_that_are_mounted_exist() -> None:
    """Docker would make an empty directory of one that does not, in silence."""
    mounted = {
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    }
    assert mounted
    assert not {path for path in mounted if not (ROOT / path).is_dir()}


def test_a_drain_has_the_time_that_it_may_take() -> None:
    """Docker kills after stop_grace_period; a node may drain for drain_s_max, and then finish."""
    grace_s = int(services()["node"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > NodeSettings.model_fields["drain_s_max"].default + 5


def test_a_node_is_named_by_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--scale node=5`: nothing in the file names a node; its id and the address that others are told are the
    machine's name, where it listens on every interface. What is given wins."""
    node = services()["node"]
    assert "container_name" not in node
    assert "hostname" not in node
    assert not {"SEONCHAK_NODE_ID", "SEONCHAK_ADVERTISE"} & node["environment"].keys()
    monkeypatch.setattr(socket, "gethostname", lambda: "3f2a9c0d11ee")
    listen = node["command"][node["command"].index("--listen") + 1]
    settings = NodeSettings(listen=listen, insecure=True)
    assert (settings.node_id, settings.address(7000)) == ("3f2a9c0d11ee", "3f2a9c0d11ee:7000")
    assert NodeSettings(listen="10.0.0.5:0", insecure=True).address(7123) == "10.0.0.5:7123"
    assert NodeSettings(listen=listen, insecure=True, advertise="a:1", node_id="a").address(7000) == "a:1"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed: its configuration is unchecked")
def test_the_gateway_understands_its_configuration() -> None:
    run = subprocess.run(
        ["haproxy", "-c", "-f", str(ROOT / "ops/haproxy/haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


# --- the image --------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    return [
        (line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line and line[0] not in "# "
    ]


def test_the_image_is_small_and_owns_nothing() -> None:
    """Two stages; the second has the virtualenv and no compiler, no source tree, and a user that is not root."""
    found = instructions()
    assert [rest for what, rest in found if what == "FROM"] == ["python:3.13-slim AS build", "python:3.13-slim"]
    last = found[max(i for i, (what, _) in enumerate(found) if what == "FROM") :]
    assert [rest for what, rest in last if what == "COPY"] == ["--from=build /opt/seonchak /opt/seonchak"]
    assert not [rest for what, rest in last if what == "RUN"]
    (user,) = (rest for what, rest in last if what == "USER")
    assert all(int(part) > 0 for part in user.split(":"))


def test_the_image_holds_every_package() -> None:
    """What is copied exists, and is all that pyproject.toml packages and pip needs."""
    copied = {
        word for what, rest in instructions() if what == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    }
    assert not {path for path in copied if not (ROOT / path).exists()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert copied == packages | {"pyproject.toml", "constraints.txt", "README.md"}
    allowed = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert allowed == copied


def test_the_image_runs_the_command() -> None:
    """Its entry point, default arguments and healthcheck."""
    words = {what: rest for what, rest in instructions() if what in ("ENTRYPOINT", "CMD")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert words["ENTRYPOINT"] == '["seonchak"]'
    assert "seonchak" in project["project"]["scripts"]
    (health,) = (rest for what, rest in instructions() if what == "HEALTHCHECK")
    command = re.findall(r'"([^"]+)"', health.partition("CMD")[2])
    assert command[0] == "seonchak"
    assert not problems(command[1:])
