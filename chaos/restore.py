"""Taking etcd back to a snapshot, as an operator has to: stop everybody, restore every member, raise the cluster's
incarnation before any node can reach what was restored, and start.

With the journal in files the coupons survive it, and processes may live through it: they are kept away from the
restored etcd until the incarnation is raised. With the journal in etcd what came after the snapshot is gone, counters
of codes repeat, and so the codes take the next generation; every process is started anew, to learn the new key.
"""

import asyncio
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from chaos.cluster import ChaosCluster
from chaos.commands import output_of
from chaos.faults import PAST_LEASE_S, Faults
from chaos.history import Trace
from chaos.journal import Journal
from chaos.restored import Restore
from cluster.kv import Op, Put, Txn, ValueIs
from ops.etcd_client import etcd_client

_TOOL_S_MAX = 60.0
_TOOL_ENV = {"ETCDCTL_API": "3"}
"""Nothing else: ETCDCTL_* variables of the caller's would change what is meant."""


def tools(etcd: Path) -> tuple[Path, Path]:
    """What takes a snapshot and what restores it, beside the etcd that they belong to. From etcd 3.6 on these are two.

    Raises:
        FileNotFoundError
    """
    control, utility = etcd.with_name("etcdctl"), etcd.with_name("etcdutl")
    if not control.is_file():
        raise FileNotFoundError(f"no etcdctl beside {etcd}")
    return control, utility if utility.is_file() else control


async def restore_snapshot(faults: Faults) -> None:
    """Snapshot, load, restore. The snapshot's age is the time that is left for faults."""
    cluster = faults.cluster
    snapshot = cluster.processes.spec.data_dir / "etcd" / "snapshot.db"
    from_s = faults.now_s
    control, _ = tools(cluster.processes.binary.path)
    save = [str(control), "--endpoints", cluster.layout.etcd_endpoints[0], "snapshot", "save", str(snapshot)]
    await output_of(save, _TOOL_S_MAX, _TOOL_ENV)
    if cluster.has_file_journal:
        # Ownership goes on changing: otherwise etcd would not be ahead of its snapshot.
        for node in cluster.nodes[1:]:
            await faults.restart_node(node)
            await faults.settled()
    await asyncio.sleep(faults.left_s)
    survivors = [cluster.nodes[0], *cluster.routers] if cluster.has_file_journal else []
    required = (Trace.EPOCH_CHANGED, Trace.WENT_BACK) if survivors else (Trace.EPOCH_CHANGED,)
    async with faults.fault("restore etcd from its snapshot", cluster.nodes, required):
        await _take_back(faults, snapshot, from_s, survivors)


async def _take_back(faults: Faults, snapshot: Path, from_s: float, survivors: Sequence[str]) -> None:
    cluster = faults.cluster
    nodes, routers = cluster.nodes, cluster.routers
    links = cluster.network.links(survivors, cluster.etcds)
    for link in links:
        link.cut()
    for name in (*nodes, *routers):
        if name not in survivors:
            await cluster.kill(name)
    if not cluster.has_file_journal:
        to_s = faults.now_s
        thrown_away = await cluster.reread(faults.all_campaign_ids)
        before = Journal.of_audit(thrown_away.campaigns, thrown_away.violations)
        faults.restore = Restore(from_s, to_s, before)
    else:
        await asyncio.sleep(PAST_LEASE_S)
    for member in cluster.etcds:
        await cluster.kill(member)
    await _restore_members(cluster, snapshot)
    async with asyncio.TaskGroup() as starting:
        for member in cluster.etcds:
            starting.create_task(cluster.start(member))
    await _raise_incarnation(cluster, new_codes=not cluster.has_file_journal)
    for link in links:
        link.heal()
    for names in (nodes, routers):
        async with asyncio.TaskGroup() as starting:
            for name in names:
                if name not in survivors:
                    starting.create_task(cluster.start(name))


async def _restore_members(cluster: ChaosCluster, snapshot: Path) -> None:
    _, utility = tools(cluster.processes.binary.path)
    token = secrets.token_hex(8)
    for member in cluster.etcds:
        flags = cluster.etcd_flags(member)
        directory = Path(flags["data-dir"])
        shutil.move(directory, directory.with_name(f"{member}-thrown-away"))
        command = [str(utility), "snapshot", "restore", str(snapshot), "--data-dir", str(directory), "--name", member]
        command += ["--initial-cluster", flags["initial-cluster"], "--initial-cluster-token", token]
        command += ["--initial-advertise-peer-urls", flags["initial-advertise-peer-urls"]]
        await output_of(command, _TOOL_S_MAX, _TOOL_ENV)


async def _raise_incarnation(cluster: ChaosCluster, *, new_codes: bool) -> None:
    """Afterwards no entry of an earlier epoch can be written, and `new_codes` have a generation of their own."""
    keys = cluster.processes.keys
    before = cluster.cluster_incarnation
    then: list[Op] = [Put(keys.incarnation, str(before + 1).encode())]
    guards = [ValueIs(keys.incarnation, str(before).encode())]
    if new_codes:
        then.append(Put(keys.code_key(before), secrets.token_bytes(32).hex().encode()))
    async with etcd_client(cluster.layout.etcd_endpoints) as etcd:
        result = await etcd.txn(Txn(tuple(guards), tuple(then)))
    assert result.succeeded, "nobody else raises the incarnation"
    cluster.cluster_incarnation = before + 1
