"""Of a node's shards one shows a page at a time, each in its turn."""

import pytest

from node.turns import PAGE_ITEMS, Turns


class Node:
    """Its shards, which ask again a moment after they were called."""

    def __init__(self, *items: int) -> None:
        """Each asks for so much, one after the other."""
        self.turns = Turns()
        self.called: list[Shard] = []
        self.log: list[Shard] = []
        """Whose turn it has been, in that order."""
        self.shards = [Shard(self, count) for count in items]
        for shard in self.shards:
            shard.ask()
        assert not self.called, "nothing has changed that they do not know"

    def leave(self, shard: "Shard") -> None:
        self.turns.leave(shard.again)
        while self.called:
            assert self.called.pop(0).ask(), "called for nothing"


class Shard:
    def __init__(self, node: Node, items: int) -> None:
        self.node = node
        self.items = items
        self.calls = 0
        self.again = self._call

    def ask(self) -> bool:
        taken = self.node.turns.take(self.again, self.items)
        if taken:
            self.node.log.append(self)
        return taken

    def _call(self) -> None:
        self.calls += 1
        self.node.called.append(self)


def test_one_page_at_a_time_in_the_order_of_asking() -> None:
    """Who has had his turn stands behind all others, and who asks twice keeps his place."""
    node = Node(PAGE_ITEMS, PAGE_ITEMS, PAGE_ITEMS)
    a, b, c = node.shards
    assert node.log == [a]
    assert not c.ask()
    assert not b.ask()
    node.leave(a)
    assert node.log == [a, b]
    assert not a.ask()
    for shard in (b, c, a):
        node.leave(shard)
    assert node.log == [a, b, c, a]


@pytest.mark.parametrize(
    ("items", "together"),
    [
        ((PAGE_ITEMS // 2, PAGE_ITEMS // 2, 1), 2),
        ((PAGE_ITEMS, 0, 0, 0), 4),
        ((0, 0, PAGE_ITEMS, 1), 3),
        ((5 * PAGE_ITEMS, 1), 1),
        ((1, 5 * PAGE_ITEMS), 1),
        ((PAGE_ITEMS - 1, 2, 1), 1),
    ],
)
def test_small_ones_go_together(items: tuple[int, ...], together: int) -> None:
    """As long as they are no more than a page; a larger one goes alone, and nobody overtakes who waits."""
    node = Node(*items)
    assert node.log == node.shards[:together]
    for shard in node.shards:
        node.leave(shard)
    assert node.log == node.shards


def test_several_are_let_in_when_a_large_one_is_through() -> None:
    node = Node(PAGE_ITEMS, *[PAGE_ITEMS // 4] * 5)
    large, *small = node.shards
    node.leave(large)
    assert node.log == [large, *small[:4]]
    node.leave(small[2])
    assert node.log == [large, *small]
    assert [one.calls for one in small] == [1] * 5


def test_who_no_longer_asks_holds_nobody_up() -> None:
    """Neither while he waits nor while it is his turn; leaving twice gives nothing twice."""
    node = Node(*[PAGE_ITEMS] * 4)
    a, b, c, d = node.shards
    node.leave(b)
    node.leave(a)
    node.leave(a)
    assert node.log == [a, c]
    assert not Shard(node, 1).ask()
    node.leave(c)
    assert node.log == [a, c, d]
