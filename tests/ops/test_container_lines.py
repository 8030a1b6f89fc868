"""Every docker, etcdctl and kubectl line in the documents is one that the tool takes, of things that exist."""

import re
import shlex

import pytest

from tests.ops.container_lines import FLAGS, wrong
from tests.ops.deployment import ROOT, etcds

DOCUMENTS = ["README.md", "ops/RUNBOOK.md", "ops/kubernetes/README.md", "docs/backup.md", "docker-compose.yml"]
TOOLS = "|".join(sorted({name.split()[0] for name in FLAGS} - {"etcd"}))
IN_BLOCK = re.compile(rf"^(?:#\s+|\s{{4,}})(?:\w+=\S+ )*((?:{TOOLS}) .+)$")
BETWEEN_QUOTES = re.compile(rf"(?<!`)`(?:\w+=\S+ )*((?:{TOOLS}) [^`]+)`(?!`)")


def lines_of(text: str) -> list[str]:
    """In blocks, in comments, and between back quotes."""
    text = text.replace("\\\n", "")
    in_blocks = [found[1] for line in text.splitlines() if (found := IN_BLOCK.match(line))]
    return in_blocks + [" ".join(found.split()) for found in BETWEEN_QUOTES.findall(text)]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_line_would_be_taken(document: str) -> None:
    """None recreates all of a service's replicas at once, either: that would be an outage."""
    found = lines_of((ROOT / document).read_text())
    assert found or document == "docs/backup.md"
    assert not [f"{line}: {what}" for line in found for what in wrong(line)]


@pytest.mark.parametrize("name", etcds())
def test_etcd_is_asked_what_etcdctl_knows(name: str) -> None:
    """It ends with 0, and its help, if it does not."""
    kind, *words = etcds()[name]["healthcheck"]["test"]
    assert kind == "CMD"
    assert not wrong(shlex.join(words))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("docker compose up -d --no-deps node", "all replicas of node at once"),
        ("docker compose up -d --scale node=5", "all replicas of node at once"),
        ("docker compose up -d --force-recreate", "all replicas of everything at once"),
        ("docker compose up -d --scale etcd-0=2 --no-recreate", "it is not replicated"),
        ("docker compose up --detached", "has no --detached"),
        ("docker compose run --rm shell status", "no service shell"),
        ("docker compose run --rm cli statuses", "no command"),
        ("docker compose run --rm cli status --colour", "no --colour"),
        ("docker compose exec etcd-7 etcdctl defrag", "no service etcd-7"),
        ("docker compose exec etcd-0 etcdctl defragment", "no command that is known"),
        ("docker compose exec etcd-0 etcdctl defrag --fast", "has no --fast"),
        ("docker compose restart node", "no command that is known"),
        ("docker volume rm seonchak_etcd-3", "no volume"),
        ("etcdctl --endpoint etcd-0:2379 defrag", "has no --endpoint"),
        ("kubectl exec --namespace seonchak pod/seonchak-etcd-3 -- etcdctl defrag", "no pod seonchak-etcd-3"),
        ("kubectl exec --namespace seonchak deployment/seonchak-router -- seonchak look", "no command"),
        ("kubectl rollout status statefulset/seonchak-nodes", "no statefulset seonchak-nodes"),
        ("kubectl scale statefulset seonchak-node --replica 2", "has no --replica"),
    ],
)
def test_a_wrong_line_is_found(line: str, what: str) -> None:
    (found,) = wrong(line)
    assert what in found


def test_lines_are_found_in_text() -> None:
    text = (
        "Say `docker compose\n   up -d` or `etcdctl ...`, not `the docker`.\n\n"
        "    kubectl apply \\\n      --filename x\n"
        "#     docker compose run --rm cli status\n   SEONCHAK_PORT=1 docker compose down\n"
    )
    found = ["kubectl apply       --filename x", "docker compose run --rm cli status"]
    assert lines_of(text) == [*found, "docker compose up -d", "etcdctl ..."]
