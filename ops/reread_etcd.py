"""The journal in etcd, read again: docs/journal-etcd.md. Reads only, also while nodes run."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cluster.kv import Get, KeyValue
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import ShardId
from ops.reread import Placed, Unreadable, parse_entry

ENTRY_BYTES_MAX = 128 << 10
PAGE_ENTRIES = 28


async def etcd_entries(
    etcd: EtcdClient, keys: Keyspace, shard: ShardId, incarnation: int
) -> AsyncGenerator[Placed, None]:
    """The entries of one shard; `incarnation` is the cluster's present one.

    Raises:
        Unreadable: at the first key that breaks docs/journal-etcd.md's "What always holds".
    """
    async with aclosing(etcd_journal(etcd, keys, shard)) as kvs:
        async for kv in kvs:
            placed = parse_entry(kv.key, kv.value)
            if placed.entry.cluster_incarnation == incarnation and placed.entry.revision >= kv.mod_revision:
                raise Unreadable(kv.key, f"written under the later revision {placed.entry.revision}")
            yield placed


async def etcd_journal(etcd: EtcdClient, keys: Keyspace, shard: ShardId) -> AsyncGenerator[KeyValue, None]:
    """The keys of one shard's entries, whose values nobody has looked at. Raises Unreadable, as `etcd_entries`."""
    prefix = keys.journal(shard)
    start, end, position, revision = prefix, prefix[:-1] + "0", 0, 0
    while True:
        page = await etcd.get(Get(start, end, PAGE_ENTRIES))
        for kv in page.kvs:
            _check_key(kv, prefix, position, revision)
            position, revision = position + 1, kv.mod_revision
            yield kv
        if len(page.kvs) < PAGE_ENTRIES:
            return
        start = page.kvs[-1].key + "\0"


def _check_key(kv: KeyValue, prefix: str, position: int, revision: int) -> None:
    if kv.key != f"{prefix}{position:016x}":
        raise Unreadable(kv.key, f"expected position {position}")
    if kv.create_revision != kv.mod_revision:
        raise Unreadable(kv.key, f"written at revision {kv.create_revision} and again at {kv.mod_revision}")
    if kv.lease_id:
        raise Unreadable(kv.key, f"hangs on the lease {kv.lease_id:x}")
    if kv.mod_revision < revision:
        raise Unreadable(kv.key, f"written at revision {kv.mod_revision}, before the entry before it at {revision}")
    if not 1 <= len(kv.value) <= ENTRY_BYTES_MAX:
        raise Unreadable(kv.key, f"an entry of {len(kv.value)} bytes")
