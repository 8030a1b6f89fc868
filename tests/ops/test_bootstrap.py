"""The keys that make a cluster: written once, compared ever after."""

import random
from collections.abc import Callable, Coroutine
from typing import TypeVar

import pytest

from cluster.attach import Expectation, attach
from cluster.config import ClusterConfig, ConfigMismatch, JournalKind
from cluster.records import Keyspace
from cluster.session import EtcdClient
from ops.bootstrap import ensure_cluster
from tests.fakes import virtual_time
from tests.fakes.etcd import FakeEtcd

KEYS = Keyspace()
T = TypeVar("T")


def with_etcd(main: Callable[[EtcdClient], Coroutine[None, None, T]]) -> T:
    async def run() -> T:
        client = EtcdClient(["etcd:1"], FakeEtcd().connect, rng=random.Random(0))
        try:
            return await main(client)
        finally:
            await client.close()

    return virtual_time.run(run())


async def ensure(
    etcd: EtcdClient, cluster_id: str, shards: int = 16, journal: JournalKind = "etcd", key: bytes = bytes(32)
) -> tuple[ClusterConfig, bool]:
    return await ensure_cluster(etcd, KEYS, shards=shards, journal=journal, cluster_id=cluster_id, code_key=key)


def test_a_new_cluster_can_be_attached_to() -> None:
    """All four keys are there in one step, in the forms that `attach` reads; incarnation and format are 1."""

    async def main(etcd: EtcdClient) -> None:
        config, made = await ensure(etcd, "first")
        assert made
        cluster = await attach(etcd, KEYS, Expectation(cluster_id="first", shards=16))
        assert (cluster.config, cluster.incarnation, cluster.format_version) == (config, 1, 1)

    with_etcd(main)


def test_a_cluster_that_is_there_stays_as_it_is() -> None:
    """The second call finds the first one's cluster and key; its own id and key count for nothing."""

    async def main(etcd: EtcdClient) -> None:
        first, _ = await ensure(etcd, "first")
        second, made = await ensure(etcd, "second", key=bytes(range(32)))
        assert (second, made) == (first, False)
        assert (await attach(etcd, KEYS, Expectation())).config == first

    with_etcd(main)


def test_a_repetition_of_the_call_that_made_it_says_made() -> None:
    """An answer that was lost: the same call again finds its own cluster."""

    async def main(etcd: EtcdClient) -> None:
        await ensure(etcd, "first")
        assert (await ensure(etcd, "first"))[1]

    with_etcd(main)


@pytest.mark.parametrize(
    ("shards", "journal", "named"),
    [(8, "etcd", "shards is 8"), (16, "file", "journal is 'file'"), (8, "file", "shards is 8.*journal is 'file'")],
)
def test_flags_that_differ_are_named(shards: int, journal: JournalKind, named: str) -> None:
    """Another number of shards or another journal is refused; every difference is in the message."""

    async def main(etcd: EtcdClient) -> None:
        await ensure(etcd, "first")
        with pytest.raises(ConfigMismatch, match=named):
            await ensure(etcd, "second", shards, journal)

    with_etcd(main)
