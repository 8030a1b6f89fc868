"""A cluster in etcd, real or fake, as far as a journal can see it: an incarnation, owner keys, journals."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from cluster.kv import Get, ModRevisionIs, Put, Txn, prefix_end
from cluster.records import Keyspace, OwnerRecord
from cluster.session import EtcdClient
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.journal.etcd import PAGE_ENTRIES, EtcdJournal, EtcdShardJournal
from tests.fakes.etcd import FakeEtcd
from tests.fakes.etcd_faults import Script
from tests.fakes.virtual_time import run

SHARD = ShardId(7)
NO_LEASE = LeaseId(0)


@dataclass(slots=True)
class Cluster:
    """What an operator and the ownership part of the nodes do, without a fault in it."""

    client: EtcdClient
    keys: Keyspace = field(default_factory=Keyspace)

    async def begin(self) -> None:
        await self.set_incarnation(1)

    async def set_incarnation(self, number: int) -> None:
        await self.client.txn(Txn((), (Put(self.keys.incarnation, b"%d" % number),)))

    async def own(self, process: str, shard: ShardId = SHARD, lease_id: LeaseId = NO_LEASE) -> Epoch:
        """Give the shard to `process`, from whoever has it."""
        record = OwnerRecord(Incarnation(NodeId(process), lease_id), "127.0.0.1:1")
        key = self.keys.owner(shard)
        while True:
            seen = await self.client.read(Txn((), (Get(key), Get(self.keys.incarnation))))
            owner, incarnation = seen.ranges
            guard = ModRevisionIs(key, owner[0].mod_revision if owner else Revision(0))
            put = await self.client.txn(Txn((guard,), (Put(key, record.encode(), lease_id),)))
            if put.succeeded:
                return Epoch(int(incarnation[0].value), put.revision)

    async def entries(self, shard: ShardId = SHARD) -> dict[str, bytes]:
        """What stands in the journal, key by key, read without the journal's code."""
        prefix = self.keys.journal(shard)
        found = await self.client.get(Get(prefix, prefix_end(prefix)))
        return {kv.key.removeprefix(prefix): kv.value for kv in found.kvs}


def journal_of(client: EtcdClient, keys: Keyspace, *, page_entries: int = PAGE_ENTRIES) -> EtcdJournal:
    return EtcdJournal(client, keys, rng=random.Random(0), page_entries=page_entries)


@dataclass(slots=True)
class Opened:
    writer: EtcdShardJournal
    epoch: Epoch
    entries: list[bytes]


class FakeWorld:
    """A cluster over a fake etcd whose faults the test scripts. Processes have names, and a client each; those of a
    second world on the same etcd have seen nothing yet."""

    def __init__(self, *, etcd: FakeEtcd | None = None, page_entries: int = PAGE_ENTRIES) -> None:
        self.script = Script()
        self.etcd = etcd or FakeEtcd(self.script)
        self._page_entries = page_entries
        self._clients: dict[str, EtcdClient] = {}
        self.cluster = Cluster(self.client("operator"))

    def client(self, process: str) -> EtcdClient:
        if process not in self._clients:
            dial = partial(self.etcd.connect, client=process)
            self._clients[process] = EtcdClient(["fake:2379"], dial, rng=random.Random(process))
        return self._clients[process]

    def journal(self, process: str) -> EtcdJournal:
        return journal_of(self.client(process), self.cluster.keys, page_entries=self._page_entries)

    async def open(self, process: str, epoch: Epoch | None = None) -> Opened:
        """Take the shard for `process`, unless `epoch` says that it has it, and open it."""
        epoch = epoch or await self.cluster.own(process)
        entries: list[bytes] = []
        return Opened(await self.journal(process).open(SHARD, epoch, entries.append), epoch, entries)

    async def values(self) -> list[bytes]:
        """The journal's entries; asserts that their positions are 0, 1, 2, ..."""
        entries = await self.cluster.entries()
        assert list(entries) == [f"{position:016x}" for position in range(len(entries))], "a hole, or a stray key"
        return list(entries.values())

    def puts(self, process: str) -> list[Txn]:
        """The appends that `process` has sent."""
        sent = [call.request for call in self.script.calls if call.client == process and isinstance(call.request, Txn)]
        return [txn for txn in sent if txn.then and isinstance(txn.then[0], Put)]


def in_fake_world(scenario: Callable[[FakeWorld], Awaitable[None]], *, page_entries: int = PAGE_ENTRIES) -> None:
    """Run `scenario` on a virtual clock, in a cluster that has begun."""

    async def main() -> None:
        world = FakeWorld(page_entries=page_entries)
        await world.cluster.begin()
        await scenario(world)

    run(main())
