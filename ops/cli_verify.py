"""`seonchak verify`: the journal, read again without the nodes, and held against the rules."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli_common import DEFAULT_DATA_DIR, JsonOption, console, fail, print_json, print_table
from ops.cli_identity import operator

if TYPE_CHECKING:
    from ops.verify import Report


def verify(
    data_dir: Annotated[Path | None, typer.Option(help=f"Of `seonchak up`. Default: {DEFAULT_DATA_DIR}.")] = None,
    etcd: Annotated[str | None, typer.Option(metavar="HOST:PORT,...", help="Instead: the cluster's etcd.")] = None,
    journal_dir: Annotated[
        Path | None, typer.Option(envvar="SEONCHAK_JOURNAL_DIR", help="With --etcd: root of the file journal.")
    ] = None,
    key_prefix: Annotated[
        str, typer.Option(envvar="SEONCHAK_KEY_PREFIX", help="With --etcd: of everything in etcd.")
    ] = "seonchak/",
    backup: Annotated[Path | None, typer.Option(help="Instead: a backup, its checksums too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read the journal without the nodes and check the invariants; exit code 0 only if all hold."""
    from cluster.config import ConfigMismatch
    from cluster.tls import TlsUnusable
    from ops import verify as verifying
    from ops.backup import audited
    from ops.backup_format import Backup, BackupDamaged
    from ops.child import ChildFailed
    from ops.etcd import EtcdNotFound
    from ops.layout import DataDirInUse, LayoutMismatch

    if sum(given is not None for given in (etcd, data_dir, backup)) > 1:
        raise typer.BadParameter("--etcd, --data-dir and --backup exclude each other")
    if data_dir is None and backup is None:
        etcd = etcd or os.environ.get("SEONCHAK_ETCD_ENDPOINTS")
    try:
        if backup is not None:
            kept = Backup(backup)
            kept.check()
            report = verifying.report_of(audited(kept), kept.manifest.cluster_id, kept.manifest.journal)
        elif etcd is not None:
            source = verifying.Source(tuple(etcd.split(",")), key_prefix, journal_dir, operator())
            report = asyncio.run(verifying.verify(source))
        else:
            report = asyncio.run(verifying.verify_data_dir(data_dir or Path(DEFAULT_DATA_DIR)))
    except TimeoutError:
        fail("etcd does not answer", as_json=as_json)
    except (
        verifying.NothingToVerify,
        ConfigMismatch,
        TlsUnusable,
        LayoutMismatch,
        DataDirInUse,
        EtcdNotFound,
        ChildFailed,
        BackupDamaged,
    ) as error:
        fail(str(error), as_json=as_json)
    if as_json:
        print_json(report.as_json())
    else:
        show_report(report)
    if not report.ok:
        raise typer.Exit(1)


def show_report(report: "Report") -> None:
    """Campaigns, violations, verdict: for people."""
    print_table(
        f"journal {report.journal} of cluster {report.cluster_id}: {report.shards} shards, "
        f"{report.entries:,} entries, {report.coupons:,} coupons",
        ["campaign", "name", "shard", "state", "issued", "total", "users"],
        [
            [c.campaign_id, c.name, str(c.shard), c.state, f"{c.issued:,}", f"{c.total:,}", f"{len(c.user_counts):,}"]
            for c in report.campaigns
        ],
    )
    if report.ok:
        console().print("[bold green]clean[/]: every invariant holds")
        return
    print_table(
        f"violations: {len(report.violations) + report.violations_left_out:,}",
        ["kind", "campaign", "place", "what"],
        [[v.kind.value, v.campaign_id or "-", v.place, v.what] for v in report.violations],
    )
    console().print("[bold red]NOT CLEAN[/]")
