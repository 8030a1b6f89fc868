"""EtcdClient's calls against a real etcd behind a proxy: what is repeated, and what is sent once."""

import asyncio
from contextlib import aclosing

import pytest

from cluster.etcd import GrpcEtcd
from cluster.kv import EtcdRefused, EtcdUnavailable, Get, ModRevisionIs, Put, RangeResult, Txn
from cluster.types import LeaseId, Revision
from tests.etcd.clients import client_of, own_range, put, rpc_of, run, until
from tests.support.etcd_server import EtcdServer
from tests.support.proxy import running_proxy


async def times_put(rpc: GrpcEtcd, key: str, since: Revision) -> int:
    """How often a key was written, by its history in etcd."""
    last = (await put(rpc, key + "/last")).revision
    async with aclosing(rpc.watch(key, key + "0", since)) as watch:
        count = 0
        async for batch in watch:
            count += sum(event.kv.key == key for event in batch.events)
            if batch.revision >= last:
                break
    return count


def test_a_txn_is_sent_once(etcd: EtcdServer) -> None:
    """The answer is lost: outcome unknown, though it was written; it is there exactly once, and the next call goes to
    the next endpoint."""

    async def test() -> None:
        key, _ = own_range()
        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint, etcd.endpoint) as client,
        ):
            since = (await client.get(Get(key))).revision
            proxy.down.hold()
            with pytest.raises(EtcdUnavailable):
                await client.txn(Txn((), (Put(key, b"1"),)))
            assert (await client.get(Get(key))).kvs[0].value == b"1"
            assert client.endpoints.current.address == etcd.endpoint
            proxy.down.release()
            await proxy.cut()
            assert await times_put(rpc, key, Revision(since + 1)) == 1

    run(test())


def test_a_txn_held_back_lands_late(etcd: EtcdServer) -> None:
    """Absence proves nothing: a linearizable read finds nothing after the caller gave up, and the Txn lands later."""

    async def test() -> None:
        key, _ = own_range()
        async with (
            running_proxy(etcd.port) as proxy,
            rpc_of(etcd.endpoint) as rpc,
            client_of(proxy.endpoint) as client,
        ):
            since = (await client.get(Get(key))).revision
            proxy.up.hold()
            came = proxy.up.came_bytes
            calling = asyncio.create_task(client.txn(Txn((ModRevisionIs(key, Revision(0)),), (Put(key, b"1"),))))
            await until(lambda: proxy.up.came_bytes > came)
            await asyncio.sleep(0.1)
            proxy.up.drop()
            with pytest.raises(EtcdUnavailable):
                await calling
            assert (await rpc.get(Get(key))).kvs == ()
            proxy.up.release()
            async with aclosing(rpc.watch(key, None, Revision(since + 1))) as watch:
                assert (await anext(watch)).events[0].kv.value == b"1"
            await proxy.cut()
            assert await times_put(rpc, key, Revision(since + 1)) == 1

    run(test())


def test_reads_go_round_until_answered(etcd: EtcdServer, dead_endpoint: str) -> None:
    """A dead endpoint, a silent one, a good one: a read tries each in turn; so do a grant and a revocation."""

    async def test() -> None:
        key, _ = own_range()
        async with running_proxy(etcd.port) as proxy, rpc_of(etcd.endpoint) as rpc:
            await put(rpc, key, b"1")
            proxy.down.hold()
            async with client_of(dead_endpoint, proxy.endpoint, etcd.endpoint) as client:
                assert (await client.get(Get(key))).kvs[0].value == b"1"
            async with client_of(dead_endpoint, proxy.endpoint, etcd.endpoint) as client:
                read = await client.read(Txn((ModRevisionIs(key, Revision(0)),), (), (Get(key),)))
                assert read.ranges[0][0].value == b"1"
            async with client_of(dead_endpoint, etcd.endpoint) as client:
                lease = await client.lease_grant(60)
                await client.lease_revoke(lease.lease_id)
                await client.lease_revoke(lease.lease_id)
                with pytest.raises(EtcdRefused):
                    await client.txn(Txn((), (Put(key, b"2", lease.lease_id),)))
            await proxy.cut()

    run(test())


def test_a_read_lasts_until_its_caller_gives_up(etcd: EtcdServer) -> None:
    """While etcd is away a read neither fails nor spins: the caller's timeout ends it; when etcd is back, so is the
    client."""

    async def test() -> None:
        key, _ = own_range()
        asked = 0

        class Counting(GrpcEtcd):
            async def get(self, get: Get) -> RangeResult:
                nonlocal asked
                asked += 1
                return await super().get(get)

        async with running_proxy(etcd.port) as proxy, client_of(proxy.endpoint, dial=Counting) as client:
            await proxy.cut()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.get(Get(key))
            assert 2 <= asked <= 20
            proxy.heal()
            assert (await client.get(Get(key))).kvs == ()

    run(test())


def test_what_writes_is_never_read() -> None:
    """`read` repeats, so it takes no Txn that writes."""

    async def test() -> None:
        async with client_of("127.0.0.1:1") as client:
            with pytest.raises(AssertionError):
                await client.read(Txn((), (), (Put("a", b"", LeaseId(0)),)))

    run(test())


def test_pages_show_one_revision(etcd: EtcdServer) -> None:
    """A listing in pages is what stood at one revision, whatever is written between its pages."""

    async def test() -> None:
        start, end = own_range()

        class Meddling(GrpcEtcd):
            """Before each answer but the first, something has changed ahead and behind."""

            pages = 0

            async def get(self, get: Get) -> RangeResult:
                if self.pages:
                    await put(self, f"{start}00x{self.pages}")
                    await put(self, f"{start}39", b"changed")
                self.pages += 1
                return await super().get(get)

        async with rpc_of(etcd.endpoint) as rpc, client_of(etcd.endpoint, dial=Meddling) as client:
            for i in range(40):
                last = await put(rpc, f"{start}{i:02}", b"as it was")
            listing = await client.pages(start, end, limit=7)
            assert [kv.key for kv in listing.kvs] == [f"{start}{i:02}" for i in range(40)]
            assert {kv.value for kv in listing.kvs} == {b"as it was"}
            assert (listing.revision, listing.more) == (last.revision, False)

    run(test())


def test_pages_begin_again_after_a_compaction(etcd: EtcdServer) -> None:
    """A compaction that overtakes a listing costs a new listing, not an error."""

    async def test() -> None:
        start, end = own_range()

        class Compacting(GrpcEtcd):
            pages = 0

            async def get(self, get: Get) -> RangeResult:
                self.pages += 1
                if self.pages == 2:
                    etcd.compact((await put(self, start + "new")).revision)
                return await super().get(get)

        async with rpc_of(etcd.endpoint) as rpc, client_of(etcd.endpoint, dial=Compacting) as client:
            for i in range(4):
                await put(rpc, f"{start}{i}")
            listing = await client.pages(start, end, limit=3)
            assert [kv.key for kv in listing.kvs] == [start + each for each in ("0", "1", "2", "3", "new")]

    run(test())
