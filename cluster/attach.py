"""How a process comes to serve a cluster: it reads what the cluster is, and refuses if it means another."""

import asyncio
from dataclasses import dataclass, replace

from cluster.codes import CodeCodec, fingerprint
from cluster.config import HASH_VERSION, ClusterConfig, ConfigMismatch
from cluster.kv import Get, KeyValue, prefix_end
from cluster.records import Keyspace
from cluster.session import EtcdClient


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the process was told the cluster is; what is empty or 0 was not told."""

    cluster_id: str = ""
    shards: int = 0
    code_key_fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    config: ClusterConfig
    incarnation: int
    """When it was read: a restore raises it."""
    format_version: int
    """The journal format that may be written."""
    codec: CodeCodec


async def attach(etcd: EtcdClient, keys: Keyspace, expected: Expectation, *, timeout_s: float = 30.0) -> Cluster:
    """Read the cluster's configuration and keys from etcd.

    Raises:
        ConfigMismatch: there is no cluster, or it is not the expected one, or its parts contradict each other.
        TimeoutError: etcd did not answer.
    """
    async with asyncio.timeout(timeout_s):
        found = (await etcd.get(Get(keys.config))).kvs
        incarnation = (await etcd.get(Get(keys.incarnation))).kvs
        format_version = (await etcd.get(Get(keys.format))).kvs
        code_keys = (await etcd.get(Get(keys.code_keys, prefix_end(keys.code_keys)))).kvs
    if not (found and incarnation and format_version and code_keys):
        raise ConfigMismatch(f"etcd has no cluster under {keys.prefix!r}: run `seonchak init` first")
    config = ClusterConfig.decode(found[0].value)
    secrets = _secrets(code_keys, keys)
    here = replace(
        config,
        hash_version=HASH_VERSION,
        cluster_id=expected.cluster_id or config.cluster_id,
        shards=expected.shards or config.shards,
        code_key_fingerprint=expected.code_key_fingerprint or fingerprint(secrets[min(secrets)]),
    )
    here.require_equal(config, "cluster/config")
    return Cluster(config, int(incarnation[0].value), int(format_version[0].value), CodeCodec(secrets))


def _secrets(kvs: tuple[KeyValue, ...], keys: Keyspace) -> dict[int, bytes]:
    """By generation. The oldest is the one whose fingerprint stands in cluster/config."""
    return {int(kv.key.removeprefix(keys.code_keys)): bytes.fromhex(kv.value.decode()) for kv in kvs}
