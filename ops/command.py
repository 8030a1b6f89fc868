"""The `seonchak` command: which subcommands there are. Each noun has a file of its own, `ops/cli_*.py`."""

import logging

import typer

from ops import (
    cli_backup,
    cli_campaign,
    cli_certs,
    cli_cluster,
    cli_coupon,
    cli_health,
    cli_identity,
    cli_keys,
    cli_load,
    cli_process,
    cli_verify,
)

app = typer.Typer(
    name="seonchak",
    help="Limited coupons, first come, first served: exactly as many as a campaign has.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback()(cli_identity.identify)
app.command()(cli_cluster.up)
app.command(context_settings=cli_process.ALL_FLAGS)(cli_process.node)
app.command(context_settings=cli_process.ALL_FLAGS)(cli_process.router)
app.command()(cli_cluster.init)
app.command()(cli_certs.certs)
app.command()(cli_cluster.status)
app.command()(cli_cluster.drain)
app.command()(cli_health.health)
app.add_typer(cli_campaign.app, name="campaign")
app.add_typer(cli_keys.app, name="key")
app.command()(cli_coupon.issue)
app.command()(cli_coupon.coupon)
app.command()(cli_load.load)
app.command()(cli_verify.verify)
app.command()(cli_backup.backup)
app.command()(cli_backup.restore)


def main() -> None:
    # Client commands say what matters themselves, on stdout; `up`, `node` and `router` turn their own log on.
    cli_process.configure_logging(as_json=False, level=logging.WARNING)
    app()
