"""What a shard's pure core costs: `python -m bench.ledger`. Prints microseconds, coupons a second and bytes a coupon.

Every figure is the best of a few runs, since the noise of a shared machine only ever adds. Memory is measured in a
process of its own: the growth of its resident set from an empty ledger to a million coupons.
"""

import gc
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from cluster.codes import CodeCodec
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.commands import CreateCampaign, IssueCoupon, Issued
from node.entries import Header, encode
from node.events import Event
from node.ledger import Ledger
from node.replay import Replayer

SHARD = ShardId(7)
HEADER = Header(SHARD, Epoch(1, Revision(100)), Incarnation(NodeId("node-1"), LeaseId(0x1234)))
NOW_US = 1_800_000_000_000_000
ROUND_CALLS = 256
COUPONS = 1_000_000


def codec() -> CodeCodec:
    return CodeCodec({0: bytes(32)})


def no_request_id(_: int) -> str:
    return ""


def uuid_request_id(index: int) -> str:
    return str(uuid.UUID(int=index))


def seller(per_user_limit: int = 1) -> tuple[Ledger, tuple[Event, ...]]:
    """A ledger with one campaign that has begun, and the events that made it so."""
    ledger = Ledger(SHARD, codec())
    create = CreateCampaign("bench", "테스트캠페인", 100_000_000, per_user_limit, None, None)
    decision = ledger.handle(create, NOW_US)
    ledger.committed()
    return ledger, decision.events


def journal(coupons: int, request_id: Callable[[int], str], per_user_limit: int = 1) -> list[bytes]:
    """The entries of a campaign that issued so many, ROUND_CALLS a round."""
    ledger, created = seller(per_user_limit)
    entries = [encode(HEADER, 0, NOW_US, created)]
    for first in range(0, coupons, ROUND_CALLS):
        events: list[Event] = []
        for index in range(first, min(first + ROUND_CALLS, coupons)):
            command = IssueCoupon("bench", f"user-{index:07}", request_id(index))
            events += ledger.handle(command, NOW_US + index).events
        entries.append(encode(HEADER, len(entries), NOW_US, events))
        ledger.committed()
    return entries


def best_us(work: Callable[[], object], count: int, runs: int = 5) -> float:
    """Microseconds for one of the `count` pieces of `work`."""
    best = float("inf")
    for _ in range(runs):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best / count * 1e6


def code_us() -> float:
    coder, count = codec(), 20_000
    return best_us(lambda: [coder.encode("테스트", SHARD, counter) for counter in range(count)], count)


def issue_us(request_id: Callable[[int], str], per_user_limit: int = 1) -> float:
    count, best = 20_000, float("inf")
    commands = [IssueCoupon("bench", f"user-{index:07}", request_id(index)) for index in range(count)]
    for _ in range(5):
        ledger, _ = seller(per_user_limit)

        def issue(ledger: Ledger = ledger) -> None:
            for command in commands:
                assert isinstance(ledger.handle(command, NOW_US).answer, Issued)

        best = min(best, best_us(issue, count, runs=1))
    return best


def sold_out_us() -> float:
    ledger = Ledger(SHARD, codec())
    ledger.handle(CreateCampaign("bench", "테스트캠페인", 1, 1, None, None), NOW_US)
    ledger.handle(IssueCoupon("bench", "first", ""), NOW_US)
    command, count = IssueCoupon("bench", "late", ""), 20_000
    return best_us(lambda: [ledger.handle(command, NOW_US) for _ in range(count)], count)


def replay_per_s(request_id: Callable[[int], str], coupons: int = 200_000, per_user_limit: int = 1) -> float:
    entries = journal(coupons, request_id, per_user_limit)

    def replay() -> None:
        replayer = Replayer(Ledger(SHARD, codec()))
        for entry in entries:
            replayer.feed(entry)
        assert replayer.ledger.coupons == coupons

    return 1e6 / best_us(replay, coupons, runs=3)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def memory(request_id: Callable[[int], str], per_user_limit: int) -> float:
    """Bytes of resident set for each of a million coupons. Meant for a fresh process."""
    ledger, _ = seller(per_user_limit)
    gc.collect()
    before = rss_bytes()
    for index in range(COUPONS):
        ledger.handle(IssueCoupon("bench", f"user-{index:07}", request_id(index)), NOW_US + index)
        if index % ROUND_CALLS == 0:
            ledger.committed()
    gc.collect()
    return (rss_bytes() - before) / COUPONS


def memory_in_fresh_process(which: str) -> float:
    command = [sys.executable, "-m", "bench.ledger", "memory", which]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


MEMORY: dict[str, tuple[Callable[[int], str], int]] = {
    "no request ids": (no_request_id, 1),
    "request ids of 36 characters": (uuid_request_id, 1),
    "request ids of 36 characters, per_user_limit 2": (uuid_request_id, 2),
}


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        sys.stdout.write(f"{memory(*MEMORY[sys.argv[2]])}\n")
        return
    show("a code", code_us(), "µs")
    show("an issue, no request id", issue_us(no_request_id), "µs")
    show("an issue, request id of 36 characters", issue_us(uuid_request_id), "µs")
    show("an issue, the same, per_user_limit 2", issue_us(uuid_request_id, 2), "µs")
    show("a refusal, sold out", sold_out_us(), "µs")
    show(f"replay, {ROUND_CALLS} a round, no request ids", replay_per_s(no_request_id), "coupons/s")
    show("replay, request ids of 36 characters", replay_per_s(uuid_request_id), "coupons/s")
    show("replay, the same, per_user_limit 2", replay_per_s(uuid_request_id, per_user_limit=2), "coupons/s")
    for which in MEMORY:
        show(f"memory, {which}", memory_in_fresh_process(which), "bytes/coupon")


def show(what: str, figure: float, unit: str) -> None:
    sys.stdout.write(f"{what:<60} {figure:12,.1f} {unit}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
