"""One run from one seed: a cluster, its clients, trouble, healing, and the verdict."""

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from chaos.history import Call, Outcome
from cluster.config import JournalKind
from tests.sim.clients import Recorder
from tests.sim.judge import judge
from tests.sim.loop import SimLoop, Stuck
from tests.sim.plants import PLANTS
from tests.sim.trouble import Focus, Trouble
from tests.sim.workload import Workload
from tests.sim.world import Shape, World

TROUBLE_S = (1.5, 4.0)
"""How long it lasts."""
HEALED_S_MAX = 25.0
"""How long after the last trouble every call has been answered: a lease or two, a hold-down, pauses between tries."""
RUN_S_MAX = 90.0


@dataclass(frozen=True, slots=True)
class Result:
    seed: int
    kind: JournalKind
    violations: tuple[str, ...]
    totals: Counter[str]
    points: Counter[str]
    log: tuple[str, ...] = field(repr=False)


def simulate(
    seed: int,
    kind: JournalKind | None = None,
    plant: str = "",
    *,
    focus: Focus | None = None,
    with_log: bool = True,
) -> Result:
    """
    Args:
        kind: of the journal; None: the seed picks.
        plant: of PLANTS; "": production code as it is.
        focus: what happens; None: what the plant says, else what the seed picks.
        with_log: the result has the log.
    """
    rng = random.Random(f"seed {seed}")
    picked: JournalKind = rng.choice(["file", "etcd"])
    shape = Shape(
        kind=kind or picked,
        shards=rng.randrange(2, 5),
        nodes=rng.choice([2, 3, 3]),
        routers=rng.choice([1, 2, 2]),
        lease_ttl_s=rng.choice([2, 3]),
        standby_coupons_max=rng.choice([0, 30, 1_000, 1_000]),
        fixed_addresses=rng.random() < 0.5,
    )
    loop = SimLoop()  # type: ignore[abstract]  # files, sockets and threads: nothing here has any
    world = World(loop, str(seed), shape)
    # Memory is let go of in the same order every time: cycles wait until the run is over.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with PLANTS[plant].planted() if plant else _nothing(), _logs_to(world):
            _run(loop, world, PLANTS[plant].focus if plant and focus is None else focus)
    finally:
        loop.close()
        gc.collect(0)  # what the run has left: nothing else is that young
        if collecting:
            gc.enable()
    return Result(
        seed,
        shape.kind,
        tuple(world.journals.violations + world.violations),
        world.totals + world.journals.totals,
        world.points,
        tuple(world.log()) if with_log else (),
    )


def _run(loop: SimLoop, world: World, focus: Focus | None) -> None:
    try:
        loop.run(_main(world, focus))
    except Stuck as stuck:
        world.violated(f"stuck: {stuck}")
    loop.run(_bury(world))
    for context in loop.unheard:
        world.violated(f"nobody heard of: {context.get('message')}: {context.get('exception')!r}")


async def _main(world: World, focus: Focus | None) -> None:
    world.note("seed", seed=world.seed, shape=world.shape)
    recorder = Recorder(world)
    workload = Workload(world, recorder)
    trouble = Trouble(world, focus)
    for name in (*world.node_names, *world.router_names):
        world.start(name)
    working = asyncio.create_task(workload.run())
    reads: list[Call] = []
    try:
        async with asyncio.timeout(RUN_S_MAX):
            await world.until(lambda: workload.offers[0].created, 5.0)
            await trouble.run(world.rng.uniform(*TROUBLE_S))
            trouble.heal()
            await asyncio.sleep(0.5)
            workload.stop()
            async with asyncio.timeout(HEALED_S_MAX):
                await asyncio.wait([working])
                working.result()
                reads = await workload.serve_all()
    except TimeoutError:
        world.violated(f"not healed: {recorder.open} calls are open")
    trouble.close()
    _look_at_processes(world)
    for process in list(world.processes.values()):
        process.kill()
    if world.shape.kind == "file":
        world.disk.power_cut(world.rng)
    await judge(world, recorder.calls, reads)
    _count(world, recorder.calls)


def _look_at_processes(world: World) -> None:
    """None ends by itself but when it was asked to."""
    for process in world.processes.values():
        if process.running.done() and not process.running.cancelled() and (bug := process.running.exception()):
            world.violated(f"{process.client} has ended: {bug!r}")
            world.note("bug", chain=_chain(bug))
    for bug in world.network.bugs:
        world.violated(f"a server has failed: {bug!r}")


def _chain(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [line for inner in error.exceptions for line in _chain(inner)]
    return [repr(error)]


async def _bury(world: World) -> None:
    """Let go of everything that is left, in order. Nothing of it can reach anybody."""
    for process in world.processes.values():
        process.dead = False
        process._gone()
        process.trap = None
        world.loop.resume(process.cpu)
    world.network.join()
    this = asyncio.current_task()
    for _ in range(20):
        left = [task for task in world.loop.unfinished() if task is not this]
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=5.0)
    world.violated(f"will not end: {left}")


def _count(world: World, calls: list[Call]) -> None:
    totals = world.totals
    totals["runs"] += 1
    totals["virtual seconds"] += int(world.loop.time())
    totals["messages"] += world.network.messages
    totals["calls"] += len(calls)
    for call in calls:
        totals["grants"] += call.is_grant
        totals["already issued"] += call.already_issued
        totals["calls of unknown outcome"] += call.outcome is Outcome.UNKNOWN
        if call.outcome is Outcome.REFUSED:
            totals[f"refused {call.reason}"] += 1


@contextmanager
def _logs_to(world: World) -> Iterator[None]:
    """Production code's events go into the run's log."""

    def hear(logger: Any, level: str, event: Any) -> Any:
        world.hear(event)
        raise structlog.DropEvent

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[hear])
    try:
        yield
    finally:
        structlog.configure(processors=before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
