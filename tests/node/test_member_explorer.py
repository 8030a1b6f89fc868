"""Whole nodes under everything at once: what may happen to a cluster, in a random order, from a seed."""

import asyncio
import errno
import random
from collections.abc import Callable

import pytest

from cluster.config import JournalKind
from cluster.kv import TOO_MANY_REQUESTS
from tests.fakes.disk import Fail, Fault, Operation
from tests.fakes.etcd_faults import Call, Fate, Leg, Loss
from tests.node.process import Process
from tests.node.world import World, run

NAMES = ["a", "b", "c", "d"]
EVENTS = 14
HEALED_S_MAX = 12.0
"""How long after the last fault everything is served as it should: a lease, a hold-down, and the waits between."""
USERS = 60
TOTAL = 40


class Weather:
    """Between the nodes and etcd: everything takes its time, and while it storms some of it is lost or refused."""

    def __init__(self, rng: random.Random) -> None:
        self.storms = False
        self._rng = rng

    def fate(self, call: Call) -> Fate:
        rng = self._rng
        request, answer = Leg(rng.uniform(0.0005, 0.005)), Leg(rng.uniform(0.0005, 0.005))
        if not self.storms or rng.random() > 0.04:
            return Fate(request, answer)
        losses = [Leg(loss=Loss.BROKEN), Leg(rng.uniform(0.1, 1.5))]
        if call.method not in ("watch", "watch_batch"):  # one message of a stream is never lost alone
            losses.append(Leg(loss=Loss.SILENT))
        what = rng.choice(losses)
        if call.method == "txn" and rng.random() < 0.2:
            return Fate(request, answer, refusal=TOO_MANY_REQUESTS)
        return Fate(what, answer) if rng.random() < 0.5 else Fate(request, what)


class Explorer:
    """One run from one seed: callers, and what happens to the nodes meanwhile."""

    def __init__(self, kind: JournalKind, seed: int) -> None:
        self.rng = random.Random(seed)
        self.weather = Weather(random.Random(seed + 1))
        self.world = World(kind, shards=6, seed=seed, faults=self.weather)
        self.world.disk.intercept = self._fail_now_and_then
        self._bad_disks: set[str] = set()
        self._incarnation = 1
        self._leader_changes = 0
        self._snapshots = [self.world.etcd.snapshot()]
        self._over = False
        self.log: list[str] = []

    async def run(self, world: World) -> None:
        for name in NAMES[:3]:
            world.start(name)
        callers = [asyncio.create_task(self._call()) for _ in range(5)]
        await world.healthy(HEALED_S_MAX)
        self.weather.storms = True
        for _ in range(EVENTS):
            await asyncio.sleep(self.rng.choice([0.0, 0.01, 0.1, 0.3, 0.7, 2.0]))
            event = self.rng.choice(self._events())
            self.log.append(f"{asyncio.get_running_loop().time():.3f} {event.__name__}")
            event()
            world.raise_bugs()
        self._calm()
        async with asyncio.timeout(HEALED_S_MAX):
            for shard in range(world.shards):
                await world.create(world.campaign(shard, 1), 1)
                await world.issue(world.campaign(shard, 1), "last")
        self._over = True
        async with asyncio.timeout(HEALED_S_MAX):
            await asyncio.gather(*callers)
        await world.healthy(HEALED_S_MAX)

    # --- callers ------------------------------------------------------------------------------------------------------

    async def _call(self) -> None:
        while not self._over:
            campaign_id = self.world.campaign(self.rng.randrange(self.world.shards))
            if campaign_id not in self.world.created:
                await self.world.create(campaign_id, TOTAL)
            elif self.rng.random() < 0.3:
                await self.world.read(campaign_id)
            else:
                await self.world.issue(campaign_id, f"user-{self.rng.randrange(USERS)}")
            await asyncio.sleep(self.rng.uniform(0.05, 0.25))

    # --- what happens -------------------------------------------------------------------------------------------------

    def _events(self) -> list[Callable[[], None]]:
        events = [
            self._start,
            self._start,
            self._crash,
            self._crash,
            self._crash_all,
            self._drain,
            self._suspect,
            self._usurp,
            self._usurp,
            self._cut,
            self._cut,
            self._cut_all,
            self._heal,
            self._heal,
            self._step_clock,
            self._part,
            self._raise_incarnation,
            self._change_leader,
        ]
        if self.world.kind == "file":
            # A journal in etcd goes back with it: then what was acknowledged since is lost, and that is known.
            events += [self._restore, self._break_disk, self._break_disk]
        return events

    def _pick(self) -> Process | None:
        living = self.world.living()
        return self.rng.choice(living) if living else None

    def _start(self) -> None:
        names = [name for name in NAMES if name not in {process.name for process in self.world.living()}]
        if names:
            self.world.start(self.rng.choice(names))

    def _crash(self) -> None:
        if process := self._pick():
            process.crash()

    def _crash_all(self) -> None:
        for process in self.world.living():
            process.crash()

    def _drain(self) -> None:
        if process := self._pick():
            process.drain()

    def _suspect(self) -> None:
        one, other = self._pick(), self._pick()
        if one and other and one is not other and other.member.life is not None:
            one.peers.suspect(other.member.life.me)

    def _usurp(self) -> None:
        """An owner that cannot hear of it, and believes for the rest of its lease that it is one."""
        if (process := self._pick()) and process.member.life is not None:
            self.rng.choice([process.cut, process.cut_answers])()
            for other in self.world.living():
                if other is not process:
                    other.peers.suspect(process.member.life.me)

    def _cut(self) -> None:
        if process := self._pick():
            self.rng.choice([process.cut, process.cut_answers, process.cut_requests, process.link.cut])()

    def _cut_all(self) -> None:
        for process in self.world.living():
            process.cut()

    def _heal(self) -> None:
        for process in self.world.living():
            process.heal()

    def _step_clock(self) -> None:
        if process := self._pick():
            process.clock.step_us += self.rng.choice([-600_000, 600_000, 300_000, -300_000])

    def _part(self) -> None:
        one, other = self._pick(), self._pick()
        if one and other and one is not other:
            self.world.apart.add(frozenset((one.address, other.address)))

    def _raise_incarnation(self) -> None:
        self._incarnation += 1
        self.world.set_cluster_incarnation(self._incarnation)

    def _change_leader(self) -> None:
        self._leader_changes += 1
        if self._leader_changes <= 2:  # with more a dead process's lease may last until its id counts as in use
            self.world.etcd.change_leader()
        self._snapshots.append(self.world.etcd.snapshot())

    def _restore(self) -> None:
        self.world.etcd.restore(self.rng.choice(self._snapshots))
        self._raise_incarnation()

    def _break_disk(self) -> None:
        if process := self._pick():
            self._bad_disks ^= {process.client}

    async def _fail_now_and_then(self, operation: Operation) -> Fault | None:
        await asyncio.sleep(self.rng.choice([0.0, 0.0, 0.001, 0.01]))
        if operation.process in self._bad_disks and self.rng.random() < 0.3:
            return Fail(self.rng.choice([errno.EIO, errno.ENOSPC]))
        return None

    def _calm(self) -> None:
        self.weather.storms = False
        self._bad_disks.clear()
        self.world.apart.clear()
        self._heal()
        if not [process for process in self.world.living() if not process.draining]:
            self._start()


def explore(kind: JournalKind, seed: int) -> None:
    explorer: list[Explorer] = []

    async def main(world: World) -> None:
        await explorer[0].run(world)

    def make() -> World:
        explorer.append(Explorer(kind, seed))
        return explorer[0].world

    try:
        run(main, make)
    except BaseException as error:
        error.add_note(f"explore({kind!r}, {seed})\n" + "\n".join(explorer[0].log))
        raise


@pytest.mark.parametrize("first", range(0, 40, 20))
@pytest.mark.parametrize("kind", ["file", "etcd"])
def test_any_order_of_events(kind: JournalKind, first: int) -> None:
    """Whatever happens in whatever order, callers are told nothing that the journal does not bear out, reads included;
    every call is answered once; and the cluster heals by itself."""
    for seed in range(first, first + 20):
        explore(kind, seed)
