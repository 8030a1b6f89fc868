"""A Txn that a proxy holds back until nobody expects it any more, on the way to a real etcd."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from cluster.etcd import GrpcEtcd
from cluster.records import Keyspace
from cluster.session import EtcdClient
from node.journal.base import Fenced
from node.journal.etcd import EtcdShardJournal
from tests.journal.etcd_cluster import SHARD, Cluster, journal_of
from tests.support.etcd_server import EtcdServer, running_etcd
from tests.support.proxy import Proxy, running_proxy

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), flags=("--unsafe-no-fsync",)) as [server]:
        yield server


@dataclass(slots=True)
class World:
    cluster: Cluster
    proxy: Proxy
    a: EtcdShardJournal
    """Its owner asks etcd through the proxy first, and directly when the proxy does not answer."""

    async def held_append(self, entry: bytes) -> "asyncio.Task[None]":
        """An append of A whose Txn stands in the proxy."""
        came_bytes = self.proxy.up.came_bytes
        self.proxy.up.hold()
        append = asyncio.create_task(self.a.append(entry))
        while self.proxy.up.came_bytes == came_bytes:
            await asyncio.sleep(0.001)
        self.proxy.up.drop()  # so that etcd does not hear that A gives up
        return append

    async def late_arrival(self) -> None:
        """The Txn comes out of the proxy, and etcd has dealt with it."""
        passed_bytes = self.proxy.up.passed_bytes
        answered_bytes = self.proxy.down.came_bytes
        self.proxy.up.release()
        async with asyncio.timeout(20):
            while self.proxy.up.passed_bytes == passed_bytes or self.proxy.down.came_bytes == answered_bytes:
                await asyncio.sleep(0.001)

    async def replay(self) -> list[bytes]:
        """What the next owner finds."""
        found: list[bytes] = []
        epoch = await self.cluster.own("reader")
        await journal_of(self.cluster.client, self.cluster.keys).open(SHARD, epoch, found.append)
        return found


@asynccontextmanager
async def world_of(server: EtcdServer, keys: Keyspace) -> AsyncIterator[World]:
    operator = EtcdClient([server.endpoint], GrpcEtcd, rng=random.Random(0))
    async with running_proxy(server.port) as proxy:
        client = EtcdClient([proxy.endpoint, server.endpoint], GrpcEtcd, rng=random.Random(0))
        try:
            cluster = Cluster(operator, keys)
            await cluster.begin()
            epoch = await cluster.own("A")
            a = await journal_of(client, keys).open(SHARD, epoch, lambda entry: None)
            await a.append(b"a0")
            yield World(cluster, proxy, a)
        finally:
            await client.close()
            await operator.close()


def in_world(server: EtcdServer, name: str, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), world_of(server, Keyspace(name + "/")) as world:
            await scenario(world)

    asyncio.run(main())


def test_a_txn_lands_after_a_read_has_not_found_it(server: EtcdServer) -> None:
    """The caller gave up, a linearizable read has found nothing, then the Txn lands: the next owner finds it once, and
    A, which could not know, has written nothing else."""

    async def scenario(world: World) -> None:
        append = await world.held_append(b"a1")
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        assert list((await world.cluster.entries()).values()) == [b"a0"]
        with pytest.raises(Fenced):
            await world.a.append(b"something else")
        await world.late_arrival()
        assert await world.replay() == [b"a0", b"a1"]

    in_world(server, "lands", scenario)


def test_a_txn_sent_again_and_its_late_first_attempt_are_one_entry(server: EtcdServer) -> None:
    """A reads back nothing, sends the same entry another way, and goes on; the first attempt arrives after all."""

    async def scenario(world: World) -> None:
        append = await world.held_append(b"a1")
        await append
        await world.a.append(b"a2")
        await world.late_arrival()
        await world.a.append(b"a3")
        assert await world.replay() == [b"a0", b"a1", b"a2", b"a3"]

    in_world(server, "again", scenario)


def test_a_txn_that_arrives_after_a_handover_is_refused(server: EtcdServer) -> None:
    """Its position is free still, but its epoch is gone."""

    async def scenario(world: World) -> None:
        append = await world.held_append(b"a1")
        epoch = await world.cluster.own("B")
        b = await journal_of(world.cluster.client, world.cluster.keys).open(SHARD, epoch, lambda entry: None)
        with pytest.raises(Fenced):
            await append
        await world.late_arrival()
        assert list((await world.cluster.entries()).values()) == [b"a0"]
        await b.append(b"b1")
        assert await world.replay() == [b"a0", b"b1"]

    in_world(server, "handover", scenario)
