"""API keys in etcd: made, listed, revoked. Routers hear of it by their watch."""

from cluster.keys import KeyRecord, KeyRole, make_key
from cluster.kv import Delete, Get, ModRevisionIs, Put, Txn, prefix_end
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Revision


async def create_key(etcd: EtcdClient, keys: Keyspace, roles: frozenset[KeyRole], note: str) -> tuple[str, str]:
    """Its id, and the key itself, which nobody can be shown again.

    Raises:
        EtcdUnavailable: there may be a key now that nobody knows: `list` shows it, `revoke` ends it.
    """
    key, record = make_key(roles, note)
    name = keys.api_key(key.id)
    result = await etcd.txn(Txn((ModRevisionIs(name, Revision(0)),), (Put(name, record.encode()),)))
    assert result.succeeded, "48 random bits came twice"
    return key.id, key.token()


async def list_keys(etcd: EtcdClient, keys: Keyspace) -> dict[str, KeyRecord]:
    """By id."""
    found = await etcd.pages(keys.api_keys, prefix_end(keys.api_keys))
    return {keys.id_of_api_key(kv.key): KeyRecord.decode(kv.value) for kv in found.kvs}


async def revoke_key(etcd: EtcdClient, keys: Keyspace, key_id: str) -> bool:
    """Whether there was such a key. Safe to repeat.

    Raises:
        EtcdUnavailable: it may be revoked or not.
    """
    name = keys.api_key(key_id)
    result = await etcd.txn(Txn((ModRevisionIs(name, Revision(0)),), (Get(name),), otherwise=(Delete(name),)))
    return not result.succeeded
