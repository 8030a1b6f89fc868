"""The etcd journal does what every journal must: over the fake etcd and over a real one."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import pytest

from cluster.etcd import GrpcEtcd
from cluster.kv import EtcdRpc
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Epoch, ShardId
from node.journal.base import Journal
from node.journal.etcd import EtcdJournal
from tests.fakes import virtual_time
from tests.fakes.etcd import FakeEtcd
from tests.fakes.etcd_faults import Fate, Gate, Leg, Script
from tests.journal.conformance import Harness, Hold, JournalConformance, OpenHarness
from tests.journal.etcd_cluster import Cluster, journal_of
from tests.journal.follower_conformance import FollowerConformance
from tests.support.etcd_server import EtcdServer, running_etcd
from tests.support.proxy import Proxy, Way, running_proxy


def client_of(endpoint: str, dial: Callable[[str], EtcdRpc]) -> EtcdClient:
    return EtcdClient([endpoint], dial, rng=random.Random(0))


class GateHold:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def reached(self) -> None:
        await self._gate.reached()

    def release(self) -> None:
        self._gate.open()


class FakeHarness:
    append_stages: Sequence[str] = ("request", "answer")

    def __init__(self) -> None:
        self._script = Script()
        self._etcd = FakeEtcd(self._script)
        self._journals: dict[str, EtcdJournal] = {}
        self.cluster = Cluster(self._client("operator"))

    def journal(self, process: str) -> Journal:
        if process not in self._journals:
            self._journals[process] = journal_of(self._client(process), self.cluster.keys)
        return self._journals[process]

    async def own(self, shard: ShardId, process: str) -> Epoch:
        return await self.cluster.own(process, shard)

    def hold_append(self, process: str, stage: str) -> Hold:
        leg = Leg(gate=(gate := Gate()))
        self._script.next("txn", Fate(request=leg) if stage == "request" else Fate(answer=leg), client=process)
        return GateHold(gate)

    def _client(self, process: str) -> EtcdClient:
        return client_of("fake:2379", partial(self._etcd.connect, client=process))


@asynccontextmanager
async def fake_harness() -> AsyncIterator[Harness]:
    harness = FakeHarness()
    await harness.cluster.begin()
    yield harness


class TestOverFakeEtcd(JournalConformance, FollowerConformance):
    @pytest.fixture
    def open_harness(self) -> OpenHarness:
        return OpenHarness(fake_harness, virtual_time.run)


class WayHold:
    """Holds all that goes one way between a process and etcd."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._came_bytes = way.came_bytes
        way.hold()

    async def reached(self) -> None:
        while self._way.came_bytes == self._came_bytes:
            await asyncio.sleep(0.001)

    def release(self) -> None:
        self._way.release()


class RealHarness:
    """Every process reaches etcd through a proxy of its own."""

    append_stages: Sequence[str] = ("request", "answer")

    def __init__(self, cluster: Cluster, journals: dict[str, EtcdJournal], proxies: dict[str, Proxy]) -> None:
        self._cluster = cluster
        self._journals = journals
        self._proxies = proxies

    def journal(self, process: str) -> Journal:
        return self._journals[process]

    async def own(self, shard: ShardId, process: str) -> Epoch:
        return await self._cluster.own(process, shard)

    def hold_append(self, process: str, stage: str) -> Hold:
        proxy = self._proxies[process]
        return WayHold(proxy.up if stage == "request" else proxy.down)


@asynccontextmanager
async def real_harness(server: EtcdServer, keys: Keyspace) -> AsyncIterator[Harness]:
    async with AsyncExitStack() as stack:

        def client(endpoint: str) -> EtcdClient:
            made = client_of(endpoint, GrpcEtcd)
            stack.push_async_callback(made.close)
            return made

        cluster = Cluster(client(server.endpoint), keys)
        await cluster.begin()
        proxies = {name: await stack.enter_async_context(running_proxy(server.port)) for name in ("A", "B", "C")}
        journals = {name: journal_of(client(proxy.endpoint), keys) for name, proxy in proxies.items()}
        journals["reader"] = journal_of(cluster.client, keys)
        yield RealHarness(cluster, journals, proxies)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), flags=("--unsafe-no-fsync",)) as [server]:
        yield server


@pytest.mark.cluster
class TestOverRealEtcd(JournalConformance, FollowerConformance):
    _tests = itertools.count()

    @pytest.fixture
    def open_harness(self, server: EtcdServer) -> OpenHarness:
        keys = Keyspace(f"test-{next(self._tests)}/")
        return OpenHarness(partial(real_harness, server, keys), asyncio.run)
