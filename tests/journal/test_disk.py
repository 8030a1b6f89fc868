"""The real disk, and what it takes for one."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.types import Epoch, Revision, ShardId
from node.journal.base import Fenced
from node.journal.disk import RealDisk, file_system_type, is_network_file_system
from node.journal.file import FileJournal

MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /mnt/share rw shared:2 master:3 - nfs4 server:/export rw
31 22 254:16 / /mnt/share/local rw - xfs /dev/vdb rw
32 22 0:40 / /mnt/with\\040space rw - fuse.sshfs user@host:/ rw
33 22 0:41 / /data rw - tmpfs tmpfs rw
34 33 0:42 / /data rw - 9p share rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/a/b", "nfs4"),
        ("/mnt/share/local/a", "xfs"),
        ("/mnt/with space/a", "fuse.sshfs"),
        ("/data/journal", "9p"),
    ],
)
def test_file_system_type(path: str, kind: str) -> None:
    """The file system of a path is that of the deepest mount point above it; of two on one point, the later."""
    assert file_system_type(MOUNTS, Path(path)) == kind


def test_network_file_systems() -> None:
    """Network file systems, and FUSE's of which nobody knows, are told from local ones."""
    assert all(
        map(is_network_file_system, ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.rclone", "fuse"])
    )
    assert not any(map(is_network_file_system, ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk"]))


def test_a_cancelled_call_waits_for_its_thread() -> None:
    """A cancelled sync or read ends only when the system call has, so its descriptor is not closed under it."""

    async def scenario() -> None:
        disk = RealDisk(threads=1)
        entered, leave = threading.Event(), threading.Event()
        ended = False

        def system_call() -> None:
            nonlocal ended
            entered.set()
            assert leave.wait(30)
            ended = True

        call = asyncio.create_task(disk.in_thread(system_call))
        await asyncio.to_thread(entered.wait, 30)
        for _ in range(2):
            call.cancel()
            await asyncio.sleep(0)
            assert not call.done()
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended
        disk.close()

    asyncio.run(scenario())


def test_files_of_the_real_disk(tmp_path: Path) -> None:
    """Reads give what was appended, short only at the end of the file; a name is created once."""

    async def scenario() -> None:
        disk = RealDisk()
        await disk.make_directory(tmp_path / "a")
        await disk.make_directory(tmp_path / "a")
        await disk.sync_directory(tmp_path)
        writer = await disk.create(tmp_path / "a" / "b")
        with pytest.raises(FileExistsError):
            await disk.create(tmp_path / "a" / "b")
        assert await writer.append(b"hello ") == 6
        assert await writer.append(b"world") == 5
        await writer.sync()
        writer.close()
        reader = await disk.open(tmp_path / "a" / "b")
        await reader.sync()
        await reader.drop_cache()
        assert await reader.read(0, 5) == b"hello"
        assert await reader.read(6, 100) == b"world"
        assert await reader.read(11, 100) == b""
        reader.close()
        assert await disk.list_directory(tmp_path / "a") == ["b"]
        disk.close()

    asyncio.run(scenario())


OWNER = """
import asyncio, os, sys
from cluster.types import Epoch, Revision, ShardId
from node.journal.disk import RealDisk
from node.journal.file import FileJournal

async def main():
    journal = FileJournal(sys.argv[1], RealDisk())
    owner = await journal.open(ShardId(7), Epoch(1, Revision(2)), lambda entry: print(entry.decode(), flush=True))
    await owner.append(b"from a process that died")
    os._exit(0)

asyncio.run(main())
"""


def test_processes_fence_each_other_by_files_alone(tmp_path: Path) -> None:
    """A process that opens with a higher epoch reads what this one has acknowledged, and fences it."""

    async def scenario() -> None:
        disk = RealDisk()
        journal = FileJournal(tmp_path / "journal", disk)
        shard = ShardId(7)
        first = await journal.open(shard, Epoch(1, Revision(1)), lambda entry: None)
        await first.append(b"acknowledged")
        other = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", OWNER, str(tmp_path / "journal")],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert other.stdout.split("\n")[0] == "acknowledged"
        with pytest.raises(Fenced):
            await first.append(b"late")
        await first.close()
        found: list[bytes] = []
        third = await journal.open(shard, Epoch(2, Revision(1)), found.append)
        assert found == [b"acknowledged", b"from a process that died"]
        await third.close()
        disk.close()

    asyncio.run(scenario())
