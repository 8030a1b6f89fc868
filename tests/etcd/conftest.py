from collections.abc import Iterator

import pytest

from ops.ports import ReservedPorts
from tests.support.etcd_server import EtcdServer, running_etcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One real etcd for all tests here: each keeps to keys of its own."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as (server,):
        yield server


@pytest.fixture
def dead_endpoint() -> Iterator[str]:
    """Nobody listens there, and nobody is about to."""
    with ReservedPorts() as ports:
        yield f"127.0.0.1:{ports.take()}"
