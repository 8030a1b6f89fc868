"""The core is sans-I/O: what it imports, and what that imports, does nothing but compute."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = {"cluster", "node", "router", "ops", "proto", "bench", "chaos", "tests"}
FORBIDDEN = {"asyncio", "grpc", "os", "prometheus_client", "socket", "random", "time"}
UNMETERED = ("node.keeper", "node.life", "node.shard", "router.bulk", "router.dispatch", "router.service")
"""What tells an observer of its work, and does not know who that is."""
CORE = (
    "cluster.codes",
    "cluster.config",
    "cluster.placement",
    "cluster.records",
    "cluster.topology",
    "cluster.types",
    "node.calls",
    "node.campaign",
    "node.commands",
    "node.coupons",
    "node.entries",
    "node.events",
    "node.ledger",
    "node.pages",
    "node.replay",
    "node.rfc3339",
    "node.turns",
)


def names_imported(source: str) -> set[str]:
    """Every dotted name that an import statement mentions, anywhere in the source; a name that is imported from a
    package may be a module of it."""
    names: set[str] = set()
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "imports are absolute here"
            assert statement.module is not None
            names.add(statement.module)
            names.update(f"{statement.module}.{alias.name}" for alias in statement.names)
    return names


def path_of(module: str) -> Path | None:
    """The file of a module of this project; None if there is none of this name."""
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def reached_from(module: str) -> dict[str, set[str]]:
    """For each project module that importing `module` imports, what that imports from outside of the project."""
    outside: dict[str, set[str]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = path_of(name)
        if path is None or name in outside:
            continue
        names = names_imported(path.read_text())
        outside[name] = {other.split(".")[0] for other in names} - PROJECT
        waiting += [other for other in names if other.split(".")[0] in PROJECT]
        waiting += [".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)]
    return outside


@pytest.mark.parametrize("module", CORE)
def test_core_does_no_io(module: str) -> None:
    """No module of the core imports asyncio, grpc, os, socket, random, time or what counts, directly or by way of the
    project."""
    reached = reached_from(module)
    assert module in reached
    assert {name: names & FORBIDDEN for name, names in reached.items() if names & FORBIDDEN} == {}


def test_the_way_is_followed() -> None:
    """The ledger's imports are followed through the project, by way of modules imported from packages too."""
    assert {"node.campaign", "node.coupons", "cluster.codes", "cluster.types"} <= reached_from("node.ledger").keys()
    assert "proto.journal_pb2" in reached_from("node.replay")
    assert reached_from("cluster.clock")["cluster.clock"] & FORBIDDEN == {"time"}


@pytest.mark.parametrize("module", UNMETERED)
def test_who_is_counted_does_not_know_how(module: str) -> None:
    """Nor does anything that it imports."""
    assert not [name for name, names in reached_from(module).items() if "prometheus_client" in names]


@pytest.mark.parametrize(
    "source",
    [
        "import os.path",
        "from time import monotonic",
        "import re, socket as s",
        "def f():\n    from random import choice",
    ],
)
def test_a_hidden_import_is_found(source: str) -> None:
    """An import is found under another name, inside a function, and of a part of a module."""
    assert {name.split(".")[0] for name in names_imported(source)} & FORBIDDEN


def test_forbidden_modules_exist() -> None:
    """Each forbidden name is one that can be imported, so that none is forbidden by a slip of the pen only."""
    assert all(find_spec(name) for name in FORBIDDEN)
