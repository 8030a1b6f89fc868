"""A node's machine fails as it is told to, at once, and only then."""

import asyncio
import errno
from contextlib import closing
from pathlib import Path

import pytest

from chaos.control import Control, DiskState
from chaos.machine import FailingDisk, SkewedClock
from cluster.types import Epoch, Revision, ShardId
from node.journal.base import AppendRefused, OutcomeUnknown
from node.journal.disk import RealDisk
from node.journal.file import FileJournal


class Clock:
    def wall_us(self) -> int:
        return 1_000_000_000

    def boottime_s(self) -> float:
        return 7.0


def test_both_sides_see_one_file(tmp_path: Path) -> None:
    """What one process writes the other reads, without asking; a file that is there is taken as it is."""
    ours, theirs = Control(tmp_path / "c"), Control(tmp_path / "c")
    assert (theirs.clock_ahead_us, theirs.disk) == (0, DiskState.WELL)
    ours.clock_ahead_us, ours.disk = -5_000_000, DiskState.SYNC_FAILS
    assert (theirs.clock_ahead_us, theirs.disk) == (-5_000_000, DiskState.SYNC_FAILS)
    assert Control(tmp_path / "c").clock_ahead_us == -5_000_000


def test_only_the_wall_clock_is_wrong(tmp_path: Path) -> None:
    """It is ahead by what the harness says; the time since boot is the machine's."""
    control = Control(tmp_path / "c")
    clock = SkewedClock(Clock(), control)
    control.clock_ahead_us = -4_000_000
    assert (clock.wall_us(), clock.boottime_s()) == (996_000_000, 7.0)


@pytest.mark.parametrize(
    ("state", "entry", "error"),
    [
        (DiskState.FULL, b"even", AppendRefused),
        (DiskState.FULL, b"odd", OutcomeUnknown),
        (DiskState.SYNC_FAILS, b"even", OutcomeUnknown),
    ],
)
def test_the_journal_on_a_failing_disk(tmp_path: Path, state: DiskState, entry: bytes, error: type[Exception]) -> None:
    """Nothing written: refused. Half of it written, or not synced: unknown. When the disk is well again, the next
    epoch finds what was acknowledged."""

    async def main() -> None:
        control = Control(tmp_path / "c")
        with closing(RealDisk()) as disk:
            journal = FileJournal(tmp_path / "journal", FailingDisk(disk, control))
            writer = await journal.open(ShardId(0), Epoch(1, Revision(5)), lambda _: None)
            await writer.append(b"acknowledged")
            control.disk = state
            with pytest.raises(error):
                await writer.append(entry)
            with pytest.raises(OutcomeUnknown):
                await journal.open(ShardId(0), Epoch(1, Revision(6)), lambda _: None)
            control.disk = DiskState.WELL
            found: list[bytes] = []
            writer = await journal.open(ShardId(0), Epoch(1, Revision(7)), found.append)
            assert found[0] == b"acknowledged"
            await writer.append(b"again")
            await writer.close()

    asyncio.run(main())


def test_a_failed_sync_loses_what_was_written_since_the_last_one(tmp_path: Path) -> None:
    """Unless there is a later file beside it, whose owner may have read it, and synced it, before."""

    async def main() -> None:
        control = Control(tmp_path / "control")
        with closing(RealDisk()) as disk:
            file = await FailingDisk(disk, control).create(tmp_path / "x1")
            await file.append(b"synced")
            await file.sync()
            for later, left in ((True, b"synced, lost"), (False, b"synced")):
                if later:
                    (tmp_path / "x2").touch()
                    await file.append(b", lost")
                control.disk = DiskState.SYNC_FAILS
                with pytest.raises(OSError, match="Input/output"):
                    await file.sync()
                assert (tmp_path / "x1").read_bytes() == left
                (tmp_path / "x2").unlink(missing_ok=True)
            file.close()

    asyncio.run(main())


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    """With the errno of a full disk, and with nothing written."""

    async def main() -> None:
        control = Control(tmp_path / "c")
        with closing(RealDisk()) as disk:
            file = await FailingDisk(disk, control).create(tmp_path / "file")
            control.disk = DiskState.FULL
            with pytest.raises(OSError, match="No space") as full:
                await file.append(b"even")
            assert full.value.errno == errno.ENOSPC
            assert await file.append(b"odd") == 1
            file.close()
        assert (tmp_path / "file").read_bytes() == b"o"

    asyncio.run(main())
