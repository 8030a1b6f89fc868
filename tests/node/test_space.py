"""How full etcd is: heard from every member, said once, and told to whoever begins a campaign."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from cluster.kv import Put, StoreSize, Txn
from cluster.session import EtcdClient
from node.space import EtcdSpace, Level, fullest
from tests.fakes import virtual_time
from tests.fakes.etcd import FakeEtcd
from tests.fakes.etcd_faults import Script
from tests.metrics.reading import said

QUOTA = 1_000_000


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await main()

    virtual_time.run(bounded())


@pytest.mark.parametrize(
    ("db_bytes", "level"),
    [
        (0, Level.AMPLE),
        (499, Level.AMPLE),
        (500, Level.LOW),
        (700, Level.LOW),
        (701, Level.SCARCE),
        (1_000, Level.SCARCE),
    ],
)
def test_the_levels(db_bytes: int, level: Level) -> None:
    """A warning from a half on, long before the quota; no campaigns above 70%."""
    fill = fullest([StoreSize(db_bytes, 0, 0)], 1_000)
    assert fill is not None
    assert fill.level is level


def test_the_fullest_member_counts() -> None:
    """Each by its own quota, where it says it: etcd stops for all members when one of them is full."""
    sizes = [StoreSize(10, 9, 0), StoreSize(60, 50, 80), StoreSize(70, 60, 0)]
    fill = fullest(sizes, 100)
    assert fill is not None
    assert (fill.used, fill.quota_bytes) == (0.75, 80)
    assert fullest([], 100) is None


def test_what_was_heard_is_handed_out() -> None:
    """Of the fullest member; nothing before any has answered."""

    async def main() -> None:
        etcd = FakeEtcd()
        client = EtcdClient(["etcd:1"], etcd.connect, rng=random.Random(1))
        space = EtcdSpace(client, quota_bytes=QUOTA, check_s=10.0)
        assert said(space) == {}
        space.fill = fullest([StoreSize(10, 9, 0), StoreSize(60, 50, 80)], QUOTA)
        assert said(space) == {
            ("etcd_database_bytes",): 60,
            ("etcd_database_in_use_bytes",): 50,
            ("etcd_quota_bytes",): 80,
        }

    run(main)


def test_it_is_said_once_and_taken_back() -> None:
    """LOW, then SCARCE, each once however often it is looked; when there is room again campaigns may begin again."""

    async def main() -> None:
        etcd = FakeEtcd()
        client = EtcdClient(["etcd:1"], etcd.connect, rng=random.Random(1))
        space = EtcdSpace(client, quota_bytes=QUOTA, check_s=10.0)
        assert space.has_room()
        connection = etcd.connect("etcd:1")

        async def filled(fraction: float) -> bool:
            """How it is, two looks after the store has been filled so far."""
            await connection.txn(Txn((), (Put("filler", bytes(int(fraction * QUOTA))),)))
            etcd.store.compact(etcd.store.revision)
            await asyncio.sleep(25.0)
            return space.has_room()

        with capture_logs() as logs:
            watching = asyncio.create_task(space.watch())
            assert await filled(0.3)
            assert await filled(0.55)
            assert not await filled(0.75)
            assert await filled(0.2)
            watching.cancel()
        told = [(line["event"], line["log_level"]) for line in logs if line["event"].startswith("etcd_space")]
        assert told == [("etcd_space_low", "warning"), ("etcd_space_scarce", "error"), ("etcd_space_ample", "info")]

    run(main)


def test_members_that_do_not_answer_change_nothing() -> None:
    """One of three that is away is left out; with all of them away the last that was heard stays."""

    async def main() -> None:
        asked = Script()
        etcd = FakeEtcd(asked)
        endpoints = ["etcd:1", "etcd:2", "etcd:3"]
        client = EtcdClient(endpoints, etcd.connect, rng=random.Random(1))
        space = EtcdSpace(client, quota_bytes=QUOTA, check_s=1.0)
        etcd.link("etcd:2", "").cut()
        await etcd.connect("etcd:9").txn(Txn((), (Put("filler", bytes(QUOTA)),)))
        watching = asyncio.create_task(space.watch())
        await asyncio.sleep(2.5)
        assert not space.has_room()
        assert {call.endpoint for call in asked.calls if call.method == "size"} == {"etcd:1", "etcd:3"}
        for endpoint in endpoints:
            etcd.link(endpoint, "").cut()
        await asyncio.sleep(5)
        assert not space.has_room()
        assert not watching.done()
        watching.cancel()

    run(main)
