"""What has to be equal everywhere: `cluster/config` in etcd, written once and never again."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Literal

from cluster.types import ShardId

SHARDS_MAX = 4096
"""A code has 12 bits for its shard."""

HASH_VERSION = 1
"""Version of `shard_of`. Another way to hash is another version, and another cluster."""

JournalKind = Literal["file", "etcd"]


class ConfigMismatch(Exception):
    """This process and the cluster disagree on what has to be equal. It must not serve."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    cluster_id: str
    shards: int
    hash_version: int
    journal: JournalKind
    code_key_fingerprint: str

    def __post_init__(self) -> None:
        if not 1 <= self.shards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {self.shards}")

    def encode(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> "ClusterConfig":
        return cls(**json.loads(value))

    def require_equal(self, other: "ClusterConfig", whose: str) -> None:
        """Raises ConfigMismatch that names every field in which `other`, `whose` view, differs."""
        different = [
            f"{f.name} is {getattr(self, f.name)!r} here and {getattr(other, f.name)!r} in {whose}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]
        if different:
            raise ConfigMismatch("; ".join(different))


def shard_of(campaign_id: str, shards: int) -> ShardId:
    """The shard that a campaign lives in, for ever (hash version 1)."""
    digest = hashlib.blake2b(campaign_id.encode(), digest_size=8).digest()
    return ShardId(int.from_bytes(digest, "big") % shards)
