"""What the subcommands share: options, output, and how a failure ends.

Everything that takes long to import (grpc, protobuf, etcd's client) is imported by the function that needs it, so that
`seonchak --help` and a mistyped option answer at once.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ops.times import parse_time

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from ops.client import Client

DEFAULT_ROUTER = "127.0.0.1:50051"
DEFAULT_DATA_DIR = ".seonchak"

RouterOption = Annotated[
    str, typer.Option("--router", envvar="SEONCHAK_ROUTER", metavar="HOST:PORT", help="A router of the cluster.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds that a call may take.")]


def fail(message: str, *, as_json: bool = False, document: dict[str, Any] | None = None) -> NoReturn:
    """End with exit code 1; `message`, or with --json `document`, on stderr."""
    if as_json:
        typer.echo(json.dumps(document or {"error": {"message": message}}, ensure_ascii=False), err=True)
    else:
        typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


@contextmanager
def connected(router: str, timeout_s: float, *, as_json: bool) -> "Iterator[Client]":
    """A client; a call that fails ends the command with one line that says why."""
    import grpc

    from ops import errors
    from ops.cli_identity import credentials
    from ops.client import Client

    try:
        with Client(router, timeout_s, credentials()) as client:
            yield client
    except grpc.RpcError as rpc_error:
        error = errors.of_call(rpc_error)
        unreachable = error.reason == "UNAVAILABLE" and not error.retry_after_s
        message = f"UNAVAILABLE: no answer from the router {router}: {error.message}" if unreachable else str(error)
        fail(message, as_json=as_json, document=error.as_json())


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def console(*, stderr: bool = False) -> Console:
    """Styled on a terminal, plain text elsewhere; a pipe gets long lines rather than cut ones."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() or "COLUMNS" in os.environ else 160, highlight=False)


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    out = console()
    out.print(f"[bold]{escape(title)}[/]")
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


def timestamp(option: str, text: str) -> "Timestamp":
    """The protobuf Timestamp that an option's text means; a usage error that names the option otherwise."""
    from google.protobuf.timestamp_pb2 import Timestamp

    try:
        time = parse_time(text, datetime.now(UTC))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
    result = Timestamp()
    result.FromDatetime(time)
    return result


def show_time(time: "Timestamp") -> str:
    """In the zone of this machine; "-" for none."""
    if not time.ByteSize():
        return "-"
    return time.ToDatetime(tzinfo=UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")
