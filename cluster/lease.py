"""A process's lease: kept alive, and never believed in for longer than etcd can have meant.

Its time counts on CLOCK_BOOTTIME from *before* a question was sent, so a process that was stopped sees on waking that
its time is up. Once it is up, this lease is never renewed again: a node whose answers are lost on the way back would
otherwise keep alive what it no longer serves. What hangs on the lease is not known here.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Never

import structlog

from cluster.clock import Clock
from cluster.kv import EtcdRpc, EtcdUnavailable, Lease
from cluster.session import EtcdClient
from cluster.types import LeaseId

log = structlog.get_logger()


class LeaseLost(Exception):
    """The lease is gone, or may be: nothing that hangs on it holds any more. Take a new one."""


class _Questions:
    """What a keepalive stream is to ask, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[LeaseId] = asyncio.Queue()

    def ask(self, lease_id: LeaseId) -> None:
        self._queue.put_nowait(lease_id)

    def __aiter__(self) -> AsyncIterator[LeaseId]:
        return self

    async def __anext__(self) -> LeaseId:
        return await self._queue.get()


class LeaseKeeper:
    """One lease at a time: `acquire`, then `keep` in a task of its own; after LeaseLost, `acquire` again."""

    def __init__(
        self,
        client: EtcdClient,
        clock: Clock,
        *,
        ttl_s: int,
        keepalive_s: float,
        on_renewed: Callable[[float], None] = lambda left_s: None,
    ) -> None:
        """`on_renewed`: told at every renewal how many seconds had been left."""
        assert ttl_s > 3 * keepalive_s, "one lost question must not cost the lease"
        self._client = client
        self._endpoints = client.endpoints
        self._clock = clock
        self._ttl_s = ttl_s
        self._keepalive_s = keepalive_s
        self._on_renewed = on_renewed
        self._lease_id: LeaseId | None = None
        self._asked_s = float("-inf")
        self._deadline_s = float("-inf")

    @property
    def lease_id(self) -> LeaseId:
        """The lease last acquired, lost or not."""
        assert self._lease_id is not None, "no lease was acquired yet"
        return self._lease_id

    @property
    def deadline_s(self) -> float:
        """On `Clock.boottime_s`: until then etcd keeps the lease. Moves forward with every renewal; -inf when the lease
        is lost or given up before its time."""
        return self._deadline_s

    def left_s(self) -> float:
        """Seconds until the deadline; not above 0: the lease is lost for ever."""
        return self._deadline_s - self._clock.boottime_s()

    async def acquire(self) -> LeaseId:
        """A new lease. Repeats until answered: the caller's asyncio.timeout ends it. A grant whose answer was lost
        leaves a lease that holds nothing and runs out.

        Raises:
            EtcdRefused
        """
        assert self.left_s() <= 0, "there is a lease"

        async def grant(rpc: EtcdRpc) -> Lease:
            self._asked_s = self._clock.boottime_s()
            return await rpc.lease_grant(self._ttl_s)

        lease = await self._endpoints.until_answered(lambda: self._endpoints.once(grant))
        self._lease_id = lease.lease_id
        self._deadline_s = self._asked_s + lease.ttl_s
        log.info("lease_acquired", lease=f"{lease.lease_id:x}", ttl_s=lease.ttl_s)
        return lease.lease_id

    async def keep(self) -> Never:
        """Renews every `keepalive_s` on one stream, at the next endpoint when an answer is missing for `answer_max_s`.

        Raises:
            LeaseLost: etcd knows no such lease, or the deadline passed without a renewal.
        """
        failures = 0
        due_s = self._asked_s + self._keepalive_s
        while True:
            endpoint = self._endpoints.current
            questions = _Questions()
            try:
                async with aclosing(endpoint.rpc.keep_alive(questions)) as answers:
                    while True:
                        # Wakes at the deadline if that comes first, so that the loss is told when it happens.
                        await asyncio.sleep(min(due_s, self._deadline_s) - self._clock.boottime_s())
                        await self._renew(questions, answers)
                        due_s = self._asked_s + self._keepalive_s
                        failures = 0
                        self._endpoints.heard(endpoint)
            except EtcdUnavailable as error:
                self._endpoints.leave(endpoint, error)
                failures += 1
                due_s = self._clock.boottime_s() + self._endpoints.pause_s(failures)

    async def release(self) -> None:
        """Gives the lease up, if one was acquired: its time is over at once, here first, then at etcd. Repeats until
        answered."""
        self._deadline_s = float("-inf")
        if self._lease_id is not None:
            await self._client.lease_revoke(self._lease_id)

    async def _renew(self, questions: _Questions, answers: AsyncGenerator[Lease, None]) -> None:
        self._require_time()
        asked_s = self._asked_s = self._clock.boottime_s()
        questions.ask(self.lease_id)
        try:
            async with asyncio.timeout(min(self._endpoints.answer_max_s, self._deadline_s - asked_s)):
                lease = await anext(answers)
        except TimeoutError:
            self._require_time()
            raise EtcdUnavailable(f"no keepalive answer in {self._endpoints.answer_max_s} s") from None
        # An answer that is read after the deadline revives nothing: the lease was called lost in between.
        self._require_time()
        assert lease.lease_id == self.lease_id, "an answer about another lease"
        if lease.ttl_s <= 0:
            self._deadline_s = float("-inf")
            raise self._lost("etcd knows no such lease")
        self._on_renewed(self.left_s())
        self._deadline_s = max(self._deadline_s, asked_s + lease.ttl_s)

    def _require_time(self) -> None:
        if self.left_s() <= 0:
            raise self._lost("its time is up")

    def _lost(self, why: str) -> LeaseLost:
        log.warning("lease_lost", lease=f"{self.lease_id:x}", why=why)
        return LeaseLost(f"lease {self.lease_id:x}: {why}")
