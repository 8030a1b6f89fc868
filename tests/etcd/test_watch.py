"""EtcdClient.watch against a real etcd behind a proxy: nothing missed, nothing twice, in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from cluster.etcd import RECEIVE_BYTES_MAX
from cluster.kv import Put
from cluster.watch import Changes, Snapshot
from tests.etcd.clients import client_of, delete, do, own_range, put, rpc_of, run, until
from tests.support.etcd_server import EtcdServer
from tests.support.proxy import running_proxy

Seen = tuple[str, int, bool]
"""Of an event: key, mod_revision, deleted."""


async def snapshot_of(watch: AsyncIterator[Snapshot | Changes]) -> Snapshot:
    item = await anext(watch)
    assert isinstance(item, Snapshot), item
    return item


async def changes_until(watch: AsyncIterator[Snapshot | Changes], revision: int) -> list[Seen]:
    """What the watch brings up to `revision`, which must come without another Snapshot."""
    seen: list[Seen] = []
    async for item in watch:
        assert isinstance(item, Changes), item
        assert item.revision == item.events[-1].kv.mod_revision
        seen += [(event.kv.key, event.kv.mod_revision, event.deleted) for event in item.events]
        if item.revision >= revision:
            break
    return seen


def test_a_watch_lists_then_follows(etcd: EtcdServer) -> None:
    """First what is there, at its revision; then puts and deletions in order, and nothing beyond the range."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc, client_of(etcd.endpoint) as client:
            before = await put(rpc, start + "a", b"1")
            async with aclosing(client.watch(start, end)) as watch:
                snapshot = await snapshot_of(watch)
                assert [(kv.key, kv.value) for kv in snapshot.kvs] == [(start + "a", b"1")]
                assert (snapshot.revision, snapshot.went_back) == (before.revision, False)
                await put(rpc, end, b"beyond")
                both = await do(rpc, Put(start + "a", b"2"), Put(start + "b", b"3"))
                gone = await delete(rpc, start + "a")
                assert await changes_until(watch, gone.revision) == [
                    (start + "a", both.revision, False),
                    (start + "b", both.revision, False),
                    (start + "a", gone.revision, True),
                ]
            assert client.seen == gone.revision

    run(test())


def test_cuts_lose_and_double_nothing(etcd: EtcdServer) -> None:
    """More than 5,000 events, the connection broken again and again among them: each comes once, in order."""

    async def test() -> None:
        start, end = own_range()
        expected: list[Seen] = []
        seen: list[Seen] = []

        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint) as client,
            aclosing(client.watch(start, end)) as watch,
        ):

            async def write() -> None:
                for i in range(600):
                    keys = [f"{start}{i % 50:02}/{j}" for j in range(9)]
                    done = await do(rpc, *(Put(key, b"x") for key in keys))
                    expected.extend((key, done.revision, False) for key in keys)
                    if i % 100 == 50:
                        await proxy.cut()
                    elif i % 100 == 80:
                        proxy.heal()
                    elif i % 100 == 99:
                        await until(lambda: len(seen) == len(expected))

            await snapshot_of(watch)
            writing = asyncio.create_task(write())
            while len(seen) < 600 * 9:
                item = await anext(watch)
                assert isinstance(item, Changes), item
                seen += [(event.kv.key, event.kv.mod_revision, event.deleted) for event in item.events]
            await writing
            assert seen == expected
            assert proxy.accepted == 7, "each cut broke a connection"

    run(test())


def test_a_catch_up_larger_than_a_message(etcd: EtcdServer) -> None:
    """More than one message may hold has gathered while the connection was cut: it comes in fragments, all of it."""

    async def test() -> None:
        start, end = own_range()
        value = bytes(120_000)
        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint) as client,
            aclosing(client.watch(start, end)) as watch,
        ):
            await snapshot_of(watch)
            coming = asyncio.create_task(_collect(watch, 20))
            await proxy.cut()
            puts = [await do(rpc, *(Put(f"{start}{i}/{j}", value) for j in range(8))) for i in range(20)]
            assert 20 * 8 * len(value) > RECEIVE_BYTES_MAX
            proxy.heal()
            revisions = await coming
            assert revisions == [done.revision for done in puts for _ in range(8)]

    run(test())


async def _collect(watch: AsyncIterator[Snapshot | Changes], txns: int) -> list[int]:
    """The revisions of `txns` Txns of 8 events each."""
    revisions: list[int] = []
    while len(revisions) < txns * 8:
        item = await anext(watch)
        assert isinstance(item, Changes), item
        assert len(item.events) % 8 == 0, "a revision was torn"
        revisions += [event.kv.mod_revision for event in item.events]
    return revisions


def test_a_compaction_while_cut_lists_again(etcd: EtcdServer) -> None:
    """What is missing can no longer be read: another Snapshot brings what stands now, deletions included."""

    async def test() -> None:
        start, end = own_range()
        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint) as client,
            aclosing(client.watch(start, end)) as watch,
        ):
            await put(rpc, start + "a", b"1")
            assert len((await snapshot_of(watch)).kvs) == 1
            await proxy.cut()
            await delete(rpc, start + "a")
            await put(rpc, start + "b", b"2")
            last = await put(rpc, start + "b", b"3")
            etcd.compact(last.revision)
            coming = asyncio.create_task(snapshot_of(watch))
            proxy.heal()
            snapshot = await coming
            assert [(kv.key, kv.value) for kv in snapshot.kvs] == [(start + "b", b"3")]
            assert (snapshot.revision, snapshot.went_back) == (last.revision, False)
            after = await put(rpc, start + "c")
            assert await changes_until(watch, after.revision) == [(start + "c", after.revision, False)]

    run(test())


def test_a_silent_endpoint_is_left_by_an_idle_watch(etcd: EtcdServer) -> None:
    """Nothing comes from an endpoint that is gone without a word, as nothing comes where nothing happens: an idle watch
    finds out which it is, and goes on elsewhere."""

    async def test() -> None:
        start, end = own_range()
        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint, etcd.endpoint) as client,
            aclosing(client.watch(start, end)) as watch,
        ):
            await snapshot_of(watch)
            coming = asyncio.create_task(_first(watch))
            # Idle for longer than an answer may take: proved alive, it stays.
            await asyncio.sleep(1.5)
            assert client.endpoints.current.address == proxy.endpoint
            assert not coming.done()
            proxy.down.hold()
            done = await put(rpc, start)
            assert (await coming).revision == done.revision
            assert client.endpoints.current.address == etcd.endpoint

    run(test())


async def _first(watch: AsyncIterator[Snapshot | Changes]) -> Snapshot | Changes:
    return await anext(watch)


def test_a_closed_watch_leaves_no_task(etcd: EtcdServer) -> None:
    """A watch that is closed while idle, or whose reader is cancelled, ends its stream and its tasks."""

    async def test() -> None:
        start, end = own_range()
        async with client_of(etcd.endpoint) as client:
            async with aclosing(client.watch(start, end)) as watch:
                await snapshot_of(watch)
                reading = asyncio.create_task(_first(watch))
                await asyncio.sleep(0.05)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            mine = {task for task in asyncio.all_tasks() if "watch" in repr(task.get_coro())}
            assert not mine

    run(test())
