"""`seonchak health`: what a container's healthcheck hears."""

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from ops.command import app
from ops.ports import ReservedPorts


@pytest.fixture
def silent() -> Iterator[str]:
    """Nobody listens there."""
    with ReservedPorts() as ports:
        yield f"127.0.0.1:{ports.take()}"


@pytest.mark.parametrize("flag", ["--node", "--router"])
def test_a_process_that_does_not_answer_is_not_healthy(flag: str, silent: str) -> None:
    """Exit code 1 and one line that says why; tests/cluster/test_compose_commands.py has the other answer."""
    result = CliRunner().invoke(app, ["health", flag, silent, "--timeout", "5"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: UNAVAILABLE: ")


def test_one_process_at_a_time() -> None:
    assert CliRunner().invoke(app, ["health", "--node", "a:1", "--router", "b:2"]).exit_code == 2
