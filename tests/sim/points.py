"""Named points of a process's run, at which it may be killed or stopped: what it does to etcd, to the disk, and says.

A point has the name of what is done, and where: `.before` it, `.sent` (it is on its way, the answer is not) or
`.after`. Wraps the seams; changes nothing that passes through them.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Protocol

from cluster.kv import EtcdRpc, Get, Lease, Put, RangeResult, StoreSize, Txn, TxnResult, ValueIs, WatchBatch
from cluster.records import Keyspace
from cluster.types import LeaseId, Revision
from node.journal.disk import Disk, DiskFile

TXNS = ("append", "claim", "handover", "register")
"""What a Txn of a node is for, by what it puts."""

ETCD_POINTS = tuple(f"{txn}.{where}" for txn in TXNS for where in ("before", "sent", "after"))
ETCD_JOURNAL_POINTS = ("replay.before", "replay.after", *ETCD_POINTS[:3])
"""The others are there with every journal."""
DISK_POINTS = tuple(
    f"{operation}.{where}"
    for operation in ("create", "write", "sync", "sync_directory")
    for where in ("before", "after")
)
NODE_POINTS = ("reply.before", "reply.after", "barrier.before", "barrier.after", "given.before")
ROUTER_POINTS = ("calls.before", "calls.after", "answer.before")


class Pointed(Protocol):
    """A process that has points."""

    async def reach(self, point: str) -> None: ...


def purpose(txn: Txn) -> str:
    """Of TXNS, `replay` (of an opening) or `barrier`, else ""."""
    keys = Keyspace()
    for op in txn.then:
        if isinstance(op, Put):
            if op.key.startswith(keys.shards):
                return "claim" if any(isinstance(guard, ValueIs) for guard in txn.guards) else "handover"
            if op.key.startswith(keys.nodes):
                return "register"
            return "append"
    if any(isinstance(op, Get) and op.end is not None for op in txn.then):
        return "replay" if len(txn.then) > 2 else ""
    return "barrier" if len(txn.then) == 2 else ""


class PointedEtcd:
    """Implements EtcdRpc."""

    def __init__(self, inner: EtcdRpc, process: Pointed) -> None:
        self.endpoint = inner.endpoint
        self._inner = inner
        self._process = process

    async def get(self, get: Get) -> RangeResult:
        return await self._inner.get(get)

    async def txn(self, txn: Txn) -> TxnResult:
        what = purpose(txn)
        if not what:
            return await self._inner.txn(txn)
        await self._process.reach(f"{what}.before")
        result = await self._inner.txn(txn)
        await self._process.reach(f"{what}.after")
        return result

    async def lease_grant(self, ttl_s: int) -> Lease:
        return await self._inner.lease_grant(ttl_s)

    async def lease_revoke(self, lease_id: LeaseId) -> None:
        await self._inner.lease_revoke(lease_id)

    def keep_alive(self, lease_ids: AsyncIterator[LeaseId]) -> AsyncGenerator[Lease, None]:
        return self._inner.keep_alive(lease_ids)

    def watch(self, key: str, end: str | None, start: Revision) -> AsyncGenerator[WatchBatch, None]:
        return self._inner.watch(key, end, start)

    async def size(self) -> StoreSize:
        return await self._inner.size()

    async def close(self) -> None:
        await self._inner.close()


class PointedDisk:
    """Implements Disk."""

    def __init__(self, inner: Disk, process: Pointed) -> None:
        self._inner = inner
        self._process = process

    def require_local(self, directory: Path) -> None:
        self._inner.require_local(directory)

    async def make_directory(self, directory: Path) -> None:
        await self._inner.make_directory(directory)

    async def list_directory(self, directory: Path) -> list[str]:
        return await self._inner.list_directory(directory)

    async def sync_directory(self, directory: Path) -> None:
        await self._process.reach("sync_directory.before")
        await self._inner.sync_directory(directory)
        await self._process.reach("sync_directory.after")

    async def create(self, path: Path) -> DiskFile:
        await self._process.reach("create.before")
        file = await self._inner.create(path)
        await self._process.reach("create.after")
        return _PointedFile(file, self._process)

    async def open(self, path: Path) -> DiskFile:
        return _PointedFile(await self._inner.open(path), self._process)


class _PointedFile:
    """Implements DiskFile."""

    def __init__(self, inner: DiskFile, process: Pointed) -> None:
        self._inner = inner
        self._process = process

    async def append(self, data: bytes) -> int:
        await self._process.reach("write.before")
        written = await self._inner.append(data)
        await self._process.reach("write.after")
        return written

    async def read(self, offset: int, length: int) -> bytes:
        return await self._inner.read(offset, length)

    async def sync(self) -> None:
        await self._process.reach("sync.before")
        await self._inner.sync()
        await self._process.reach("sync.after")

    async def drop_cache(self) -> None:
        await self._inner.drop_cache()

    def close(self) -> None:
        self._inner.close()
