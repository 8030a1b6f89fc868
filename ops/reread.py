"""An entry, and where it was read: what the second readers of both journals yield, and how they stop.

They are written from docs/journal-file.md and docs/journal-etcd.md and share nothing with the node's own readers.
"""

from typing import NamedTuple

from google.protobuf.message import DecodeError

from proto.journal_pb2 import Entry


class Unreadable(Exception):
    """The bytes at `place` cannot be a journal's."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}")
        self.place = place
        self.what = what


class Placed(NamedTuple):
    place: str
    entry: Entry


def parse_entry(place: str, value: bytes) -> Placed:
    """Raises Unreadable."""
    try:
        return Placed(place, Entry.FromString(value))
    except DecodeError as error:
        raise Unreadable(place, f"not a journal entry: {error}") from error
