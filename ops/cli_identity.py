"""Who the command is: options that stand before the subcommand, for all of them, or SEONCHAK_* variables.

Towards routers the CA and the API key count; towards etcd and nodes the CA, the certificate and its key.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cluster.tls import TlsIdentity
    from ops.credentials import Credentials


@dataclass(frozen=True, slots=True)
class Given:
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    api_key: str = field(default="", repr=False)


_given: ContextVar[Given] = ContextVar("given", default=Given())  # noqa: B039  # frozen
"""By the command that runs."""


def identify(
    tls_ca: Annotated[
        Path | None, typer.Option(envvar="SEONCHAK_TLS_CA", help="The CA of routers, nodes and etcd, PEM.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="SEONCHAK_TLS_CERT", help="An operator's certificate, for etcd and nodes.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="SEONCHAK_TLS_KEY", help="Its private key.")] = None,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="SEONCHAK_API_KEY",
            show_default=False,
            help="For routers. Better as the variable: others on this machine see a command's options.",
        ),
    ] = "",
) -> None:
    _given.set(Given(tls_ca, tls_cert, tls_key, api_key))


def credentials() -> "Credentials":
    """Towards routers. A usage error if the CA cannot be read."""
    from ops.credentials import Credentials

    given = _given.get()
    try:
        return Credentials(given.ca.read_bytes() if given.ca else None, given.api_key)
    except OSError as error:
        raise typer.BadParameter(str(error), param_hint="--tls-ca") from error


def operator() -> "TlsIdentity | None":
    """Towards etcd and nodes; None: without TLS. A usage error if the files are no identity."""
    given = _given.get()
    if given.ca is None or given.cert is None or given.key is None:
        if given.cert is not None or given.key is not None:
            raise typer.BadParameter("--tls-ca, --tls-cert and --tls-key belong together", param_hint="--tls-cert")
        return None
    from cluster.tls import TlsIdentity, TlsUnusable

    try:
        return TlsIdentity(given.ca, given.cert, given.key)
    except TlsUnusable as error:
        raise typer.BadParameter(str(error), param_hint="--tls-cert") from error
