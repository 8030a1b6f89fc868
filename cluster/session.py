"""A process's session with etcd: what may be repeated is repeated, what may not is sent once.

Its only I/O is `cluster.kv.EtcdRpc`, so that it is the same in production and in the simulation. Knows nothing of
shards, nodes or journals. A lease is kept by `cluster.lease.LeaseKeeper`.
"""

import random
from collections.abc import AsyncGenerator, Callable, Sequence

from cluster.endpoints import Endpoints
from cluster.kv import LEASE_NOT_FOUND, EtcdRefused, EtcdRpc, Get, Lease, RangeResult, StoreSize, Txn, TxnResult
from cluster.types import LeaseId, Revision
from cluster.watch import PAGE_LIMIT, Changes, Snapshot, list_range, watch_range


class EtcdClient:
    """The calls that repeat do so until they are answered: the caller's asyncio.timeout ends them. A caller that always
    gives up before `answer_max_s` never gets a silent endpoint changed; a running `watch` does.

    Raises, from every call that reads or writes keys:
        EtcdRefused: a definite no. Calls that repeat wait out "too many requests".
        RevisionWentBack: this etcd was restored from a snapshot; see `cluster.endpoints`.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        dial: Callable[[str], EtcdRpc],
        *,
        rng: random.Random,
        answer_max_s: float = 0.7,
    ) -> None:
        """
        Args:
            endpoints: HOST:PORT each; asked in this order, the next when one does not answer.
            dial: makes the RPCs of one endpoint; called inside the event loop, once for each endpoint used.
            answer_max_s: an answer missing for so long changes the endpoint.
        """
        self.endpoints = Endpoints(endpoints, dial, rng=rng, answer_max_s=answer_max_s)

    @property
    def seen(self) -> Revision:
        """The highest revision heard of. Falls only when a watch has listed anew a store that stepped back."""
        return self.endpoints.seen

    @property
    def proved_s(self) -> float:
        """Loop time at which the newest linearizable question that was answered was asked: then we still heard from
        etcd. A watch that runs keeps it no older than `answer_max_s` or so."""
        return self.endpoints.proved_s

    async def get(self, get: Get) -> RangeResult:
        """Linearizable: not older than the call. Repeats until answered.

        Raises:
            Compacted: `get.revision` cannot be read any more.
        """
        return await self.endpoints.read(lambda rpc: rpc.get(get))

    async def pages(self, start: str, end: str, *, limit: int = PAGE_LIMIT) -> RangeResult:
        """All of [start, end) as it stood at the result's revision, read in pages of `limit` keys. Repeats until
        answered, and from the beginning when a compaction overtakes it.

        `limit` times the largest value must stay under 4 MiB.
        """
        return await list_range(self.endpoints, start, end, limit=limit)

    async def read(self, txn: Txn) -> TxnResult:
        """A Txn of Gets only, under guards: linearizable, repeats until answered."""
        assert all(isinstance(op, Get) for op in txn.then + txn.otherwise), "what writes is never repeated"
        return await self.endpoints.read(lambda rpc: rpc.txn(txn))

    async def txn(self, txn: Txn) -> TxnResult:
        """Sent once.

        Raises:
            EtcdUnavailable: outcome unknown; it may even take effect later. The next call goes to the next endpoint.
            EtcdRefused: nothing was written.
            RevisionWentBack: it was executed, on a store that has stepped back.
        """
        return await self.endpoints.once_believed(lambda rpc: rpc.txn(txn))

    async def lease_grant(self, ttl_s: int) -> Lease:
        """Repeats until answered: a grant whose answer was lost leaves a lease that holds nothing and runs out."""
        return await self.endpoints.until_answered(lambda: self.endpoints.once(lambda rpc: rpc.lease_grant(ttl_s)))

    async def lease_revoke(self, lease_id: LeaseId) -> None:
        """Afterwards there is no such lease, nor any key under it. Repeats until answered."""
        try:
            await self.endpoints.until_answered(lambda: self.endpoints.once(lambda rpc: rpc.lease_revoke(lease_id)))
        except EtcdRefused as refused:
            if refused.reason != LEASE_NOT_FOUND:
                raise

    def watch(self, start: str, end: str, *, limit: int = PAGE_LIMIT) -> AsyncGenerator[Snapshot | Changes, None]:
        """A Snapshot of [start, end), then Changes for ever: none missed, none twice, whole revisions in order; another
        Snapshot after a compaction, or (`went_back`) when the store stepped back. Outlasts an etcd that is away.

        `limit`: as in `pages`. Close it: `async with aclosing(client.watch(...)) as changes`. While one runs, a silent
        endpoint is noticed and left even if nobody else asks anything.

        Raises:
            EtcdRefused: etcd denies permission.
        """
        return watch_range(self.endpoints, start, end, limit=limit)

    async def sizes(self) -> list[StoreSize]:
        """Of the database of each member that answers now."""
        return await self.endpoints.each(lambda rpc: rpc.size())

    async def close(self) -> None:
        """To be called when nobody waits for anything any more."""
        await self.endpoints.close()
