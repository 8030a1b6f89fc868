"""`seonchak certs`: TLS for a development cluster."""

from pathlib import Path
from typing import Annotated

import typer

from ops.cli_common import fail


def certs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    host: Annotated[
        list[str] | None, typer.Option(help="A name or address of routers and etcd besides localhost; again for more.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How long the certificates hold.")] = 365,
) -> None:
    """Make a development CA and a certificate for each kind of process; again: new certificates of the same CA."""
    from ops.certs import make_certs

    try:
        made = make_certs(directory, hosts=host or (), days=days)
    except (OSError, ValueError) as error:
        fail(str(error))
    typer.echo(f"made {'a CA and ' if made else ''}certificates in {directory}: router, node, etcd, operator")
