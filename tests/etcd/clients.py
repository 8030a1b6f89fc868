"""Clients of a real etcd, as the tests here need them."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from cluster.etcd import GrpcEtcd
from cluster.kv import Delete, EtcdRpc, Op, Put, Txn, TxnResult, prefix_end
from cluster.session import EtcdClient


def run(test: Coroutine[Any, Any, None], *, seconds: float = 30) -> None:
    """Runs an async test; one that hangs fails."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await test

    asyncio.run(bounded())


def own_range() -> tuple[str, str]:
    """A range of keys that no other test uses."""
    prefix = f"test/{secrets.token_hex(6)}/"
    return prefix, prefix_end(prefix)


@asynccontextmanager
async def rpc_of(endpoint: str) -> AsyncIterator[GrpcEtcd]:
    rpc = GrpcEtcd(endpoint)
    try:
        yield rpc
    finally:
        await rpc.close()


@asynccontextmanager
async def client_of(*endpoints: str, dial: Callable[[str], EtcdRpc] = GrpcEtcd) -> AsyncIterator[EtcdClient]:
    client = EtcdClient(endpoints, dial, rng=random.Random(1))
    try:
        yield client
    finally:
        await client.close()


async def put(rpc: EtcdRpc, key: str, value: bytes = b"") -> TxnResult:
    return await do(rpc, Put(key, value))


async def delete(rpc: EtcdRpc, key: str) -> TxnResult:
    return await do(rpc, Delete(key))


async def do(rpc: EtcdRpc, *ops: Op) -> TxnResult:
    return await rpc.txn(Txn(guards=(), then=ops))


async def until(holds: Callable[[], bool]) -> None:
    """Polls: only for what nothing in the test can be told of. `run` bounds it."""
    while not holds():
        await asyncio.sleep(0.01)
