"""`seonchak up`, `init` and `status`: a cluster on this machine, the keys of a real one, and how either is."""

import asyncio
import os
import secrets
import signal
import sys
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ops.cli_audit import AuditOption, audited
from ops.cli_common import DEFAULT_DATA_DIR, JsonOption, console, fail, print_json, print_table
from ops.cli_identity import operator
from ops.cli_process import configure_logging, print_ready

if TYPE_CHECKING:
    from cluster.config import ClusterConfig, JournalKind
    from cluster.tls import TlsIdentity
    from ops.local import LocalSpec


class JournalChoice(StrEnum):
    FILE = "file"
    ETCD = "etcd"

    @property
    def kind(self) -> "JournalKind":
        return self.value


JournalOption = Annotated[JournalChoice, typer.Option(help="Where entries become durable.")]
ShardsOption = Annotated[int, typer.Option(min=1, max=4096, help="Fixed for ever when the cluster is made.")]


def up(
    nodes: Annotated[int, typer.Option(min=1, help="Node processes.")] = 3,
    routers: Annotated[int, typer.Option(min=1, help="Router processes, on --port and the ports after it.")] = 1,
    etcd_members: Annotated[int, typer.Option(min=1, help="etcd processes: 1 or 3.")] = 1,
    journal: JournalOption = JournalChoice.ETCD,
    shards: ShardsOption = 64,
    data_dir: Annotated[Path, typer.Option(help="Everything of it; given again, it continues.")] = Path(
        DEFAULT_DATA_DIR
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The first router's. 0: any free ones.")] = 50051,
    tls: Annotated[bool, typer.Option("--tls", help="With certificates of its own, in the data-dir's certs.")] = False,
) -> None:
    """Run a whole cluster on this machine until Ctrl-C or SIGTERM."""
    configure_logging(as_json=not sys.stderr.isatty())
    from cluster.config import ConfigMismatch
    from ops.child import ChildFailed
    from ops.etcd import EtcdNotFound
    from ops.layout import DataDirInUse, LayoutMismatch
    from ops.local import LocalSpec, NotServing

    spec = LocalSpec(
        data_dir=data_dir,
        nodes=nodes,
        routers=routers,
        etcd_members=etcd_members,
        journal=journal.kind,
        shards=shards,
        port=port,
        tls=tls,
    )
    try:
        asyncio.run(_up(spec))
    except (ConfigMismatch, ChildFailed, EtcdNotFound, DataDirInUse, LayoutMismatch, NotServing, OSError) as error:
        fail(str(error))


async def _up(spec: "LocalSpec") -> None:
    running = asyncio.create_task(_serve(spec))

    def stop() -> None:
        # Once: a second signal does not end the stopping, which is in order or not at all.
        if not running.cancelling():
            running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await running


async def _serve(spec: "LocalSpec") -> None:
    from ops.local import LocalCluster

    cluster = LocalCluster(spec)
    if cluster.binary.warning:
        typer.echo(cluster.binary.warning, err=True)
    async with cluster:
        print_ready("router", cluster.router)
        await asyncio.Event().wait()


def init(
    etcd: Annotated[
        str, typer.Option(envvar="SEONCHAK_ETCD_ENDPOINTS", metavar="HOST:PORT,...", help="The cluster's etcd.")
    ],
    shards: ShardsOption = 64,
    journal: JournalOption = JournalChoice.ETCD,
    key_prefix: Annotated[str, typer.Option(envvar="SEONCHAK_KEY_PREFIX", help="Of everything in etcd.")] = "seonchak/",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that etcd may take.")] = 10.0,
    audit_log: AuditOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a cluster: write its configuration and its code key into etcd, once. Repeating it changes nothing."""
    from cluster.config import ConfigMismatch
    from cluster.kv import EtcdRefused, EtcdUnavailable

    tls = operator()
    with audited(audit_log, "Init", as_json=as_json, etcd=etcd) as entry:
        try:
            config, made = asyncio.run(_init(etcd.split(","), tls, key_prefix, shards, journal.kind, timeout))
        except (TimeoutError, EtcdUnavailable):
            fail("etcd does not answer; it is safe to repeat this", as_json=as_json)
        except (ConfigMismatch, EtcdRefused) as error:
            fail(str(error), as_json=as_json)
        entry["cluster"] = config.cluster_id
        entry["made"] = "yes" if made else "no"
    if as_json:
        print_json({"created": made, **_config_json(config)})
    else:
        typer.echo(f"{'made' if made else 'found'} cluster {config.cluster_id}: {shards} shards, journal {journal}")


async def _init(
    endpoints: list[str],
    tls: "TlsIdentity | None",
    key_prefix: str,
    shards: int,
    journal: "JournalKind",
    timeout_s: float,
) -> "tuple[ClusterConfig, bool]":
    from cluster.records import Keyspace
    from ops.bootstrap import ensure_cluster
    from ops.etcd_client import etcd_client

    async with asyncio.timeout(timeout_s), etcd_client(endpoints, tls) as etcd:
        return await ensure_cluster(
            etcd,
            Keyspace(key_prefix),
            shards=shards,
            journal=journal,
            cluster_id=secrets.token_hex(8),
            code_key=secrets.token_bytes(32),
        )


def _config_json(config: "ClusterConfig") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(config)


EtcdOption = Annotated[str | None, typer.Option("--etcd", metavar="HOST:PORT,...", help="The cluster's etcd.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help=f"Instead, of `up`. Default: {DEFAULT_DATA_DIR}.")
]
KeyPrefixOption = Annotated[
    str, typer.Option("--key-prefix", envvar="SEONCHAK_KEY_PREFIX", help="Of everything in etcd.")
]


def status(
    etcd: EtcdOption = None,
    data_dir: DataDirOption = None,
    router: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Not asked: accepted as everywhere.")] = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that etcd and each node may take.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Show the nodes, and each shard's owner, epoch, positions and standby. Exit code 1 if a shard is not served."""
    from cluster.config import ConfigMismatch
    from cluster.tls import TlsUnusable
    from ops.layout import LayoutMismatch
    from ops.status import read_status

    try:
        endpoints, tls = etcd_of(etcd, data_dir)
        found = asyncio.run(read_status(endpoints, key_prefix, timeout, tls))
    except TimeoutError:
        fail("etcd does not answer", as_json=as_json)
    except (ConfigMismatch, LayoutMismatch, TlsUnusable) as error:
        fail(str(error), as_json=as_json)
    if as_json:
        print_json(found.as_json())
    else:
        config = found.config
        console().print(f"cluster [bold]{config.cluster_id}[/]  journal {config.journal}  etcd {', '.join(endpoints)}")
        print_table(
            f"nodes: {len(found.nodes)}",
            ["node", "address", "state", "incarnation", "shards", "answers"],
            [[n.node_id, n.address, n.state, n.incarnation, str(n.shards), n.error or "yes"] for n in found.nodes],
        )
        print_table(
            f"shards: {config.shards}",
            ["shard", "owner", "epoch", "state", "position", "campaigns", "coupons", "queued", "standby", "lag"],
            [
                [
                    str(s.shard),
                    s.owner or "-",
                    f"{s.cluster_incarnation}.{s.revision}" if s.owner else "-",
                    s.state + (f": {s.error}" if s.error else ""),
                    f"{s.position:,}",
                    f"{s.campaigns:,}",
                    f"{s.coupons:,}",
                    f"{s.queued:,}",
                    s.standby or "-",
                    f"{s.standby_lag:,}" if s.standby else "-",
                ]
                for s in found.shards
            ],
        )
    if not found.all_served:
        raise typer.Exit(1)


def drain(
    node: Annotated[str, typer.Argument(metavar="NODE", help="Its id, as `status` shows it.")],
    etcd: EtcdOption = None,
    data_dir: DataDirOption = None,
    key_prefix: KeyPrefixOption = "seonchak/",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for its end.")] = 30.0,
    audit_log: AuditOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have NODE hand all its shards over and end with exit code 0, as SIGTERM does. Returns when it is done.

    What starts again whatever ends, as Kubernetes does, starts it again.
    """
    from cluster.config import ConfigMismatch
    from cluster.tls import TlsUnusable
    from cluster.types import NodeId
    from ops.drain import NotDrained, drain_node
    from ops.layout import LayoutMismatch

    with audited(audit_log, "Drain", as_json=as_json, node=node) as entry:
        try:
            endpoints, tls = etcd_of(etcd, data_dir)
            owned = asyncio.run(drain_node(endpoints, key_prefix, NodeId(node), timeout, tls))
        except (ConfigMismatch, LayoutMismatch, TlsUnusable, NotDrained) as error:
            fail(str(error), as_json=as_json)
        entry["shards"] = str(owned)
    if as_json:
        print_json({"node": node, "shards": owned})
    else:
        typer.echo(f"drained {node}: it owned {owned} shards")


def etcd_of(etcd: str | None, data_dir: Path | None) -> "tuple[tuple[str, ...], TlsIdentity | None]":
    """The cluster's etcd, and who we are to it and to the nodes: by --etcd, by --data-dir, by SEONCHAK_ETCD_ENDPOINTS,
    else of the default data-dir.

    Raises:
        LayoutMismatch, TlsUnusable
    """
    from ops import layout

    if etcd is not None and data_dir is not None:
        raise typer.BadParameter("--etcd and --data-dir exclude each other")
    from_env = os.environ.get("SEONCHAK_ETCD_ENDPOINTS") if data_dir is None else None
    if (given := etcd or from_env) is not None:
        return tuple(given.split(",")), operator()
    data_dir = data_dir or Path(DEFAULT_DATA_DIR)
    there = layout.load_layout(data_dir)
    return there.etcd_endpoints, layout.operator(there, data_dir)
