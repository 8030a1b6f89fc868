"""`seonchak up` as a stranger runs it: real processes, from the first line to the last."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from ops.child import Child, ChildFailed, ChildSpec
from ops.layout import load_layout
from ops.local import LocalCluster, LocalSpec
from ops.status import read_status

pytestmark = pytest.mark.cluster


def run(main: Callable[[], Coroutine[Any, Any, None]], timeout_s: float = 120) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await main()

    asyncio.run(bounded())


async def command(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of `seonchak ARGS`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ops", *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def up(data_dir: Path, *flags: str) -> Child:
    argv = (
        sys.executable,
        "-P",
        "-m",
        "ops",
        "up",
        "--data-dir",
        str(data_dir),
        "--port",
        "0",
        "--shards",
        "8",
        *flags,
    )
    return Child(ChildSpec("up", argv, data_dir.with_suffix(".log"), orphan_signal=signal.SIGTERM))


def test_up_serves_stops_in_order_and_continues(tmp_path: Path) -> None:
    """One line when it serves; a second `up` is refused; SIGTERM ends every child in order; the next has everything."""
    data_dir = tmp_path / "data"

    async def main() -> None:
        process = up(data_dir, "--nodes", "2")
        await process.start()
        line = await process.ready(60)
        assert line == f"ready router={load_layout(data_dir).router_addresses[0]}"
        router = line.removeprefix("ready router=")

        code, out, err = await command("up", "--data-dir", str(data_dir), "--shards", "8", "--port", "0")
        assert (code, out) == (1, "")
        assert "in use" in err

        created = await command(
            "campaign", "create", "봄날", "--total", "2", "--id", "spring", "--router", router, "--json"
        )
        assert json.loads(created[1])["campaign_id"] == "spring"
        code, out, _ = await command("issue", "spring", "ann", "--router", router, "--json")
        coupon = json.loads(out)["coupon"]
        assert (await command("verify", "--data-dir", str(data_dir)))[0] == 0
        assert (await command("status", "--data-dir", str(data_dir)))[0] == 0

        assert await process.stop(60) == 0
        # The journal without the nodes: verify starts etcd for itself.
        code, out, _ = await command("verify", "--data-dir", str(data_dir), "--json")
        report = json.loads(out)
        assert (code, report["ok"], report["coupons"]) == (0, True, 1)

        assert "child_ended_badly" not in process.spec.log_path.read_text()
        await process.start()
        router = (await process.ready(60)).removeprefix("ready router=")
        code, out, _ = await command("coupon", coupon["code"], "--router", router, "--json")
        assert json.loads(out)["coupons"] == [coupon]
        assert await process.stop(60) == 0

        other = up(data_dir, "--journal", "file")
        await other.start()
        with pytest.raises(ChildFailed, match="--journal is file"):
            await other.ready(60)

    run(main)


def test_a_dead_node_comes_back(tmp_path: Path) -> None:
    """kill -9: its shards are taken over, and a second later it runs again."""

    async def main() -> None:
        spec = LocalSpec(tmp_path, nodes=2, shards=8, journal="file")
        async with LocalCluster(spec) as cluster:
            before = cluster.node_pid(0)
            await cluster.kill_node(0)
            while cluster.node_pid(0) == before:
                await asyncio.sleep(0.05)  # the supervisor tells nobody; the test's timeout bounds this
            await cluster.nodes[0].ready(60)
            await cluster.wait_owned()
            status = await read_status(cluster.layout.etcd_endpoints, cluster.keys.prefix, 10)
            assert [node.node_id for node in status.nodes] == ["node-0", "node-1"]
            assert all(not node.error for node in status.nodes)

    run(main)


def test_a_start_that_fails_leaves_nothing_running(tmp_path: Path) -> None:
    """A node that refuses to serve ends the start; what had been started is stopped again."""

    async def main() -> None:
        spec = LocalSpec(tmp_path, nodes=1, shards=8, node_env={"SEONCHAK_EXPECT_SHARDS": "9"})
        cluster = LocalCluster(spec)
        with pytest.raises(ChildFailed, match="shards is 9"):
            await cluster.__aenter__()
        assert not any(child.running for child in (*cluster.etcds, *cluster.nodes, *cluster.routers))

    run(main)


def test_a_killed_up_leaves_nothing_and_the_next_continues(tmp_path: Path) -> None:
    """kill -9 of `up` ends its children, etcd in its own time; a `verify` and an `up` right after it just work."""
    data_dir = tmp_path / "data"

    async def main() -> None:
        process = up(data_dir, "--nodes", "1", "--etcd-members", "3")
        for _ in range(2):
            await process.start()
            router = (await process.ready(60)).removeprefix("ready router=")
            code, _, err = await command("campaign", "create", "봄날", "--total", "2", "--id", "c", "--router", router)
            assert (code, err) == (0, "")
            await process.kill()
        code, out, err = await command("verify", "--data-dir", str(data_dir), "--json")
        assert (code, err) == (0, "")
        assert [campaign["campaign_id"] for campaign in json.loads(out)["campaigns"]] == ["c"]

    run(main)
