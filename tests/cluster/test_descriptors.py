"""A node whose descriptors are used up: those who have a connection are served, and others as soon as it has some."""

import asyncio
import os
import resource
from pathlib import Path

import pytest

from cluster.records import Keyspace
from ops.status import read_status
from tests.cluster.support import Cluster, run, running

pytestmark = pytest.mark.cluster

_LEFT = 8


def test_a_crowd_at_a_node_without_descriptors(tmp_path: Path) -> None:
    """Connections are made to a node until it has no descriptor left, and more: it lives, grants what routers ask for
    that are connected, and hears others when the crowd has gone."""

    async def test() -> None:
        async with running(tmp_path, "etcd", nodes=1) as cluster:
            await cluster.create("c", 100)
            await cluster.issue("c", "before")
            (node,) = cluster.processes.nodes
            open_before = descriptors(node.pid)
            _, hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (open_before + _LEFT, hard))
            host, _, port = cluster.processes.layout.nodes[0].address.rpartition(":")
            crowd = [await asyncio.open_connection(host, int(port)) for _ in range(10 * _LEFT)]
            while descriptors(node.pid) < open_before + _LEFT:
                await asyncio.sleep(0.02)
            for number in range(20):
                await cluster.issue("c", f"meanwhile-{number}")
            for _, writer in crowd:
                writer.transport.abort()
            while not await heard(cluster):
                await asyncio.sleep(0.1)
            await cluster.issue("c", "after")
            assert node.running

    run(test)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def heard(cluster: Cluster) -> bool:
    """On a connection that is new."""
    status = await read_status(cluster.processes.layout.etcd_endpoints, Keyspace().prefix, 5)
    return not [node for node in status.nodes if node.error]
