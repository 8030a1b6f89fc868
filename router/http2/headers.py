"""Header blocks: what a client's say, read once for all calls that say the same; and ours.

A gRPC client sends the same fields with every call, and after its first call as the same few bytes, since HPACK refers
to what was sent before. So a connection remembers what blocks mean, until the table that they refer to changes.

Source: RFC 7541 (HPACK), RFC 9113 section 8.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.table import HeaderTable

FIELDS_BYTES_MAX = 16_384
"""Of one request, as SETTINGS_MAX_HEADER_LIST_SIZE counts them. One that has more is refused."""
BLOCK_BYTES_MAX = 4 * FIELDS_BYTES_MAX
"""Of a block, as it comes and as SETTINGS_MAX_HEADER_LIST_SIZE counts it: so much is read for the sake of the
connection, on which there may be the calls of many (a proxy has one for all). What is longer ends it."""
_FIELD_BYTES = 32
"""Of a field, beside its name and its value. RFC 9113, 6.5.2."""
_KNOWN_MAX, _KNOWN_BYTES_MAX = 64, 512
"""Blocks that a connection remembers, and their length: each says what a gRPC client says all the time."""
_TABLE_SIZE_UPDATE, _TABLE_SIZE_UPDATE_MASK = 0x20, 0xE0
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_STATUS_200 = b"\x88"
_STATUS, _CONTENT_TYPE = 8, 31
"""Names in HPACK's static table."""


class CompressionError(Exception):
    """The block cannot be read, and after it no other of its connection."""


class MalformedRequest(Exception):
    """The block can be read, but it is no request."""


class FieldsTooLarge(MalformedRequest):
    """It may be one, but of more than FIELDS_BYTES_MAX."""


Understood = TypeVar("Understood")


@dataclass(frozen=True, slots=True)
class Request:
    """A request's header fields."""

    method: bytes
    path: bytes
    fields: Mapping[bytes, bytes]
    """All but those whose name begins with a colon. What came several times is joined by commas."""


class BlockReader(Generic[Understood]):
    """Reads one connection's blocks, in the order in which they came: each may change what the next one means."""

    def __init__(self, understand: Callable[[Request], Understood]) -> None:
        """
        Args:
            understand: what its owner makes of a request; asked once for blocks that say the same.
        """
        self._understand = understand
        self._table = _Table()
        self._decoder = Decoder(max_header_list_size=BLOCK_BYTES_MAX)
        self._decoder.header_table = self._table
        self._known: dict[bytes, Understood] = {}

    def request(self, block: bytes) -> Understood:
        """
        Raises:
            CompressionError: the connection is lost.
            MalformedRequest: this stream is.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        changes = self._table.changes
        understood = self._understand(_request(self._fields(block)))
        if self._table.changes == changes and len(block) <= _KNOWN_BYTES_MAX:
            if len(self._known) == _KNOWN_MAX:
                self._known.clear()
            self._known[block] = understood
        return understood

    def skip(self, block: bytes) -> None:
        """Reads a block of which nobody wants to know what it says. Raises CompressionError."""
        self._fields(block)

    def _fields(self, block: bytes) -> Iterable[tuple[bytes, bytes]]:
        changes = self._table.changes
        try:
            fields: Iterable[tuple[bytes, bytes]] = self._decoder.decode(block, raw=True)
        except (HPACKError, ValueError) as error:  # ValueError: of a number that is too long for hpack's own message
            raise CompressionError("a header block that cannot be read") from error
        if block and block[0] & _TABLE_SIZE_UPDATE_MASK == _TABLE_SIZE_UPDATE:
            self._table.changes += 1
        if self._table.changes != changes:
            self._known.clear()
        return fields


class _Table(HeaderTable):
    """Counts what changes the meaning of later blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        # They come as views, which would keep the whole block that they came in.
        super().add(bytes(name), bytes(value))


def _request(fields: Iterable[tuple[bytes, bytes]]) -> Request:
    pseudo: dict[bytes, bytes] = {}
    others: dict[bytes, bytes] = {}
    room = FIELDS_BYTES_MAX
    for name, value in fields:
        room -= len(name) + len(value) + _FIELD_BYTES
        if room < 0:
            raise FieldsTooLarge("too many header fields")
        if name.startswith(b":"):
            if others or name in pseudo or name not in _PSEUDO:
                raise MalformedRequest(f"{name!r} is out of place")
            pseudo[name] = value
        elif name != name.lower():
            raise MalformedRequest(f"{name!r} is not lower case")
        else:
            others[name] = others[name] + b"," + value if name in others else value
    if not pseudo.keys() >= {b":method", b":path", b":scheme"}:
        raise MalformedRequest("a pseudo-header field is missing")
    return Request(pseudo[b":method"], pseudo[b":path"], others)


def response_block(status: int, content_type: bytes, fields: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The fields that a response begins with, as HPACK that never touches a table: good for every connection."""
    first = _STATUS_200 if status == 200 else _indexed_name(_STATUS) + _string(str(status).encode())
    return first + _indexed_name(_CONTENT_TYPE) + _string(content_type) + fields_block(fields)


def fields_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields whose names stand in no table: trailers, or the end of a response's first block."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields)


def _indexed_name(index: int) -> bytes:
    """A literal field without indexing whose name is in the static table."""
    return _integer(index, bits=4)


def _string(value: bytes) -> bytes:
    """Without Huffman coding."""
    return _integer(len(value), bits=7) + value


def _integer(value: int, *, bits: int) -> bytes:
    """RFC 7541, 5.1; the bits before the prefix are 0."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    encoded = bytearray([most])
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
