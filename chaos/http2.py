"""A gRPC client of one unary method, spoken by hand: cheap enough to be a crowd beside the cluster that it floods.

grpc.aio's own client costs as much as the cluster's answer does. This one writes the same HTTP/2 frames for every call
and reads of an answer only whether it has a message: then the call has succeeded.

Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK), "gRPC over HTTP2" of the gRPC project.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from struct import Struct

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_CANCEL = Struct(">I").pack(8)
_MAX_CONCURRENT_STREAMS = 3
_WINDOW_BYTES = 65_535
"""What may be sent before the server has granted more."""
_ROOM_BYTES = 1 << 30
"""What the server may send: more than it will in the life of a connection."""
_HEAD = Struct(">BHBBI")
_SETTING = Struct(">HI")
_NUMBER = Struct(">I")


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    length = len(payload)
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """An HPACK string without Huffman coding."""
    encoded = value.encode()
    assert len(encoded) < 127, "one byte says how long it is"
    return bytes([len(encoded)]) + encoded


def request_headers(authority: str, path: str, timeout: str) -> bytes:
    """One header block for every call: no field enters the dynamic table, so that none depends on another.

    Args:
        timeout: as gRPC writes it: "3S", "100m".
    """
    method_post, scheme_http, with_path, with_authority = b"\x83", b"\x86", b"\x04", b"\x01"
    with_content_type, with_new_name = b"\x0f\x10", b"\x00"
    return b"".join(
        (
            method_post,
            scheme_http,
            with_path + _text(path),
            with_authority + _text(authority),
            with_content_type + _text("application/grpc"),
            with_new_name + _text("te") + _text("trailers"),
            with_new_name + _text("grpc-timeout") + _text(timeout),
        )
    )


class Caller(asyncio.Protocol):
    """One connection. `call` sends; `on_end` hears of each call once, if it was not cancelled."""

    def __init__(self, headers: bytes, on_end: Callable[[int, bool], None]) -> None:
        """
        Args:
            on_end: a call's token, and whether it succeeded.
        """
        self._headers = headers
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._last_stream = -1
        self._window_bytes = _WINDOW_BYTES
        self._streams_max = 1 << 31
        self._waiting: OrderedDict[int, bytes] = OrderedDict()
        """By token, in the order in which they came."""
        self._sending = False
        self._tokens: dict[int, int] = {}
        """By stream, of the calls in flight."""
        self._streams: dict[int, int] = {}
        """By token, of the same calls."""
        self._with_message: set[int] = set()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        room = _frame(_WINDOW_UPDATE, 0, 0, _NUMBER.pack(_ROOM_BYTES))
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0) + room)

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer + data, 0
        while len(buffer) - at >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(buffer, at)
            end = at + _HEAD.size + (high << 16 | low)
            if len(buffer) < end:
                break
            self._hear(kind, flags, stream & 0x7FFF_FFFF, buffer[at + _HEAD.size : end])
            at = end
        self._buffer = buffer[at:]
        self._send_waiting()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for stream in list(self._tokens):
            self._ended(stream, succeeded=False)
        while self._waiting:
            self._on_end(self._waiting.popitem()[0], False)

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, token: int, message: bytes) -> None:
        """Send a request, as soon as the server lets us: with all others of this turn of the event loop, since a write
        costs more than what is written."""
        if self._transport is None:
            self._on_end(token, False)
            return
        self._waiting[token] = b"\0" + _NUMBER.pack(len(message)) + message
        if not self._sending:
            self._sending = True
            asyncio.get_running_loop().call_soon(self._send_waiting)

    def cancel(self, token: int) -> None:
        """Nobody waits for it any more, and nobody will hear of it."""
        stream = self._streams.pop(token, None)
        if stream is None:
            self._waiting.pop(token, None)
        else:
            del self._tokens[stream]
            self._with_message.discard(stream)
            self._write(_frame(_RST_STREAM, 0, stream, _CANCEL))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _send_waiting(self) -> None:
        self._sending = False
        frames = []
        while self._waiting and len(self._tokens) < self._streams_max:
            token, body = self._waiting.popitem(last=False)
            if len(body) > self._window_bytes:
                self._waiting[token] = body
                self._waiting.move_to_end(token, last=False)
                break
            self._window_bytes -= len(body)
            self._last_stream += 2
            self._tokens[self._last_stream] = token
            self._streams[token] = self._last_stream
            frames.append(_frame(_HEADERS, _END_HEADERS, self._last_stream, self._headers))
            frames.append(_frame(_DATA, _END_STREAM, self._last_stream, body))
        if frames:
            self._write(b"".join(frames))

    # --- answers ------------------------------------------------------------------------------------------------------

    def _hear(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _DATA and stream in self._tokens:
            self._with_message.add(stream)
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM:
            self._ended(stream, succeeded=stream in self._with_message)
        elif kind == _RST_STREAM:
            self._ended(stream, succeeded=False)
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in _SETTING.iter_unpack(payload):
                if name == _MAX_CONCURRENT_STREAMS:
                    self._streams_max = value
            self._write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            (more_bytes,) = _NUMBER.unpack(payload)
            self._window_bytes += more_bytes
        elif kind == _GOAWAY:
            self.close()

    def _ended(self, stream: int, *, succeeded: bool) -> None:
        token = self._tokens.pop(stream, None)
        self._with_message.discard(stream)
        if token is not None:
            del self._streams[token]
            self._on_end(token, succeeded)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
