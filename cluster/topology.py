"""Who lives and who owns what, as one watch of etcd tells it. Pure: snapshots and changes in, a view out."""

from collections.abc import Iterable
from dataclasses import dataclass

from cluster.kv import Event, KeyValue
from cluster.records import Keyspace, NodeRecord, OwnerRecord
from cluster.types import NodeId, Revision, ShardId


@dataclass(frozen=True, slots=True)
class Owner:
    record: OwnerRecord
    revision: Revision
    """mod_revision of the owner key."""


@dataclass(frozen=True, slots=True)
class Node:
    record: NodeRecord
    revision: Revision
    """mod_revision of the node's key."""


class Topology:
    """The view of one process. Behind the truth by the watch's delay, never ahead of it, never out of order."""

    def __init__(self, keys: Keyspace) -> None:
        self._keys = keys
        self.nodes: dict[NodeId, Node] = {}
        self.owners: dict[ShardId, Owner] = {}

    def reset(self, kvs: Iterable[KeyValue]) -> None:
        """Begin again from a listing."""
        self.nodes.clear()
        self.owners.clear()
        for kv in kvs:
            self._put(kv)

    def apply(self, event: Event) -> None:
        if not event.deleted:
            self._put(event.kv)
        elif event.kv.key.startswith(self._keys.nodes):
            self.nodes.pop(self._keys.node_of(event.kv.key), None)
        else:
            self.owners.pop(self._keys.shard_of_owner(event.kv.key), None)

    def _put(self, kv: KeyValue) -> None:
        if kv.key.startswith(self._keys.nodes):
            self.nodes[self._keys.node_of(kv.key)] = Node(NodeRecord.decode(kv.value), kv.mod_revision)
        else:
            self.owners[self._keys.shard_of_owner(kv.key)] = Owner(OwnerRecord.decode(kv.value), kv.mod_revision)
