"""An asyncio loop whose time jumps to the next timer when nothing is ready. Owns time; does no I/O.

Hours pass in milliseconds, and in the same order every time: what runs on it is deterministic as long as it takes
its time from the loop and its randomness from a seeded generator.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nothing is ready and no timer is set: whatever the test waits for will never come."""


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self._now_s

    def jump(self, seconds: float) -> None:
        self._now_s += seconds


class _Jump(selectors.SelectSelector):
    """Never waits: when the loop wants to sleep until its next timer, it is that time already."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        if timeout > 0:
            self._loop.jump(timeout)
        return []


def run(main: Coroutine[Any, Any, T], *, start_s: float = 0.0) -> T:
    """asyncio.run on a virtual clock that begins at `start_s`.

    Raises:
        Stuck: `main` waits for something that no timer will bring.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start_s)) as runner:
        return runner.run(main)
