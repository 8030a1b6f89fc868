"""The words that every part of the cluster shares. Values only: no I/O, no clock."""

from dataclasses import dataclass
from typing import NamedTuple, NewType

ShardId = NewType("ShardId", int)
NodeId = NewType("NodeId", str)
LeaseId = NewType("LeaseId", int)
Revision = NewType("Revision", int)
"""etcd's revision of its whole store; a key's mod_revision is one of them. 0: no such key."""


class Epoch(NamedTuple):
    """The fencing token of a shard's owner. A later owner's is greater.

    `incarnation` counts restores and reshardings of the cluster (`cluster/incarnation`), because an etcd that was
    restored from a snapshot counts revisions again; `revision` is the mod_revision of the shard's owner key.
    """

    incarnation: int
    revision: Revision


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a node: its id and the lease it holds. Two processes with one id, or one process that lost its lease
    and took another, are different incarnations."""

    node_id: NodeId
    lease_id: LeaseId

    def __str__(self) -> str:
        return f"{self.node_id}/{self.lease_id:x}"

    @classmethod
    def parse(cls, text: str) -> "Incarnation":
        """Raises ValueError for anything that str() does not make."""
        node_id, _, lease = text.rpartition("/")
        if not node_id:
            raise ValueError(f"not an incarnation: {text!r}")
        return cls(NodeId(node_id), LeaseId(int(lease, 16)))
