"""LeaseKeeper: alive while it may be, and never for longer."""

import asyncio
from contextlib import aclosing

import pytest

from cluster.clock import SystemClock
from cluster.kv import Get, Put
from cluster.lease import LeaseKeeper, LeaseLost
from cluster.types import Revision
from tests.etcd.clients import client_of, do, own_range, rpc_of, run
from tests.etcd.hand import HandClock, HandEtcd, unavailable
from tests.fakes.virtual_time import run as run_virtually
from tests.support.etcd_server import EtcdServer
from tests.support.proxy import running_proxy


def keeper_of(etcd: HandEtcd, clock: HandClock, *, endpoints: int = 1) -> LeaseKeeper:
    return LeaseKeeper(etcd.client(endpoints=endpoints, answer_max_s=0.1), clock, ttl_s=3, keepalive_s=0.01)


def test_the_deadline_counts_from_before_the_question() -> None:
    """However long the answer takes: grant and keepalive are worth their ttl from the moment before they were sent."""

    async def test() -> None:
        etcd, clock = HandEtcd(), HandClock()
        keeper = keeper_of(etcd, clock)

        async def slow() -> None:
            clock.now_s += 1.0
            if len(etcd.questions) == 3:
                await asyncio.Event().wait()

        etcd.before_answer = slow
        assert keeper.left_s() < 0
        lease_id = await keeper.acquire()
        assert lease_id == keeper.lease_id
        assert (keeper.deadline_s, keeper.left_s()) == (1003.0, 2.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.08):
                await keeper.keep()
        assert etcd.questions == [lease_id] * 3
        assert keeper.deadline_s == 1002.0 + 3.0

    run_virtually(test())


def test_a_repeated_grant_counts_from_its_own_question() -> None:
    """Time that went by over grants without an answer is not taken from the lease that was granted at last."""

    async def test() -> None:
        etcd, clock = HandEtcd(), HandClock()
        keeper = keeper_of(etcd, clock)

        async def second_time() -> None:
            clock.now_s += 10.0
            if etcd.grants == 1:
                await unavailable()

        etcd.before_answer = second_time
        assert await keeper.acquire() == 2
        assert keeper.deadline_s == 1010.0 + 3.0

    run_virtually(test())


def test_who_was_stopped_sees_on_waking_that_time_is_up() -> None:
    """The clock has passed the deadline when the task runs again: LeaseLost before anything is sent, and for ever."""

    async def test() -> None:
        etcd, clock = HandEtcd(), HandClock()
        keeper = keeper_of(etcd, clock)
        await keeper.acquire()
        keeping = asyncio.create_task(keeper.keep())
        await asyncio.sleep(0)
        clock.now_s += 3.0
        with pytest.raises(LeaseLost):
            await keeping
        assert etcd.questions == []
        with pytest.raises(LeaseLost):
            await keeper.keep()
        assert etcd.questions == []
        assert await keeper.acquire() == 2
        assert keeper.left_s() == 3.0

    run_virtually(test())


def test_an_answer_read_past_the_deadline_revives_nothing() -> None:
    """The process slept over the answer: others may have called the lease lost meanwhile, so it is."""

    async def test() -> None:
        etcd, clock = HandEtcd(), HandClock()
        keeper = keeper_of(etcd, clock)
        await keeper.acquire()
        clock.now_s += 1.0

        async def asleep() -> None:
            clock.now_s += 2.5

        etcd.before_answer = asleep
        with pytest.raises(LeaseLost):
            await keeper.keep()
        assert (keeper.deadline_s, keeper.left_s()) == (1003.0, -0.5)
        assert len(etcd.questions) == 1

    run_virtually(test())


def test_no_such_lease_is_the_end_at_once() -> None:
    """etcd's word that there is no such lease ends it, whatever time seemed to be left."""

    async def test() -> None:
        etcd, clock = HandEtcd(), HandClock()
        keeper = keeper_of(etcd, clock)
        await keeper.acquire()
        etcd.ttl_s = 0
        with pytest.raises(LeaseLost):
            await keeper.keep()
        assert keeper.left_s() < 0

    run_virtually(test())


def test_a_missing_answer_changes_the_endpoint() -> None:
    """A keepalive without an answer is asked again, on a new stream at the next endpoint."""

    async def test() -> None:
        etcd, clock = HandEtcd(), HandClock()
        keeper = keeper_of(etcd, clock, endpoints=2)

        async def only_two_are_answered() -> None:
            if len(etcd.questions) not in (2, 3):
                await asyncio.Event().wait()
            clock.now_s += 0.5

        await keeper.acquire()
        etcd.before_answer = only_two_are_answered
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await keeper.keep()
        assert len(etcd.questions) > 2
        assert keeper.deadline_s > 1003.0

    run_virtually(test())


def test_it_lives_over_many_ttls(etcd: EtcdServer) -> None:
    """A kept lease outlives its ttl several times over; given up, it is gone at once with its keys."""

    async def test() -> None:
        key, _ = own_range()
        async with rpc_of(etcd.endpoint) as rpc, client_of(etcd.endpoint) as client:
            keeper = LeaseKeeper(client, SystemClock(), ttl_s=1, keepalive_s=0.2)
            lease_id = await keeper.acquire()
            await do(rpc, Put(key, b"", lease_id))
            keeping = asyncio.create_task(keeper.keep())
            await asyncio.sleep(4.0)
            assert len((await rpc.get(Get(key))).kvs) == 1
            assert 0 < keeper.left_s() <= 1
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await keeper.release()
            assert keeper.left_s() < 0
            assert (await rpc.get(Get(key))).kvs == ()

    run(test())


def test_a_one_way_cut_ends_the_lease_for_good(etcd: EtcdServer) -> None:
    """Questions arrive, answers do not: at the deadline the keeper stops asking, so that etcd's lease runs out too,
    though the way is free again."""

    async def test() -> None:
        key, _ = own_range()
        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint) as client,
        ):
            clock = SystemClock()
            keeper = LeaseKeeper(client, clock, ttl_s=2, keepalive_s=0.2)
            lease_id = await keeper.acquire()
            written = await do(rpc, Put(key, b"", lease_id))
            keeping = asyncio.create_task(keeper.keep())
            await asyncio.sleep(0.5)
            proxy.down.hold()
            with pytest.raises(LeaseLost):
                await keeping
            assert clock.boottime_s() >= keeper.deadline_s
            proxy.heal()
            # It comes only if nobody renews any more: `run` bounds it.
            async with aclosing(rpc.watch(key, None, Revision(written.revision + 1))) as watch:
                assert (await anext(watch)).events[0].deleted
            await proxy.cut()

    run(test())
