"""Everything is lost: etcd, the journal, every process. What `seonchak backup` kept comes back, and goes on."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.config import JournalKind
from tests.cluster.support import Cluster, run, running

pytestmark = pytest.mark.cluster
KEPT = 40
LOST = 25


async def seonchak(*arguments: str) -> tuple[int, str, str]:
    """The command itself: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    return await process.wait(), stdout.decode(), stderr.decode()


async def done(*arguments: str) -> dict[str, Any]:
    code, stdout, stderr = await seonchak(*arguments, "--json")
    assert code == 0, stderr
    answer: dict[str, Any] = json.loads(stdout)
    return answer


async def issue_many(cluster: Cluster, campaign_id: str, first: int, count: int) -> dict[str, str]:
    """Codes by user."""
    users = [f"user-{number}" for number in range(first, first + count)]
    issued = await asyncio.gather(*(cluster.issue(campaign_id, user) for user in users))
    return {user: answer.coupon.code for user, answer in zip(users, issued, strict=True)}


@pytest.mark.parametrize(("journal", "tls"), [("file", False), ("etcd", False), ("etcd", True)])
def test_a_cluster_that_lost_everything_goes_on_from_its_backup(
    tmp_path: Path, journal: JournalKind, tls: bool
) -> None:
    """The backup is taken while the cluster runs. After it: coupons that were there are there, a repetition gets the
    same one, and new ones have codes that nobody was ever given, also not by what is lost."""
    backup, first, second = tmp_path / "backup", tmp_path / "first", tmp_path / "second"
    total = KEPT + 2 * LOST

    async def main() -> None:
        async with running(first, journal, tls=tls) as cluster:
            for campaign_id in ("spring", "autumn"):
                await cluster.create(campaign_id, total)
            kept = await issue_many(cluster, "spring", 0, KEPT)
            counts = (await done("backup", str(backup), "--verify", "--data-dir", str(first)))["counts"]
            assert (counts["campaigns"], counts["coupons"]) == (2, KEPT)
            lost = await issue_many(cluster, "spring", KEPT, LOST)
            shard = cluster.shard("spring")
        shutil.rmtree(first)

        report = await done("restore", str(backup), "--data-dir", str(second), *(["--tls"] if tls else []))
        assert report["ok"]
        assert (report["counts"], report["code_generation"]) == (counts, 1)

        async with running(second, journal, tls=tls) as cluster:
            _, coupons = await cluster.read("spring")
            assert {coupon.user_id: coupon.code for coupon in coupons} == kept
            assert cluster.shard("spring") == shard
            again = await cluster.issue("spring", "user-0")
            assert (again.already_issued, again.coupon.code) == (True, kept["user-0"])
            # They do not know that theirs are gone, and ask again, beside others.
            new = await issue_many(cluster, "spring", KEPT, 2 * LOST)
            assert len(set(new.values())) == 2 * LOST
            assert not set(new.values()) & (set(kept.values()) | set(lost.values())), "a code was given twice"
            with pytest.raises(grpc.aio.AioRpcError, match="all coupons of the campaign are issued"):
                await cluster.issue("spring", "too-late")
            await cluster.check_exact("spring", total)
            # A backup of what was restored is one like any other.
            code, stdout, stderr = await seonchak("backup", str(tmp_path / "again"), "--data-dir", str(second))
            assert code == 0, stderr
            assert f"2 campaigns, {total} coupons" in stdout
            code, _, stderr = await seonchak("verify", "--backup", str(tmp_path / "again"))
            assert code == 0, stderr

    run(main)


def test_what_is_damaged_or_there_is_refused(tmp_path: Path) -> None:
    """A truncated and a bit-flipped backup, by the name of the file, and a data directory that is in use: exit code 1,
    one line, and nothing is written."""
    backup, first, second = tmp_path / "backup", tmp_path / "first", tmp_path / "second"

    async def refused(*arguments: str) -> str:
        code, stdout, stderr = await seonchak(*arguments)
        (said,) = [line for line in stderr.splitlines() if '"audit"' not in line]
        assert (code, stdout) == (1, "")
        assert not second.exists()
        return said

    async def main() -> None:
        async with running(first, "file") as cluster:
            await cluster.create("spring", 10)
            await issue_many(cluster, "spring", 0, 3)
            await done("backup", str(backup), "--data-dir", str(first))
            shard = cluster.shard("spring")
        (segment,) = (backup / "journal" / f"shard-{shard:04}").iterdir()
        whole = segment.read_bytes()
        segment.write_bytes(whole[:-1])
        assert segment.name in await refused("restore", str(backup), "--data-dir", str(second))
        segment.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
        assert segment.name in await refused("restore", str(backup), "--data-dir", str(second))
        assert segment.name in await refused("verify", "--backup", str(backup))
        segment.write_bytes(whole)
        assert f"{first} is not empty" in await refused("restore", str(backup), "--data-dir", str(first))
        assert "exists already" in await refused("backup", str(backup), "--data-dir", str(first))
        assert "no backup" in await refused("restore", str(first), "--data-dir", str(second))

    run(main)
