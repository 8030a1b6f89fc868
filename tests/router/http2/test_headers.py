"""Header blocks: read as another implementation writes them, written as another reads them."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import example, given
from hypothesis import strategies as st

from router.http2.headers import (
    FIELDS_BYTES_MAX,
    BlockReader,
    CompressionError,
    FieldsTooLarge,
    MalformedRequest,
    Request,
    fields_block,
    response_block,
)

Field = tuple[bytes, bytes]

PSEUDO: list[Field] = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a/b")]


def unchanged(request: Request) -> Request:
    return request


def expected(fields: list[Field]) -> Request:
    """What the reader promises, said the simple way."""
    others: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if not name.startswith(b":"):
            others.setdefault(name, []).append(value)
    pseudo = dict(fields)
    return Request(pseudo[b":method"], pseudo[b":path"], {name: b",".join(values) for name, values in others.items()})


# Few names and values, so that a sequence refers to its table, again and again.
NAMES = st.sampled_from([b"grpc-timeout", b"te", b"content-type", b"x-a", b"x-b"])
VALUES = st.sampled_from([b"", b"1S", b"trailers", b"application/grpc", b"v" * 40, b"w" * 1_500, b"\xff\x00"])
PATHS = st.sampled_from([b"/a/b", b"/a/c", b"/a/d", b"/"])
REQUESTS = st.builds(
    lambda path, others: [*PSEUDO[:2], (b":path", path), *others],
    PATHS,
    st.one_of(st.just([]), st.lists(st.tuples(NAMES, VALUES), max_size=3)),
)
STEPS = st.lists(
    st.tuples(REQUESTS, st.booleans(), st.integers(0, 3).map(bool), st.sampled_from([None] * 6 + [0, 100, 300, 4_096])),
    min_size=5,
    max_size=30,
)
"""Of one connection: fields, whether to use Huffman, whether to add to the table, a new size of the table."""


@given(STEPS)
def test_any_sequence_of_blocks_is_read_as_it_was_written(
    steps: list[tuple[list[Field], bool, bool, int | None]],
) -> None:
    """Whatever an encoder does with its table between two blocks, each means what its client meant."""
    encoder, reader = Encoder(), BlockReader(unchanged)
    for fields, huffman, indexed, table_bytes in steps:
        if table_bytes is not None:
            encoder.header_table_size = table_bytes
        written = [(name, value, not indexed) for name, value in fields]
        assert reader.request(encoder.encode(written, huffman=huffman)) == expected(fields)


INDEXED_62 = b"\xbe"
"""The newest entry of the dynamic table."""
METHOD_AND_SCHEME = b"\x83\x86"
"""In the static table: POST, http."""


def added(name: bytes, value: bytes) -> bytes:
    """A literal field that goes into the table."""
    return b"\x40" + bytes([len(name)]) + name + bytes([len(value)]) + value


@pytest.mark.parametrize("between", ["request", "skipped", "malformed"])
def test_the_same_bytes_after_the_table_has_changed_mean_something_else(between: str) -> None:
    """Whoever added to the table: a request, trailers that nobody read, a request that was none."""
    reader = BlockReader(unchanged)
    again = METHOD_AND_SCHEME + INDEXED_62
    reader.request(METHOD_AND_SCHEME + added(b":path", b"/first"))
    for _ in range(2):
        assert reader.request(again).path == b"/first"
    match between:
        case "request":
            reader.request(METHOD_AND_SCHEME + added(b":path", b"/second"))
        case "skipped":
            reader.skip(added(b":path", b"/second"))
        case _:
            with pytest.raises(MalformedRequest):
                reader.request(added(b":path", b"/second"))
    assert reader.request(again).path == b"/second"


@pytest.mark.parametrize("how", ["request", "skipped"])
def test_a_smaller_table_forgets_what_blocks_meant(how: str) -> None:
    """After a size update that evicts the entry, a block that refers to it cannot be read: it was known, too."""
    reader = BlockReader(unchanged)
    again = METHOD_AND_SCHEME + INDEXED_62
    reader.request(METHOD_AND_SCHEME + added(b":path", b"/first"))
    reader.request(again)
    emptied = b"\x20" + METHOD_AND_SCHEME + b"\x84"
    if how == "request":
        assert reader.request(emptied).path == b"/"
    else:
        reader.skip(b"\x20")
    with pytest.raises(CompressionError):
        reader.request(again)


def test_a_block_that_adds_to_the_table_adds_each_time() -> None:
    """The same bytes twice are two entries, though they say the same: from memory, all later ones would shift."""
    reader = BlockReader(unchanged)
    both = METHOD_AND_SCHEME + added(b":path", b"/first")
    reader.request(METHOD_AND_SCHEME + added(b":path", b"/oldest"))
    for _ in range(2):
        assert reader.request(both).path == b"/first"
    assert reader.request(METHOD_AND_SCHEME + b"\xc0").path == b"/oldest"  # the third newest


def test_a_size_update_is_obeyed_each_time_it_comes() -> None:
    """A block that itself changes the table's size is never answered from memory: its second coming evicts as well."""
    reader = BlockReader(unchanged)
    emptied = b"\x20\x3f\xe1\x1f" + METHOD_AND_SCHEME + b"\x84"  # to 0 and back to 4,096
    for _ in range(2):
        reader.request(METHOD_AND_SCHEME + added(b":path", b"/first"))
        assert reader.request(METHOD_AND_SCHEME + INDEXED_62).path == b"/first"
        reader.request(emptied)
        assert not reader._table.dynamic_entries


def test_what_blocks_say_is_understood_once() -> None:
    """The same bytes again cost no second understanding; the memory of them is bounded."""
    asked: list[Request] = []

    def understand(request: Request) -> int:
        asked.append(request)
        return len(asked)

    encoder, reader = Encoder(), BlockReader(understand)
    blocks = [
        encoder.encode([(name, value, True) for name, value in [*PSEUDO[:2], (b":path", b"/%d" % n)]])
        for n in range(1_000)
    ]
    assert [reader.request(blocks[0]) for _ in range(3)] == [1, 1, 1]
    for block in blocks:
        reader.request(block)
    assert len(asked) == len(blocks)
    assert len(reader._known) <= 64


def test_the_table_keeps_its_entries_and_not_the_blocks_they_came_in() -> None:
    """An entry of a few bytes must not hold on to 16 KiB, or a client could fill the table with the ends of blocks."""
    reader = BlockReader(unchanged)
    reader.skip(added(b"x-a", b"1"))
    assert [(type(name), type(value)) for name, value in reader._table.dynamic_entries] == [(bytes, bytes)]


MALFORMED: dict[str, list[Field]] = {
    "nothing": [],
    "no method": PSEUDO[1:],
    "no scheme": [PSEUDO[0], PSEUDO[2]],
    "no path": PSEUDO[:2],
    "path twice": [*PSEUDO, PSEUDO[2]],
    "pseudo-header after a field": [*PSEUDO[:2], (b"te", b"trailers"), PSEUDO[2]],
    "capital letters": [*PSEUDO, (b"Content-Type", b"application/grpc")],
    "pseudo-header of a response": [*PSEUDO, (b":status", b"200")],
    "pseudo-header of nobody": [*PSEUDO, (b":nonsense", b"")],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_request_is_malformed(fields: list[Field]) -> None:
    """RFC 9113, 8.2.1, 8.3 and 8.3.1: each costs its stream, and the next request of the connection is read."""
    encoder, reader = Encoder(), BlockReader(unchanged)
    for _ in range(2):
        with pytest.raises(MalformedRequest):
            reader.request(encoder.encode(fields))
    assert reader.request(encoder.encode(PSEUDO)) == expected(PSEUDO)


def test_an_authority_is_no_field() -> None:
    """The pseudo-header fields of a request are four; none of them is among its fields."""
    fields = [*PSEUDO, (b":authority", b"a:1"), (b"te", b"trailers")]
    assert BlockReader(unchanged).request(Encoder().encode(fields)).fields == {b"te": b"trailers"}


def test_a_list_may_be_as_long_as_was_said_and_no_longer() -> None:
    """FIELDS_BYTES_MAX counts names, values and 32 for each field, whatever they took on the way."""
    rest = FIELDS_BYTES_MAX - sum(len(name) + len(value) + 32 for name, value in PSEUDO) - len(b"x") - 32
    encoder, reader = Encoder(), BlockReader(unchanged)
    longest = [*PSEUDO, (b"x", b"v" * rest)]
    assert reader.request(encoder.encode(longest)) == expected(longest)
    with pytest.raises(FieldsTooLarge):
        reader.request(encoder.encode([*PSEUDO, (b"x", b"v" * (rest + 1))]))
    with pytest.raises(FieldsTooLarge):
        reader.request(encoder.encode([*PSEUDO, *((b"x", b"v" * 20) for _ in range(rest // 20))]))
    assert reader.request(encoder.encode(longest)) == expected(longest)


def test_a_small_block_cannot_become_a_long_list() -> None:
    """An entry of the table that is referred to thousands of times: the connection is lost, not our memory."""
    reader = BlockReader(unchanged)
    reader.skip(added(b"x", b"v" * 100))
    with pytest.raises(CompressionError):
        reader.skip(INDEXED_62 * 8_000)


@given(st.binary(max_size=100))
@example(b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x40")
@example(b"\x40\x01")
@example(b"\x80")
@example(b"\x3f\xff\xff\xff\xff\x7f")
@example(b"\x00\x81\xff\x81\xff")
def test_garbage_is_one_of_two_errors(block: bytes) -> None:
    """Nothing else is ever raised, so nothing a client writes is a bug's traceback."""
    reader = BlockReader(unchanged)
    for read in (reader.request, reader.skip):
        try:
            read(block)
        except (CompressionError, MalformedRequest):
            continue


# --- ours -------------------------------------------------------------------------------------------------------------

LONG = st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 3_000).map(bytes))
FIELDS = st.lists(st.tuples(LONG, LONG), max_size=3)


@given(st.integers(100, 599), LONG, FIELDS)
@example(200, bytes(126), [(bytes(127), bytes(128)), (bytes(254), bytes(255)), (b"a", b"")])
def test_our_blocks_say_what_they_were_given(status: int, content_type: bytes, fields: list[Field]) -> None:
    """For every length of the integers in them, and for another decoder; the decoder's table stays as it was."""
    decoder = Decoder()
    block = response_block(status, content_type, fields)
    first = [(b":status", b"%d" % status), (b"content-type", content_type)]
    assert list(decoder.decode(block, raw=True)) == first + fields
    assert list(decoder.decode(fields_block(fields), raw=True)) == fields
    assert not decoder.header_table.dynamic_entries
