"""Ports are reserved: between choosing one and listening on it there is time for another cluster to choose."""

import socket
import subprocess
import sys
from random import Random

import pytest

from ops import ports
from ops.ports import ReservedPorts

HOLDER = """
import sys
from ops.ports import ReservedPorts
ports = ReservedPorts()
print(ports.take(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def same_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody here would choose the same ports."""
    monkeypatch.setattr(ports, "Random", lambda: Random(1))


@pytest.mark.usefixtures("same_choices")
def test_two_clusters_never_choose_the_same_ports() -> None:
    """Though nobody listens on any of them yet; what the first let go of may be chosen again."""
    with ReservedPorts() as one:
        first = [one.take() for _ in range(20)]
        with ReservedPorts() as other:
            second = [other.take() for _ in range(20)]
    assert len({*first, *second}) == 40
    with ReservedPorts() as again:
        assert [again.take() for _ in range(20)] == first


def test_a_reservation_is_seen_by_other_processes_and_ends_with_its_own() -> None:
    """While a process that holds a port lives nobody else gets it; after kill -9 it can be reserved again."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder, ReservedPorts() as mine:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        try:
            assert ports.is_free(port)
            assert not mine.reserve(port)
        finally:
            holder.kill()
            holder.wait()
        assert mine.reserve(port)
        assert not mine.reserve(port), "a cluster does not give a port to two of its own servers"


@pytest.mark.usefixtures("same_choices")
def test_a_port_on_which_somebody_listens_is_not_taken() -> None:
    """Whoever it is: not everything on a machine asks here."""
    with ReservedPorts() as before:
        port = before.take()
    with socket.socket() as stranger, ReservedPorts() as after:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        assert after.take() != port
