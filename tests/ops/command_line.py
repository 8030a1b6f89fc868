"""Does the product have this command, with these flags? For command lines that stand in documents and deployments."""

from collections.abc import Sequence
from typing import Any

import typer
from pydantic_settings import BaseSettings

from node.config import NodeSettings
from ops.command import app
from router.config import RouterSettings

SETTINGS: dict[str, type[BaseSettings]] = {"node": NodeSettings, "router": RouterSettings}
"""Commands whose flags and variables are their settings."""

VARIABLES = {name: {f"SEONCHAK_{field.upper()}" for field in of.model_fields} for name, of in SETTINGS.items()}


def problems(arguments: Sequence[str]) -> list[str]:
    """What is wrong with `seonchak ARGUMENTS`; empty: it can be parsed. Values are not looked at."""
    command: Any = typer.main.get_command(app)  # which click it is made of is typer's own matter
    names, rest = ["seonchak"], list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
        found = command.commands.get(names[-1])
        if found is None:
            return [f"there is no command `{' '.join(names)}`"]
        command = found
    if names[-1] in SETTINGS:
        flags = {f"--{field.replace('_', '-')}": False for field in SETTINGS[names[-1]].model_fields}
        return _check(names, rest, flags, positional_max=0, required=0)
    flags = {}
    positional_max = required = 0
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            positional_max += 1
            required += parameter.required
        else:
            for name in (*parameter.opts, *parameter.secondary_opts):
                flags[name] = parameter.is_flag
    return _check(names, rest, flags, positional_max=positional_max, required=required)


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
