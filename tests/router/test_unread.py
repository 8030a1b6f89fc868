"""Who has to go when clients together do not read too much."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from router.server import ServerSettings
from router.unread import Unread


@dataclass(eq=False)
class Client:
    unread_bytes: int = 0
    dismissed: list["Client"] = field(default_factory=list)
    unread: Unread | None = None
    """If it is looked at while it goes."""

    def dismiss(self) -> None:
        self.dismissed.append(self)
        if self.unread is not None:
            self.unread.look(self)
        self.unread_bytes = 0


def test_who_holds_most_goes() -> None:
    """One after the other until an eighth is free, and nobody before the bound is exceeded."""
    unread, gone = Unread(800), list[Client]()
    clients = [Client(size, gone, unread) for size in (100, 300, 50, 200, 150)]
    assert [unread.look(client) for client in clients] == [False] * 5
    assert unread.bytes == 800
    unread.make_room()
    assert gone == []
    clients[2].unread_bytes += 1
    assert unread.look(clients[2])
    unread.make_room()
    assert gone == [clients[1]]
    assert unread.bytes == 501
    more = Client(300, gone, unread)
    assert unread.look(more)
    unread.make_room()
    assert gone == [clients[1], more]
    assert unread.bytes == 501


def test_room_is_made_for_a_while() -> None:
    """If the one that holds most is not enough, so that not every further byte means to look through all of them."""
    unread, gone = Unread(800), list[Client]()
    clients = [Client(81, gone, unread) for _ in range(10)]
    for client in clients:
        unread.look(client)
    unread.make_room()
    assert gone == clients[:2]
    assert unread.bytes == 648


def test_who_has_read_since_stays() -> None:
    """What was held when somebody looked is looked at again before anybody goes."""
    unread, gone = Unread(800), list[Client]()
    reader, other = Client(700, gone), Client(101, gone)
    unread.look(reader)
    assert unread.look(other)
    reader.unread_bytes = 0
    unread.make_room()
    assert gone == []
    assert unread.bytes == 101


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 500), st.sampled_from(["look", "forget", "room"]))))
def test_what_is_held_is_what_is_counted(steps: list[tuple[int, int, str]]) -> None:
    """Whatever is looked at, forgotten and dismissed, in whatever order; and there is room when it was made."""
    unread, gone = Unread(1_000), list[Client]()
    clients = [Client(dismissed=gone) for _ in range(10)]
    known: dict[Client, int] = {}
    for number, size, what in steps:
        client = clients[number]
        match what:
            case "look":
                client.unread_bytes = known[client] = size
                assert unread.look(client) == (sum(known.values()) > 1_000)
            case "forget":
                unread.forget(client)
                known.pop(client, None)
            case _:
                before = len(gone)
                unread.make_room()
                for one in gone[before:]:
                    assert known.pop(one) >= max(known.values(), default=0), "somebody else held more"
                assert sum(known.values()) <= (1_000 if len(gone) == before else 875)
        assert unread.bytes == sum(known.values())


def test_the_default() -> None:
    assert ServerSettings().unread_bytes_max == 256 << 20
