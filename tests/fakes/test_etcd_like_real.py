"""The fake etcd answers as a real one does: the same random calls on both, the same answers.

Revisions are compared from where each sequence began, leases by the order in which they were granted.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from cluster.etcd import GrpcEtcd
from cluster.kv import (
    Compacted,
    Delete,
    EtcdRefused,
    EtcdRpc,
    EtcdUnavailable,
    Event,
    Get,
    Guard,
    KeyValue,
    Lease,
    ModRevisionIs,
    Op,
    Put,
    RangeResult,
    Txn,
    TxnResult,
    ValueIs,
)
from cluster.types import LeaseId, Revision
from tests.fakes.etcd import FakeEtcd
from tests.support.etcd_server import EtcdServer, running_etcd

pytestmark = pytest.mark.cluster

CALLS = 60
NAMES = ("a", "b", "b/", "b/1", "b/2", "c", "\u00e9", "\uffee", "\U00010400")
"""The last three are in the order of code points, which is not UTF-16's."""
UNKNOWN_LEASE = LeaseId(0x7777)

Compact = Callable[[Revision], None]
Calls = Callable[["Side"], Awaitable[object]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with running_etcd(tmp_path_factory.mktemp("etcd"), flags=("--unsafe-no-fsync",)) as [server]:
        yield server


class Side:
    """One etcd, seen so that both sides look alike."""

    def __init__(self, rpc: EtcdRpc, prefix: str, compact: Compact) -> None:
        self.rpc = rpc
        self.prefix = prefix
        self.base = Revision(0)
        self._compact = compact
        self._leases: list[LeaseId] = []

    async def begin(self) -> None:
        self.base = (await self.rpc.get(Get(self.prefix))).revision

    def key(self, name: str) -> str:
        return self.prefix + name

    def lease(self, number: int) -> LeaseId:
        """The number-th lease granted; 0: none; one that was never granted is unknown."""
        if number == 0:
            return LeaseId(0)
        return self._leases[number - 1] if number <= len(self._leases) else UNKNOWN_LEASE

    async def grant(self, ttl_s: int) -> int:
        lease = await self.rpc.lease_grant(ttl_s)
        self._leases.append(lease.lease_id)
        return lease.ttl_s

    def compact(self, revision: int) -> None:
        self._compact(Revision(self.base + revision))

    def plain(self, value: Any) -> object:
        """Without what may differ between the sides."""
        match value:
            case KeyValue():
                lease = self._leases.index(value.lease_id) + 1 if value.lease_id else 0
                name = value.key.removeprefix(self.prefix)
                return name, value.value, self._since(value.create_revision), self._since(value.mod_revision), lease
            case RangeResult():
                return self.plain(value.kvs), value.more, self._since(value.revision)
            case TxnResult():
                return value.succeeded, self._since(value.revision), self.plain(value.ranges)
            case Lease():
                return value.ttl_s
            case Event():
                return self.plain(value.kv), value.deleted
            case tuple():
                return tuple(self.plain(each) for each in value)
            case _:
                return value

    def _since(self, revision: Revision) -> int:
        return revision - self.base if revision else 0


async def outcome(side: Side, call: Calls) -> object:
    try:
        return side.plain(await call(side))
    except EtcdRefused as refused:
        return refused.reason
    except Compacted:
        return Compacted


class Generator:
    """Random calls. What they are made of depends on the seed alone, so that both sides get the same."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._leases = 0
        self.revision = 0
        """Since the beginning, as the last answer had it."""
        self.compacted = 0

    def call(self) -> Calls:
        rng = self._rng
        match rng.randrange(20):
            case 0:
                self._leases += 1
                return lambda side: side.grant(100)
            case 1:
                number = rng.randint(1, self._leases + 1)
                return lambda side: side.rpc.lease_revoke(side.lease(number))
            case 2:
                numbers = [rng.randint(1, self._leases + 1) for _ in range(3)]
                return lambda side: keep_alive(side, numbers)
            case 3 if self.revision > self.compacted:
                self.compacted = revision = rng.randint(self.compacted + 1, self.revision)
                return lambda side: compact(side, revision)
            case 4 | 5 | 6:
                get = self._get()
                at = rng.choice([0, 0, rng.randint(1, self.revision + 2)])
                return lambda side: side.rpc.get(get(side, at))
            case _:
                guards = [self._guard() for _ in range(rng.choice([0, 0, 1, 1, 2]))]
                then = [self._op() for _ in range(rng.randint(0, 4))]
                otherwise = [self._op() for _ in range(rng.randint(0, 2))]
                return lambda side: side.rpc.txn(
                    Txn(
                        tuple(guard(side) for guard in guards),
                        tuple(op(side) for op in then),
                        tuple(op(side) for op in otherwise),
                    )
                )

    def _guard(self) -> Callable[[Side], Guard]:
        name, revision, value = self._name(), self._rng.randint(0, self.revision), self._value()
        if self._rng.random() < 0.5:
            return lambda side: ModRevisionIs(side.key(name), Revision(side.base + revision if revision else 0))
        return lambda side: ValueIs(side.key(name), value)

    def _op(self) -> Callable[[Side], Op]:
        name, value, end = self._name(), self._value(), self._end()
        lease = self._rng.choice([0, 0, 0, self._rng.randint(1, self._leases + 1) if self._leases else 0])
        match self._rng.randrange(6):
            case 0 | 1 | 2:
                return lambda side: Put(side.key(name), value, side.lease(lease))
            case 3:
                return lambda side: Delete(side.key(name), side.key(end) if end else None)
            case _:
                get = self._get()
                return lambda side: get(side, 0)

    def _get(self) -> Callable[[Side, int], Get]:
        name, end, limit, keys_only = self._name(), self._end(), self._rng.randrange(4), self._rng.random() < 0.2

        def get(side: Side, at: int) -> Get:
            revision = Revision(side.base + at if at else 0)
            return Get(side.key(name), side.key(end) if end else None, limit, keys_only, revision)

        return get

    def _name(self) -> str:
        return self._rng.choice(NAMES)

    def _end(self) -> str | None:
        return self._rng.choice([None, *NAMES])

    def _value(self) -> bytes:
        return self._rng.choice([b"", b"1", b"2", bytes(range(256))])


async def keep_alive(side: Side, numbers: list[int]) -> tuple[Lease, ...]:
    async def ids() -> AsyncIterator[LeaseId]:
        for number in numbers:
            yield side.lease(number)

    async with aclosing(side.rpc.keep_alive(ids())) as answers:
        return tuple([lease async for lease in answers])


async def compact(side: Side, revision: int) -> None:
    side.compact(revision)


async def histories(side: Side, starts: tuple[int, ...]) -> list[object]:
    """All events since each of these revisions of the sequence."""
    end = (await side.rpc.txn(Txn((), (Put(side.key("end"), b""),)))).revision
    return await asyncio.gather(*(history(side, start, end) for start in starts))


async def history(side: Side, start: int, end: Revision) -> object:
    events: list[Event] = []
    try:
        async with aclosing(
            side.rpc.watch(side.prefix, side.prefix + "\U0010ffff", Revision(side.base + start))
        ) as batches:
            async for batch in batches:
                revisions = [event.kv.mod_revision for event in batch.events]
                assert revisions == sorted(revisions)
                events += batch.events
                if batch.events and batch.revision >= end:
                    break
    except Compacted:
        return Compacted
    return side.plain(tuple(events))


async def compare(server: EtcdServer, seed: int) -> None:
    fake = FakeEtcd(lease_ttl_min_s=1)
    prefix = f"seed-{seed}/"
    real_rpc = GrpcEtcd(server.endpoint)
    real = Side(real_rpc, prefix, server.compact)
    like = Side(fake.connect("fake:2379"), prefix, fake.store.compact)
    generator = Generator(seed)
    try:
        for side in (real, like):
            await side.begin()
        for number in range(CALLS):
            call = generator.call()
            expected, found = await outcome(real, call), await outcome(like, call)
            assert found == expected, f"seed {seed}, call {number}"
            generator.revision = fake.store.revision - like.base
        starts = (1, generator.compacted + 1, generator.revision)
        assert await histories(like, starts) == await histories(real, starts), f"seed {seed}, watches from {starts}"
    finally:
        await real_rpc.close()


@pytest.mark.parametrize("first", range(0, 30, 15))
def test_random_calls_have_the_same_answers(server: EtcdServer, first: int) -> None:
    """Txns, reads now and at old revisions, leases, compaction and watches: fake and real etcd cannot be told apart."""

    async def main() -> None:
        for seed in range(first, first + 15):
            await compare(server, seed)

    asyncio.run(main())


def put_many(count: int) -> Callable[[Side], Txn]:
    return lambda side: Txn((), tuple(Put(side.key(str(i)), b"") for i in range(count)))


@pytest.mark.parametrize(
    "txn",
    [
        put_many(128),
        put_many(129),
        lambda side: Txn((), (Get(side.key("a")),) * 129),
        lambda side: Txn((ModRevisionIs(side.key("a"), Revision(0)),) * 129, ()),
        lambda side: Txn((), (Put(side.key("a"), bytes(1_400_000)),)),
        lambda side: Txn((), (Put(side.key("a"), bytes(1_700_000)),)),
        lambda side: Txn((), (Put(side.key("a"), bytes(900_000)), Put(side.key("b"), bytes(900_000)))),
        lambda side: Txn((), (Put(side.key("a"), b""), Put(side.key("a"), b""))),
        lambda side: Txn((), (Put(side.key("b"), b""), Delete(side.key("a"), side.key("c")))),
        lambda side: Txn((), (), (Put(side.key("b"), b""), Delete(side.key("b")))),
        lambda side: Txn((), (Put(side.key("a"), b"", UNKNOWN_LEASE), Put(side.key("b"), b""))),
        lambda side: Txn((), (Get(side.key("a")),), (Put(side.key("a"), b"", UNKNOWN_LEASE),)),
    ],
)
def test_limits_are_the_same(server: EtcdServer, txn: Callable[[Side], Txn], request: pytest.FixtureRequest) -> None:
    """What is too large, too many, twice or under no lease both refuse with the same words, and write nothing."""

    async def main() -> None:
        real_rpc = GrpcEtcd(server.endpoint)
        prefix = f"{request.node.name}/"
        fake = FakeEtcd()
        sides = [Side(real_rpc, prefix, server.compact), Side(fake.connect("fake:2379"), prefix, fake.store.compact)]
        found = []
        try:
            for side in sides:
                await side.begin()
                made = txn(side)
                answer = await outcome(side, lambda side, made=made: side.rpc.txn(made))  # type: ignore[misc]
                left = await side.rpc.get(Get(side.prefix, side.prefix + "~", keys_only=True))
                found.append((answer, side.plain(left)))
        finally:
            await real_rpc.close()
        assert found[0] == found[1]

    asyncio.run(main())


def test_no_space_is_never_a_refusal(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A real etcd over its quota answers so that the session takes the outcome for unknown, as the fake does."""

    async def fill(rpc: EtcdRpc) -> None:
        for i in range(200):
            await rpc.txn(Txn((), (Put(f"key-{i}", bytes(100_000)),)))

    async def main(endpoint: str) -> None:
        real = GrpcEtcd(endpoint)
        fake = FakeEtcd(quota_bytes=8_000_000).connect("fake:2379")
        for rpc in (real, fake):
            with pytest.raises(EtcdUnavailable, match="database space exceeded"):
                await fill(rpc)
        await real.close()

    with running_etcd(tmp_path_factory.mktemp("etcd"), flags=("--quota-backend-bytes=8000000",)) as [server]:
        asyncio.run(main(server.endpoint))
