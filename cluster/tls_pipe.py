"""One connection's TLS, the server's side, without I/O: the socket's bytes in and out, and what is said within them."""

import ssl
from contextlib import suppress

_PIECE_BYTES = 1 << 16


class TlsPipe:
    def __init__(self, context: ssl.SSLContext) -> None:
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sent, server_side=True)
        self._shaken = False
        self.ended = False
        """The client has said that it ends, or does not speak TLS as it should: nothing more is received."""

    def receive(self, data: bytes) -> bytes:
        """What the client says in it, as far as that is whole. `take` has what has to be sent for it, an alert too."""
        self._received.write(data)
        said = bytearray()
        try:
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
            while piece := self._tls.read(_PIECE_BYTES):
                said += piece
            self.ended = True
        except ssl.SSLWantReadError:
            pass  # the rest is still to come
        except ssl.SSLError:
            self.ended = True
            return b""  # it cannot be answered any more
        return bytes(said)

    def say(self, data: bytes) -> None:
        """After the client has said something, and `take` what it became."""
        written = self._tls.write(data)
        assert written == len(data), "memory takes it all"

    def end(self) -> None:
        """Say that nothing more comes, so that it cannot be taken for a connection that was cut."""
        with suppress(ssl.SSLError):  # the client's own end is not waited for
            self._tls.unwrap()

    def take(self) -> bytes:
        """For the socket."""
        return self._sent.read()
