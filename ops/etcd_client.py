"""A client of etcd for as long as a command needs one, and what it sees of the cluster."""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial

from cluster.etcd import GrpcEtcd
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.tls import TlsIdentity
from cluster.topology import Topology
from cluster.watch import Snapshot


@asynccontextmanager
async def etcd_client(endpoints: Sequence[str], tls: TlsIdentity | None = None) -> AsyncIterator[EtcdClient]:
    """`endpoints`: HOST:PORT each, at least one."""
    # Without TLS the endpoint is all there is to say: tests put another dialler in its place.
    dial = GrpcEtcd if tls is None else partial(GrpcEtcd, tls=tls)
    client = EtcdClient(endpoints, dial, rng=random.Random())
    try:
        yield client
    finally:
        await client.close()


async def watched_topology(etcd: EtcdClient, keys: Keyspace) -> AsyncGenerator[Topology, None]:
    """Who lives and owns what, again with every change: one view, kept up to date. Close it."""
    topology = Topology(keys)
    async with aclosing(etcd.watch(*keys.topology)) as watch:
        async for seen in watch:
            if isinstance(seen, Snapshot):
                topology.reset(seen.kvs)
            else:
                for event in seen.events:
                    topology.apply(event)
            yield topology
