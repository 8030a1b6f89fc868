"""What a run without a verdict is said to have died of."""

import pytest

from chaos.suite import last_words

LOGGED = '{"node": "node-1", "event": "link_down", "level": "warning"}'
REFUSED = '{"error": {"message": "refused: etcd 3.5.1 can lose data"}}'


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("Traceback ...\nRuntimeError: no\n", "RuntimeError: no"),
        (f"{LOGGED}\nRuntimeError: no\n{LOGGED}\n{LOGGED}\n", "RuntimeError: no"),
        (f"{LOGGED}\n{REFUSED}\n", REFUSED),
        (f"{LOGGED}\n", "it said nothing"),
        ("", "it said nothing"),
    ],
)
def test_the_reason_is_the_runs_own_last_line(stderr: str, reason: str) -> None:
    """Not what a process of its cluster logged after it."""
    assert last_words(stderr) == reason
