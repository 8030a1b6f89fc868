"""How long things take between the processes and etcd or the disk, and what goes wrong on the way while it storms."""

import asyncio
import errno
import random
from typing import TYPE_CHECKING

from cluster.kv import TOO_MANY_REQUESTS, Txn
from tests.fakes.disk import Fail, Fault, Operation, Short
from tests.fakes.etcd_faults import Call, Fate, Leg, Loss
from tests.sim.points import purpose

if TYPE_CHECKING:
    from tests.sim.world import World


class Weather:
    """Implements tests.fakes.etcd_faults.Faults, and tests.fakes.disk.Interceptor by `of_disk`."""

    def __init__(self, world: "World", rng: random.Random) -> None:
        self.storm = 0.0
        """The share of etcd's messages that something happens to."""
        self.late: dict[str, float] = {}
        """By process: the share of its Txns whose request or answer is late, or whose answer is lost."""
        self.late_news: dict[str, float] = {}
        """By process: seconds that what it watches takes to come, on average."""
        self.bad_disks: dict[str, float] = {}
        """By process: the share of its operations that fail."""
        self.slow_sync: dict[str, float] = {}
        """By process: seconds that a sync takes on average."""
        self.late_s = 1.5
        self._world = world
        self._rng = rng

    # --- etcd ---------------------------------------------------------------------------------------------------------

    def fate(self, call: Call) -> Fate:
        rng = self._rng
        if isinstance(call.request, Txn) and (what := purpose(call.request)):
            process = self._world.processes.get(call.client)
            if process is not None:
                process.pass_by(f"{what}.sent")
        request, answer = Leg(rng.uniform(0.0003, 0.002)), Leg(rng.uniform(0.0003, 0.002))
        if call.method == "watch_batch" and (mean_s := self.late_news.get(call.client)):
            return Fate(request, Leg(rng.expovariate(1 / mean_s)))
        if call.method == "txn" and rng.random() < self.late.get(call.client, 0.0):
            late = Leg(rng.uniform(0.05, self.late_s))
            return rng.choice([Fate(late, answer), Fate(request, late), Fate(request, Leg(loss=Loss.SILENT))])
        if not self.storm or rng.random() > self.storm:
            return Fate(request, answer)
        losses = [Leg(loss=Loss.BROKEN), Leg(rng.uniform(0.1, self.late_s)), Leg(rng.uniform(0.1, self.late_s))]
        if call.method not in ("watch", "watch_batch"):  # one message of a stream is never lost alone
            losses.append(Leg(loss=Loss.SILENT))
        what_happens = rng.choice(losses)
        if call.method == "txn" and rng.random() < 0.15:
            return Fate(request, answer, refusal=TOO_MANY_REQUESTS)
        return Fate(what_happens, answer) if rng.random() < 0.5 else Fate(request, what_happens)

    # --- the disk -----------------------------------------------------------------------------------------------------

    async def of_disk(self, operation: Operation) -> Fault | None:
        rng = self._rng
        if operation.kind == "sync":
            mean_s = self.slow_sync.get(operation.process)
            await asyncio.sleep(rng.uniform(0.0003, 0.002) if mean_s is None else rng.expovariate(1 / mean_s))
        bad = self.bad_disks.get(operation.process)
        if bad is None or rng.random() > bad:
            return None
        self._world.totals["disk faults"] += 1
        if operation.kind == "append" and rng.random() < 0.5:
            return Short(rng.randrange(20))
        return Fail(rng.choice([errno.EIO, errno.ENOSPC]))

    def clear_up(self) -> None:
        self.storm = 0.0
        self.late.clear()
        self.late_news.clear()
        self.bad_disks.clear()
        self.slow_sync.clear()
