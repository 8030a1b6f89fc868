"""gRPC's own layer on HTTP/2: messages, timeouts, statuses. From PROTOCOL-HTTP2.md and "Compression"."""

import base64
import gzip
import random
import tracemalloc
import zlib
from itertools import pairwise
from urllib.parse import unquote_to_bytes

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hpack import Decoder
from hypothesis import example, given
from hypothesis import strategies as st

from router import grpc_wire
from router.grpc_wire import Failed, MessageReader, MessageTooLarge

BYTES_MAX = 1_000
RESPONSE_FIELDS_BYTES_MAX = 8_192
"""What grpc-core takes of trailers for certain; Go and Java take more."""


def compressed(message: bytes) -> bytes:
    packed = gzip.compress(message, mtime=0)
    return b"\x01" + len(packed).to_bytes(4, "big") + packed


def all_of(reader: MessageReader, data: bytes) -> list[bytes]:
    return [reader.opened(message) for message in reader.feed(data)]


MESSAGES = st.lists(st.tuples(st.binary(max_size=50), st.booleans()), max_size=6)


@given(MESSAGES, st.lists(st.integers(0, 400), max_size=8))
def test_messages_are_cut_out_of_any_pieces(messages: list[tuple[bytes, bool]], at: list[int]) -> None:
    """Message by message as they were sent, compressed or not, each as soon as its last byte is there."""
    data = b"".join(compressed(one) if packed else grpc_wire.written(one) for one, packed in messages)
    reader = MessageReader(BYTES_MAX, b"gzip")
    edges = [0, *sorted(edge for edge in at if edge < len(data)), len(data)]
    got: list[bytes] = []
    for begin, end in pairwise(edges):
        got += all_of(reader, data[begin:end])
    assert got == [one for one, _ in messages]
    assert reader.kept_bytes == 0


def test_one_byte_at_a_time() -> None:
    """A message is there with its last byte and not before; what is kept is what has come of it."""
    reader = MessageReader(BYTES_MAX, None)
    data = grpc_wire.written(b"hello")
    for count, byte in enumerate(data[:-1], start=1):
        assert list(reader.feed(bytes([byte]))) == []
        assert reader.kept_bytes == count
    assert all_of(reader, data[-1:]) == [b"hello"]
    assert reader.kept_bytes == 0


def test_a_message_may_be_as_large_as_was_said() -> None:
    """bytes_max itself is taken; one more is refused with its prefix alone, before any of it has come."""
    assert all_of(MessageReader(BYTES_MAX, None), grpc_wire.written(bytes(BYTES_MAX))) == [bytes(BYTES_MAX)]
    with pytest.raises(MessageTooLarge) as caught:
        list(MessageReader(BYTES_MAX, None).feed(b"\x00" + (BYTES_MAX + 1).to_bytes(4, "big")))
    assert caught.value.size == BYTES_MAX + 1


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x00", grpc_wire.written(b"ab")[:-1], compressed(b"a")])
def test_what_is_not_one_whole_plain_message_is_not_whole(data: bytes) -> None:
    """`whole` is for the common case alone: everything else goes through a MessageReader."""
    assert grpc_wire.whole(data) is None


def test_one_and_a_half_messages_are_not_whole() -> None:
    """Nor is one with anything behind it."""
    assert grpc_wire.whole(grpc_wire.written(b"ab") + b"\x00") is None


@given(st.binary(max_size=100))
def test_what_is_written_is_whole(message: bytes) -> None:
    """The two ends of an uncompressed message agree."""
    assert grpc_wire.whole(grpc_wire.written(message)) == message


# --- gzip -------------------------------------------------------------------------------------------------------------


def test_a_compressed_message_may_become_as_large_as_was_said() -> None:
    """bytes_max counts after decompression as before it."""
    reader = MessageReader(BYTES_MAX, b"gzip")
    assert all_of(reader, compressed(bytes(BYTES_MAX))) == [bytes(BYTES_MAX)]
    with pytest.raises(MessageTooLarge):
        all_of(reader, compressed(bytes(BYTES_MAX + 1)))


def test_a_bomb_does_not_explode() -> None:
    """A message that would become 1,000 times as large is given up at the limit: no more memory than that is used."""
    bomb = compressed(bytes(50 << 20))
    reader = MessageReader(1 << 20, b"gzip")
    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge):
            all_of(reader, bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_bombs_that_wait_are_still_small() -> None:
    """Messages are decompressed when they are taken: those that wait take the memory that they came in."""
    bombs = compressed(bytes(1 << 20)) * 100
    reader = MessageReader(1 << 20, b"gzip")
    tracemalloc.start()
    try:
        waiting = list(reader.feed(bombs))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert [len(reader.opened(one)) for one in waiting] == [1 << 20] * 100


PACKED = gzip.compress(b"hello" * 20, mtime=0)
BROKEN = {
    "truncated": PACKED[:-1],
    "half": PACKED[: len(PACKED) // 2],
    "nothing": b"",
    "no gzip": b"hello",
    "zlib's own": zlib.compress(b"hello"),
    "a wrong checksum": PACKED[:-8] + bytes(8),
    "something behind it": PACKED + b"x",
    "another one behind it": PACKED + PACKED,
}


@pytest.mark.parametrize("packed", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_message_is_told(packed: bytes) -> None:
    """INTERNAL, as gRPC has it, and never half of a message."""
    reader = MessageReader(BYTES_MAX, b"gzip")
    with pytest.raises(Failed) as caught:
        all_of(reader, b"\x01" + len(packed).to_bytes(4, "big") + packed)
    assert caught.value.code == code_pb2.INTERNAL


@pytest.mark.parametrize(
    ("encoding", "code"),
    [
        (None, code_pb2.INTERNAL),
        (b"identity", code_pb2.INTERNAL),
        (b"deflate", code_pb2.UNIMPLEMENTED),
        (b"snappy", code_pb2.UNIMPLEMENTED),
    ],
)
def test_a_message_compressed_as_nobody_said(encoding: bytes | None, code: int) -> None:
    """The flag without grpc-encoding is INTERNAL, an encoding that we do not know UNIMPLEMENTED; a plain message in
    such a call is taken."""
    reader = MessageReader(BYTES_MAX, encoding)
    assert all_of(reader, grpc_wire.written(b"plain")) == [b"plain"]
    with pytest.raises(Failed) as caught:
        all_of(reader, compressed(b"x"))
    assert caught.value.code == code


# --- timeouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3_600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"00000004S", 4.0),
        (b"5m", 0.005),
        (b"6u", 6e-6),
        (b"7n", 7e-9),
        (b"0n", 0.0),
        (b"99999999H", 99_999_999 * 3_600.0),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    """1 to 8 digits and a unit."""
    assert grpc_wire.timeout_s({b"grpc-timeout": value}) == pytest.approx(seconds)


def test_no_timeout() -> None:
    """A call without one may take for ever."""
    assert grpc_wire.timeout_s({}) is None


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"123456789S", b"1s", b"-1S", b"1.5S", b" 1S", b"1S ", b"1S,1S", b"1S\n", "١S".encode()]
)
def test_what_is_no_timeout(value: bytes) -> None:
    """Refused by name: taken for none, the call would never end."""
    with pytest.raises(Failed) as caught:
        grpc_wire.timeout_s({b"grpc-timeout": value})
    assert caught.value.code == code_pb2.INVALID_ARGUMENT


# --- statuses ---------------------------------------------------------------------------------------------------------


def fields(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in Decoder().decode(block, raw=True)]


def field_bytes(block: bytes) -> int:
    return sum(len(name) + len(value) + 32 for name, value in fields(block))


@given(st.text(max_size=200))
@example("%41 100% 쿠폰\r\n\x00\x7f~ ")
def test_a_message_survives_percent_encoding(text: str) -> None:
    """Only printable ASCII is on the wire, and decoding gives back what it was."""
    encoded = grpc_wire.percent_encoded(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert unquote_to_bytes(encoded).decode() == text


def test_a_plain_status() -> None:
    """As trailers, and as the whole response."""
    status = [(b"grpc-status", b"5"), (b"grpc-message", b"no %EC%BF%A0")]
    assert fields(grpc_wire.trailers(5, "no 쿠")) == status
    head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    assert fields(grpc_wire.only_trailers(5, "no 쿠")) == head + status
    assert fields(grpc_wire.OK) == [(b"grpc-status", b"0")]
    assert fields(grpc_wire.HEAD)[:2] == head


def detailed(message: str, note: str = "") -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.FAILED_PRECONDITION, message=message)
    info = error_details_pb2.ErrorInfo(reason="SOLD_OUT", domain="seonchak", metadata={"note": note})
    status.details.add().Pack(info)
    return status


@pytest.mark.parametrize("note", ["", "a", "ab", "abc"])
def test_details_are_what_they_were(note: str) -> None:
    """grpc-status-details-bin is base64 without padding, of every length."""
    status = detailed("매진", note)
    for block in (grpc_wire.detailed_trailers(status), grpc_wire.only_detailed_trailers(status)):
        found = dict(fields(block))
        packed = found[b"grpc-status-details-bin"]
        assert not packed.endswith(b"=")
        assert base64.b64decode(packed + b"=" * (-len(packed) % 4)) == status.SerializeToString()
        assert found[b"grpc-status"] == b"9"
        assert unquote_to_bytes(found[b"grpc-message"]).decode() == "매진"


@pytest.mark.parametrize("character", ["a", "%", "쿠", "🎫"])
@pytest.mark.parametrize("length", [0, 100, 511, 512, 513, 100_000])
@pytest.mark.parametrize("note", [0, 1_000, 2_000, 3_000, 4_000, 5_000])
def test_a_client_takes_every_status(character: str, length: int, note: int) -> None:
    """However long the message and the details, the fields stay within 8 KiB: beyond it a client drops them all and has
    no status. What is cut of a message is cut between characters."""
    message = character * length
    status = detailed(message, "n" * note)
    for block in (
        grpc_wire.trailers(9, message),
        grpc_wire.only_trailers(9, message),
        grpc_wire.detailed_trailers(status),
        grpc_wire.only_detailed_trailers(status),
    ):
        assert field_bytes(block) <= RESPONSE_FIELDS_BYTES_MAX
        found = dict(fields(block))
        assert message.startswith(unquote_to_bytes(found[b"grpc-message"]).decode())
        assert len(found[b"grpc-message"]) >= min(len(grpc_wire.percent_encoded(message)), 512)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_garbage_are_messages_or_one_of_two_errors(seed: int) -> None:
    """Whatever comes: no other exception, and no more is kept than a message and its prefix."""
    rng = random.Random(seed)
    for _ in range(200):
        reader = MessageReader(BYTES_MAX, rng.choice([None, b"gzip", b"x"]))
        try:
            for _ in range(20):
                piece = bytes(rng.choice([0, 0, 1, 3, 31, 139, 255]) for _ in range(rng.randrange(200)))
                all_of(reader, piece)
                assert reader.kept_bytes <= BYTES_MAX + grpc_wire.PREFIX_BYTES
        except (MessageTooLarge, Failed):
            continue
