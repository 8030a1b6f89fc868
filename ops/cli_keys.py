"""`seonchak key create|list|revoke`: who may call the routers."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from ops.cli_audit import AuditOption, audited
from ops.cli_cluster import DataDirOption, EtcdOption, KeyPrefixOption, etcd_of
from ops.cli_common import JsonOption, fail, print_json, print_table

if TYPE_CHECKING:
    from cluster.records import Keyspace
    from cluster.session import EtcdClient

app = typer.Typer(help="API keys: who may call the routers.", no_args_is_help=True)
Result = TypeVar("Result")


class RoleChoice(StrEnum):
    ADMIN = "admin"
    ISSUE = "issue"
    READ = "read"


TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds that etcd may take.")]


@app.command()
def create(
    role: Annotated[list[RoleChoice], typer.Option(help="What it may do; again for more.")],
    note: Annotated[str, typer.Option(help="Whose it is, say.")] = "",
    etcd: EtcdOption = None,
    data_dir: DataDirOption = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    timeout: TimeoutOption = 10.0,
    audit_log: AuditOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and show it, once."""
    from cluster.keys import KeyRole
    from ops.keys import create_key

    roles = frozenset(KeyRole(one) for one in role)
    with audited(audit_log, "CreateKey", as_json=as_json, roles=" ".join(sorted(roles)), note=note) as entry:
        key_id, key = _ask(
            lambda client, keys: create_key(client, keys, roles, note),
            *(etcd, data_dir, key_prefix, timeout),
            as_json=as_json,
        )
        entry["key"] = key_id
    if as_json:
        print_json({"id": key_id, "key": key, "roles": sorted(roles)})
    else:
        typer.echo(key)
        typer.echo(f"id {key_id}, {' '.join(sorted(roles))}: it is not shown again", err=True)


@app.command("list")
def list_(
    etcd: EtcdOption = None,
    data_dir: DataDirOption = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    timeout: TimeoutOption = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Show the keys' ids and what they may do."""
    from ops.keys import list_keys

    found = _ask(list_keys, etcd, data_dir, key_prefix, timeout, as_json=as_json)
    rows = [(key_id, sorted(record.roles), record.created, record.note) for key_id, record in found.items()]
    if as_json:
        print_json([dict(zip(("id", "roles", "created", "note"), row, strict=True)) for row in rows])
    else:
        print_table(
            f"API keys: {len(rows)}",
            ["id", "roles", "created", "note"],
            [[key_id, " ".join(roles), created, note] for key_id, roles, created, note in rows],
        )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    etcd: EtcdOption = None,
    data_dir: DataDirOption = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    timeout: TimeoutOption = 10.0,
    audit_log: AuditOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a key: routers refuse it within a second."""
    from ops.keys import revoke_key

    with audited(audit_log, "RevokeKey", as_json=as_json, key=key_id) as entry:
        known = _ask(
            lambda client, keys: revoke_key(client, keys, key_id),
            *(etcd, data_dir, key_prefix, timeout),
            as_json=as_json,
        )
        if not known:
            entry["answer"] = "NOT_FOUND"
            fail(f"there is no key {key_id}", as_json=as_json)
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        typer.echo(f"revoked {key_id}")


def _ask(
    ask: "Callable[[EtcdClient, Keyspace], Awaitable[Result]]",
    etcd: str | None,
    data_dir: Path | None,
    key_prefix: str,
    timeout_s: float,
    *,
    as_json: bool,
) -> Result:
    from cluster.kv import EtcdRefused, EtcdUnavailable
    from cluster.records import Keyspace
    from cluster.tls import TlsIdentity, TlsUnusable
    from ops.etcd_client import etcd_client
    from ops.layout import LayoutMismatch

    async def asked(endpoints: tuple[str, ...], tls: TlsIdentity | None) -> Result:
        async with asyncio.timeout(timeout_s), etcd_client(endpoints, tls) as client:
            return await ask(client, Keyspace(key_prefix))

    try:
        return asyncio.run(asked(*etcd_of(etcd, data_dir)))
    except (TimeoutError, EtcdUnavailable):
        fail("etcd does not answer; it may have been done: see `seonchak key list`", as_json=as_json)
    except (EtcdRefused, LayoutMismatch, TlsUnusable) as error:
        fail(str(error), as_json=as_json)
