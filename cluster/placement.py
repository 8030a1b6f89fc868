"""Who should own a shard: rendezvous hashing, so that a node that comes or goes moves only its own shards.

Every node computes it alone and gets the same answer from the same list of nodes.
"""

import hashlib
from collections.abc import Iterable

from cluster.types import NodeId, ShardId


def preference(shard: ShardId, nodes: Iterable[NodeId]) -> list[NodeId]:
    """The nodes, the one that should own `shard` first, its first substitute next, and so on."""
    return sorted(nodes, key=lambda node: (_weight(shard, node), node), reverse=True)


def _weight(shard: ShardId, node: NodeId) -> bytes:
    return hashlib.blake2b(f"{shard}/{node}".encode(), digest_size=8).digest()
