"""A node's lives: take a lease, register, own shards, until the lease or the registration is lost; then a new life.

One life is one incarnation (`node.life`). This file begins and ends them, and makes sure that a node id has one.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress

import structlog

from cluster.endpoints import RevisionWentBack
from cluster.kv import LEASE_NOT_FOUND, TOO_MANY_REQUESTS, EtcdRefused, EtcdUnavailable, Get, ModRevisionIs, Put, Txn
from cluster.lease import LeaseKeeper, LeaseLost
from cluster.records import NodeRecord, NodeState
from cluster.types import Incarnation, Revision
from node.life import Life, LifeOver, Parts

log = structlog.get_logger()

RELEASE_S_MAX = 1.0
"""How long an ended life tries to give its lease back. If it cannot, the lease runs out."""


class NodeIdInUse(Exception):
    """A living process has this node id."""


class Member:
    """This process in the cluster, over all its lives."""

    def __init__(self, parts: Parts, on_change: Callable[[str], None] = lambda not_ready: None) -> None:
        """`on_change`: told what `not_ready` says when that may have changed."""
        self._parts = parts
        self._on_change = on_change
        self.observer = parts.observer
        self._past: set[Incarnation] = set()
        self._drain = asyncio.Event()
        self._restored = False
        """etcd's revision went back, and no watch has listed it anew since."""
        self.life: Life | None = None
        """The present life, once registered; None between lives."""

    def not_ready(self) -> str:
        """Why this node cannot serve what it owns; "" if it can."""
        return "not registered" if self.life is None else self.life.not_ready()

    def _changed(self) -> None:
        self._on_change(self.not_ready())

    def drain(self) -> None:
        """Hand everything over, then let `run` return."""
        self._drain.set()

    async def run(self, on_registered: Callable[[], None]) -> None:
        """Live until drained.

        Raises:
            NodeIdInUse: another process has this node id now.
        """
        this = asyncio.current_task()
        assert this is not None
        while True:
            # A task of its own: until Python 3.13 a task group that ends with errors forgets that its task was
            # cancelled at the same moment.
            why = await asyncio.create_task(self._live(on_registered), name="life")
            if this.cancelling():
                raise asyncio.CancelledError
            log.info("life_over", why=why)
            self._parts.observer.life_over()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._parts.timing.hold_down_s):
                    await self._drain.wait()
                    return

    async def _live(self, on_registered: Callable[[], None]) -> str:
        """One life, from its lease to its end; why it ended."""
        timing = self._parts.timing
        lease = LeaseKeeper(
            self._parts.etcd,
            self._parts.clock,
            ttl_s=timing.lease_ttl_s,
            keepalive_s=timing.keepalive_s,
            on_renewed=lambda left_s: self._parts.observer.renewed(left_s / timing.lease_ttl_s),
        )
        ends: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._end_on_drain(), name="drain")
                if self._restored:
                    await self._list_anew()
                me = Incarnation(self._parts.node_id, await lease.acquire())
                self._past.add(me)
                tasks.create_task(_keep(lease), name="lease")
                record = NodeRecord(me, self._parts.address, NodeState.ACTIVE)
                cluster_incarnation = await self._cluster_incarnation()
                await self._register(record)
                self.life = Life(self._parts, record, cluster_incarnation, lease, tasks, self._changed)
                self.life.start()
                on_registered()
                log.info("registered", incarnation=str(me), address=self._parts.address)
        except* (LifeOver, NodeIdInUse, RevisionWentBack) as over:
            ends += over.exceptions
        finally:
            if self.life is not None:
                self.life.end()
            self.life = None
            self._changed()
        # A task of its own as well: before Python 3.11.3 no timeout ends in a task whose task group has failed.
        await asyncio.create_task(self._bury(lease), name="burial")
        for end in ends:
            if isinstance(end, NodeIdInUse):
                raise end
            if isinstance(end, RevisionWentBack):
                self._restored = True
        return "; ".join(sorted(map(str, ends)))

    async def _bury(self, lease: LeaseKeeper) -> None:
        """What the life held is closed by now; giving its lease back lets others claim without waiting for its end.

        Also when its time is over here: where only answers are lost, etcd has just renewed it.
        """
        with suppress(EtcdUnavailable, EtcdRefused, RevisionWentBack, TimeoutError):
            async with asyncio.timeout(RELEASE_S_MAX):
                await lease.release()

    async def _list_anew(self) -> None:
        """Begin again with an etcd that was restored: a watch's listing is what the session believes it from."""
        async with aclosing(self._parts.etcd.watch(*self._parts.keys.topology)) as seen:
            await anext(seen)
        self._restored = False

    async def _cluster_incarnation(self) -> int:
        """Read for every life: a restore raises it."""
        return int((await self._parts.etcd.get(Get(self._parts.keys.incarnation))).kvs[0].value)

    async def _end_on_drain(self) -> None:
        await self._drain.wait()
        if self.life is not None:
            await self.life.drain()
        raise LifeOver("drained")

    async def _register(self, record: NodeRecord) -> None:
        """Write `nodes/<id>`, unless a living process has it.

        A registration of an earlier life of this very process is replaced. Another's is waited for: if its process is
        dead, its lease ends within the TTL, or twice that if etcd's leader changed meanwhile: then leases begin anew.
        """
        loop = asyncio.get_running_loop()
        key = self._parts.keys.node(self._parts.node_id)
        give_up_s = loop.time() + 2 * self._parts.timing.lease_ttl_s + 1.0
        while True:
            found = (await self._parts.etcd.get(Get(key))).kvs
            theirs = NodeRecord.decode(found[0].value).incarnation if found else None
            if theirs == record.incarnation:
                return
            if theirs is None or theirs in self._past:
                seen = found[0].mod_revision if found else Revision(0)
                txn = Txn((ModRevisionIs(key, seen),), (Put(key, record.encode(), record.incarnation.lease_id),))
                try:
                    await self._parts.etcd.txn(txn)
                except EtcdUnavailable:
                    pass  # whether it was written, the next read tells
                except EtcdRefused as refused:
                    if refused.reason not in (LEASE_NOT_FOUND, TOO_MANY_REQUESTS):
                        raise
                    raise LifeOver(f"registration refused: {refused.reason}") from refused
                continue
            if loop.time() > give_up_s:
                raise NodeIdInUse(f"node id {self._parts.node_id!r} belongs to the living {theirs}")
            await asyncio.sleep(0.2)


async def _keep(lease: LeaseKeeper) -> None:
    try:
        await lease.keep()
    except LeaseLost as lost:
        raise LifeOver("lease lost") from lost
