"""When a router says over gRPC's health that it is ready, and when that it is not."""

import asyncio

from grpc_health.v1 import health_pb2

from cluster.health import NOT_SERVING, SERVING, Health
from router.api import SERVICE_NAME
from router.health import PATIENCE_S, Readiness
from tests.fakes.virtual_time import run as run_virtually
from tests.router.fake_node import running_node
from tests.router.rig import Rig, rig, run


def state(health: Health) -> int:
    answer = health.check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    assert answer is not None
    return int(answer.status)


class Bench:
    """A readiness that is told what the test says."""

    def __init__(self) -> None:
        self.health = Health()
        self.why = ""
        self.readiness = Readiness(self.health, lambda: self.why)
        self.told: list[int] = []

    def say(self, why: str) -> None:
        self.why = why
        self.readiness.refresh()

    async def watch(self) -> None:
        async for answer in self.health.watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME)):
            self.told.append(answer.status)


def test_it_begins_as_it_is() -> None:
    """Who has just come and cannot serve says so at once; and when it can, at once."""

    async def test() -> None:
        bench = Bench()
        bench.say("1 of 8 shards have no owner")
        assert state(bench.health) == NOT_SERVING
        bench.say("")
        assert state(bench.health) == SERVING

    run_virtually(test())


def test_a_failover_is_not_told() -> None:
    """Shards without an owner for less than PATIENCE_S, again and again: whoever watches hears nothing."""

    async def test() -> None:
        bench = Bench()
        bench.say("")
        watching = asyncio.create_task(bench.watch())
        for _ in range(3):
            bench.say("8 of 8 shards have no owner")
            await asyncio.sleep(PATIENCE_S - 1)
            bench.say("7 of 8 shards have no owner")
            await asyncio.sleep(0.9)
            bench.say("")
            await asyncio.sleep(PATIENCE_S)
        assert bench.told == [SERVING]
        watching.cancel()

    run_virtually(test())


def test_what_lasts_is_told() -> None:
    """After PATIENCE_S from when it began, whatever else changes meanwhile; once, and so is its end."""

    async def test() -> None:
        bench = Bench()
        bench.say("")
        watching = asyncio.create_task(bench.watch())
        bench.say("8 of 8 shards have no owner")
        await asyncio.sleep(PATIENCE_S - 0.1)
        bench.say("7 of 8 shards have no owner")
        assert state(bench.health) == SERVING
        await asyncio.sleep(0.2)
        assert state(bench.health) == NOT_SERVING
        bench.say("6 of 8 shards have no owner")
        await asyncio.sleep(2 * PATIENCE_S)
        bench.say("")
        await asyncio.sleep(1)
        assert bench.told == [SERVING, NOT_SERVING, SERVING]
        watching.cancel()

    run_virtually(test())


def test_it_is_asked_when_the_owners_have_changed() -> None:
    """With the first view and with each change, when the dispatcher knows of it; nobody polls."""

    async def test() -> None:
        routers: list[Rig] = []
        unowned: asyncio.Queue[int | None] = asyncio.Queue()

        def on_change() -> None:
            unowned.put_nowait(len(routers[0].dispatcher.unowned()) if routers else None)

        async with running_node() as node, rig(on_change=on_change) as router:
            assert await unowned.get() is None
            routers.append(router)
            router.own(node)
            assert await unowned.get() == 0
            router.disown("c")
            assert await unowned.get() == 1
            assert unowned.empty()

    run(test())
