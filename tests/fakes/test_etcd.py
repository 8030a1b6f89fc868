"""What the fake etcd does in time and over bad connections, which a comparison with a real one does not show."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from cluster.kv import Compacted, EtcdUnavailable, Get, Put, Txn, WatchBatch
from cluster.types import LeaseId, Revision
from tests.fakes.etcd import FakeConnection, FakeEtcd
from tests.fakes.etcd_faults import Fate, Gate, Leg, Loss, Script
from tests.fakes.virtual_time import Stuck, run


def put(key: str, lease_id: int = 0) -> Txn:
    return Txn((), (Put(key, b"", LeaseId(lease_id)),))


async def keys(rpc: FakeConnection) -> list[str]:
    return [kv.key for kv in (await rpc.get(Get("a", "z"))).kvs]


async def once(lease_id: LeaseId) -> AsyncIterator[LeaseId]:
    yield lease_id


async def renew(rpc: FakeConnection, lease_id: LeaseId) -> int:
    async with aclosing(rpc.keep_alive(once(lease_id))) as answers:
        async for lease in answers:
            return lease.ttl_s
    raise AssertionError("no answer")


def test_a_lease_ends_with_its_keys_in_one_revision() -> None:
    """Unless it is renewed, a lease ends when its time is up, and its keys go in one revision, seen by watches."""

    async def main() -> None:
        etcd = FakeEtcd()
        rpc = etcd.connect("e")
        lease = await rpc.lease_grant(3)
        begin = (await rpc.txn(put("c"))).revision
        for key in ("a", "b"):
            await rpc.txn(put(key, lease.lease_id))
        await asyncio.sleep(2)
        assert await renew(rpc, lease.lease_id) == 3
        await asyncio.sleep(2)
        assert await keys(rpc) == ["a", "b", "c"]
        await asyncio.sleep(1.1)
        assert await keys(rpc) == ["c"]
        assert await renew(rpc, lease.lease_id) == 0
        async with aclosing(rpc.watch("a", "z", Revision(begin + 3))) as batches:
            batch = await anext(batches)
        assert [(event.kv.key, event.deleted) for event in batch.events] == [("a", True), ("b", True)]
        assert {event.kv.mod_revision for event in batch.events} == {begin + 3}

    run(main())


def test_a_new_leader_gives_leases_their_whole_time() -> None:
    """After a change of leader all leases begin anew."""

    async def main() -> None:
        etcd = FakeEtcd()
        rpc = etcd.connect("e")
        lease = await rpc.lease_grant(3)
        await asyncio.sleep(2)
        etcd.change_leader()
        await asyncio.sleep(2)
        assert await renew(rpc, lease.lease_id) == 3

    run(main())


def test_a_request_goes_its_way_without_its_caller() -> None:
    """A Txn whose caller was cancelled still takes effect when it arrives."""

    async def main() -> None:
        script = Script()
        rpc = FakeEtcd(script).connect("e")
        gate = Gate()
        script.next("txn", Fate(request=Leg(gate=gate)))
        call = asyncio.create_task(rpc.txn(put("a")))
        await gate.reached()
        call.cancel()
        assert await keys(rpc) == []
        gate.open()
        assert await keys(rpc) == ["a"]

    run(main())


def test_a_silent_loss_is_never_heard_of() -> None:
    """Nobody tells the caller of a message that is lost in silence; a broken connection does."""

    async def lose(loss: Loss) -> None:
        script = Script()
        script.next("txn", Fate(answer=Leg(loss=loss)))
        await FakeEtcd(script).connect("e").txn(put("a"))

    with pytest.raises(Stuck):
        run(lose(Loss.SILENT))
    with pytest.raises(EtcdUnavailable):
        run(lose(Loss.BROKEN))


def test_a_frozen_endpoint_does_it_later() -> None:
    """What was asked of a frozen endpoint is done when it is thawed; other ways are not concerned."""

    async def main() -> None:
        etcd = FakeEtcd()
        rpc, other = etcd.connect("e", "n1"), etcd.connect("e", "n2")
        etcd.link("e", "n1").freeze()
        call = asyncio.create_task(rpc.txn(put("a")))
        await asyncio.sleep(10)
        assert await keys(other) == []
        etcd.link("e", "n1").thaw()
        await call
        assert await keys(other) == ["a"]

    run(main())


def test_a_cut_breaks_what_is_open() -> None:
    """Calls and watches fail at once, new ones until the link is healed; what was under way still arrives."""

    async def main() -> None:
        script = Script()
        etcd = FakeEtcd(script)
        rpc = etcd.connect("e")
        [link] = etcd.links(endpoint="e")
        script.next("txn", Fate(request=Leg(delay_s=1)))
        watch = rpc.watch("a", "z", Revision(1))
        first = asyncio.create_task(anext(watch))
        call = asyncio.create_task(rpc.txn(put("a")))
        await asyncio.sleep(0.5)
        link.cut()
        for broken in (first, call, rpc.get(Get("a"))):
            with pytest.raises(EtcdUnavailable):
                await broken
        link.heal()
        await asyncio.sleep(1)
        assert await keys(rpc) == ["a"]

    run(main())


def test_a_watch_is_in_order_however_late() -> None:
    """Batches that are late hold up those behind them; a lost one is never followed by another."""

    async def main() -> None:
        script = Script()
        rpc = FakeEtcd(script).connect("e")
        late = [Fate(answer=Leg(delay_s=delay_s)) for delay_s in (0, 5, 1)]
        script.next("watch_batch", *late, Fate(answer=Leg(loss=Loss.SILENT)))
        seen: list[WatchBatch] = []

        async def watch() -> None:
            async with aclosing(rpc.watch("a", "z", Revision(2))) as batches:
                async for batch in batches:
                    seen.append(batch)  # noqa: PERF401 (it is never done)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        for key in "abcde":
            await rpc.txn(put(key))
        await asyncio.sleep(100)
        assert [event.kv.key for batch in seen for event in batch.events] == ["a", "b", "c"]
        watching.cancel()

    run(main())


def test_what_is_compacted_cannot_be_watched() -> None:
    """A watch from a revision below the compacted one is told so."""

    async def main() -> None:
        etcd = FakeEtcd()
        rpc = etcd.connect("e")
        for key in "abc":
            await rpc.txn(put(key))
        etcd.store.compact(Revision(3))
        with pytest.raises(Compacted):
            await anext(rpc.watch("a", "z", Revision(2)))
        async with aclosing(rpc.watch("a", "z", Revision(3))) as batches:
            assert [event.kv.key for event in (await anext(batches)).events] == ["b", "c"]
        assert await keys(rpc) == ["a", "b", "c"]

    run(main())


def test_a_restore_takes_everything_back() -> None:
    """State, revision and leases are those of the snapshot, leases with their whole time; watches end."""

    async def main() -> None:
        etcd = FakeEtcd()
        rpc = etcd.connect("e")
        lease = await rpc.lease_grant(3)
        await rpc.txn(put("a", lease.lease_id))
        snapshot = etcd.snapshot()
        revision = (await rpc.txn(put("b"))).revision
        watch = asyncio.create_task(anext(rpc.watch("a", "z", Revision(revision + 1))))
        await asyncio.sleep(2)
        etcd.restore(snapshot)
        with pytest.raises(EtcdUnavailable):
            await watch
        assert await keys(rpc) == ["a"]
        assert (await rpc.get(Get("a"))).revision == revision - 1
        await asyncio.sleep(2)
        assert await keys(rpc) == ["a"]
        await asyncio.sleep(1.1)
        assert await keys(rpc) == []

    run(main())


def test_without_space_nothing_is_written() -> None:
    """Over its quota etcd refuses writes until an operator disarms the alarm, and reads go on."""

    async def main() -> None:
        etcd = FakeEtcd(quota_bytes=200)
        rpc = etcd.connect("e")
        await rpc.txn(put("a"))
        with pytest.raises(EtcdUnavailable):
            await rpc.txn(Txn((), (Put("b", bytes(200)),)))
        with pytest.raises(EtcdUnavailable):
            await rpc.txn(put("c"))
        with pytest.raises(EtcdUnavailable):
            await rpc.lease_grant(3)
        assert await keys(rpc) == ["a"]
        etcd.store.disarm()
        await rpc.txn(put("c"))
        assert await keys(rpc) == ["a", "c"]

    run(main())
