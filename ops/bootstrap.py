"""The keys that make an etcd the home of one cluster: written once, create-only, and compared ever after.

`seonchak init` does it for a real deployment, `seonchak up` for its own etcd. Never changes a key that exists.
"""

from dataclasses import replace

from cluster.codes import KEY_BYTES, fingerprint
from cluster.config import HASH_VERSION, ClusterConfig, JournalKind
from cluster.kv import Get, ModRevisionIs, Put, Txn
from cluster.records import Keyspace
from cluster.session import EtcdClient
from cluster.types import Revision

FORMAT_VERSION = 1
"""The journal format that a new cluster begins with."""


async def ensure_cluster(
    etcd: EtcdClient, keys: Keyspace, *, shards: int, journal: JournalKind, cluster_id: str, code_key: bytes
) -> tuple[ClusterConfig, bool]:
    """The cluster's configuration, and whether this call made it.

    `cluster_id` and `code_key` (random, 32 bytes) count only if there is no cluster yet. Safe to repeat after an
    unknown outcome: what is there stays.

    Raises:
        ConfigMismatch: there is a cluster, with another number of shards or another journal.
        EtcdUnavailable: repeat it. EtcdRefused: nothing was written.
    """
    assert len(code_key) == KEY_BYTES, "a code key has 32 bytes"
    wanted = ClusterConfig(cluster_id, shards, HASH_VERSION, journal, fingerprint(code_key))
    absent = Revision(0)
    result = await etcd.txn(
        Txn(
            guards=(ModRevisionIs(keys.config, absent),),
            then=(
                Put(keys.config, wanted.encode()),
                Put(keys.incarnation, b"1"),
                Put(keys.format, str(FORMAT_VERSION).encode()),
                Put(keys.code_key(0), code_key.hex().encode()),
            ),
            otherwise=(Get(keys.config),),
        )
    )
    if result.succeeded:
        return wanted, True
    stored = ClusterConfig.decode(result.ranges[0][0].value)
    replace(stored, shards=shards, journal=journal).require_equal(stored, "cluster/config")
    # Its id tells an earlier attempt of this very call, thought lost, from a cluster that was there before.
    return stored, stored.cluster_id == cluster_id
