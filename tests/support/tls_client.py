"""A TLS client whose bytes a test has in hand: what goes over the wire can be cut, joined and damaged."""

import ssl
from contextlib import suppress


class TlsClient:
    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._received, self._sent = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._sent, server_hostname=name)
        self.heard = b""
        self.ended = False
        """The server has said that it ends."""
        self.shaken = False

    def begin(self) -> bytes:
        """Its greeting."""
        self.hear(b"")
        return self.take()

    def hear(self, data: bytes) -> None:
        """Raises ssl.SSLError: the server is not believed, or has cut the connection off."""
        self._received.write(data)
        try:
            if not self.shaken:
                self._tls.do_handshake()
                self.shaken = True
            while piece := self._tls.read(1 << 16):
                self.heard += piece
            self.ended = True
        except ssl.SSLWantReadError:
            pass

    def say(self, data: bytes) -> bytes:
        """What goes over the wire for it."""
        while data:
            data = data[self._tls.write(data) :]
        return self.take()

    def end(self) -> bytes:
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        return self.take()

    def take(self) -> bytes:
        return self._sent.read()
