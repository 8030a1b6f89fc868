"""The harness of the chaos runs, on a real cluster."""

import asyncio
from pathlib import Path

import pytest

from chaos.cluster import ChaosSpec, running
from ops.ports import ReservedPorts
from tests.cluster.support import run

pytestmark = pytest.mark.cluster


def test_an_etcd_that_is_about_to_end_does_not_stop_the_verdict(tmp_path: Path) -> None:
    """It has been killed, and nobody has noticed yet: it is started again, and the journal is read."""

    async def main() -> None:
        async with running(ChaosSpec(tmp_path, "etcd", nodes=1, routers=1)) as cluster:
            await cluster.end_nodes()
            for member in cluster.etcds:
                cluster.signal_kill(member)
                assert cluster.runs(member)
            report = await cluster.reread(())
            assert report.ok, report.violations
            assert report.cluster_id == cluster.processes.config.cluster_id

    run(main)


def test_a_cluster_has_its_ports_while_its_servers_are_dead(tmp_path: Path) -> None:
    """No other cluster can choose them, whoever was killed; when it is gone, every one of them can be had."""

    async def main() -> None:
        async with running(ChaosSpec(tmp_path, "file", nodes=1, routers=1)) as cluster:
            layout = cluster.layout
            ports = [place.port for place in (*layout.etcd, *layout.nodes, *layout.routers)]
            ports += [member.peer_port for member in layout.etcd]
            await cluster.end_nodes()
            with ReservedPorts() as others:
                assert not any(others.reserve(port) for port in ports)
        with ReservedPorts() as others:
            assert all(others.reserve(port) for port in ports)

    run(main)


def test_a_twin_reaches_etcd_where_the_network_is_proxied(tmp_path: Path) -> None:
    """A second process with a living node's id goes the node's own ways, and ends because of the id, not because it
    reaches nobody."""

    async def main() -> None:
        async with running(ChaosSpec(tmp_path, "file", proxied=True)) as cluster, cluster.twin("node-0") as twin:
            async with asyncio.timeout(20):
                assert await twin.wait() != 0
            assert "belongs to the living" in twin.log_tail()

    run(main)
