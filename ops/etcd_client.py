"""A client of etcd for as long as a command needs one."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cluster.etcd import GrpcEtcd
from cluster.session import EtcdClient


@asynccontextmanager
async def etcd_client(endpoints: Sequence[str]) -> AsyncIterator[EtcdClient]:
    """`endpoints`: HOST:PORT each, at least one."""
    client = EtcdClient(endpoints, GrpcEtcd, rng=random.Random())
    try:
        yield client
    finally:
        await client.close()
