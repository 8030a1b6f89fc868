from collections.abc import Iterator

import pytest

from tests.support.etcd_server import EtcdServer, running_etcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """One real etcd for all tests here: each keeps to keys of its own."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as (server,):
        yield server
