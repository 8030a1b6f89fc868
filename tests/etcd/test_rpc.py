"""GrpcEtcd against a real etcd."""

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from cluster.etcd import Fragments, GrpcEtcd
from cluster.kv import (
    ANSWER_TOO_LARGE,
    LEASE_NOT_FOUND,
    REQUEST_TOO_LARGE,
    TOO_MANY_OPERATIONS,
    Compacted,
    Delete,
    EtcdRefused,
    EtcdUnavailable,
    Event,
    Get,
    KeyValue,
    Lease,
    ModRevisionIs,
    Put,
    Txn,
    ValueIs,
    WatchBatch,
)
from cluster.types import LeaseId, Revision
from tests.etcd.clients import delete, do, own_range, put, rpc_of, run, until
from tests.support.etcd_server import EtcdServer, running_etcd


def test_values_come_back_as_they_were_put(etcd: EtcdServer) -> None:
    """A key's value (any bytes), lease and revisions survive the way there and back, in order of key."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            lease = await rpc.lease_grant(60)
            first = await put(rpc, start + "b", bytes(range(256)))
            second = await do(rpc, Put(start + "a", b"1", lease.lease_id), Put(start + "쿠폰", b""))
            third = await put(rpc, start + "b", b"2")
            assert first.succeeded
            assert first.revision < second.revision < third.revision
            found = await rpc.get(Get(start, end))
            assert found.kvs == (
                KeyValue(start + "a", b"1", second.revision, second.revision, lease.lease_id),
                KeyValue(start + "b", b"2", first.revision, third.revision, LeaseId(0)),
                KeyValue(start + "쿠폰", b"", second.revision, second.revision, LeaseId(0)),
            )
            assert (found.revision, found.more) == (third.revision, False)
            limited = await rpc.get(Get(start, end, limit=1, keys_only=True))
            assert [(kv.key, kv.value) for kv in limited.kvs] == [(start + "a", b"")]
            assert limited.more
            before = await rpc.get(Get(start + "b", revision=first.revision))
            assert before.kvs[0].value == bytes(range(256))
            assert before.revision == third.revision
            await do(rpc, Delete(start, end))
            assert (await rpc.get(Get(start, end))).kvs == ()

    run(test())


def test_guards_choose_the_branch(etcd: EtcdServer) -> None:
    """`then` runs only if every guard holds, else `otherwise`; each Get of the branch that ran is answered in place."""

    async def test() -> None:
        start, end = own_range()
        key, other = start + "key", start + "other"
        async with rpc_of(etcd.endpoint) as rpc:
            created = await rpc.txn(Txn((ModRevisionIs(key, Revision(0)),), then=(Put(key, b"1"),)))
            assert created.succeeded
            again = await rpc.txn(
                Txn((ModRevisionIs(key, Revision(0)),), (Put(key, b"2"),), (Get(other), Get(key), Get(start, end)))
            )
            assert not again.succeeded
            assert again.revision == created.revision
            assert [[kv.value for kv in kvs] for kvs in again.ranges] == [[], [b"1"], [b"1"]]
            changed = await put(rpc, key, b"4")
            assert not (await rpc.txn(Txn((ModRevisionIs(key, created.revision),), ()))).succeeded
            guards = (ModRevisionIs(key, changed.revision), ValueIs(key, b"4"))
            both = await rpc.txn(Txn(guards, (Put(other, b"3"), Get(key), Delete(key))))
            assert both.succeeded
            assert [len(kvs) for kvs in both.ranges] == [0, 1, 0]
            absent = await rpc.txn(Txn((ValueIs(key, b""),), (), ()))
            assert not absent.succeeded, "a key that does not exist has no value, not an empty one"

    run(test())


def test_definite_refusals(etcd: EtcdServer) -> None:
    """What etcd certainly did not write is EtcdRefused, with etcd's reason, and nothing was written."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            for reason, ops in (
                (LEASE_NOT_FOUND, [Put(start + "a", b""), Put(start + "b", b"", LeaseId(12345))]),
                (TOO_MANY_OPERATIONS, [Put(f"{start}{i}", b"") for i in range(129)]),
                (REQUEST_TOO_LARGE, [Put(start, bytes(1_700_000))]),
                (REQUEST_TOO_LARGE, [Put(start, bytes(5_000_000))]),
            ):
                with pytest.raises(EtcdRefused) as refused:
                    await do(rpc, *ops)
                assert refused.value.reason == reason
            with pytest.raises(EtcdRefused) as refused:
                await rpc.lease_revoke(LeaseId(12345))
            assert refused.value.reason == LEASE_NOT_FOUND
            assert (await rpc.get(Get(start, end))).kvs == ()

    run(test())


def test_no_space_is_not_a_refusal(tmp_path: Path) -> None:
    """Of Txns under way when the quota is crossed, etcd writes some and says "database space exceeded" all the same:
    what they did is unknown, so none may be told as refused."""

    async def attempt(rpc: GrpcEtcd, key: str) -> bool:
        """Whether it was written though etcd said that there is no space."""
        try:
            await put(rpc, key, bytes(20_000))
        except EtcdUnavailable:
            return bool((await rpc.get(Get(key))).kvs)
        return False

    async def test() -> None:
        with running_etcd(tmp_path, flags=("--quota-backend-bytes=4000000",)) as (server,):
            async with rpc_of(server.endpoint) as rpc:
                written_all_the_same: list[bool] = []
                for i in range(20):
                    attempts = (attempt(rpc, f"{i}/{j}") for j in range(64))
                    written_all_the_same += await asyncio.gather(*attempts)
                assert any(written_all_the_same)

    run(test())


def test_an_answer_that_can_never_be_received_is_refused(etcd: EtcdServer) -> None:
    """A Get whose answer is beyond what is received is not repeated for ever: asking again would bring the same."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            for i in range(12):
                await put(rpc, f"{start}{i}", bytes(1_500_000))
            with pytest.raises(EtcdRefused) as refused:
                await rpc.get(Get(start, end))
            assert refused.value.reason == ANSWER_TOO_LARGE
            await do(rpc, Delete(start, end))

    run(test())


def test_no_server_is_unavailable(dead_endpoint: str) -> None:
    """Where nobody listens every call says EtcdUnavailable, the streams too."""

    async def ids() -> AsyncIterator[LeaseId]:
        yield LeaseId(1)

    async def test() -> None:
        async with rpc_of(dead_endpoint) as rpc:
            with pytest.raises(EtcdUnavailable):
                await rpc.get(Get("a"))
            with pytest.raises(EtcdUnavailable):
                await put(rpc, "a")
            with pytest.raises(EtcdUnavailable):
                await rpc.lease_grant(1)
            with pytest.raises(EtcdUnavailable):
                await anext(rpc.keep_alive(ids()))
            with pytest.raises(EtcdUnavailable):
                await anext(rpc.watch("a", None, Revision(1)))

    run(test())


async def _first(batches: AsyncIterator[WatchBatch]) -> WatchBatch:
    return await anext(batches)


def test_a_lease_lives_by_its_keepalives(etcd: EtcdServer) -> None:
    """Each id gets one answer on the one stream; ttl 0 says that there is no such lease; its end deletes its keys."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            lease = await rpc.lease_grant(30)
            assert lease.ttl_s == 30
            await do(rpc, Put(start, b"", lease.lease_id))

            async def ids() -> AsyncIterator[LeaseId]:
                yield lease.lease_id
                yield LeaseId(777)
                yield lease.lease_id
                await rpc.lease_revoke(lease.lease_id)
                yield lease.lease_id

            async with aclosing(rpc.keep_alive(ids())) as stream:
                answers = [answer async for answer in stream]
            assert answers == [
                Lease(lease.lease_id, 30),
                Lease(LeaseId(777), 0),
                Lease(lease.lease_id, 30),
                Lease(lease.lease_id, 0),
            ]
            assert (await rpc.get(Get(start, end))).kvs == ()

    run(test())


def test_a_watch_brings_whole_revisions(etcd: EtcdServer) -> None:
    """From a revision of the past on: puts and deletions in order, one Txn's in one batch, only of its range."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            first = await do(rpc, Put(start + "a", b"1"), Put(start + "b", b"2"))
            await put(rpc, end, b"beyond")
            second = await delete(rpc, start + "a")
            batches: list[WatchBatch] = []
            async with aclosing(rpc.watch(start, end, first.revision)) as watch:
                async for batch in watch:
                    batches.append(batch)
                    if batch.revision >= second.revision:
                        break
            assert [(e.kv.key, e.kv.value, e.deleted) for batch in batches for e in batch.events] == [
                (start + "a", b"1", False),
                (start + "b", b"2", False),
                (start + "a", b"", True),
            ]
            assert batches[-1].events[-1].kv.mod_revision == second.revision
            async with aclosing(rpc.watch(start + "b", None, first.revision)) as watch:
                one = await anext(watch)
            assert [event.kv.key for event in one.events] == [start + "b"]

    run(test())


def test_what_is_compacted_cannot_be_read(etcd: EtcdServer) -> None:
    """A watch or a Get at a revision that is compacted, or that has not been, says Compacted."""

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            first = await put(rpc, start, b"1")
            last = await put(rpc, start, b"2")
            etcd.compact(last.revision)
            with pytest.raises(Compacted):
                await anext(rpc.watch(start, end, first.revision))
            with pytest.raises(Compacted):
                await rpc.get(Get(start, revision=first.revision))
            with pytest.raises(Compacted):
                await rpc.get(Get(start, revision=Revision(last.revision + 1_000_000)))

    run(test())


def test_a_cancelled_wait_releases_its_stream(etcd: EtcdServer) -> None:
    """A task that is cancelled while it waits for a watch leaves no watcher behind in etcd."""

    def watchers() -> int:
        with urllib.request.urlopen(f"http://{etcd.endpoint}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("etcd_debugging_mvcc_watcher_total")))

    async def test() -> None:
        start, end = own_range()
        async with rpc_of(etcd.endpoint) as rpc:
            here = (await put(rpc, start)).revision
            await until(lambda: watchers() == 0)
            waiting = [asyncio.create_task(_first(rpc.watch(start, end, Revision(here + 1)))) for _ in range(3)]
            await until(lambda: watchers() == 3)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await until(lambda: watchers() == 0)

    run(test())


def test_cancelled_reads_do_not_end_etcd(tmp_path: Path) -> None:
    """The wheel's etcd, and any before 3.5.7, panics when the caller of a Txn that only reads goes away meanwhile."""

    async def test(endpoint: str) -> None:
        async with rpc_of(endpoint) as rpc:
            for number in range(40):
                await put(rpc, f"key-{number:02}", bytes(100_000))
            gets = tuple(Get(f"key-{number:02}") for number in range(30))
            for turn in range(40):
                read = asyncio.create_task(rpc.txn(Txn((), gets)))
                await asyncio.sleep(0.0005 * (turn % 20))
                read.cancel()
                await asyncio.gather(read, return_exceptions=True)
            assert (await rpc.txn(Txn((), gets[:1]))).ranges[0][0].value == bytes(100_000)

    with running_etcd(tmp_path) as (server,):
        run(test(server.endpoint))


def test_fragments_join_to_whole_revisions() -> None:
    """Of an unfinished response everything but its last revision is given out; the rest when it is complete."""

    def event(revision: int, key: str) -> Event:
        return Event(KeyValue(key, b"", Revision(revision), Revision(revision), LeaseId(0)), deleted=False)

    one, two, two_too, three = event(1, "a"), event(2, "a"), event(2, "b"), event(3, "a")
    fragments = Fragments()
    assert fragments.join([one, two], more=True) == (one,)
    assert fragments.waiting
    assert fragments.join([two_too], more=True) == ()
    assert fragments.join([three], more=False) == (two, two_too, three)
    assert not fragments.waiting
    assert fragments.join([event(4, "a")], more=False) == (event(4, "a"),)


@pytest.mark.parametrize("first", ["google.rpc.error_details_pb2", "grpc_status.rpc_status", "google.api.http_pb2"])
def test_importing_it_shadows_nothing(first: str) -> None:
    """In every order of imports there is no warning, and google.api is that of googleapis-common-protos."""
    for order in (f"import {first}, cluster.etcd", f"import cluster.etcd, {first}"):
        code = f"{order}; import google.api.http_pb2 as h; assert 'etcd3aio' not in h.__file__"
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
