"""Does the product have this command, with these flags? For command lines that stand in documents and deployments."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import typer

from node.config import NodeSettings
from ops.cli_process import read_settings
from ops.command import app
from router.config import RouterSettings

SETTINGS: dict[str, type[NodeSettings] | type[RouterSettings]] = {"node": NodeSettings, "router": RouterSettings}
"""Commands whose flags and variables are their settings."""

VARIABLES = {name: {f"SEONCHAK_{field.upper()}" for field in of.model_fields} for name, of in SETTINGS.items()}


def settings_of(
    command: Sequence[str], variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> NodeSettings | RouterSettings:
    """What `seonchak node|router FLAGS` makes of its flags and variables, and of nothing else that is set here."""
    for name in [name for name in os.environ if name.startswith("SEONCHAK_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    of: type[NodeSettings | RouterSettings] = SETTINGS[command[0]]
    return read_settings(command[0], of, list(command[1:]))


def problems(arguments: Sequence[str]) -> list[str]:
    """What is wrong with `seonchak ARGUMENTS`; empty: it can be parsed. Values are not looked at."""
    command: Any = typer.main.get_command(app)  # which click it is made of is typer's own matter
    names, rest = ["seonchak"], list(arguments)
    while hasattr(command, "commands") and rest:
        options = _flags(command)
        while rest and rest[0].partition("=")[0] in options:
            word = rest.pop(0)
            if not options[word.partition("=")[0]] and "=" not in word and rest:
                rest.pop(0)
        if not rest or rest[0] == "--help":
            return []
        if rest[0].startswith("-"):
            return [f"`{' '.join(names)}` has no {rest[0].partition('=')[0]}"]
        names.append(rest.pop(0))
        found = command.commands.get(names[-1])
        if found is None:
            return [f"there is no command `{' '.join(names)}`"]
        command = found
    if names[-1] in SETTINGS:
        flags = {f"--{field.replace('_', '-')}": False for field in SETTINGS[names[-1]].model_fields}
        return _check(names, rest, flags, positional_max=0, required=0)
    arguments_of = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    required = sum(parameter.required for parameter in arguments_of)
    return _check(names, rest, _flags(command), positional_max=len(arguments_of), required=required)


def _flags(command: Any) -> dict[str, bool]:
    """Its own options: whether each goes without a value."""
    return {
        name: parameter.is_flag
        for parameter in command.params
        if parameter.param_type_name != "argument"
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name != "--help"
    }


def _check(
    names: list[str], rest: list[str], flags: dict[str, bool], *, positional_max: int, required: int
) -> list[str]:
    """`flags`: whether each goes without a value."""
    command = " ".join(names)
    wrong: list[str] = []
    positional, help_asked = 0, False
    words = iter(rest)
    for word in words:
        name, has_value, _ = word.partition("=")
        if not word.startswith("--"):
            positional += 1
        elif name == "--help":
            help_asked = True
        elif name not in flags:
            wrong.append(f"`{command}` has no {name}")
        elif not flags[name] and not has_value and next(words, None) is None:
            wrong.append(f"`{command}`: {name} needs a value")
    if not help_asked and not required <= positional <= positional_max:
        wrong.append(f"`{command}` with {positional} arguments, takes {required} to {positional_max}")
    return wrong
