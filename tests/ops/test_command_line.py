"""Every `seonchak` command in the documents is one that the product has, with flags that it has."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from cluster.metrics import PREFIX
from tests.ops.command_line import SETTINGS, problems

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "ops/RUNBOOK.md", "ops/kubernetes/README.md", "docs/backup.md", "docs/design.md"]
IN_CODE = re.compile(
    r"^\s{4,}(?:\$ )?"
    r"(?:(?:\w+=\S+ )*(?:docker compose run [^#]*? |kubectl exec [^#]*? -- )?(?:[\w./-]*/)?seonchak"
    r"|docker compose run (?:--\S+ |-v \S+ )*cli) (.+)$"
)
"""Variables, what runs it in a container, a path, and then the command."""


def commands_of(text: str) -> list[str]:
    """What stands after `seonchak` in code: indented blocks, fenced ones, and between back quotes."""
    found = re.findall(r"(?<!`)`(?:[\w./-]*/)?seonchak ([^`]+)`(?!`)", text)
    for line in text.replace("\\\n", "").splitlines():
        if code := IN_CODE.match(line):
            found.append(code[1])
    return [command.split("  #")[0].split(" | ")[0].strip() for command in found]


def words_of(command: str) -> list[str]:
    """As a shell would cut it, without what a document leaves open: `...`, [optional], and what only lists names."""
    return shlex.split(command.replace("[", "").replace("]", "").replace("...", ""))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_exists(document: str) -> None:
    """With its flags and as many arguments as it takes. A name alone (`seonchak up`) only has to exist."""
    commands = commands_of((ROOT / document).read_text())
    assert commands
    wrong = []
    for command in commands:
        words = words_of(command)
        alone = not any(word.startswith("-") for word in words) and len(words) == 1
        found = problems([*words, "--help"] if alone else words)
        wrong += [f"seonchak {command}: {what}" for what in found]
    assert not wrong


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("fly", "no command"),
        ("campaign fly", "no command `seonchak campaign fly`"),
        ("backup /b --color", "no --color"),
        ("backup", "0 arguments"),
        ("status --etcd", "needs a value"),
        ("node --lease-ttl=3", "no --lease-ttl"),
        ("drain a b", "2 arguments"),
        ("--tls-ca ca.crt campaign fly", "no command `seonchak campaign fly`"),
        ("--tls-cart ca.crt campaign list", "no --tls-cart"),
    ],
)
def test_a_wrong_command_is_found(command: str, what: str) -> None:
    (problem,) = problems(command.split())
    assert what in problem


def test_commands_are_found_in_text() -> None:
    """In blocks, with a path before it, behind docker compose, and between back quotes."""
    text = (
        "Say `seonchak up` and `seonchak drain NODE`, not `the seonchak`.\n\n"
        "    .venv/bin/seonchak status   # who\n    seonchak verify --json | jq .ok\n"
        "    docker compose run --rm cli status --etcd etcd-0:2379\n"
        "    SEONCHAK_API_KEY=sck_... bin/seonchak --tls-ca ca.crt \\\n        campaign list\n"
        "    kubectl exec --namespace seonchak deployment/seonchak-router -- seonchak status --json\n"
    )
    found = ["up", "drain NODE", "status", "verify --json", "status --etcd etcd-0:2379"]
    found += ["--tls-ca ca.crt         campaign list", "status --json"]
    assert commands_of(text) == found


def test_every_alert_has_its_paragraph() -> None:
    """Under its own name, and no other: how bad it is, what it means, what to do. The alert says where."""
    text = (ROOT / "ops/RUNBOOK.md").read_text()
    sections = dict(re.findall(r"^### (.+)\n\n((?:(?!^#).*\n)+)", text[text.index("\n## Alerts\n") :], re.MULTILINE))
    groups = yaml.safe_load((ROOT / "ops/prometheus/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    assert set(sections) == set(alerts)
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == list(sections), "none of them twice"
    for name, said in sections.items():
        assert said.lower().startswith(f"{alerts[name]['labels']['severity']}. "), name
        assert "*Means*" in said, name
        assert "*Do*" in said, name
        assert alerts[name]["annotations"]["runbook"] == f"ops/RUNBOOK.md#{name.lower()}"


def test_places_in_the_runbook_exist() -> None:
    """Sections that it sends the reader to, by their heading or their alert's name."""
    text = (ROOT / "ops/RUNBOOK.md").read_text()
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    assert set(re.findall(r"Seonchak[A-Z]\w+", text)) <= set(headings)
    assert set(re.findall(r"see \*([^*]+)\*", " ".join(text.split()))) <= set(headings)


def test_settings_and_events_in_the_runbook_exist() -> None:
    """Each setting that it tells somebody to change, and each event and metric that it tells them to look for."""
    text = (ROOT / "ops/RUNBOOK.md").read_text()
    named = {name.removeprefix(PREFIX) for name in re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", text)}
    of_etcd = {name for name in named if name.startswith("etcd_disk_")}
    settings = {name for of in SETTINGS.values() for name in of.model_fields}
    sources = "".join(
        path.read_text() for part in ("node", "cluster", "router", "ops") for path in (ROOT / part).rglob("*.py")
    )
    levels = {"etcd_space_low", "etcd_space_scarce"}  # named by their level
    assert not {name for name in named - of_etcd - settings - levels if f'"{name}"' not in sources}
