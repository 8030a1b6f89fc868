"""`seonchak backup` and `restore`: a cluster's configuration and journal, into a directory and out of it again."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.cli_audit import AuditOption, audited
from ops.cli_common import DEFAULT_DATA_DIR, JsonOption, fail, print_json
from ops.cli_identity import operator

if TYPE_CHECKING:
    from ops.backup_format import Backup, Manifest
    from ops.restore import Restored

EtcdOption = Annotated[
    str | None,
    typer.Option("--etcd", envvar="SEONCHAK_ETCD_ENDPOINTS", metavar="HOST:PORT,...", help="The cluster's etcd."),
]
JournalDirOption = Annotated[
    Path | None, typer.Option("--journal-dir", envvar="SEONCHAK_JOURNAL_DIR", help="Root of the file journal.")
]
KeyPrefixOption = Annotated[
    str, typer.Option("--key-prefix", envvar="SEONCHAK_KEY_PREFIX", help="Of everything in etcd.")
]


def backup(
    directory: Annotated[Path, typer.Argument(help="Where it is written to; must not exist, or be empty.")],
    data_dir: Annotated[Path | None, typer.Option(help=f"Of `seonchak up`. Default: {DEFAULT_DATA_DIR}.")] = None,
    etcd: EtcdOption = None,
    journal_dir: JournalDirOption = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    verify: Annotated[bool, typer.Option("--verify", help="Judge what was written by every rule of `verify`.")] = False,
    audit_log: AuditOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a cluster's configuration, code keys and journal into DIRECTORY, while it runs or not."""
    from cluster.config import ConfigMismatch
    from ops import backup as taking
    from ops.backup_format import BackupExists
    from ops.child import ChildFailed
    from ops.etcd import EtcdNotFound
    from ops.layout import DataDirInUse, LayoutMismatch
    from ops.reread import Unreadable
    from ops.verify import NothingToVerify, Source

    with audited(audit_log, "Backup", as_json=as_json, directory=str(directory.absolute())) as entry:
        try:
            if data_dir is None and etcd is not None:
                source = Source(tuple(etcd.split(",")), key_prefix, journal_dir, operator())
                manifest = asyncio.run(taking.take_backup(source, directory, audit=verify))
            else:
                place = data_dir or Path(DEFAULT_DATA_DIR)
                manifest = asyncio.run(taking.back_up_data_dir(place, directory, audit=verify))
        except TimeoutError:
            fail("etcd does not answer", as_json=as_json)
        except (
            BackupExists,
            taking.BadJournal,
            Unreadable,
            NothingToVerify,
            ConfigMismatch,
            LayoutMismatch,
            DataDirInUse,
            EtcdNotFound,
            ChildFailed,
            OSError,
        ) as error:
            fail(str(error), as_json=as_json)
        entry["cluster"] = manifest.cluster_id
    if as_json:
        print_json(_manifest_json(manifest))
    else:
        judged = ", and every invariant holds" if verify else ""
        typer.echo(f"backed up cluster {manifest.cluster_id} to {directory}: {_contents(manifest)}{judged}")


def restore(
    directory: Annotated[Path, typer.Argument(help="What `backup` has written.")],
    data_dir: Annotated[Path | None, typer.Option(help="A new one, for `seonchak up` to continue.")] = None,
    etcd_members: Annotated[int, typer.Option(min=1, help="With --data-dir: etcd processes, 1 or 3.")] = 1,
    tls: Annotated[bool, typer.Option("--tls", help="With --data-dir: for `up --tls`.")] = False,
    etcd: EtcdOption = None,
    journal_dir: JournalDirOption = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    generation: Annotated[
        int | None, typer.Option(min=1, max=9, help="Of new codes; default: the one after the backup's.")
    ] = None,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="API keys too, also those that were revoked after the backup.")
    ] = False,
    audit_log: AuditOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an empty etcd (and journal directory) the cluster that DIRECTORY holds. Start nothing before it is done."""
    from cluster.config import ConfigMismatch
    from cluster.kv import EtcdRefused, EtcdUnavailable
    from ops import restore as restoring
    from ops.backup_format import Backup, BackupDamaged
    from ops.child import ChildFailed
    from ops.etcd import EtcdNotFound
    from ops.verify import Source

    if data_dir is None and etcd is None:
        raise typer.BadParameter("say where to: --etcd, or --data-dir")
    details = {"directory": str(directory.absolute()), "with_keys": "yes" if with_keys else "no"}
    with audited(audit_log, "Restore", as_json=as_json, **details) as entry:
        try:
            kept = Backup(directory)
            if data_dir is not None:
                work = restoring.restore_data_dir(
                    kept,
                    data_dir,
                    etcd_members_count=etcd_members,
                    tls=tls,
                    generation=generation,
                    with_keys=with_keys,
                )
            else:
                assert etcd is not None
                target = Source(tuple(etcd.split(",")), key_prefix, journal_dir, operator())
                work = restoring.restore(kept, target, generation=generation, with_keys=with_keys)
            restored = asyncio.run(work)
        except TimeoutError:
            fail("etcd does not answer", as_json=as_json)
        except (EtcdUnavailable, EtcdRefused) as error:
            fail(f"etcd: {error}; begin again, with an empty one", as_json=as_json)
        except (
            BackupDamaged,
            restoring.NotEmpty,
            restoring.NoGenerationLeft,
            restoring.RestoreFailed,
            ConfigMismatch,
            EtcdNotFound,
            ChildFailed,
            OSError,
        ) as error:
            fail(str(error), as_json=as_json)
        entry["cluster"] = restored.manifest.cluster_id
        entry["incarnation"] = str(restored.cluster_incarnation)
    if as_json:
        print_json(_restored_json(restored, with_keys=with_keys))
    else:
        _show_restored(kept, restored)
        _show_keys(restored, with_keys=with_keys)
        if data_dir is not None:
            _show_how_to_go_on(restored, data_dir, etcd_members, tls=tls)
    if not restored.report.ok:
        fail("what was restored breaks rules: `seonchak verify` lists them", as_json=as_json)


def _contents(manifest: "Manifest") -> str:
    counts = manifest.counts
    return f"{counts.campaigns:,} campaigns, {counts.coupons:,} coupons, {counts.entries:,} entries"


def _manifest_json(manifest: "Manifest") -> dict[str, Any]:
    return manifest.model_dump(mode="json", exclude={"files"})


def _restored_json(restored: "Restored", *, with_keys: bool) -> dict[str, Any]:
    return _manifest_json(restored.manifest) | {
        "cluster_incarnation": restored.cluster_incarnation,
        "code_generation": restored.code_generation,
        "api_keys": sorted(restored.api_keys),
        "api_keys_restored": with_keys,
        "ok": restored.report.ok,
    }


def _show_restored(kept: "Backup", restored: "Restored") -> None:
    manifest = restored.manifest
    typer.echo(f"restored cluster {manifest.cluster_id} from {kept.root}: {_contents(manifest)}")
    typer.echo(
        f"cluster incarnation {manifest.cluster_incarnation} -> {restored.cluster_incarnation}, "
        f"code generation {manifest.code_generation} -> {restored.code_generation}"
    )


def _show_keys(restored: "Restored", *, with_keys: bool) -> None:
    if not restored.api_keys:
        return
    count = len(restored.api_keys)
    if with_keys:
        typer.echo(
            f"{count} API keys are valid again, those revoked after {restored.manifest.time.isoformat()} as well: "
            "`seonchak key revoke` them before any router is started; the audit log has them"
        )
    else:
        typer.echo(
            f"{count} API keys were left out, since some may have been revoked after the backup: "
            "`seonchak key create` new ones (or restore with --with-keys)"
        )
    for key_id, record in sorted(restored.api_keys.items()):
        typer.echo(f"  {key_id}  {' '.join(sorted(record.roles))}  {record.created}  {record.note}".rstrip())


def _show_how_to_go_on(restored: "Restored", data_dir: Path, etcd_members: int, *, tls: bool) -> None:
    manifest = restored.manifest
    typer.echo(
        f"go on: seonchak up --data-dir {data_dir} --journal {manifest.journal} --shards {manifest.shards} "
        f"--etcd-members {etcd_members}{' --tls' if tls else ''}"
    )
