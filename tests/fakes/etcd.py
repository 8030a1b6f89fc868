"""etcd in memory: the store of `tests.fakes.etcd_store`, its leases on the loop's time, and connections to it.

Every connection implements `cluster.kv.EtcdRpc`. Nothing here is random or reads a clock; what goes wrong is decided by
`tests.fakes.etcd_faults`. A request, once sent, goes its way whether or not its caller still waits: that is what makes
outcomes unknown.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from cluster.kv import (
    EtcdRefused,
    EtcdUnavailable,
    Event,
    Get,
    Lease,
    RangeResult,
    StoreSize,
    Txn,
    TxnResult,
    WatchBatch,
)
from cluster.types import LeaseId, Revision
from tests.fakes.etcd_faults import Call, Fate, Faults, Gate, Link, Loss, NoFaults, Stream, carry
from tests.fakes.etcd_store import NO_SPACE, OVERHEAD_BYTES, Snapshot, Store

R = TypeVar("R")


class FakeEtcd:
    def __init__(
        self, faults: Faults | None = None, *, quota_bytes: int | None = None, lease_ttl_min_s: int = 2
    ) -> None:
        """
        Args:
            lease_ttl_min_s: shorter leases are granted with this: 1.5 election timeouts, rounded up.
        """
        self.faults: Faults = faults or NoFaults()
        self.store = Store(quota_bytes=quota_bytes)
        self.store.on_revision = self._publish
        self._lease_ttl_min_s = lease_ttl_min_s
        self._leases: dict[LeaseId, tuple[Lease, asyncio.TimerHandle]] = {}
        self._leases_granted = 0
        self._links: dict[tuple[str, str], Link] = {}
        self._watchers: list[_Watcher] = []

    def connect(self, endpoint: str, client: str = "") -> "FakeConnection":
        """A connection; `functools.partial(etcd.connect, client="n1")` is what EtcdClient takes as `dial`."""
        return FakeConnection(self, self.link(endpoint, client), endpoint, client)

    def link(self, endpoint: str, client: str = "") -> Link:
        return self._links.setdefault((endpoint, client), Link())

    def links(self, *, client: str | None = None, endpoint: str | None = None) -> list[Link]:
        """All ways used so far; of one client, or to one endpoint."""
        return [
            link
            for (to, name), link in self._links.items()
            if (client is None or client == name) and (endpoint is None or endpoint == to)
        ]

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot: state and revision; leases begin anew, connections break, the alarm is gone. Requests
        under way still arrive, at the restored etcd: crueller than a real one, whose connections end."""
        self.store.restore(snapshot)
        self.store.disarm()
        for _, timer in self._leases.values():
            timer.cancel()
        self._leases = {
            lease_id: self._timed(Lease(lease_id, stored.ttl_s)) for lease_id, stored in self.store.leases.items()
        }
        for link in self._links.values():
            link.break_connections("etcd was restored")

    def snapshot(self) -> Snapshot:
        return self.store.snapshot()

    def change_leader(self) -> None:
        """A new leader knows no lease's remaining time: all begin anew."""
        for lease_id in tuple(self._leases):
            self.renew(lease_id)

    def notify_progress(self) -> None:
        """A progress notice for every watch."""
        for watcher in self._watchers:
            watcher.deliver(WatchBatch((), self.store.revision))

    def grant(self, ttl_s: int) -> Lease:
        self.store.admit_bytes(OVERHEAD_BYTES)
        self._leases_granted += 1
        lease = Lease(LeaseId(0x5EC0 + self._leases_granted), max(ttl_s, self._lease_ttl_min_s))
        self.store.grant(lease.lease_id, lease.ttl_s)
        self._leases[lease.lease_id] = self._timed(lease)
        return lease

    def revoke(self, lease_id: LeaseId) -> None:
        self.store.revoke(lease_id)
        _, timer = self._leases.pop(lease_id)
        timer.cancel()

    def renew(self, lease_id: LeaseId) -> Lease:
        if lease_id not in self._leases:
            return Lease(lease_id, 0)
        lease, timer = self._leases[lease_id]
        timer.cancel()
        self._leases[lease_id] = self._timed(lease)
        return lease

    def txn(self, txn: Txn, *, quota_used_up: bool = False) -> TxnResult:
        self.store.admit(txn)
        result = self.store.txn(txn)
        if quota_used_up:
            self.store.no_space = True
            raise EtcdUnavailable(NO_SPACE)
        return result

    def watch(self, watcher: "_Watcher") -> None:
        """Raises Compacted."""
        watcher.offer(self.store.past(watcher.start))
        self._watchers.append(watcher)

    def unwatch(self, watcher: "_Watcher") -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def _publish(self, events: tuple[Event, ...]) -> None:
        for watcher in self._watchers:
            watcher.offer(events)

    def _timed(self, lease: Lease) -> tuple[Lease, asyncio.TimerHandle]:
        return lease, asyncio.get_running_loop().call_later(lease.ttl_s, self.revoke, lease.lease_id)


class FakeConnection:
    """One client's connection to one endpoint. Implements `cluster.kv.EtcdRpc`."""

    def __init__(self, etcd: FakeEtcd, link: Link, endpoint: str, client: str) -> None:
        self.endpoint = endpoint
        self._etcd = etcd
        self._link = link
        self._client = client
        self._closed = False

    async def get(self, get: Get) -> RangeResult:
        return await self._call("get", get, lambda fate: self._etcd.store.get(get))

    async def txn(self, txn: Txn) -> TxnResult:
        return await self._call("txn", txn, lambda fate: self._etcd.txn(txn, quota_used_up=fate.quota_used_up))

    async def lease_grant(self, ttl_s: int) -> Lease:
        return await self._call("lease_grant", ttl_s, lambda fate: self._etcd.grant(ttl_s))

    async def lease_revoke(self, lease_id: LeaseId) -> None:
        await self._call("lease_revoke", lease_id, lambda fate: self._etcd.revoke(lease_id))

    async def keep_alive(self, lease_ids: AsyncIterator[LeaseId]) -> AsyncGenerator[Lease, None]:
        async for lease_id in lease_ids:
            yield await self._call("keep_alive", lease_id, partial(self._renew, lease_id))

    async def watch(self, key: str, end: str | None, start: Revision) -> AsyncGenerator[WatchBatch, None]:
        assert start > 0, "a watch says from where"
        batches: asyncio.Queue[WatchBatch | Exception] = asyncio.Queue()
        returning = Stream(lambda: self._link.answers, batches.put_nowait)

        def break_stream(why: str) -> None:
            batches.put_nowait(EtcdUnavailable(why))
            self._etcd.unwatch(watcher)

        def deliver(batch: WatchBatch) -> None:
            leg = self._fate("watch_batch", batch).answer
            if leg.loss is Loss.BROKEN:
                asyncio.get_running_loop().call_soon(break_stream, "the stream broke")
            returning.send(batch, leg)

        watcher = _Watcher(key, end, start, deliver)
        self._link.on_break[break_stream] = None
        try:
            await self._call("watch", (key, end, start), lambda fate: self._etcd.watch(watcher))
            while True:
                batch = await batches.get()
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            self._link.on_break.pop(break_stream, None)
            self._etcd.unwatch(watcher)

    async def size(self) -> StoreSize:
        return await self._call("size", None, lambda fate: self._etcd.store.size)

    async def close(self) -> None:
        self._closed = True
        self._link.break_connections("the connection was closed here")

    def _renew(self, lease_id: LeaseId, fate: Fate) -> Lease:
        return self._etcd.renew(lease_id)

    def _fate(self, method: str, request: object) -> Fate:
        return self._etcd.faults.fate(Call(self._client, self.endpoint, method, request))

    def _check_open(self) -> None:
        if self._link.is_cut or self._closed:
            raise EtcdUnavailable(f"{self.endpoint}: no connection")

    async def _call(self, method: str, request: object, carry_out: Callable[[Fate], R]) -> R:
        self._check_open()
        fate = self._fate(method, request)
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()

        def fail(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        def broken(why: str = "the connection broke") -> None:
            fail(EtcdUnavailable(f"{self.endpoint}: {why}"))

        def returning() -> Gate | None:
            return self._link.answers

        def arrive() -> None:
            try:
                if fate.refusal:
                    raise EtcdRefused(fate.refusal)
                result = carry_out(fate)
            except Exception as error:  # noqa: BLE001 (a bug is told to whoever asked, like a refusal, or nobody hears)
                refusal = error
                carry(fate.answer, returning, lambda: fail(refusal), broken)
            else:
                carry(
                    fate.answer,
                    returning,
                    lambda: None if answer.done() else answer.set_result(result),
                    broken,
                )

        self._link.on_break[broken] = None
        try:
            carry(fate.request, lambda: self._link.requests, arrive, broken)
            return await answer
        finally:
            self._link.on_break.pop(broken, None)


class _Watcher:
    def __init__(self, key: str, end: str | None, start: Revision, deliver: Callable[[WatchBatch], None]) -> None:
        self.start = start
        self.deliver = deliver
        self._key = key
        self._end = end

    def offer(self, events: tuple[Event, ...]) -> None:
        mine = tuple(event for event in events if event.kv.mod_revision >= self.start and self._covers(event.kv.key))
        if mine:
            self.deliver(WatchBatch(mine, mine[-1].kv.mod_revision))

    def _covers(self, key: str) -> bool:
        return key == self._key if self._end is None else self._key <= key < self._end
