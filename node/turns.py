"""Which of a node's shards show pages now: in order of asking, and only so much at a time.

A page costs milliseconds of the one thread that all shards of a node share. If each of them showed one whenever it
could, a reader of many campaigns would hold up everybody else, the node's lease included. A turn lasts for a round,
until the journal has answered: so long, no other shard shows anything, and all of them decide.
"""

from collections.abc import Callable

PAGE_ITEMS = 1_000
"""Coupons, or campaigns, that a node shows at a time; of a page that is larger, all, and nothing beside it."""

Again = Callable[[], None]
"""Called when it is worth asking again. Stands for who asks: a bound method of his, always the same."""


class Turns:
    def __init__(self) -> None:
        self._left = PAGE_ITEMS
        self._showing: dict[Again, int] = {}
        self._waiting: dict[Again, int] = {}
        """In order of asking."""

    def take(self, again: Again, items: int) -> bool:
        """Whether so many may be shown now. If not, `again` keeps its place, and is called when that has come."""
        assert again not in self._showing, "one turn at a time"
        if next(iter(self._waiting), again) != again or not self._fits(items):
            self._waiting[again] = items
            return False
        self._waiting.pop(again, None)
        self._showing[again] = items
        self._left -= items
        self._call_next()
        return True

    def leave(self, again: Again) -> None:
        """They are shown, or will not be asked for any more."""
        self._left += self._showing.pop(again, 0)
        self._waiting.pop(again, None)
        self._call_next()

    def _fits(self, items: int) -> bool:
        return not self._showing or items <= self._left

    def _call_next(self) -> None:
        for again, items in self._waiting.items():
            if self._fits(items):
                again()
            return
