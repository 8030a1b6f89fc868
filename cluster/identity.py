"""The handshake: two processes talk only if they mean the same cluster and the same rules."""

from cluster.config import ClusterConfig
from proto import node_pb2

WIRE_VERSION = 1
"""Version of node.proto's meaning."""


def identity_of(config: ClusterConfig) -> node_pb2.ClusterIdentity:
    return node_pb2.ClusterIdentity(
        cluster_id=config.cluster_id,
        shards=config.shards,
        hash_version=config.hash_version,
        code_key_fingerprint=config.code_key_fingerprint,
        wire_version=WIRE_VERSION,
    )


def mismatch(mine: node_pb2.ClusterIdentity, theirs: node_pb2.ClusterIdentity) -> str:
    """Every field in which they differ, for a person; empty if they agree."""
    names = [field.name for field in node_pb2.ClusterIdentity.DESCRIPTOR.fields]
    return "; ".join(
        f"{name} is {getattr(mine, name)!r} here and {getattr(theirs, name)!r} there"
        for name in names
        if getattr(mine, name) != getattr(theirs, name)
    )
