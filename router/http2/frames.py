"""HTTP/2's frames as bytes. Knows no connection.

    length 24 bits | type 8 | flags 8 | reserved 1 | stream 31 | payload, `length` bytes

Source: RFC 9113, sections 4 and 6.
"""

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

WINDOW_BYTES = 65_535
"""Every flow-control window when a connection begins."""
WINDOW_BYTES_MAX = 2**31 - 1
FRAME_BYTES = 16_384
"""The largest payload that everybody takes."""
FRAME_BYTES_MAX = 2**24 - 1
STREAM_MAX = 2**31 - 1

HEAD = Struct(">BHBBI")
"""A frame's first nine bytes; the length comes as its upper 8 and its lower 16 bits."""
HEAD_BYTES = HEAD.size
NUMBER = Struct(">I")
SETTING = Struct(">HI")
PRIORITY_BYTES = 5
PING_BYTES = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(name, value) for name, value in values.items()))


def window_update(stream: int, more_bytes: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(more_bytes))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, NUMBER.pack(code))


def goaway(last_stream: int, code: int, why: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, NUMBER.pack(last_stream) + NUMBER.pack(code) + why.encode())
