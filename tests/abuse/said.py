"""What attackers say: HTTP/2 and gRPC that are wrong, too much, or without end. Bytes only."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat

from google.protobuf.message import Message

from ops.credentials import ANYBODY, Credentials
from router.grpc_wire import written
from router.http2 import frames
from router.http2.frames import NUMBER, frame
from tests.router.http2.talk import END_HEADERS, END_STREAM, HELLO, block, data

MIB = 1 << 20
POUR_BYTES = 128 * MIB
"""Of what has no end: more than a process with a server of ours may grow by."""
SERVICE = "/coupon.v1.CouponService"
NODE_SERVICE = "/seonchak.node.v1.NodeService"
AUTHORITY = (b":authority", b"localhost")
"""gRPC's server turns away who names none."""
GRPC = (b"content-type", b"application/grpc")


@dataclass(frozen=True)
class Call:
    """A method, and who calls it: somebody who is let in, so that what he says gets as far as it can."""

    path: str
    who: Credentials = ANYBODY

    def block(self, *fields: tuple[bytes, bytes]) -> bytes:
        shown = ((name.encode(), value.encode()) for name, value in self.who.metadata)
        return block(self.path, AUTHORITY, GRPC, (b"te", b"trailers"), *shown, *fields)

    def begin(self, number: int, *fields: tuple[bytes, bytes]) -> bytes:
        return frame(frames.HEADERS, END_HEADERS, number, self.block(*fields))

    def whole(self, number: int, request: Message) -> bytes:
        return self.begin(number) + data(number, written(request.SerializeToString()), end=True)


def endless(piece: bytes, total: int = POUR_BYTES) -> Iterator[bytes]:
    """The same again and again, some 64 KiB a write."""
    together = piece * max(1, (64 << 10) // len(piece))
    return repeat(together, total // len(together))


# --- header fields ----------------------------------------------------------------------------------------------------


def continuations(call: Call) -> Iterator[bytes]:
    """A header block that goes on and on, a field of 16 KB in each frame. CVE-2024-27316 and its kin."""
    field = b"\x00\x01x\x7f" + _rest_of_integer(16_000 - 127) + b"v" * 16_000
    first = frame(frames.HEADERS, 0, 1, call.block())
    return chain([HELLO + first], endless(frame(frames.CONTINUATION, 0, 1, field)))


def empty_continuations(call: Call) -> Iterator[bytes]:
    """The same without a byte in any of them."""
    return chain([HELLO + frame(frames.HEADERS, 0, 1, call.block())], endless(frame(frames.CONTINUATION, 0, 1), MIB))


def many_fields(call: Call) -> Iterator[bytes]:
    """16,000 fields in a block of as many bytes, and 400 of these blocks."""
    fields = b"\x82" * 16_000
    return chain([HELLO], (frame(frames.HEADERS, END_HEADERS | END_STREAM, n, fields) for n in range(1, 801, 2)))


def hpack_bomb(call: Call) -> Iterator[bytes]:
    """4 KB that the table keeps, then blocks of nothing but references to it: 16,000 times 4 KB each."""
    entry = b"\x40\x01x\x7f" + _rest_of_integer(4_000 - 127) + b"v" * 4_000
    head = call.block() + entry
    bombs = (frame(frames.HEADERS, END_HEADERS | END_STREAM, n, b"\xbe" * 16_000) for n in range(3, 403, 2))
    return chain([HELLO + frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, head)], bombs)


def table_churn(call: Call) -> Iterator[bytes]:
    """Each request's block makes the table new: nothing that was read is worth remembering."""

    def one(number: int) -> bytes:
        entries = b"".join(b"\x40\x08%08d\x08%08d" % (number, at) for at in range(40))
        return frame(frames.HEADERS, END_HEADERS | END_STREAM, number, call.block() + entries)

    return chain([HELLO], (one(number) for number in range(1, 2_001, 2)))


def _rest_of_integer(value: int) -> bytes:
    """RFC 7541, 5.1, behind a prefix that is full."""
    said = bytearray()
    while value >= 0x80:
        said.append(value & 0x7F | 0x80)
        value >>= 7
    said.append(value)
    return bytes(said)


# --- frames -----------------------------------------------------------------------------------------------------------


def pings(call: Call) -> Iterator[bytes]:
    return chain([HELLO], endless(frame(frames.PING, 0, 0, b"are you?"), 4 * MIB))


def settings(call: Call) -> Iterator[bytes]:
    said = frames.settings({frames.INITIAL_WINDOW_SIZE: 65_535, frames.MAX_FRAME_SIZE: 16_384})
    return chain([HELLO], endless(said, 4 * MIB))


def empty_data(call: Call) -> Iterator[bytes]:
    return chain([HELLO + call.begin(1)], endless(data(1), MIB))


def large_frames(call: Call) -> Iterator[bytes]:
    """A frame of 16 MiB, which nobody has allowed."""
    return chain([HELLO, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"], endless(b"x" * 65_536))


def window_overflow(call: Call) -> Iterator[bytes]:
    """Room without end for streams that were never used for anything else."""
    grow = frames.window_update(1, 2**31 - 1)
    return chain([HELLO + call.begin(1)], endless(grow, MIB))


# --- messages ---------------------------------------------------------------------------------------------------------


def endless_message(call: Call) -> Iterator[bytes]:
    """It says that it has 4 GiB, and goes on until somebody minds."""
    return chain(
        [HELLO + call.begin(1) + data(1, b"\x00\xff\xff\xff\xff")], endless(data(1, b"x" * frames.FRAME_BYTES))
    )


def oversized_messages(call: Call) -> Iterator[bytes]:
    """One byte more than the largest, on many streams, of which none is complete."""

    def one(number: int) -> bytes:
        return call.begin(number) + data(number, b"\x00" + NUMBER.pack(MIB + 1) + b"x" * 16_000)

    return chain([HELLO], (one(number) for number in range(1, 2_001, 2)))


def unfinished_messages(call: Call) -> Iterator[bytes]:
    """Good ones that lack their last bytes: kept for whoever may still finish them."""

    def one(number: int) -> bytes:
        return call.begin(number) + data(number, b"\x00" + NUMBER.pack(16_000) + b"x" * 15_000)

    return chain([HELLO], (one(number) for number in range(1, 5_001, 2)))


def compression_bomb(call: Call) -> Iterator[bytes]:
    """Messages of 64 KB that become 64 MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(bytes(64 * MIB)) + packer.flush()
    said = b"\x01" + NUMBER.pack(len(bomb)) + bomb
    pieces = [said[at : at + frames.FRAME_BYTES] for at in range(0, len(said), frames.FRAME_BYTES)]

    def one(number: int) -> bytes:
        head = call.begin(number, (b"grpc-encoding", b"gzip"))
        return head + b"".join(data(number, piece, end=piece is pieces[-1]) for piece in pieces)

    return chain([HELLO], (one(number) for number in range(1, 41, 2)))


FLOODS: tuple[Callable[[Call], Iterator[bytes]], ...] = (
    continuations,
    empty_continuations,
    many_fields,
    hpack_bomb,
    table_churn,
    pings,
    settings,
    empty_data,
    large_frames,
    window_overflow,
    endless_message,
    oversized_messages,
    unfinished_messages,
    compression_bomb,
)
"""None of them ends in the middle of a frame: behind each, the server can be asked whether it is there."""
