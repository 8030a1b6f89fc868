"""An etcd of one hand's breadth: the test moves its revision, its answers and the clock. For what a real etcd cannot be
made to do in a test; `tests.fakes` has the one with etcd's real semantics."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from cluster.kv import EtcdUnavailable, Get, KeyValue, Lease, RangeResult, StoreSize, Txn, TxnResult, WatchBatch
from cluster.session import EtcdClient
from cluster.types import LeaseId, Revision


class HandClock:
    """Stands still unless the test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def wall_us(self) -> int:
        raise NotImplementedError

    def boottime_s(self) -> float:
        return self.now_s


async def nothing() -> None:
    """The default of what happens before an answer."""


class HandEtcd:
    """Every endpoint of it."""

    endpoint = "hand:1"

    def __init__(self) -> None:
        self.revision = Revision(1)
        self.kvs: tuple[KeyValue, ...] = ()
        self.before_answer: Callable[[], Awaitable[object]] = nothing
        self.ttl_s = 3
        self.questions: list[LeaseId] = []
        """Keepalives that were sent."""
        self.grants = 0

    def client(self, *, endpoints: int = 1, answer_max_s: float = 0.7) -> EtcdClient:
        names = [f"hand:{i}" for i in range(endpoints)]
        return EtcdClient(names, lambda _: self, rng=random.Random(1), answer_max_s=answer_max_s)

    async def get(self, get: Get) -> RangeResult:
        answer = RangeResult(self.kvs, more=False, revision=self.revision)
        await self.before_answer()
        return answer

    async def txn(self, txn: Txn) -> TxnResult:
        await self.before_answer()
        return TxnResult(succeeded=True, revision=self.revision, ranges=())

    async def size(self) -> StoreSize:
        await self.before_answer()
        return StoreSize(1, 1, 0)

    async def lease_grant(self, ttl_s: int) -> Lease:
        self.grants += 1
        lease = Lease(LeaseId(self.grants), self.ttl_s)
        await self.before_answer()
        return lease

    async def lease_revoke(self, lease_id: LeaseId) -> None:
        await self.before_answer()

    async def keep_alive(self, lease_ids: AsyncIterator[LeaseId]) -> AsyncGenerator[Lease, None]:
        async for lease_id in lease_ids:
            self.questions.append(lease_id)
            lease = Lease(lease_id, self.ttl_s)
            await self.before_answer()
            yield lease

    async def watch(self, key: str, end: str | None, start: Revision) -> AsyncGenerator[WatchBatch, None]:
        """Silent for ever."""
        await asyncio.Event().wait()
        yield WatchBatch((), start)

    async def close(self) -> None:
        pass


async def unavailable() -> None:
    raise EtcdUnavailable("said the test")
