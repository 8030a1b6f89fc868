"""The cluster under test: real processes by their names, what can be done to them, and who owns what meanwhile.

Knows nothing of what campaigns hold, of loads and of verdicts. Its own view of ownership comes from etcd, past the
proxies.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chaos.children import on_machine, with_own_member, with_peers_behind
from chaos.control import Control
from chaos.logs import Logs
from chaos.proxies import Network
from cluster.config import JournalKind, shard_of
from cluster.kv import EtcdUnavailable, Event, ModRevisionIs, Put, Txn
from cluster.placement import preference
from cluster.records import NodeState, OwnerRecord
from cluster.topology import Topology
from cluster.types import NodeId, Revision, ShardId
from cluster.watch import Snapshot
from ops.child import Child, ChildSpec
from ops.etcd_client import etcd_client
from ops.layout import Layout, journal_dir
from ops.local import LocalCluster, LocalSpec, supervise
from ops.ports import ReservedPorts
from ops.verify import Report, Source, verify

SHARDS = 12
SETTLE_S_MAX = 30.0
STOP_S_MAX = 20.0
LOSES_DATA = frozenset({"3.5.0", "3.5.1", "3.5.2"})
"""Versions of etcd that can lose data when they are killed under load: etcd-io/etcd issue 13766."""
_CHILD_ENV = {"PYTHONFAULTHANDLER": "1"}
"""A process that crashes says where."""


class NotSettled(Exception):
    """Nodes or shards are not where they belong in time."""


@dataclass(frozen=True, slots=True)
class ChaosSpec:
    data_dir: Path
    journal: JournalKind
    nodes: int = 3
    spare_nodes: int = 0
    """Have a place and are not started: a scenario does that."""
    routers: int = 2
    etcd_members: int = 1
    proxied: bool = False
    """With a proxy in front of every node and etcd member."""
    bad_machines: bool = False
    """The nodes' clocks and disks can be made to fail: see `ChaosCluster.control`."""
    node_env: Mapping[str, str] = field(default_factory=dict)
    """More SEONCHAK_* variables of the nodes."""


@dataclass(frozen=True, slots=True)
class OwnerChange:
    """An owner key was put."""

    at_s: float
    """time.monotonic(), when the harness heard of it."""
    shard: ShardId
    node: str
    revision: Revision


class ChaosCluster:
    """Use `running`."""

    def __init__(self, processes: LocalCluster, network: Network, twins: dict[int, str]) -> None:
        """
        Args:
            twins: by pid, the node for which each twin that runs passes. The network reads it too.
        """
        self.processes = processes
        self._twins = twins
        self.network = network
        self.changes: list[OwnerChange] = []
        """Every change of ownership since the cluster served, in order."""
        self._topology = Topology(processes.keys)
        self._news = asyncio.Condition()
        self.cluster_incarnation = 1
        """Raised by a restore of etcd."""
        self._expected = {child.name for child in processes.nodes}
        self.logs = Logs(processes.spec.data_dir / "logs")
        self._controls: dict[str, Control] = {}
        self._children = {child.name: child for child in (*processes.etcds, *processes.nodes, *processes.routers)}

    # --- names --------------------------------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        return self.processes.layout

    @property
    def nodes(self) -> list[str]:
        """Those that should be alive."""
        return sorted(self._expected)

    @property
    def spare(self) -> str:
        """A node that has a place and is not to be alive."""
        return next(child.name for child in self.processes.nodes if child.name not in self._expected)

    @property
    def routers(self) -> list[str]:
        return [child.name for child in self.processes.routers]

    @property
    def etcds(self) -> list[str]:
        return [child.name for child in self.processes.etcds]

    @property
    def etcd_version(self) -> str:
        return self.processes.binary.version

    @property
    def etcd_may_die(self) -> bool:
        return self.etcd_version not in LOSES_DATA

    @property
    def has_file_journal(self) -> bool:
        return self.processes.spec.journal == "file"

    def pids(self) -> list[int]:
        """Of all that run."""
        return [child.pid for child in self._children.values() if child.running]

    # --- processes ----------------------------------------------------------------------------------------------------

    def runs(self, name: str) -> bool:
        return self._children[name].running

    def signal_kill(self, name: str) -> None:
        """kill -9, without waiting for the end."""
        self._children[name].send(signal.SIGKILL)
        self.network.died(name)

    async def kill(self, name: str) -> None:
        """kill -9."""
        if self.runs(name):
            self.signal_kill(name)
            await self._children[name].wait()

    async def stop(self, name: str) -> int:
        """SIGTERM: a node hands over, a router answers what it has. Its return code."""
        self._expected.discard(name)
        returncode = await self._children[name].stop(STOP_S_MAX)
        self.network.died(name)
        return returncode

    async def start(self, name: str) -> None:
        """Returns when it says that it is ready."""
        await self.network.lives(name)
        kind, _, index = name.rpartition("-")
        match kind:
            case "node":
                self._expected.add(name)
                await self.processes.start_node(int(index))
            case "router":
                await self.processes.start_router(int(index))
            case _:
                await self.processes.start_etcd(int(index))

    def freeze(self, name: str) -> None:
        self._children[name].freeze()

    def thaw(self, name: str) -> None:
        if self.runs(name):
            self._children[name].thaw()

    def control(self, node: str) -> Control:
        """Of the machine that the node runs on, where `bad_machines` was asked for."""
        if node not in self._controls:
            self._controls[node] = Control(_control_path(self.processes.spec.data_dir, node))
        return self._controls[node]

    @asynccontextmanager
    async def twin(self, name: str) -> AsyncIterator[Child]:
        """A second process with a node's id, listening elsewhere. It has been started, no more; killed at the end."""
        spec = self._children[name].spec
        with ReservedPorts() as ports:
            listen = f"127.0.0.1:{ports.take()}"
            twin = Child(
                replace(
                    spec,
                    name=f"{name}-twin",
                    log_path=spec.log_path.with_name(f"{name}-twin.log"),
                    env=dict(spec.env)
                    | {
                        "SEONCHAK_LISTEN": listen,
                        "SEONCHAK_ADVERTISE": listen,
                        "SEONCHAK_METRICS_LISTEN": "",
                    },
                )
            )
            await twin.start()
            # Its links are the node's: to the network they are one machine.
            self._twins[twin.pid] = name
            try:
                yield twin
            finally:
                await twin.kill()
                del self._twins[twin.pid]

    async def etcd_leader(self, *, but: str | None = None) -> str:
        """The member that leads; waits for one, and until it is not `but`. Raises NotSettled."""
        try:
            async with asyncio.timeout(SETTLE_S_MAX):
                while (leader := await self._leader_now()) in (None, but):  # noqa: ASYNC110  # etcd announces no leader
                    await asyncio.sleep(0.1)
                return leader
        except TimeoutError:
            raise NotSettled(f"etcd has no {'other ' if but else ''}leader after {SETTLE_S_MAX:g} s") from None

    async def let_another_lead(self, member: str) -> None:
        """Returns when the member does not lead, if it did. Raises NotSettled."""
        if await self.etcd_leader() != member:
            return
        places = {place.name: place.address for place in self.layout.etcd}
        other = next(name for name in places if name != member)
        status = await _etcd_says(places[other], "status", {})
        if status is None:
            raise NotSettled(f"{other} does not answer")
        if await _etcd_says(places[member], "transfer-leadership", {"targetID": status["header"]["member_id"]}) is None:
            raise NotSettled(f"{member} does not let {other} lead")
        await self.etcd_leader(but=member)

    def etcd_flags(self, member: str) -> dict[str, str]:
        """What the member is started with."""
        return dict(flag.removeprefix("--").split("=", 1) for flag in self._children[member].spec.argv[1:])

    def member_of(self, node: str) -> str:
        """The etcd member that the node asks at present, if it has not been started again since the cluster served."""
        endpoints = self._children[node].spec.env["SEONCHAK_ETCD_ENDPOINTS"].split(",")
        left = [line["endpoint"] for line in self.logs.lines("etcd_endpoint_silent") if line["process"] == node]
        place = endpoints.index(left[-1]) + 1 if left else 0
        return self.etcds[(int(node.rpartition("-")[2]) + place) % len(self.etcds)]

    async def _leader_now(self) -> str | None:
        for place in self.layout.etcd:
            status = await _etcd_says(place.address, "status", {})
            if status is not None and status["header"]["member_id"] == status.get("leader"):
                return place.name
        return None

    # --- ownership ----------------------------------------------------------------------------------------------------

    def shard(self, campaign_id: str) -> ShardId:
        return shard_of(campaign_id, self.processes.config.shards)

    async def owner(self, campaign_id: str) -> str:
        """The node that owns the campaign's shard; waits for one."""
        shard = self.shard(campaign_id)
        await self._until(lambda: shard in self._topology.owners, f"shard {shard} has no owner")
        return self._topology.owners[shard].record.incarnation.node_id

    async def other_owner(self, campaign_id: str, before: str) -> str:
        """The next node that owns the campaign's shard."""
        shard = self.shard(campaign_id)

        def moved() -> bool:
            owner = self._topology.owners.get(shard)
            return owner is not None and owner.record.incarnation.node_id != before

        await self._until(moved, f"shard {shard} still belongs to {before}")
        return self._topology.owners[shard].record.incarnation.node_id

    def owner_now(self, campaign_id: str) -> str | None:
        owner = self._topology.owners.get(self.shard(campaign_id))
        return None if owner is None else owner.record.incarnation.node_id

    def epochs(self) -> dict[int, tuple[int, int]]:
        """The epoch of every shard that is owned, by what was last heard: cluster incarnation and revision."""
        incarnation = self.cluster_incarnation
        return {shard: (incarnation, owner.revision) for shard, owner in self._topology.owners.items()}

    async def settled(self) -> None:
        """Wait until every node that should be alive is registered, and owns what placement gives it.

        Raises:
            NotSettled
        """
        await self._until(self._is_settled, "nodes or shards are not where they belong")

    def _is_settled(self) -> bool:
        nodes = self._topology.nodes
        if nodes.keys() != self._expected or any(n.record.state is not NodeState.ACTIVE for n in nodes.values()):
            return False
        for shard in map(ShardId, range(self.processes.config.shards)):
            owner = self._topology.owners.get(shard)
            first = nodes[preference(shard, map(NodeId, self._expected))[0]]
            if owner is None or owner.record.incarnation != first.record.incarnation:
                return False
        return True

    async def _until(self, holds: Callable[[], bool], otherwise: str) -> None:
        try:
            async with asyncio.timeout(SETTLE_S_MAX), self._news:
                await self._news.wait_for(holds)
        except TimeoutError:
            raise NotSettled(f"{otherwise} after {SETTLE_S_MAX:g} s") from None

    async def usurp(self, node: str, successor: str) -> None:
        """Give every shard of a node to another node, without asking either: both have to be registered."""
        heir = self._topology.nodes[NodeId(successor)].record
        value = OwnerRecord(heir.incarnation, heir.address).encode()
        async with etcd_client(self.layout.etcd_endpoints) as etcd:
            for shard, owner in list(self._topology.owners.items()):
                if owner.record.incarnation.node_id == node:
                    key = self.processes.keys.owner(shard)
                    put = Put(key, value, heir.incarnation.lease_id)
                    with suppress(EtcdUnavailable):  # whether it was written, the watch tells
                        await etcd.txn(Txn((ModRevisionIs(key, owner.revision),), (put,)))

    async def follow(self) -> None:
        """Watch ownership until cancelled."""
        keys = self.processes.keys
        async with (
            etcd_client(self.layout.etcd_endpoints) as etcd,
            aclosing(etcd.watch(*keys.topology)) as seen,
        ):
            async for news in seen:
                async with self._news:
                    if isinstance(news, Snapshot):
                        self._topology.reset(news.kvs)
                    else:
                        for event in news.events:
                            self._topology.apply(event)
                            self._record(event)
                    self._news.notify_all()

    def _record(self, event: Event) -> None:
        key = event.kv.key
        if event.deleted or not key.startswith(self.processes.keys.shards):
            return
        shard = self.processes.keys.shard_of_owner(key)
        owner = self._topology.owners[shard]
        self.changes.append(
            OwnerChange(time.monotonic(), shard, owner.record.incarnation.node_id, event.kv.mod_revision)
        )

    # --- what it leaves -----------------------------------------------------------------------------------------------

    async def end_nodes(self) -> None:
        """kill -9 of every router and node: nobody writes to the journal afterwards."""
        for name in (*self.routers, *(child.name for child in self.processes.nodes)):
            await self.kill(name)

    async def revive_etcd(self) -> list[str]:
        """Start the members that ended by themselves; their names."""
        dead = [name for name in self.etcds if not self.runs(name)]
        async with asyncio.TaskGroup() as starting:
            for name in dead:
                starting.create_task(self.start(name))
        return dead

    async def reread(self, collect: Collection[str]) -> Report:
        """The journal by the second reader, past the nodes and the proxies.

        Members of etcd that have ended, or end meanwhile, are started again: one before 3.5.7 may panic when the client
        of a read has died (etcd-io/etcd issue 14110), and does so 7 to 15 ms after that client is gone. Who only looks
        before the journal is read sees it alive.
        """
        source = Source(self.layout.etcd_endpoints, journal_dir=journal_dir(self.processes.spec.data_dir))
        async with asyncio.TaskGroup() as tasks:
            supervisors = [tasks.create_task(supervise(child)) for child in self.processes.etcds]
            report = await verify(source, collect)
            for supervisor in supervisors:
                supervisor.cancel()
        return report


async def _etcd_says(endpoint: str, what: str, request: Mapping[str, str]) -> dict[str, Any] | None:
    """A member's answer to a request of maintenance, over etcd's JSON gateway; None: no answer, or a refusal."""
    host, _, port = endpoint.rpartition(":")
    asked = json.dumps(request)
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                fields = f"Host: {endpoint}\r\nContent-Length: {len(asked)}\r\n\r\n"
                writer.write(f"POST /v3/maintenance/{what} HTTP/1.0\r\n{fields}{asked}".encode())
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        return None
    said: dict[str, Any] = json.loads(body)
    return said


def _control_path(data_dir: Path, node: str) -> Path:
    return data_dir / f"{node}.control"


@asynccontextmanager
async def running(spec: ChaosSpec) -> AsyncIterator[ChaosCluster]:
    """A cluster that serves and is settled, its spare nodes stopped. What dies stays dead until somebody starts it."""

    def running_now() -> Mapping[int, str]:
        children = (*processes.etcds, *processes.nodes, *processes.routers)
        return {child.pid: child.name for child in children if child.running} | twins

    twins: dict[int, str] = {}
    peer_fronts: dict[str, str] = {}

    async def fronts(layout: Layout) -> Mapping[str, str]:
        if not spec.proxied:
            return {}
        if spec.etcd_members > 1:
            for member in layout.etcd:
                peer = f"127.0.0.1:{member.peer_port}"
                peer_fronts[peer] = await network.front(member.name, peer)
        servers = (*layout.nodes, *layout.etcd)
        return {place.address: await network.front(place.name, place.address) for place in servers}

    def adapt(child: ChildSpec) -> ChildSpec:
        kind, _, index = child.name.rpartition("-")
        if kind == "etcd":
            return with_peers_behind(child, peer_fronts)
        if kind == "node":
            child = with_own_member(child, int(index))
            if spec.bad_machines:
                child = on_machine(child, _control_path(spec.data_dir, child.name))
        return child

    network = Network(running_now)
    processes = LocalCluster(
        LocalSpec(
            spec.data_dir,
            nodes=spec.nodes + spec.spare_nodes,
            routers=spec.routers,
            etcd_members=spec.etcd_members,
            journal=spec.journal,
            shards=SHARDS,
            restart=False,
            fronts=fronts,
            adapt=adapt,
            node_env={**_CHILD_ENV, **spec.node_env},
            router_env=_CHILD_ENV,
        )
    )
    try:
        async with processes:
            cluster = ChaosCluster(processes, network, twins)
            following = asyncio.create_task(cluster.follow())
            try:
                for child in processes.nodes[spec.nodes :]:
                    await cluster.stop(child.name)
                await cluster.settled()
                yield cluster
            finally:
                network.heal()
                following.cancel()
                await asyncio.wait([following])
    finally:
        await network.close()
