"""etcd lost members: the runbook's *etcd loses its quorum*, on real members."""

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ops.child import Child, ChildSpec
from ops.etcd import find_etcd, start_member, wait_healthy
from ops.ports import ReservedPorts
from tests.cluster.support import Cluster, run, running
from tests.cluster.test_restore import done, issue_many

pytestmark = pytest.mark.cluster


def member_dir(data_dir: Path, name: str) -> Path:
    return data_dir / "etcd" / name


def test_one_member_is_left(tmp_path: Path) -> None:
    """The majority's data is gone. What the one that is left has is read from it, alone, and restored into three new
    ones: every coupon that was granted is there, and codes of after are of the next generation."""
    first, second, backup = tmp_path / "first", tmp_path / "second", tmp_path / "backup"

    async def main() -> None:
        async with running(first, "etcd", etcd_members=3) as cluster:
            await cluster.create("spring", 40)
            kept = await issue_many(cluster, "spring", 0, 20)
        for name in ("etcd-0", "etcd-2"):
            shutil.rmtree(member_dir(first, name))
        with ReservedPorts() as ports:
            left = await alone(first, "etcd-1", ports)
            try:
                manifest = await done("backup", str(backup), "--verify", "--etcd", left.name)
            finally:
                await left.stop(20)
        assert manifest["counts"]["coupons"] == 20
        report = await done("restore", str(backup), "--data-dir", str(second), "--etcd-members", "3")
        assert report["cluster_incarnation"] > manifest["cluster_incarnation"]
        async with running(second, "etcd", etcd_members=3) as cluster:
            _, coupons = await cluster.read("spring")
            assert {coupon.user_id: coupon.code for coupon in coupons} == kept
            new = await issue_many(cluster, "spring", 20, 20)
            assert not set(new.values()) & set(kept.values())
            await cluster.check_exact("spring", 40)

    run(main)


async def alone(data_dir: Path, name: str, ports: ReservedPorts) -> Child:
    """The member by itself, named by its address; a majority of the members that it knows is not there."""
    address, peer = f"127.0.0.1:{ports.take()}", f"127.0.0.1:{ports.take()}"
    argv = (
        str(find_etcd().path),
        f"--name={name}",
        f"--data-dir={member_dir(data_dir, name)}",
        f"--listen-client-urls=http://{address}",
        f"--advertise-client-urls=http://{address}",
        f"--listen-peer-urls=http://{peer}",
        "--force-new-cluster",
    )
    child = Child(ChildSpec(address, argv, data_dir / "logs" / "left.log", says_ready=False))
    await child.start()
    return child


@pytest.mark.skipif(shutil.which("etcdctl") is None, reason="etcdctl is not installed: apt-get install etcd-client")
def test_one_member_is_gone_for_good(tmp_path: Path) -> None:
    """While the cluster serves, an empty one takes its place: out of the members, into them again, `existing`. Then
    another member may fail."""

    async def main() -> None:
        async with running(tmp_path / "data", "etcd", etcd_members=3) as cluster:
            await cluster.create("spring", 30)
            await issue_many(cluster, "spring", 0, 10)
            gone, other = cluster.processes.etcds[2], cluster.processes.etcds[1]
            await gone.kill()
            shutil.rmtree(member_dir(tmp_path / "data", gone.name))
            await issue_many(cluster, "spring", 10, 10)
            members = json.loads(await etcdctl(cluster, "member", "list", "--write-out=json"))["members"]
            (found,) = [member for member in members if member["name"] == gone.name]
            await etcdctl(cluster, "member", "remove", f"{found['ID']:x}")
            await etcdctl(cluster, "member", "add", gone.name, f"--peer-urls={found['peerURLs'][0]}")
            argv = tuple(word.replace("state=new", "state=existing") for word in gone.spec.argv)
            assert argv != gone.spec.argv
            fresh = Child(replace(gone.spec, argv=argv))
            member = cluster.processes.layout.members[2]
            try:
                await start_member(member, fresh, 60)
                await wait_healthy(member, fresh, 60)
                await other.kill()
                await issue_many(cluster, "spring", 20, 10)
                await cluster.check_exact("spring", 30)
            finally:
                await fresh.stop(20)

    run(main)


async def etcdctl(cluster: Cluster, *words: str) -> str:
    """Again for as long as a new leader has not known the others for long enough: it says `unhealthy cluster` then."""
    endpoints = ",".join(cluster.processes.layout.etcd_endpoints[:2])
    while True:
        process = await asyncio.create_subprocess_exec(
            *("etcdctl", f"--endpoints={endpoints}", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, erred = await process.communicate()
        if process.returncode == 0:
            return said.decode()
        assert b"unhealthy cluster" in erred, erred.decode()
        await asyncio.sleep(0.5)  # the test's timeout bounds it
