"""A shard's line of pages: calls that ask to be shown many coupons or campaigns, one of which costs what a hundred
grants cost.

A round takes of it when it is the shard's turn among those of its node (`node.turns`), so that whoever reads a lot does
not hold up who wants a coupon. No I/O.
"""

from collections import deque
from collections.abc import Callable

from node.calls import Call, Overloaded
from node.commands import Command, GetCampaign, ListCampaigns
from node.entries import entry_bytes_max_of
from node.ledger import Ledger
from node.turns import PAGE_ITEMS, Turns

PAGES_MAX = 64
"""In line."""


def is_page(command: Command) -> bool:
    """Whether it asks to be shown many coupons or campaigns, if there are many."""
    return type(command) is ListCampaigns or (type(command) is GetCampaign and command.coupons_max > 0)


class PageLine:
    """Times are of the event loop's clock."""

    def __init__(self, ledger: Ledger, turns: Turns, on_ready: Callable[[], None]) -> None:
        """`on_ready`: called when the turn has come."""
        self._ledger = ledger
        self._turns = turns
        self._on_ready = on_ready
        self._again = self._turn_may_have_come
        self._line: deque[Call] = deque()
        self._barred = False
        """They wait for the shard's turn."""
        self._page_s = 0.01  # moving average of what a page waits for the turn and takes
        self._since_s = 0.0

    def __len__(self) -> int:
        return len(self._line)

    @property
    def ready(self) -> bool:
        """`take` is worth a try."""
        return bool(self._line) and not self._barred

    def join(self, call: Call, now_s: float) -> None:
        """Raises Overloaded."""
        if len(self._line) >= PAGES_MAX:
            raise Overloaded(PAGES_MAX * self._page_s)
        if not self._line:
            self._since_s = now_s
        self._line.append(call)

    def take(self, now_s: float, entry_bytes: int) -> list[Call]:
        """A page, or several small ones, for a round that ends with `shown`; none while it is the turn of others.

        Args:
            entry_bytes: room for what they may put into the round's entry; the first one is not held to it.
        """
        if not self.ready:
            return []
        pages: list[Call] = []
        items = 0
        for page in self._line:
            # Nobody is shown anything whose time is up.
            more = self._ledger.items_of(page.command) if page.deadline_s > now_s else 0
            entry_bytes -= entry_bytes_max_of(page.command)
            if pages and (items + more > PAGE_ITEMS or entry_bytes < 0):
                break
            items += more
            pages.append(page)
        self._barred = not self._turns.take(self._again, items)
        if self._barred:
            return []
        for _ in pages:
            self._line.popleft()
        return pages

    def shown(self, pages: int, now_s: float) -> None:
        """The round that took so many is over: the turn is for others."""
        self._turns.leave(self._again)
        self._page_s += 0.1 * ((now_s - self._since_s) / pages - self._page_s)
        self._since_s = now_s

    def close(self) -> list[Call]:
        """No turn is wanted any more. Returns who is left."""
        self._turns.leave(self._again)
        left = list(self._line)
        self._line.clear()
        return left

    def _turn_may_have_come(self) -> None:
        self._barred = False
        self._on_ready()
