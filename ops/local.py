"""A whole cluster on this machine: real etcd members, node and router processes, as children of this one.

What `seonchak up`, the demo, the tests and the chaos scenarios run. Starts in order, stops in the opposite one, starts
again what died. Knows processes; what they do with coupons is not its matter.
"""

import asyncio
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from cluster.config import ClusterConfig, JournalKind
from cluster.records import Keyspace
from cluster.tls import TlsIdentity
from ops.bootstrap import ensure_cluster
from ops.certs import make_certs
from ops.child import Child, ChildSpec
from ops.etcd import (
    QUOTA_BACKEND_BYTES,
    EtcdBinary,
    EtcdMember,
    EtcdTls,
    find_etcd,
    member_spec,
    start_member,
    wait_healthy,
)
from ops.etcd_client import etcd_client, watched_topology
from ops.layout import Layout, certs_dir, data_dir_lock, etcd_tls, journal_dir, operator, plan_layout
from ops.ports import ReservedPorts

log = structlog.get_logger()

START_S_MAX = 60.0
"""For each step of a start. Generous: a machine with two busy cores is slow, not broken."""

RESTART_AFTER_S = 1.0
DRAIN_S_MAX = 20.0
"""A node hands everything over in milliseconds; the last one has nobody to hand it to."""


class NotServing(Exception):
    """The cluster did not come to serve in time."""


@dataclass(frozen=True, slots=True)
class LocalSpec:
    """What is asked for. Times in seconds."""

    data_dir: Path
    nodes: int = 3
    routers: int = 1
    etcd_members: int = 1
    journal: JournalKind = "etcd"
    shards: int = 64
    port: int = 0
    """The first router's; 0: any free ports."""
    tls: bool = False
    """Everybody speaks TLS, with certificates under DATA/certs, which are made when there are none."""
    restart: bool = True
    """Start a node, router or etcd member again, after a second, when it died unasked."""
    node_env: Mapping[str, str] = field(default_factory=dict)
    """SEONCHAK_* variables for the nodes."""
    router_env: Mapping[str, str] = field(default_factory=dict)
    etcd: EtcdBinary | None = None
    """None: as `find_etcd` finds it."""
    fronts: Callable[[Layout], Awaitable[Mapping[str, str]]] | None = None
    """Awaited before anything starts: puts something, say proxies, in front of nodes and etcd members. Returns the
    address that the other processes are told, by the address that is really listened on; missing: the real one."""
    adapt: Callable[[ChildSpec], ChildSpec] = lambda spec: spec
    """What is really run for a child; called after `fronts`."""


class LocalCluster:
    """`async with LocalCluster(spec) as cluster:` it serves inside, and is gone outside.

    Raises, on entry:
        DataDirInUse, LayoutMismatch, ConfigMismatch, EtcdNotFound: with nothing started, or nothing left of it.
        ChildFailed, NotServing
    """

    def __init__(self, spec: LocalSpec) -> None:
        self.spec = spec
        self.binary = spec.etcd or find_etcd()
        self.keys = Keyspace()
        self.etcds: list[Child] = []
        self.nodes: list[Child] = []
        self.routers: list[Child] = []
        self._layout: Layout | None = None
        self._fronts: Mapping[str, str] = {}
        self._config: ClusterConfig | None = None
        self._stack = AsyncExitStack()
        self._supervisors: dict[str, asyncio.Task[None]] = {}

    @property
    def layout(self) -> Layout:
        assert self._layout is not None, "not started"
        return self._layout

    @property
    def config(self) -> ClusterConfig:
        assert self._config is not None, "not started"
        return self._config

    @property
    def operator(self) -> TlsIdentity | None:
        """Of this process, towards etcd and nodes; None: no TLS."""
        return operator(self.layout, self.spec.data_dir)

    @property
    def router(self) -> str:
        """HOST:PORT of the first router."""
        return self.layout.router_addresses[0]

    async def __aenter__(self) -> "LocalCluster":
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    # --- one process -----------------------------------------------------------------------------------------------

    def node_pid(self, index: int) -> int:
        return self.nodes[index].pid

    async def kill_node(self, index: int) -> None:
        """kill -9. With `restart` it comes back by itself."""
        await self.nodes[index].kill()

    async def stop_node(self, index: int) -> int:
        """SIGTERM: it hands everything over. Returns its return code; `start_node` brings it back."""
        await self._retire(self.nodes[index])
        return await self.nodes[index].stop(DRAIN_S_MAX)

    async def start_node(self, index: int) -> None:
        """Returns when the node is registered."""
        await self._run(self.nodes[index])

    def freeze_node(self, index: int) -> None:
        self.nodes[index].freeze()

    def thaw_node(self, index: int) -> None:
        self.nodes[index].thaw()

    async def start_router(self, index: int) -> None:
        await self._run(self.routers[index])

    async def start_etcd(self, index: int) -> None:
        """Returns when the member answers linearizable reads: with a quorum, that is."""
        child = self.etcds[index]
        await self._run_etcd(index)
        await wait_healthy(self.layout.members[index], child, START_S_MAX, self._etcd_tls)

    # --- all of it -------------------------------------------------------------------------------------------------

    async def wait_owned(self, timeout_s: float = START_S_MAX) -> None:
        """Return when every shard has an owner.

        Raises:
            NotServing
        """
        owned = 0
        try:
            async with (
                asyncio.timeout(timeout_s),
                etcd_client(self.layout.etcd_endpoints, self.operator) as etcd,
                aclosing(watched_topology(etcd, self.keys)) as views,
            ):
                async for topology in views:
                    owned = len(topology.owners)
                    if owned == self.config.shards:
                        return
        except TimeoutError:
            raise NotServing(f"{owned} of {self.config.shards} shards have an owner after {timeout_s:g} s") from None

    async def _start(self) -> None:
        spec = self.spec
        spec.data_dir.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(data_dir_lock(spec.data_dir))
        (spec.data_dir / "logs").mkdir(exist_ok=True)
        self._layout = plan_layout(
            spec.data_dir,
            journal=spec.journal,
            shards=spec.shards,
            nodes=spec.nodes,
            routers=spec.routers,
            etcd_members=spec.etcd_members,
            port=spec.port,
            ports=self._stack.enter_context(ReservedPorts()),
            tls=spec.tls,
        )
        if spec.tls and not certs_dir(spec.data_dir).exists():
            make_certs(certs_dir(spec.data_dir))
        if spec.fronts is not None:
            self._fronts = await spec.fronts(self._layout)
        tls, data_dir = self._etcd_tls, spec.data_dir
        members = [member_spec(self.binary, member, self._members, data_dir, tls) for member in self._members]
        self.etcds = [Child(spec.adapt(member)) for member in members]
        self.nodes = [Child(spec.adapt(self._node_spec(index))) for index in range(spec.nodes)]
        self.routers = [Child(spec.adapt(self._router_spec(index))) for index in range(spec.routers)]
        # Members wait for each other, so all are started before the first is waited for.
        await _all(self._run_etcd(index) for index in range(spec.etcd_members))
        await _all(wait_healthy(m, c, START_S_MAX, tls) for m, c in zip(self._members, self.etcds, strict=True))
        async with etcd_client(self.layout.etcd_endpoints, self.operator) as etcd:
            self._config, made = await ensure_cluster(
                etcd,
                self.keys,
                shards=spec.shards,
                journal=spec.journal,
                cluster_id=secrets.token_hex(8),
                code_key=secrets.token_bytes(32),
            )
        # Only now is there a cluster to which the ports belong.
        self.layout.save(spec.data_dir)
        log.info("cluster_made" if made else "cluster_found", cluster_id=self.config.cluster_id)
        journal_dir(spec.data_dir).mkdir(exist_ok=True)
        await _all(self._run(child) for child in self.nodes)
        await self.wait_owned()
        await _all(self._run(child) for child in self.routers)

    async def _stop(self) -> None:
        try:
            for children in (self.routers, self.nodes):
                await self._stop_all(children)
            await self._stop_all(self.etcds)
        finally:
            await self._stack.aclose()

    async def _stop_all(self, children: list[Child]) -> None:
        for child in children:
            await self._retire(child)
        await _all(_end(child) for child in children if child.running)

    @property
    def _etcd_tls(self) -> EtcdTls | None:
        return etcd_tls(self.layout, self.spec.data_dir)

    @property
    def _members(self) -> tuple[EtcdMember, ...]:
        return self.layout.members

    def _node_spec(self, index: int) -> ChildSpec:
        place = self.layout.nodes[index]
        return self._process(
            place.name,
            "node",
            self.spec.node_env,
            {
                "ETCD_QUOTA_BYTES": str(QUOTA_BACKEND_BYTES),
                "NODE_ID": place.name,
                "LISTEN": place.address,
                "METRICS_LISTEN": place.metrics_address,
                "ADVERTISE": self._told(place.address),
                "JOURNAL_DIR": str(journal_dir(self.spec.data_dir.resolve())),
            },
        )

    def _router_spec(self, index: int) -> ChildSpec:
        place = self.layout.routers[index]
        return self._process(
            place.name,
            "router",
            self.spec.router_env,
            {"ROUTER_ID": place.name, "LISTEN": place.address, "METRICS_LISTEN": place.metrics_address},
        )

    def _process(self, name: str, command: str, extra: Mapping[str, str], settings: dict[str, str]) -> ChildSpec:
        endpoints = ",".join(map(self._told, self.layout.etcd_endpoints))
        settings |= {"ETCD_ENDPOINTS": endpoints, "KEY_PREFIX": self.keys.prefix}
        if self.spec.tls:
            certs = certs_dir(self.spec.data_dir.resolve())
            settings |= {
                "TLS_CA": str(certs / "ca.crt"),
                "TLS_CERT": str(certs / f"{command}.crt"),
                "TLS_KEY": str(certs / f"{command}.key"),
            }
        return ChildSpec(
            name=name,
            # -P: what lies in the working directory is not imported.
            argv=(sys.executable, "-P", "-m", "ops", command),
            log_path=self.spec.data_dir / "logs" / f"{name}.log",
            env={f"SEONCHAK_{key}": value for key, value in settings.items()} | dict(extra),
        )

    def _told(self, address: str) -> str:
        """What other processes are told of a server that listens on `address`."""
        return self._fronts.get(address, address)

    # --- supervision -----------------------------------------------------------------------------------------------

    async def _run(self, child: Child) -> None:
        """Start a child, wait until it says that it is ready, and watch it from then on."""
        await self._retire(child)
        await child.start()
        await child.ready(START_S_MAX)
        self._watch(child)

    async def _run_etcd(self, index: int) -> None:
        """Start a member and watch it from then on. It cannot serve before the others run."""
        child = self.etcds[index]
        await self._retire(child)
        await start_member(self.layout.members[index], child, START_S_MAX)
        self._watch(child)

    def _watch(self, child: Child) -> None:
        if self.spec.restart:
            self._supervisors[child.name] = asyncio.create_task(supervise(child), name=f"supervise {child.name}")

    async def _retire(self, child: Child) -> None:
        """Nobody starts this child again."""
        if (supervisor := self._supervisors.pop(child.name, None)) is not None:
            supervisor.cancel()
            with suppress(asyncio.CancelledError):
                await supervisor


async def supervise(child: Child) -> None:
    """Start the child again whenever it dies, until cancelled or it ends of its own accord, as a drained node does."""
    while returncode := await child.wait():
        log.warning(
            "child_died",
            child=child.name,
            returncode=returncode,
            said=child.log_tail(1),
            restart_after_s=RESTART_AFTER_S,
        )
        await asyncio.sleep(RESTART_AFTER_S)
        await child.start()
        log.info("child_restarted", child=child.name, pid=child.pid)


async def _end(child: Child) -> None:
    returncode = await child.stop(DRAIN_S_MAX)
    if returncode not in (0, -signal.SIGTERM):  # etcd closes its database, then ends itself by the signal it got
        log.warning("child_ended_badly", child=child.name, returncode=returncode)


async def _all(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """All at once. The first failure ends the others and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
