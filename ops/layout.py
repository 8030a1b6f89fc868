"""Where a one-machine cluster stands: `cluster.json` in its data directory, and the lock that says that it runs.

DATA/
  lock            held by the process that runs the cluster
  cluster.json    this
  etcd/NAME/      a member's data
  journal/        the `file` journal of all nodes
  certs/          with TLS: the CA and everybody's certificates, see ops/certs.py
  logs/NAME.log   each child's stderr
  prometheus/     JOB.json: what Prometheus has to scrape, for its file_sd (ops/prometheus); with TLS, ca.crt
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.config import JournalKind
from ops.etcd import EtcdMember, EtcdTls
from ops.ports import ReservedPorts, is_free

if TYPE_CHECKING:
    from cluster.tls import TlsIdentity


class DataDirInUse(Exception):
    """Another process runs the cluster of this data directory."""


class LayoutMismatch(Exception):
    """The data directory holds another cluster than the one asked for, or none."""


class _Place(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    port: int
    metrics_port: int = 0
    """Of /metrics. 0: made by a version that had none."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_address(self) -> str:
        return f"127.0.0.1:{self.metrics_port}"


class _EtcdPlace(_Place):
    peer_port: int


class Layout(BaseModel):
    """Names and ports. A child that is started again finds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    journal: JournalKind
    shards: int
    etcd: tuple[_EtcdPlace, ...]
    nodes: tuple[_Place, ...]
    routers: tuple[_Place, ...]
    tls: bool = False

    @property
    def members(self) -> tuple[EtcdMember, ...]:
        return tuple(EtcdMember(place.name, place.port, place.peer_port, place.metrics_port) for place in self.etcd)

    @property
    def etcd_endpoints(self) -> tuple[str, ...]:
        return tuple(place.address for place in self.etcd)

    @property
    def router_addresses(self) -> tuple[str, ...]:
        return tuple(place.address for place in self.routers)

    def save(self, data_dir: Path) -> None:
        """Whole or not at all: it is read while the cluster runs."""
        _write_whole(data_dir / "cluster.json", self.model_dump_json(indent=2))
        (data_dir / "prometheus").mkdir(exist_ok=True)
        for job, addresses in self.scraped().items():
            groups = [{"targets": [address], "labels": {"instance": name}} for name, address in addresses.items()]
            _write_whole(data_dir / "prometheus" / f"{job}.json", json.dumps(groups, indent=2))
        ca = data_dir / "prometheus" / "ca.crt"
        if self.tls and not ca.is_symlink():
            # To the one that may be replaced.
            ca.symlink_to(Path("..", certs_dir(data_dir).name, ca.name))

    def scraped(self) -> dict[str, dict[str, str]]:
        """HOST:PORT of /metrics, by job and by name."""
        jobs: dict[str, Sequence[_Place]] = {"node": self.nodes, "router": self.routers, "etcd": self.etcd}
        return {job: {place.name: place.metrics_address for place in places} for job, places in jobs.items()}


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text + "\n")
    fresh.replace(path)


def journal_dir(data_dir: Path) -> Path:
    return data_dir / "journal"


def certs_dir(data_dir: Path) -> Path:
    return data_dir / "certs"


def etcd_tls(layout: Layout, data_dir: Path) -> EtcdTls | None:
    """What the members show; None: no TLS."""
    certs = certs_dir(data_dir)
    return EtcdTls(certs / "ca.crt", certs / "etcd.crt", certs / "etcd.key") if layout.tls else None


def operator(layout: Layout, data_dir: Path) -> "TlsIdentity | None":
    """Of whoever has the directory, towards etcd and nodes; None: no TLS. Raises TlsUnusable."""
    if not layout.tls:
        return None
    from cluster.tls import TlsIdentity  # grpc's import takes long

    certs = certs_dir(data_dir)
    return TlsIdentity(certs / "ca.crt", certs / "operator.crt", certs / "operator.key")


def load_layout(data_dir: Path) -> Layout:
    """Raises LayoutMismatch: there is no cluster, or its file is not one."""
    path = data_dir / "cluster.json"
    try:
        return Layout.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise LayoutMismatch(f"{data_dir} holds no cluster: no {path.name}") from None
    except ValidationError as error:
        raise LayoutMismatch(f"{path} is not readable: {error}") from error


def plan_layout(
    data_dir: Path,
    *,
    journal: JournalKind,
    shards: int,
    nodes: int,
    routers: int,
    etcd_members: int,
    port: int,
    ports: ReservedPorts,
    tls: bool = False,
) -> Layout:
    """The layout of the cluster that is there, with as many nodes and routers as asked for; or of a new one.

    Args:
        port: the first router's; the others take the ports after it. 0: any free ones.
        ports: holds those of the layout afterwards, for as long as the cluster is to have them.

    Raises:
        LayoutMismatch: the cluster that is there has another journal, number of shards or of etcd members, or
            TLS where none is asked for, or the other way round.
        OSError: no free ports.
    """
    there = load_layout(data_dir) if (data_dir / "cluster.json").exists() else None
    if there is not None:
        _require_same(there, data_dir, journal=journal, shards=shards, etcd_members=etcd_members, tls=tls)
    # Peer ports stand in etcd's own data; every other port may change when something else has taken it meanwhile.
    peers = [place.peer_port for place in there.etcd] if there else []
    for given in (*range(port, port + routers if port else 0), *peers):
        ports.reserve(given)  # whoever else has it: these are not ours to choose
    peers += [ports.take() for _ in range(etcd_members - len(peers))]

    def keep_port(had: Sequence[int], index: int) -> int:
        if index < len(had) and had[index] and ports.reserve(had[index]) and is_free(had[index]):
            return had[index]
        return ports.take()

    def keep(places: Sequence[_Place], index: int) -> int:
        return keep_port([place.port for place in places], index)

    def keep_metrics(places: Sequence[_Place], index: int) -> int:
        return keep_port([place.metrics_port for place in places], index)

    had_etcd, had_nodes, had_routers = (there.etcd, there.nodes, there.routers) if there else ((), (), ())

    return Layout(
        journal=journal,
        shards=shards,
        tls=tls,
        etcd=tuple(
            _EtcdPlace(
                name=f"etcd-{i}",
                port=keep(had_etcd, i),
                peer_port=peers[i],
                metrics_port=keep_metrics(had_etcd, i),
            )
            for i in range(etcd_members)
        ),
        nodes=tuple(
            _Place(name=f"node-{i}", port=keep(had_nodes, i), metrics_port=keep_metrics(had_nodes, i))
            for i in range(nodes)
        ),
        routers=tuple(
            _Place(
                name=f"router-{i}",
                port=port + i if port else keep(had_routers, i),
                metrics_port=keep_metrics(had_routers, i),
            )
            for i in range(routers)
        ),
    )


def _require_same(
    there: Layout, data_dir: Path, *, journal: JournalKind, shards: int, etcd_members: int, tls: bool
) -> None:
    stored = {"journal": there.journal, "shards": there.shards, "etcd-members": len(there.etcd), "tls": there.tls}
    asked = {"journal": journal, "shards": shards, "etcd-members": etcd_members, "tls": tls}
    different = [
        f"--{name} is {asked[name]}, {data_dir} has {stored[name]}" for name in stored if asked[name] != stored[name]
    ]
    if different:
        raise LayoutMismatch("; ".join(different) + ": choose another --data-dir, or the flags that it was made with")


@contextmanager
def data_dir_lock(data_dir: Path) -> Iterator[None]:
    """Hold the data directory, which must exist. Ends with the process, whatever ends it.

    Raises:
        DataDirInUse
    """
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirInUse(f"{data_dir} is in use: a cluster runs there already") from None
        yield
    finally:
        os.close(descriptor)
