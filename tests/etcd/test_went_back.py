"""An etcd that was restored from a snapshot counts revisions again: nobody goes on as if nothing had happened."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from cluster.endpoints import RevisionWentBack
from cluster.kv import TOO_MANY_REQUESTS, EtcdRefused, Get, KeyValue, Put, Txn
from cluster.types import LeaseId, Revision
from cluster.watch import Changes, Snapshot
from tests.etcd.hand import HandEtcd, nothing
from tests.fakes.virtual_time import run


def test_a_lower_revision_is_told_to_everybody() -> None:
    """Once a revision is seen, a later question that is answered from below it raises, reads and Txns alike, until a
    watch has listed anew."""

    async def test() -> None:
        etcd = HandEtcd()
        client = etcd.client()
        etcd.revision = Revision(10)
        await client.get(Get("a"))
        assert client.seen == 10
        etcd.revision = Revision(9)
        for _ in range(2):
            with pytest.raises(RevisionWentBack):
                await client.get(Get("a"))
            with pytest.raises(RevisionWentBack):
                await client.read(Txn((), (Get("a"),)))
            with pytest.raises(RevisionWentBack):
                await client.txn(Txn((), (Put("a", b""),)))
            with pytest.raises(RevisionWentBack):
                await client.pages("a", "b")
        assert client.seen == 10

    run(test())


def test_an_answer_may_be_overtaken() -> None:
    """Answers that come in another order than their questions were asked are no step back."""

    async def test() -> None:
        etcd = HandEtcd()
        client = etcd.client()
        late_came = asyncio.Event()

        etcd.revision = Revision(5)
        etcd.before_answer = late_came.wait
        early = asyncio.create_task(client.get(Get("a")))
        await asyncio.sleep(0)
        etcd.revision, etcd.before_answer = Revision(10), nothing
        assert (await client.get(Get("a"))).revision == 10
        late_came.set()
        assert (await early).revision == 5
        assert client.seen == 10

    run(test())


async def next_of(watch: AsyncIterator[Snapshot | Changes]) -> Snapshot | Changes:
    return await anext(watch)


def test_every_watch_lists_anew_once() -> None:
    """Idle watches find out by themselves; each hands on one Snapshot that says so, and then the client believes again.
    What was asked before and is answered after is not believed."""

    async def test() -> None:
        etcd = HandEtcd()
        client = etcd.client(answer_max_s=0.05)
        etcd.revision = Revision(10)
        async with aclosing(client.watch("a", "b")) as one, aclosing(client.watch("a", "b")) as two:
            for watch in (one, two):
                assert await anext(watch) == Snapshot((), Revision(10), went_back=False)
            coming = [asyncio.create_task(next_of(watch)) for watch in (one, two)]
            kv = KeyValue("a", b"restored", Revision(2), Revision(3), LeaseId(0))
            etcd.revision, etcd.kvs = Revision(4), (kv,)
            for each in coming:
                assert await each == Snapshot((kv,), Revision(4), went_back=True)
            assert (client.seen, client.endpoints.era) == (4, 1)
            assert (await client.get(Get("a"))).revision == 4
            more = [asyncio.create_task(next_of(watch)) for watch in (one, two)]
            await asyncio.wait(more, timeout=0.3)
            assert not any(each.done() for each in more)
            for each in more:
                each.cancel()
            await asyncio.gather(*more, return_exceptions=True)

    run(test())


def test_an_answer_from_before_is_not_believed() -> None:
    """A question asked before the step back was found and answered after it may be from either store: it raises."""

    async def test() -> None:
        etcd = HandEtcd()
        client = etcd.client()
        answer = asyncio.Event()
        etcd.revision, etcd.before_answer = Revision(10), answer.wait
        asked = asyncio.create_task(client.get(Get("a")))
        await asyncio.sleep(0)
        client.endpoints.begin_again(Revision(4), era=0)
        answer.set()
        with pytest.raises(RevisionWentBack):
            await asked
        assert client.seen == 4

    run(test())


def test_busy_is_waited_out() -> None:
    """ "Too many requests" passes: reads wait and ask again. A Txn is never repeated: its caller hears of it."""

    async def test() -> None:
        etcd = HandEtcd()
        client = etcd.client()
        refusals = 0

        async def busy() -> None:
            nonlocal refusals
            refusals += 1
            if refusals <= 3:
                raise EtcdRefused(TOO_MANY_REQUESTS)

        etcd.before_answer = busy
        await client.get(Get("a"))
        assert refusals == 4
        refusals = 0
        with pytest.raises(EtcdRefused):
            await client.txn(Txn((), (Put("a", b""),)))
        assert refusals == 1

    run(test())
