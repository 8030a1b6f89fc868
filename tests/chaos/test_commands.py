"""Programs that the harness runs to their end, and processors that it divides."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from chaos.commands import CommandFailed, output_of
from chaos.processors import apart


def test_what_a_command_says() -> None:
    """Its stdout; of one that failed, its code and its last words."""
    assert asyncio.run(output_of([sys.executable, "-c", "print('봄날')"], 20)) == "봄날\n"
    with pytest.raises(CommandFailed, match=r"(?s)ended with 3: .*no luck"):
        asyncio.run(output_of([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"], 20))


def test_the_environment_is_the_one_given() -> None:
    """Nothing of the caller's reaches a command that is given its own."""
    command = [sys.executable, "-c", "import os; print(os.environ.get('HOME'), os.environ.get('A'))"]
    assert asyncio.run(output_of(command, 20, {"A": "b"})) == "None b\n"


def test_a_command_never_outlives_its_call() -> None:
    """One that takes too long is gone when the caller hears of it."""
    began_s = time.monotonic()
    with pytest.raises(CommandFailed, match="took more than"):
        asyncio.run(output_of([sys.executable, "-c", "import time; time.sleep(60)"], 0.2))
    assert time.monotonic() - began_s < 20


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor cannot be divided")
def test_servers_and_load_have_processors_of_their_own() -> None:
    """All of them in the end again; what is started meanwhile is on the load's half."""
    before = os.sched_getaffinity(0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server:
        with apart([server.pid]):
            servers, load = os.sched_getaffinity(server.pid), os.sched_getaffinity(0)
            assert servers
            assert load
            assert not servers & load
            assert servers | load == before
        assert os.sched_getaffinity(server.pid) == os.sched_getaffinity(0) == before
        server.communicate(b"\n")
    with apart([server.pid]):  # it has ended
        pass
