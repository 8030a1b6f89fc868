"""Where things stand in etcd, and how: keys, and the JSON of node and owner records (read with etcdctl at 3 a.m.)."""

import json
from dataclasses import dataclass
from enum import StrEnum

from cluster.kv import prefix_end
from cluster.types import Incarnation, NodeId, ShardId


class NodeState(StrEnum):
    ACTIVE = "active"
    DRAINING = "draining"
    """Keeps what it owns until a successor pulls it; claims nothing."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that lives, under its lease."""

    incarnation: Incarnation
    address: str
    """HOST:PORT of its NodeService."""
    state: NodeState

    def encode(self) -> bytes:
        return json.dumps(
            {"incarnation": str(self.incarnation), "address": self.address, "state": self.state.value}
        ).encode()

    @classmethod
    def decode(cls, value: bytes) -> "NodeRecord":
        raw = json.loads(value)
        return cls(Incarnation.parse(raw["incarnation"]), raw["address"], NodeState(raw["state"]))


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """Who owns a shard, under the owner's lease. Its key's mod_revision is the owner's epoch."""

    incarnation: Incarnation
    address: str

    def encode(self) -> bytes:
        return json.dumps({"incarnation": str(self.incarnation), "address": self.address}).encode()

    @classmethod
    def decode(cls, value: bytes) -> "OwnerRecord":
        raw = json.loads(value)
        return cls(Incarnation.parse(raw["incarnation"]), raw["address"])


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of one cluster. `nodes/` and `shards/` are neighbours, so that one watch sees both in one order."""

    prefix: str = "seonchak/"

    @property
    def config(self) -> str:
        return self.prefix + "cluster/config"

    @property
    def incarnation(self) -> str:
        """The cluster incarnation, a decimal number."""
        return self.prefix + "cluster/incarnation"

    @property
    def format(self) -> str:
        """The journal format version that may be written, a decimal number."""
        return self.prefix + "cluster/format"

    @property
    def code_keys(self) -> str:
        """Prefix of the code keys, one for each generation."""
        return self.prefix + "cluster/code-keys/"

    def code_key(self, generation: int) -> str:
        return f"{self.code_keys}{generation}"

    @property
    def api_keys(self) -> str:
        """Prefix of the API keys."""
        return self.prefix + "api-keys/"

    def api_key(self, key_id: str) -> str:
        return self.api_keys + key_id

    def id_of_api_key(self, key: str) -> str:
        return key.removeprefix(self.api_keys)

    @property
    def nodes(self) -> str:
        return self.prefix + "nodes/"

    def node(self, node_id: NodeId) -> str:
        return self.nodes + node_id

    def node_of(self, key: str) -> NodeId:
        return NodeId(key.removeprefix(self.nodes))

    @property
    def shards(self) -> str:
        return self.prefix + "shards/"

    def owner(self, shard: ShardId) -> str:
        return f"{self.shards}{shard:04}/owner"

    def shard_of_owner(self, key: str) -> ShardId:
        return ShardId(int(key.removeprefix(self.shards).removesuffix("/owner")))

    @property
    def topology(self) -> tuple[str, str]:
        """The range [start, end) that holds all node and owner records and nothing else."""
        return self.nodes, prefix_end(self.shards)

    @property
    def journals(self) -> str:
        """Prefix of the journal entries of all shards."""
        return self.prefix + "journal/"

    def journal(self, shard: ShardId) -> str:
        """Prefix of a shard's journal entries."""
        return f"{self.journals}{shard:04}/"

    def entry(self, shard: ShardId, position: int) -> str:
        """Keys in the order of positions: 16 hexadecimal digits."""
        return f"{self.journal(shard)}{position:016x}"
