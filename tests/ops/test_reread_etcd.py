"""The second reader of the journal in etcd, against keys made by hand from docs/journal-etcd.md."""

import random
from collections.abc import Callable

import pytest

from cluster.kv import Put, Txn
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import LeaseId, ShardId
from ops.reread import Unreadable
from ops.reread_etcd import ENTRY_BYTES_MAX, PAGE_ENTRIES, etcd_entries
from proto.journal_pb2 import Entry
from tests.fakes import virtual_time
from tests.fakes.etcd import FakeEtcd
from tests.ops.entries import good

KEYS, SHARD = Keyspace(), ShardId(2)


def journal(*, entries: int = 8) -> list[Put]:
    """The Puts of a good journal; revisions in etcd are above those that the entries name."""
    found = good(SHARD).entries
    found += [Entry(format_version=1, shard=SHARD, position=n) for n in range(len(found), entries)]
    return [Put(KEYS.entry(SHARD, n), found[n].SerializeToString()) for n in range(entries)]


def read(puts: list[Put], *, lease: bool = False) -> list[int]:
    """The positions read from an etcd that holds `puts`, one Txn each. Raises Unreadable."""

    async def main() -> list[int]:
        etcd = FakeEtcd()
        client = EtcdClient(["etcd:1"], etcd.connect, rng=random.Random(0))
        try:
            for number in range(20):
                await client.txn(Txn((), (Put(f"elsewhere/{number}", b""),)))
            lease_id = (await client.lease_grant(60)).lease_id if lease else LeaseId(0)
            for put in puts:
                await client.txn(Txn((), (Put(put.key, put.value, lease_id) if lease else put,)))
            positions = []
            async for placed in etcd_entries(client, KEYS, SHARD, 1):
                assert placed.place == KEYS.entry(SHARD, placed.entry.position)
                positions.append(placed.entry.position)
            return positions
        finally:
            await client.close()

    return virtual_time.run(main())


@pytest.mark.parametrize("entries", [0, 1, 8, PAGE_ENTRIES - 1, PAGE_ENTRIES, PAGE_ENTRIES + 1, 3 * PAGE_ENTRIES])
def test_every_entry_is_read_whatever_the_page(entries: int) -> None:
    """The end is a page with fewer entries than asked for, also when the last full page ends exactly there."""
    assert read(journal(entries=entries)) == list(range(entries))


def test_neighbouring_shards_do_not_leak_in() -> None:
    """Keys of the shards before and after are not this shard's."""
    puts = [Put(KEYS.entry(ShardId(1), 0), b"x"), *journal(), Put(KEYS.entry(ShardId(3), 0), b"x")]
    assert read(puts) == list(range(8))


def _gap(puts: list[Put]) -> None:
    del puts[3]


def _missing_first(puts: list[Put]) -> None:
    del puts[0]


def _stray_key(puts: list[Put]) -> None:
    puts.append(Put(KEYS.journal(SHARD) + "stray", b"x"))


def _stray_key_in_front(puts: list[Put]) -> None:
    puts.append(Put(KEYS.journal(SHARD) + "!", b"x"))


def _written_twice(puts: list[Put]) -> None:
    puts.append(puts[7])


def _out_of_order(puts: list[Put]) -> None:
    puts[3], puts[4] = puts[4], puts[3]


def _empty(puts: list[Put]) -> None:
    puts[7] = Put(puts[7].key, b"")


def _too_long(puts: list[Put]) -> None:
    puts[7] = Put(puts[7].key, b"x" * (ENTRY_BYTES_MAX + 1))


def _not_protobuf(puts: list[Put]) -> None:
    puts[7] = Put(puts[7].key, b"\xff\xff")


def _from_the_future(puts: list[Put]) -> None:
    entry = Entry.FromString(puts[7].value)
    entry.revision = 1_000
    puts[7] = Put(puts[7].key, entry.SerializeToString())


@pytest.mark.parametrize(
    "plant",
    [
        _gap,
        _missing_first,
        _stray_key,
        _stray_key_in_front,
        _written_twice,
        _out_of_order,
        _empty,
        _too_long,
        _not_protobuf,
        _from_the_future,
    ],
)
def test_what_the_document_calls_corruption_is_found(plant: Callable[[list[Put]], None]) -> None:
    """The reader stops at the key that cannot be, and names it."""
    puts = journal()
    plant(puts)
    with pytest.raises(Unreadable) as caught:
        read(puts)
    assert caught.value.place.startswith(KEYS.journal(SHARD))


def test_an_entry_under_a_lease_is_found() -> None:
    """It would vanish with the lease."""
    with pytest.raises(Unreadable, match="lease"):
        read(journal(), lease=True)
