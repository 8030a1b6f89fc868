"""A client's side of one connection, in bytes, and an answering side that writes down what it was told."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hpack import Decoder

from router.http2 import frames
from router.http2.connection import Connection, Limits, Stream
from router.http2.frames import HEAD, HEAD_BYTES, NUMBER, frame
from router.http2.headers import Request, fields_block, response_block

HELLO = frames.PREFACE + frames.settings({})
HEAD_BLOCK = response_block(200, b"application/grpc")
TRAILERS = fields_block([(b"grpc-status", b"0")])
REFUSAL = response_block(200, b"application/grpc", [(b"grpc-status", b"8")])

END_HEADERS, END_STREAM = frames.END_HEADERS, frames.END_STREAM


def block(path: str = "/echo", *others: tuple[bytes, bytes]) -> bytes:
    """A request's, that leaves the table alone."""
    method_and_scheme = b"\x83\x86"
    name_path = b"\x04"
    return method_and_scheme + name_path + bytes([len(path)]) + path.encode() + fields_block(others)


def headers(number: int, path: str = "/echo", flags: int = END_HEADERS) -> bytes:
    return frame(frames.HEADERS, flags, number, block(path))


def data(number: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    return frame(frames.DATA, END_STREAM if end else 0, number, payload)


def request(number: int, path: str = "/echo", payload: bytes = b"data") -> bytes:
    return headers(number, path) + data(number, payload, end=True)


def chopped(payload: bytes, size: int = frames.FRAME_BYTES) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The last four bytes: a window's increment, the code of a reset."""
        value: int = NUMBER.unpack(self.payload)[0]
        return value

    @property
    def end(self) -> bool:
        return self.kind in (frames.DATA, frames.HEADERS) and bool(self.flags & END_STREAM)


def parsed(out: bytes) -> list[Frame]:
    """Frames, all of them whole."""
    found, size = whole_frames(out)
    assert size == len(out), "half a frame"
    return found


def whole_frames(heard: bytes | bytearray) -> tuple[list[Frame], int]:
    """Those that have come whole, and how many bytes they take."""
    found, at = [], 0
    while at + HEAD_BYTES <= len(heard):
        high, low, kind, flags, number = HEAD.unpack_from(heard, at)
        begin = at + HEAD_BYTES
        end = begin + (high << 16 | low)
        if end > len(heard):
            break
        found.append(Frame(kind, flags, number, bytes(heard[begin:end])))
        at = end
    return found, at


@dataclass
class Told:
    """What one stream's answering side was told, and is to do: by the request's path.

    /echo     answers a whole request with what it said
    /stream   answers each piece as it comes
    /early    answers as soon as it begins, /refuse with nothing but fields
    /middle   answers when the first data come
    /hold     consumes nothing and never answers
    /sink     consumes, and never answers
    """

    path: str
    data: bytes = b""
    ended: bool = False
    closed: bool | None = None
    """Whether it had been answered."""


@dataclass
class Answering:
    """router.http2.connection.Calls. Breaks loudly where its own contract is broken."""

    at_once: bool = True
    """Refusals of whole requests without a stream."""
    told: dict[int, Told] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    refused: int = 0
    """Whole requests that had no stream."""
    flushes: list[int] = field(default_factory=list)
    understood: list[Request] = field(default_factory=list)
    on_flushed: Callable[[Stream], None] = lambda _: None
    connection: Connection = field(init=False)

    def understand(self, request: Request) -> object:
        self.understood.append(request)
        return request.path.decode(errors="replace")

    def requested(self, head: object, data: bytes) -> bytes | Callable[[Stream], None]:
        if head == "/refuse" and self.at_once:
            self.refused += 1
            return REFUSAL

        def begin(stream: Stream) -> None:
            self.opened(stream)
            if not stream.closed:
                self.received(stream, data, True)

        return begin

    def opened(self, stream: Stream) -> None:
        assert stream.id not in self.told, "told twice"
        self.told[stream.id] = Told(stream.head)
        self.streams[stream.id] = stream
        if stream.head == "/early":
            self.connection.answer(stream, HEAD_BLOCK, b"early", TRAILERS)
        elif stream.head == "/refuse":
            self.connection.finish(stream, REFUSAL)

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        told = self.told[stream.id]
        assert told.closed is None, "told after its end"
        assert not told.ended, "ended twice"
        assert not stream.closed
        told.data += data
        told.ended = ended
        if stream.head == "/hold":
            return
        self.connection.consumed(stream, len(data))
        if stream.head == "/stream":
            if stream.user is None:
                stream.user = "begun"
                self.connection.begin(stream, HEAD_BLOCK)
            self.connection.send(stream, data)
            if ended:
                self.connection.finish(stream, TRAILERS)
        elif (stream.head == "/echo" and ended) or stream.head == "/middle":
            self.connection.answer(stream, HEAD_BLOCK, told.data, TRAILERS)

    def flushed(self, stream: Stream) -> None:
        assert self.told[stream.id].closed is None
        assert not stream.pending_bytes
        self.flushes.append(stream.id)
        self.on_flushed(stream)

    def closed(self, stream: Stream, answered: bool) -> None:
        told = self.told[stream.id]
        assert told.closed is None, "closed twice"
        assert stream.closed
        told.closed = answered


class Talk:
    """Bytes of a client and what comes of them."""

    def __init__(self, limits: Limits | None = None, *, at_once: bool = True, greeted: bool = True) -> None:
        self.calls = Answering(at_once)
        self.wakes = 0
        self.connection = Connection(self.calls, limits or Limits(), self._wake)
        self.calls.connection = self.connection
        self.frames: list[Frame] = []
        """All that was sent to the client."""
        if greeted:
            self.say(HELLO)

    def _wake(self) -> None:
        self.wakes += 1

    def say(self, *pieces: bytes) -> list[Frame]:
        """What is answered. Each piece is one read of the socket."""
        before = len(self.frames)
        for piece in pieces:
            self.connection.receive(piece)
            self.frames += parsed(self.connection.take())
        return self.frames[before:]

    def heard(self) -> list[Frame]:
        """What was sent since, without anything being said."""
        news = parsed(self.connection.take())
        self.frames += news
        return news

    def alive(self) -> bool:
        """Whether it still answers."""
        answer = self.say(frame(frames.PING, 0, 0, b"are you?"))
        return Frame(frames.PING, frames.ACK, 0, b"are you?") in answer and not self.connection.ended

    def of(self, number: int) -> list[Frame]:
        return [one for one in self.frames if one.stream == number]

    def body(self, number: int) -> bytes:
        return b"".join(one.payload for one in self.of(number) if one.kind == frames.DATA)

    def granted(self, number: int) -> int:
        """What the client may send in all, on a stream beyond its first window; on 0, the connection."""
        return sum(one.number for one in self.of(number) if one.kind == frames.WINDOW_UPDATE)

    def goaway(self) -> tuple[int, int] | None:
        """The last one's code and last stream."""
        found = [one.payload for one in self.frames if one.kind == frames.GOAWAY]
        if not found:
            return None
        last, code = NUMBER.unpack_from(found[-1])[0], NUMBER.unpack_from(found[-1], 4)[0]
        return code, last

    def resets(self, number: int) -> list[int]:
        return [one.number for one in self.of(number) if one.kind == frames.RST_STREAM]


def fields_of(responses: Iterable[Frame]) -> list[tuple[bytes, bytes]]:
    decoder = Decoder()
    return [
        (bytes(name), bytes(value))
        for one in responses
        if one.kind == frames.HEADERS
        for name, value in decoder.decode(one.payload, raw=True)
    ]


def cut(session: bytes, at: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(session)]
    return [session[begin:end] for begin, end in pairwise(edges)]
