"""How fast a shard comes back from the `file` journal: `python -m bench.replay`.

A million coupons in one sealed and one open segment; the page cache is dropped before each replay, so the bytes come
from the disk. What is timed is what a takeover does: `open` (read, check, seal, sync) with the ledger at its end.
"""

import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import uvloop

from bench.ledger import COUPONS, SHARD, codec, journal, no_request_id, uuid_request_id
from cluster.types import Epoch, Revision
from node.journal.disk import RealDisk
from node.journal.file import FileJournal
from node.ledger import Ledger
from node.replay import Replayer

ROUNDS = 3


async def write(root: Path, entries: list[bytes]) -> None:
    """Half of the entries under one epoch, half under the next."""
    with closing(RealDisk()) as disk:
        for revision, half in ((100, entries[: len(entries) // 2]), (101, entries[len(entries) // 2 :])):
            writer = await FileJournal(root, disk).open(SHARD, Epoch(1, Revision(revision)), lambda _: None)
            for entry in half:
                await writer.append(entry)
            await writer.close()


async def open_cold(root: Path, segments: list[Path], revision: int) -> float:
    """Seconds from the beginning of `open` to a ledger with every coupon."""
    with closing(RealDisk()) as disk:
        for segment in segments:
            file = await disk.open(segment)
            await file.drop_cache()
            file.close()
        ledger = Ledger(SHARD, codec())
        began_s = time.perf_counter()
        writer = await FileJournal(root, disk).open(SHARD, Epoch(1, Revision(revision)), Replayer(ledger).feed)
        took_s = time.perf_counter() - began_s
        await writer.close()
        if ledger.coupons != COUPONS:
            raise RuntimeError(f"{ledger.coupons} coupons of {COUPONS}")
        return took_s


async def measure() -> None:
    for what, request_id in (("no request ids", no_request_id), ("request ids of 36 characters", uuid_request_id)):
        with tempfile.TemporaryDirectory() as directory:
            entries = journal(COUPONS, request_id)
            await write(Path(directory), entries)
            mib = sum(map(len, entries)) / (1 << 20)
            del entries
            segments = list(Path(directory).glob("*/*.segment"))  # noqa: ASYNC240  # nothing else runs here
            took_s = statistics.median([await open_cold(Path(directory), segments, 200 + n) for n in range(ROUNDS)])
            sys.stdout.write(
                f"{what:<30} {COUPONS:,} coupons, {mib:.0f} MiB: {took_s:.2f} s, {COUPONS / took_s:,.0f} coupons/s\n"
            )


if __name__ == "__main__":
    uvloop.run(measure())
