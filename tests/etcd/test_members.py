"""A cluster of three members, one of which freezes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import structlog

from cluster.clock import SystemClock
from cluster.kv import Get
from cluster.lease import LeaseKeeper
from cluster.watch import Changes, Snapshot
from tests.etcd.clients import client_of, own_range, put, rpc_of, run
from tests.support.etcd_server import running_etcd

log = structlog.get_logger()


async def next_of(watch: AsyncIterator[Snapshot | Changes]) -> Snapshot | Changes:
    return await anext(watch)


def test_a_frozen_member_is_left(tmp_path: Path) -> None:
    """The member that a client talks to is stopped: reads, the watch and the lease go on at another, nothing is missed
    and the lease is not lost. The same when that one is killed and the first is awake again."""

    async def test() -> None:
        start, end = own_range()
        with running_etcd(tmp_path, members=3) as servers:
            # Followers first: the cluster stays able to serve while one of them is frozen.
            first, second, leader = sorted(servers, key=lambda server: server.leads())
            async with (
                rpc_of(leader.endpoint) as rpc,
                client_of(first.endpoint, second.endpoint, leader.endpoint) as client,
                aclosing(client.watch(start, end)) as watch,
                asyncio.TaskGroup() as group,
            ):
                keeper = LeaseKeeper(client, SystemClock(), ttl_s=3, keepalive_s=0.5)
                await keeper.acquire()
                keeping = group.create_task(keeper.keep())
                assert isinstance(await anext(watch), Snapshot)

                loop = asyncio.get_running_loop()
                frozen_s = loop.time()
                first.freeze()
                done = await put(rpc, start, b"1")
                changes = await next_of(watch)
                log.info("watch_moved", seconds=round(loop.time() - frozen_s, 2))
                assert isinstance(changes, Changes)
                assert (changes.revision, len(changes.events)) == (done.revision, 1)
                assert (await client.get(Get(start))).kvs[0].value == b"1"
                assert client.endpoints.current.address == second.endpoint

                first.thaw()
                second.kill()
                done = await put(rpc, start, b"2")
                changes = await next_of(watch)
                assert isinstance(changes, Changes)
                assert (changes.revision, len(changes.events)) == (done.revision, 1)
                assert (await client.get(Get(start))).kvs[0].value == b"2"
                assert keeper.left_s() > 0
                keeping.cancel()

    run(test())
