"""One shard's loop over a real journal, whose owner nothing but the journal can stop: no lease ends, no watch tells."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.clock import SystemClock
from cluster.codes import CodeCodec
from cluster.config import JournalKind
from cluster.etcd import GrpcEtcd
from cluster.kv import Put, Txn
from cluster.records import Keyspace, OwnerRecord
from cluster.session import EtcdClient
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, ShardId
from node.calls import Call, End, Outcome
from node.commands import Answer, Command
from node.entries import Header
from node.journal.base import Journal
from node.journal.disk import RealDisk
from node.journal.etcd import EtcdJournal
from node.journal.file import FileJournal
from node.ledger import Ledger
from node.replay import Replayer
from node.shard import Shard
from node.wallclock import WallClock
from tests.support.etcd_server import running_etcd

SHARD = ShardId(2)


@dataclass
class Owner:
    """One owner's loop, whose lease never ends as far as it knows."""

    shard: Shard
    running: "asyncio.Task[End]"

    async def call(self, command: Command) -> Answer | Outcome:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[Answer | Outcome] = loop.create_future()
        self.shard.submit(Call(command, loop.time(), loop.time() + 60, heard.set_result))
        return await heard


class World:
    """An etcd that says who owns the shard, and a journal."""

    def __init__(self, etcd: EtcdClient, kind: JournalKind, directory: Path) -> None:
        self.etcd = etcd
        self.keys = Keyspace()
        self._kind = kind
        self._directory = directory

    def _journal(self) -> Journal:
        """Every process has its own."""
        if self._kind == "etcd":
            return EtcdJournal(self.etcd, self.keys, rng=random.Random(0))
        return FileJournal(self._directory / "journal", RealDisk())

    async def own(self, name: str) -> Owner:
        """Make `name` the owner, whoever was it, and start its loop."""
        me = Incarnation(NodeId(name), LeaseId(1))
        record = OwnerRecord(me, "127.0.0.1:1")
        put = await self.etcd.txn(
            Txn((), (Put(self.keys.incarnation, b"1"), Put(self.keys.owner(SHARD), record.encode())))
        )
        epoch = Epoch(1, put.revision)
        ledger = Ledger(SHARD, CodeCodec({0: b"k" * 32}))
        writer = await self._journal().open(SHARD, epoch, Replayer(ledger).feed)
        ledger.committed()
        shard = Shard(
            Header(SHARD, epoch, me),
            ledger,
            writer,
            WallClock(SystemClock()),
            lambda: True,
            entry_bytes_max=128 * 1024,
            calls_max=100,
        )
        return Owner(shard, asyncio.create_task(shard.run()))


@asynccontextmanager
async def world(kind: JournalKind, directory: Path) -> AsyncIterator[World]:
    with running_etcd(directory) as (server,):
        etcd = EtcdClient([server.endpoint], GrpcEtcd, rng=random.Random(0))
        try:
            yield World(etcd, kind, directory)
        finally:
            await etcd.close()
