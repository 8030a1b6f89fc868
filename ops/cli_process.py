"""`seonchak node` and `seonchak router`: one process of a real deployment.

Their flags are the fields of NodeSettings and RouterSettings, parsed by pydantic-settings: `--lease-ttl-s 3` or
SEONCHAK_LEASE_TTL_S=3; the flag wins. Neither grpc nor etcd is imported before the settings are good.
"""

import faulthandler
import gc
import logging
import os
import resource
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog
import typer

from ops.cli_common import fail
from ops.log_floods import LogFloods

Settings = TypeVar("Settings")
Run = Callable[[Settings, Callable[[str], None]], Coroutine[Any, Any, None]]

ALL_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Of a typer command whose flags are parsed by pydantic-settings, --help too."""


def node(context: typer.Context) -> None:
    """Run one node; `--help` lists its settings."""
    from node.config import NodeSettings

    settings = read_settings("node", NodeSettings, context.args)
    configure_logging(as_json=settings.log_json)
    from node.member import NodeIdInUse
    from node.process import run_node

    serve("node", run_node, settings, refusals=(NodeIdInUse,))


def router(context: typer.Context) -> None:
    """Run one router; `--help` lists its settings."""
    from router.config import RouterSettings

    settings = read_settings("router", RouterSettings, context.args)
    configure_logging(as_json=settings.log_json)
    from router.process import run_router

    serve("router", run_router, settings)


def read_settings(name: str, settings_type: type[Settings], args: list[str]) -> Settings:
    """From flags and SEONCHAK_* variables. Ends the command with code 2, naming the flag, if they are wrong."""
    from pydantic import ValidationError
    from pydantic_settings import CliApp, CliSettingsSource

    source = CliSettingsSource[Any](
        settings_type,  # type: ignore[arg-type]  # any BaseSettings
        cli_prog_name=f"seonchak {name}",
        cli_kebab_case=True,
        cli_implicit_flags=True,
    )
    try:
        return CliApp.run(settings_type, cli_args=args, cli_settings_source=source)
    except ValidationError as error:
        for problem in error.errors():
            flag = "".join(f"--{part}: " for part in problem["loc"]).replace("_", "-")
            typer.echo(f"error: {flag}{problem['msg']}", err=True)
        raise typer.Exit(2) from None


def serve(name: str, run: Run[Settings], settings: Settings, *, refusals: tuple[type[Exception], ...] = ()) -> None:
    """Serve until SIGTERM, with `ready NAME=HOST:PORT` on stdout as soon as it does. Logs go to stderr.

    Args:
        refusals: what it raises, besides ConfigMismatch and TlsUnusable, when it must not serve.
    """
    import uvloop

    from cluster.config import ConfigMismatch
    from cluster.tls import TlsUnusable

    allow_descriptors()
    faulthandler.enable()  # a crash in C says at least where
    try:
        uvloop.run(run(settings, partial(_ready, name)))
    except TimeoutError:
        fail("etcd does not answer")
    except Exception as error:
        if not isinstance(error, (ConfigMismatch, TlsUnusable, *refusals)):
            raise  # a bug: with its traceback
        fail(str(error))


def allow_descriptors() -> None:
    """As many files and sockets as this process may have. Most systems let it begin with 1,024, for the sake of
    programs that use select: so few clients would keep everybody else out."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ready(name: str, address: str) -> None:
    # What is there now stays: a full collection would look through all of it, again and again, and stop every call
    # for some 100 ms meanwhile.
    gc.collect()
    gc.freeze()
    print_ready(name, address)


def print_ready(name: str, address: str) -> None:
    typer.echo(f"ready {name}={address}")
    sys.stdout.flush()


def configure_logging(*, as_json: bool, level: int = logging.INFO) -> None:
    """Events on stderr: a JSON object a line, or for people. A gRPC that is imported after this logs nothing of its
    own."""
    # A line for each stranger whose handshake fails, without a bound. What concerns us it raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    renderers: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer()]
    if as_json:
        renderers = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(ensure_ascii=False)]
    structlog.configure(
        processors=[
            LogFloods(),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
