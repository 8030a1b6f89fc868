"""What strangers cause is logged, and not as often as they like."""

from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from ops.log_floods import OF_STRANGERS, RATE, LogFloods


class Heard:
    """A log, and the time of whoever writes into it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.lines: list[structlog.typing.EventDict] = []
        self._floods = LogFloods(lambda: self.now_s)

    def say(self, event: str, times: int = 1) -> None:
        for _ in range(times):
            with suppress(structlog.DropEvent):
                self.lines.append(self._floods(None, "info", {"event": event, "why": "?"}))


@pytest.mark.parametrize("event", sorted(OF_STRANGERS))
def test_a_flood_is_cut_and_counted(event: str) -> None:
    """The first lines are all there; of what comes after, as many as the rate allows; none is lost without a word."""
    heard = Heard()
    heard.say(event, 10_000)
    assert heard.lines == [{"event": event, "why": "?"}] * RATE.size
    for _ in range(20):
        heard.now_s += 1 / RATE.per_s
        heard.say(event, 50)
    later = heard.lines[RATE.size :]
    assert [line["left_out"] for line in later] == [10_000 - RATE.size] + [49] * 19
    heard.now_s += 3_600
    heard.say(event, 2)
    assert [line.get("left_out", 0) for line in heard.lines[-2:]] == [49, 0]


def test_they_are_logged_by_these_names() -> None:
    """Somewhere in what a node or a router is made of: a name that nobody uses any more bounds nothing."""
    root = Path(__file__).parents[2]
    source = "".join(path.read_text() for part in ("node", "router") for path in (root / part).rglob("*.py"))
    assert {event for event in OF_STRANGERS if f'("{event}"' in source} == OF_STRANGERS


def test_one_flood_does_not_drown_another_event() -> None:
    heard = Heard()
    for event in OF_STRANGERS:
        heard.say(event, RATE.size + 1)
    assert len(heard.lines) == RATE.size * len(OF_STRANGERS)


@pytest.mark.parametrize("event", ["audit", "lease_lost", "call_failed"])
def test_nothing_else_is_left_out(event: str) -> None:
    heard = Heard()
    heard.say(event, 10_000)
    assert len(heard.lines) == 10_000
