"""gRPC as it is written on HTTP/2: messages with a prefix, timeouts, statuses in trailers. Pure.

    message: compressed 1 byte (0 or 1) | length 4 bytes, big-endian | the message

Source: "gRPC over HTTP2" (PROTOCOL-HTTP2.md) and "Compression" of the gRPC project.
"""

import base64
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from google.rpc import code_pb2, status_pb2

from router.http2.headers import fields_block, response_block

CONTENT_TYPE = b"application/grpc"
CONTENT_TYPES = (CONTENT_TYPE, CONTENT_TYPE + b"+proto")
"""Of requests."""
_PREFIX = Struct(">BI")
PREFIX_BYTES = _PREFIX.size

HEAD = response_block(200, CONTENT_TYPE, [(b"grpc-accept-encoding", b"identity,gzip")])
"""What every response with a message begins with."""
OK = fields_block([(b"grpc-status", b"0")])
"""What it ends with."""
NOT_GRPC = response_block(415, b"text/plain")
NOT_POST = response_block(405, b"text/plain")

_STATUS_BYTES_MAX = 4_096
"""Of a status with its details, which base64 makes longer by a third. Clients take 8 KiB of trailers in all."""
_MESSAGE_BYTES_MAX = 2_048
"""Of a status's message on the wire, where a Hangul syllable is 9 bytes."""

_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Failed(Exception):
    """A call ends with a plain status, without details.

    Args:
        code: a google.rpc.Code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class MessageTooLarge(Exception):
    def __init__(self, size: int) -> None:
        super().__init__(f"a message of {size} bytes")
        self.size = size


def written(message: bytes) -> bytes:
    return _PREFIX.pack(0, len(message)) + message


def whole(data: bytes) -> bytes | None:
    """The message, if `data` is one message and it is not compressed: what a unary call nearly always sends."""
    if len(data) >= PREFIX_BYTES and data[0] == 0 and _PREFIX.unpack_from(data)[1] == len(data) - PREFIX_BYTES:
        return data[PREFIX_BYTES:]
    return None


class Arrived(NamedTuple):
    """A message as it came. What is compressed stays so until somebody takes it: it may become 1,000 times as large."""

    compressed: int
    data: bytes


class MessageReader:
    """Cuts one direction of a call into its messages. Keeps no more of it than one message and its prefix."""

    def __init__(self, bytes_max: int, encoding: bytes | None) -> None:
        """
        Args:
            bytes_max: of a message, before and after it was compressed.
            encoding: `grpc-encoding` of the call; None: identity.
        """
        self._bytes_max = bytes_max
        self._encoding = encoding
        self._buffer = bytearray()

    @property
    def kept_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Arrived]:
        """Yield the messages that are now complete. To be iterated to its end.

        Raises:
            MessageTooLarge: as soon as its prefix says so; those before it have been yielded.
        """
        buffer = self._buffer
        buffer += data
        while len(buffer) >= PREFIX_BYTES:
            compressed, size = _PREFIX.unpack_from(buffer)
            if size > self._bytes_max:
                raise MessageTooLarge(size)
            end = PREFIX_BYTES + size
            if len(buffer) < end:
                return
            message = Arrived(compressed, bytes(buffer[PREFIX_BYTES:end]))
            del buffer[:end]
            yield message

    def opened(self, message: Arrived) -> bytes:
        """The message itself.

        Raises:
            MessageTooLarge: it would become so.
            Failed: it is compressed in a way that we do not know, or broken.
        """
        if not message.compressed:
            return message.data
        if self._encoding is None or self._encoding == b"identity":
            raise Failed(code_pb2.INTERNAL, "a compressed message without grpc-encoding")
        if self._encoding != b"gzip":
            raise Failed(code_pb2.UNIMPLEMENTED, "grpc-encoding may be identity or gzip")
        reader = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            data = reader.decompress(message.data, self._bytes_max + 1)
        except zlib.error as error:
            raise Failed(code_pb2.INTERNAL, "the message is no gzip") from error
        if len(data) > self._bytes_max:
            raise MessageTooLarge(len(data))
        if not reader.eof or reader.unused_data:
            raise Failed(code_pb2.INTERNAL, "the message's gzip does not end where the message does")
        return data


def timeout_s(fields: Mapping[bytes, bytes]) -> float | None:
    """What the client allows for the call; None: no limit.

    Raises:
        Failed: it is not a timeout.
    """
    value = fields.get(b"grpc-timeout")
    if value is None:
        return None
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise Failed(code_pb2.INVALID_ARGUMENT, "grpc-timeout is 1 to 8 digits and one of H, M, S, m, u, n")
    return int(match[1]) * _UNITS_S[match[2]]


@lru_cache(maxsize=1_024)
def trailers(code: int, message: str) -> bytes:
    """Of a plain status."""
    return fields_block(_status_fields(code, message))


@lru_cache(maxsize=1_024)
def only_trailers(code: int, message: str) -> bytes:
    """A response that has nothing but a plain status."""
    return response_block(200, CONTENT_TYPE, _status_fields(code, message))


def detailed_trailers(status: status_pb2.Status) -> bytes:
    return fields_block(_detailed_fields(status))


def only_detailed_trailers(status: status_pb2.Status) -> bytes:
    return response_block(200, CONTENT_TYPE, _detailed_fields(status))


def _status_fields(code: int, message: str) -> list[tuple[bytes, bytes]]:
    encoded = percent_encoded(message[:_MESSAGE_BYTES_MAX])
    while len(encoded) > _MESSAGE_BYTES_MAX:
        message = message[: len(message[:_MESSAGE_BYTES_MAX]) * _MESSAGE_BYTES_MAX // len(encoded)]
        encoded = percent_encoded(message)
    return [(b"grpc-status", b"%d" % code), (b"grpc-message", encoded)]


def _detailed_fields(status: status_pb2.Status) -> list[tuple[bytes, bytes]]:
    fields = _status_fields(status.code, status.message)
    details = status.SerializeToString()
    # A client drops a whole response whose trailers it finds too long.
    if len(details) <= _STATUS_BYTES_MAX:
        fields.append((b"grpc-status-details-bin", base64.b64encode(details).rstrip(b"=")))
    return fields


def percent_encoded(text: str) -> bytes:
    """As `grpc-message` is: printable ASCII but for the percent sign stands for itself."""
    return b"".join(
        bytes([byte]) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()
    )
