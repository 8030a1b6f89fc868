"""One client's connection: frames in, streams told to whoever answers, frames out. No I/O, no clock.

Whoever reads the socket calls `receive`, writes what `take` returns, and closes the socket when `ended`. What a client
can make us keep is bounded: streams at a time, bytes of a stream that nobody has consumed, a header block, frames to
which no call belongs. Nothing that it does raises an exception here: the worst is a GOAWAY that says why.

Source: RFC 9113.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from router.http2 import frames
from router.http2.frames import HEAD, HEAD_BYTES, NUMBER, SETTING
from router.http2.headers import (
    BLOCK_BYTES_MAX,
    FIELDS_BYTES_MAX,
    BlockReader,
    CompressionError,
    FieldsTooLarge,
    MalformedRequest,
    Request,
)


@dataclass(frozen=True, slots=True)
class Limits:
    streams_max: int = 20_000
    """Of one connection, at a time; those beyond it are refused, which a client may repeat."""
    stream_bytes_max: int = (1 << 20) + (64 << 10)
    """Received on one stream and not consumed: a message of 1 MiB and some more."""
    connection_bytes_max: int = 8 << 20
    """On their way to us on all streams of a connection."""
    block_bytes_max: int = BLOCK_BYTES_MAX
    """Of a header block, as it comes."""
    pending_bytes_max: int = 32 << 20
    """Of responses that wait for the client to give them room, on all streams of a connection. Whoever takes more than
    that many answers without reading one is disconnected."""
    idle_frames_max: int = 1_000
    """Between two calls of `forgive`: frames that cost us something and belong to no call."""
    resets_max: int = 500
    """Between two calls of `forgive`: calls that were begun and given up by the client, more than were answered. What a
    call has begun goes on without it, so whoever never waits for an answer has none of the other bounds."""


@dataclass(slots=True, eq=False)
class Stream:
    """A request and its response."""

    id: int
    head: Any
    """What `Calls.understand` has made of the request's header fields."""
    room: int
    """Bytes that the client lets us send on it."""
    receive_room: int
    """Bytes that we let the client send."""
    heard_all: bool
    """The request has ended."""
    user: Any = None
    """Whatever the answering side wants to find here again."""
    closed: bool = False
    """Nothing more will be sent or told."""
    unconsumed: int = 0
    """Bytes received that count against the stream's window."""
    pending: deque[bytes] | None = None
    """Of the response: waits for room. None: nothing ever had to."""
    pending_bytes: int = 0
    waited: bool = False
    """Something of it is pending, or was."""
    trailers: bytes | None = None
    """Follow what is pending."""


class Calls(Protocol):
    """Whoever answers. Called from within the connection's own methods."""

    def understand(self, request: Request) -> object:
        """What a stream's `head` shall be. Asked once for all requests that begin with the same bytes."""
        ...

    def requested(self, head: Any, data: bytes) -> bytes | Callable[[Stream], None]:
        """A whole request, as most are: instead of `opened` and `received`. Returns the whole response, if it is known
        at once and nothing but header fields: there is no stream then. Or what is to be done with the stream."""
        ...

    def opened(self, stream: Stream) -> None:
        """A request begins."""
        ...

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        """More of it; with `ended` nothing follows. The receiver gives the bytes back by `consumed`."""
        ...

    def flushed(self, stream: Stream) -> None:
        """What was sent and had to wait has left; nothing is pending."""
        ...

    def closed(self, stream: Stream, answered: bool) -> None:
        """Once for each that was opened: the response has left whole, or (not `answered`) there is nobody to send it
        to. Nothing more will be told of it."""
        ...


class _Fault(Exception):
    """The client breaks the protocol, or our patience: its connection ends."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Connection:
    def __init__(self, calls: Calls, limits: Limits, wake: Callable[[], None]) -> None:
        """
        Args:
            wake: called when there is output outside of `receive`, or something had to wait; not again before `take`.
        """
        self.ended = False
        """When what `take` returns is written, the socket is to be closed."""
        self.fault = ""
        """Why we ended it, if the client was to blame."""
        self.streams: dict[int, Stream] = {}
        self.pending_bytes = 0
        """Of responses, on all streams: waiting for the client to give room."""
        self._calls = calls
        self._limits = limits
        self._wake = wake
        self._awake = False
        self._blocks = BlockReader(calls.understand)
        self._rest = b""
        self._out: list[bytes] = [
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: limits.streams_max,
                    frames.INITIAL_WINDOW_SIZE: limits.stream_bytes_max,
                    frames.MAX_HEADER_LIST_SIZE: FIELDS_BYTES_MAX,
                }
            ),
            frames.window_update(0, limits.connection_bytes_max - frames.WINDOW_BYTES),
        ]
        self._preface_heard = self._configured = False
        self._last_stream = 0
        self._room = frames.WINDOW_BYTES
        self._stream_room = frames.WINDOW_BYTES
        self._frame_bytes_max = frames.FRAME_BYTES
        self._owed = 0
        """Bytes received that the client's window for the connection has not been opened by again."""
        self._idle_frames = 0
        self._resets = 0
        self._block: tuple[int, int, bytearray] | None = None
        """A header block that goes on in the next frame: stream, flags of its HEADERS, bytes so far."""
        self._blocked: OrderedDict[int, Stream] = OrderedDict()
        """Streams with something pending and room of their own: the connection has none. In order."""

    # --- for whoever has the socket -----------------------------------------------------------------------------------

    @property
    def greeted(self) -> bool:
        """The client has begun to speak HTTP/2."""
        return self._configured

    def receive(self, data: bytes) -> None:
        if self.ended:
            return
        self._awake = True  # whoever calls this takes afterwards
        try:
            self._rest = self._hear(self._rest + data if self._rest else data)
        except _Fault as fault:
            self._fail(fault.code, str(fault))
        except CompressionError as error:
            self._fail(frames.COMPRESSION_ERROR, str(error))

    def take(self) -> bytes:
        """What is to be written now."""
        self._awake = False
        if self.pending_bytes > self._limits.pending_bytes_max:
            self._fail(frames.ENHANCE_YOUR_CALM, "answers are asked for and not read")
        out, self._out = self._out, []
        return b"".join(out)

    def lost(self) -> None:
        """The socket is closed."""
        self.ended = True
        for stream in list(self.streams.values()):
            self._close(stream)

    def ping(self) -> None:
        """The client answers, if it is there."""
        self._send(frames.frame(frames.PING, 0, 0, bytes(frames.PING_BYTES)))

    def forgive(self) -> None:
        """To be called every second or so: starts the counts of idle frames and resets anew."""
        self._idle_frames = self._resets = 0

    def announce_end(self) -> None:
        """The client should send no new calls; those that it does send all the same are told."""
        self._send(frames.goaway(frames.STREAM_MAX, frames.NO_ERROR))

    def end(self) -> None:
        """Nothing new is told any more, and nothing was that the client could not repeat elsewhere."""
        if not self.ended:
            self._send(frames.goaway(self._last_stream, frames.NO_ERROR))
            self.ended = True

    def dismiss(self, why: str) -> None:
        """The client asks too much of us."""
        if not self.ended:
            self._fail(frames.ENHANCE_YOUR_CALM, why)

    def _fail(self, code: int, why: str) -> None:
        self.fault = why
        self._out.append(frames.goaway(self._last_stream, code, why))
        self.lost()

    # --- for whoever answers ------------------------------------------------------------------------------------------

    def answer(self, stream: Stream, block: bytes, data: bytes, trailers: bytes) -> None:
        """A whole response, if nothing was sent before."""
        size = len(data)
        if size > stream.room or size > self._room or size > self._frame_bytes_max or stream.closed:
            self.begin(stream, block)
            self.send(stream, data)
            self.finish(stream, trailers)
            return
        self._room -= size
        number = stream.id
        self._send(
            b"".join(
                (
                    HEAD.pack(0, len(block), frames.HEADERS, frames.END_HEADERS, number),
                    block,
                    HEAD.pack(0, size, frames.DATA, 0, number),
                    data,
                    HEAD.pack(0, len(trailers), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, number),
                    trailers,
                )
            )
        )
        self._done(stream)

    def begin(self, stream: Stream, block: bytes) -> None:
        """The header fields of a response."""
        if not stream.closed:
            self._send(frames.frame(frames.HEADERS, frames.END_HEADERS, stream.id, block))

    def send(self, stream: Stream, data: bytes) -> None:
        """More of a response. `pending_bytes` of the stream says how much has to wait; `flushed` when none has."""
        if stream.closed or not data:
            return
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append(data)
        stream.pending_bytes += len(data)
        self.pending_bytes += len(data)
        self._push(stream)
        if stream.pending:
            self._rouse()

    def finish(self, stream: Stream, trailers: bytes) -> None:
        """The end of a response, after all that was sent; or, if nothing was, a whole one of nothing but fields."""
        if stream.closed:
            return
        if stream.pending:
            stream.trailers = trailers
            return
        flags = frames.END_HEADERS | frames.END_STREAM
        self._send(HEAD.pack(0, len(trailers), frames.HEADERS, flags, stream.id) + trailers)
        self._done(stream)

    def give_up(self, stream: Stream) -> None:
        """Nobody waits for the rest of it any more."""
        if not stream.closed:
            self._send(frames.rst_stream(stream.id, frames.CANCEL))
            self._close(stream)

    def consumed(self, stream: Stream, count: int) -> None:
        """So many bytes of a request need no room any more: the client may send others."""
        if stream.closed:
            return
        assert 0 <= count <= stream.unconsumed, "gave back more than was received"
        stream.unconsumed -= count
        if not stream.heard_all:
            self._grant_stream(stream)

    # --- output -------------------------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        self._out.append(data)
        self._rouse()

    def _rouse(self) -> None:
        if not self._awake:
            self._awake = True
            self._wake()

    def _push(self, stream: Stream) -> None:
        """Send what is pending as far as there is room, and its trailers after it."""
        while stream.pending:
            data = stream.pending[0]
            size = min(len(data), stream.room, self._room, self._frame_bytes_max)
            if size <= 0:
                stream.waited = True
                if stream.room > 0:
                    self._blocked[stream.id] = stream
                else:
                    self._blocked.pop(stream.id, None)
                return
            if size == len(data):
                stream.pending.popleft()
            else:
                stream.pending[0] = data[size:]
            stream.pending_bytes -= size
            self.pending_bytes -= size
            stream.room -= size
            self._room -= size
            self._send(frames.frame(frames.DATA, 0, stream.id, data[:size]))
        self._blocked.pop(stream.id, None)
        waited, stream.waited = stream.waited, False
        if stream.trailers is not None:
            self.finish(stream, stream.trailers)
        elif waited:
            self._calls.flushed(stream)

    def _push_blocked(self) -> None:
        # Each turn ends a stream's wait, or uses up its own room, or the connection's.
        while self._blocked and self._room > 0:
            number, stream = next(iter(self._blocked.items()))
            self._blocked.move_to_end(number)
            self._push(stream)

    def _done(self, stream: Stream) -> None:
        """The response is complete."""
        # Who is answered is forgiven: clients measure their way to us with a PING for what they receive.
        self._idle_frames = 0
        self._resets = max(0, self._resets - 1)
        if not stream.heard_all:
            # It needs no more of the request.
            self._send(frames.rst_stream(stream.id, frames.NO_ERROR))
        self._close(stream, answered=True)

    def _close(self, stream: Stream, *, answered: bool = False) -> None:
        stream.closed = True
        del self.streams[stream.id]
        if stream.pending:
            self._blocked.pop(stream.id, None)
            stream.pending.clear()
            self.pending_bytes -= stream.pending_bytes
            stream.pending_bytes = 0
        self._calls.closed(stream, answered)

    def _received(self, size: int) -> None:
        """Of any stream. The connection's window is opened again at once, in large steps: one stream whose messages
        nobody takes must not hold up the others, and what is kept of all of them is bounded elsewhere."""
        self._owed += size
        if self._owed * 2 > self._limits.connection_bytes_max:
            self._send(frames.window_update(0, self._owed))
            self._owed = 0

    def _grant_stream(self, stream: Stream) -> None:
        """Told when it is more than what the client still has: so seldom, and before it has to wait."""
        more = self._limits.stream_bytes_max - stream.unconsumed - stream.receive_room
        if more > stream.receive_room:
            stream.receive_room += more
            self._send(frames.window_update(stream.id, more))

    # --- input --------------------------------------------------------------------------------------------------------

    def _hear(self, data: bytes) -> bytes:
        """Returns what is no whole frame yet."""
        at, end = 0, len(data)
        if not self._preface_heard:
            if not data.startswith(frames.PREFACE[:end]):
                raise _Fault(frames.PROTOCOL_ERROR, "this is an HTTP/2 server")
            if end < len(frames.PREFACE):
                return data
            self._preface_heard, at = True, len(frames.PREFACE)
        while end - at >= HEAD_BYTES:
            high, low, kind, flags, number = HEAD.unpack_from(data, at)
            size = high << 16 | low
            if size > frames.FRAME_BYTES:
                raise _Fault(frames.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            begin = at + HEAD_BYTES
            if end - begin < size:
                break
            at = begin + size
            number &= frames.STREAM_MAX
            payload = data[begin:at]
            if self._block is not None and kind != frames.CONTINUATION:
                raise _Fault(frames.PROTOCOL_ERROR, "a header block was interrupted")
            if kind == frames.HEADERS and self._configured:
                end_of_request = self._on_request(data, at, number, payload) if flags == frames.END_HEADERS else 0
                if end_of_request:
                    at = end_of_request
                else:
                    self._on_headers(flags, number, payload)
            elif kind == frames.DATA and self._configured:
                self._on_data(flags, number, payload)
            else:
                self._on_other(kind, flags, number, payload)
            if self.ended:
                return b""
        return data[at:]

    def _on_request(self, data: bytes, at: int, number: int, block: bytes) -> int:
        """A new request whose HEADERS end at `at`, if all of it follows in one frame, as it nearly always does: like
        HEADERS and DATA one after the other, for less. Returns where it ends; 0: it is no such request."""
        begin = at + HEAD_BYTES
        if len(data) < begin or number <= self._last_stream or not number & 1:
            return 0
        high, size, kind, flags, stream = HEAD.unpack_from(data, at)
        end: int = begin + size
        if kind != frames.DATA or flags != frames.END_STREAM or stream != number or high or end > len(data):
            return 0
        if size > frames.FRAME_BYTES:
            return 0
        self._received(size)
        head = self._understand(number, block)
        if head is None:
            return end
        answer = self._calls.requested(head, data[begin:end])
        if isinstance(answer, bytes):
            flags = frames.END_HEADERS | frames.END_STREAM
            self._out.append(HEAD.pack(0, len(answer), frames.HEADERS, flags, number) + answer)
        else:
            request = self._open(number, head, heard_all=True)
            request.unconsumed = size
            answer(request)
        return end

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            payload = _unpadded(flags, payload)
            if flags & frames.WITH_PRIORITY:
                if len(payload) < frames.PRIORITY_BYTES:
                    raise _Fault(frames.FRAME_SIZE_ERROR, "HEADERS without their priority")
                payload = payload[frames.PRIORITY_BYTES :]
        if not number & 1:
            raise _Fault(frames.PROTOCOL_ERROR, f"a client has no stream {number}")
        if flags & frames.END_HEADERS:
            self._on_block(flags, number, payload)
        else:
            self._idle()
            self._block = (number, flags, bytearray(payload))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != number:
            raise _Fault(frames.PROTOCOL_ERROR, "a header block goes on that had not begun")
        self._idle()
        _, first_flags, block = self._block
        block += payload
        if len(block) > self._limits.block_bytes_max:
            raise _Fault(frames.ENHANCE_YOUR_CALM, "a header block without end")
        if flags & frames.END_HEADERS:
            self._block = None
            self._on_block(first_flags, number, bytes(block))

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        if number <= self._last_stream:
            # Trailers of a request; of one that has been answered, if it was on its way.
            self._blocks.skip(block)
            stream = self.streams.get(number)
            if stream is None:
                self._idle()
            elif not flags & frames.END_STREAM or stream.heard_all:
                raise _Fault(frames.PROTOCOL_ERROR, f"a second request on stream {number}")
            else:
                self._tell(stream, b"", ended=True)
            return
        head = self._understand(number, block)
        if head is None:
            return
        stream = self._open(number, head, heard_all=bool(flags & frames.END_STREAM))
        self._calls.opened(stream)
        if stream.heard_all:
            self._tell(stream, b"", ended=True)

    def _understand(self, number: int, block: bytes) -> object | None:
        """The head of a new request; None: it is refused."""
        self._last_stream = number
        try:
            head = self._blocks.request(block)
        except FieldsTooLarge:
            code = frames.ENHANCE_YOUR_CALM
        except MalformedRequest:
            code = frames.PROTOCOL_ERROR
        else:
            if len(self.streams) < self._limits.streams_max:
                return head
            code = frames.REFUSED_STREAM
        self._idle()
        self._send(frames.rst_stream(number, code))
        return None

    def _open(self, number: int, head: object, *, heard_all: bool) -> Stream:
        stream = Stream(number, head, self._stream_room, self._limits.stream_bytes_max, heard_all)
        self.streams[number] = stream
        return stream

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._received(size)
        stream = self.streams.get(number)
        if stream is None:
            if not 0 < number <= self._last_stream:
                raise _Fault(frames.PROTOCOL_ERROR, f"data on stream {number}, which was not opened")
            return  # it was on its way when the stream was answered, or reset
        if stream.heard_all:
            raise _Fault(frames.STREAM_CLOSED, f"data on stream {number} after its end")
        stream.receive_room -= size
        if stream.receive_room < 0:
            raise _Fault(frames.FLOW_CONTROL_ERROR, f"more data than stream {number} has room for")
        if flags & frames.PADDED:
            payload = _unpadded(flags, payload)
        if not payload and not flags & frames.END_STREAM:
            self._idle()
        stream.unconsumed += size
        if not flags & frames.END_STREAM:
            self._grant_stream(stream)
        if size != len(payload):
            self.consumed(stream, size - len(payload))
        self._tell(stream, payload, ended=bool(flags & frames.END_STREAM))

    def _tell(self, stream: Stream, data: bytes, *, ended: bool) -> None:
        if ended:
            stream.heard_all = True
        if not stream.closed:
            self._calls.received(stream, data, ended)

    def _on_other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == frames.SETTINGS:
            self._on_settings(flags, number, payload)
        elif not self._configured:
            raise _Fault(frames.PROTOCOL_ERROR, "SETTINGS come first")
        elif kind == frames.WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == frames.PING:
            self._on_ping(flags, number, payload)
        elif kind == frames.RST_STREAM:
            self._on_rst_stream(number, payload)
        elif kind == frames.CONTINUATION:
            self._on_continuation(flags, number, payload)
        elif kind == frames.PUSH_PROMISE:
            raise _Fault(frames.PROTOCOL_ERROR, "a client promises nothing")
        else:
            # PRIORITY, GOAWAY (all it means to us comes with the closed socket), and kinds of later protocols.
            self._idle()

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _Fault(frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if payload:
                raise _Fault(frames.FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        if len(payload) % SETTING.size:
            raise _Fault(frames.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
        self._idle()
        self._configured = True
        # Of what is said twice in one frame only the last counts: each may cost a step for every stream.
        for name, value in dict(SETTING.iter_unpack(payload)).items():
            self._set(name, value)
        self._send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        for stream in list(self.streams.values()):
            if stream.pending:
                self._push(stream)

    def _set(self, name: int, value: int) -> None:
        match name:
            case frames.ENABLE_PUSH if value > 1:
                raise _Fault(frames.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
            case frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_BYTES_MAX:
                    raise _Fault(frames.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
                for stream in self.streams.values():
                    # May become negative: then nothing is sent until the client has given that much more.
                    stream.room += value - self._stream_room
                    if stream.room > frames.WINDOW_BYTES_MAX:
                        raise _Fault(frames.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large for a stream")
                self._stream_room = value
            case frames.MAX_FRAME_SIZE:
                if not frames.FRAME_BYTES <= value <= frames.FRAME_BYTES_MAX:
                    raise _Fault(frames.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
                self._frame_bytes_max = min(value, 0xFFFF)  # `answer` writes a length of 16 bits

    def _on_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != NUMBER.size:
            raise _Fault(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE is four bytes")
        more = NUMBER.unpack(payload)[0] & frames.WINDOW_BYTES_MAX
        if not number:
            self._room += more
            if not more or self._room > frames.WINDOW_BYTES_MAX:
                raise _Fault(frames.FLOW_CONTROL_ERROR if more else frames.PROTOCOL_ERROR, "a window of this size")
            self._push_blocked()
            return
        if number > self._last_stream:
            raise _Fault(frames.PROTOCOL_ERROR, f"a window for stream {number}, which was not opened")
        stream = self.streams.get(number)
        if stream is None:
            return
        stream.room += more
        if not more or stream.room > frames.WINDOW_BYTES_MAX:
            self._send(frames.rst_stream(number, frames.FLOW_CONTROL_ERROR if more else frames.PROTOCOL_ERROR))
            self._abandon(stream)
            return
        if stream.pending:
            self._push(stream)

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _Fault(frames.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != frames.PING_BYTES:
            raise _Fault(frames.FRAME_SIZE_ERROR, "PING is eight bytes")
        if not flags & frames.ACK:
            self._idle()
            self._send(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _on_rst_stream(self, number: int, payload: bytes) -> None:
        if len(payload) != NUMBER.size:
            raise _Fault(frames.FRAME_SIZE_ERROR, "RST_STREAM is four bytes")
        if not 0 < number <= self._last_stream:
            raise _Fault(frames.PROTOCOL_ERROR, f"stream {number} was not opened")
        stream = self.streams.get(number)
        if stream is not None:
            self._abandon(stream)

    def _abandon(self, stream: Stream) -> None:
        """The client has reset it, or made us do so, which costs us the same."""
        self._close(stream)
        self._resets += 1
        if self._resets > self._limits.resets_max:
            raise _Fault(frames.ENHANCE_YOUR_CALM, "too many calls that are begun and given up")

    def _idle(self) -> None:
        self._idle_frames += 1
        if self._idle_frames > self._limits.idle_frames_max:
            raise _Fault(frames.ENHANCE_YOUR_CALM, "too many frames that belong to no call")


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & frames.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise _Fault(frames.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
