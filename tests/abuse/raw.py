"""An attacker's sockets: bytes in, bytes out, with TLS or without. Does not know what a server should do with them."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from router.http2 import frames
from tests.router.http2.talk import HELLO, Frame, whole_frames
from tests.support.tls_client import TlsClient

_READ_BYTES = 1 << 16
_HANDSHAKES_AT_A_TIME = 16


@dataclass(frozen=True)
class Target:
    """A listening port, and how it is spoken to."""

    address: str
    tls: ssl.SSLContext | None = None

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)


@dataclass
class Raw:
    """One connection. It reads all that comes, unless it was told to be slow."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: bytearray = field(default_factory=bytearray)

    async def pour(self, pieces: Iterable[bytes]) -> int:
        """Say it all, as fast as the server takes it, reading meanwhile; until it is said or the server has had enough.
        Returns how many bytes went out."""
        said = 0
        reading = asyncio.create_task(self._read())
        try:
            for piece in pieces:
                if reading.done():
                    break
                self.writer.write(piece)
                await self._drain(reading)
                said += len(piece)
        except (ConnectionError, ssl.SSLError):
            pass  # it has had enough
        finally:
            reading.cancel()
            await asyncio.wait([reading])
        return said

    async def _drain(self, reading: "asyncio.Task[None]") -> None:
        """A server that reads nothing more and has ended is not waited for."""
        draining = asyncio.ensure_future(self.writer.drain())
        await asyncio.wait((draining, reading), return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            draining.result()
        draining.cancel()
        await asyncio.sleep(0)  # others of this process have their turn, too

    async def _read(self) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while piece := await self.reader.read(_READ_BYTES):
                self.heard += piece

    async def ended(self) -> None:
        """Returns when the server has ended the connection, in whatever way."""
        await self._read()

    async def until(self, condition: bytes) -> bool:
        """Whether these bytes came before the connection's end."""
        with suppress(ConnectionError, ssl.SSLError):
            while condition not in self.heard:
                piece = await self.reader.read(_READ_BYTES)
                if not piece:
                    return False
                self.heard += piece
        return condition in self.heard

    async def greets(self) -> bool:
        """Whether an HTTP/2 server has begun with its settings, as it does unasked."""
        with suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            self.heard += await self.reader.readexactly(frames.HEAD_BYTES)
            return self.heard[3] == frames.SETTINGS
        return False

    async def answers(self, token: bytes = b"are you?") -> bool:
        """A round through an HTTP/2 server: all that was said before has been read, and it goes on."""
        with suppress(ConnectionError, ssl.SSLError):
            self.writer.write(frames.frame(frames.PING, 0, 0, token))
        return await self.until(frames.frame(frames.PING, frames.ACK, 0, token))

    @property
    def frames(self) -> list[Frame]:
        """All that came whole."""
        return whole_frames(self.heard)[0]

    def goaways(self) -> list[int]:
        """The code of each."""
        return [int.from_bytes(one.payload[4:8], "big") for one in self.frames if one.kind == frames.GOAWAY]

    def cut(self) -> None:
        self.writer.transport.abort()


async def dial(target: Target, hello: bytes = HELLO, *, receive_bytes: int | None = None) -> Raw:
    """
    Args:
        receive_bytes: of its kernel's buffer, for who does not read.

    Raises:
        OSError: it is not let in; ssl.SSLError is one.
    """
    sock = socket.socket()
    sock.setblocking(False)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        await asyncio.get_running_loop().sock_connect(sock, target.place)
        name = None if target.tls is None else "localhost"
        # A small limit: what it does not read stays with the server.
        reader, writer = await asyncio.open_connection(sock=sock, ssl=target.tls, server_hostname=name, limit=1 << 14)
    except BaseException:
        sock.close()
        raise
    raw = Raw(reader, writer)
    writer.write(hello)
    return raw


def _is_open(sock: socket.socket) -> bool:
    try:
        while sock.recv(_READ_BYTES):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False


class Crowd:
    """Thousands of sockets that say nothing but a greeting, if that. As cheap as they can be: no streams, no tasks."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.refused = ""
        """Why there are no more of them."""

    async def gather(self, target: Target, count: int, hello: bytes = b"") -> None:
        """Each says `hello` as soon as it is connected."""
        loop = asyncio.get_running_loop()
        for _ in range(count):
            try:
                sock = socket.socket()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self.refused = f"{error.strerror} in the test's own process"
                return
            sock.setblocking(False)
            self.sockets.append(sock)
            await loop.sock_connect(sock, target.place)
            if hello:
                sock.send(hello)

    async def speak(self, target: Target, count: int, hello: bytes) -> None:
        """Each shakes hands, says `hello` within TLS, and is answered; from then on its side of TLS is forgotten."""
        coming = iter(range(count))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_HANDSHAKES_AT_A_TIME):
                tasks.create_task(self._speak_each(target, coming, hello))

    async def _speak_each(self, target: Target, coming: Iterable[int], hello: bytes) -> None:
        assert target.tls is not None
        loop = asyncio.get_running_loop()
        for _ in coming:
            sock = socket.socket()
            sock.setblocking(False)
            self.sockets.append(sock)
            await loop.sock_connect(sock, target.place)
            client = TlsClient(target.tls, "localhost")
            out = client.begin()
            while not client.heard:
                await loop.sock_sendall(sock, out)
                came = await loop.sock_recv(sock, _READ_BYTES)
                assert came, "it is not let in"
                shaken = client.shaken
                client.hear(came)
                out = client.take() + (client.say(hello) if client.shaken and not shaken else b"")

    def staying(self) -> int:
        """How many of them the server has not let go. What it has said to them meanwhile is gone."""
        return sum(map(_is_open, self.sockets))

    async def let_go(self) -> None:
        """Returns when the server has ended each of them."""
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            with suppress(ConnectionError):
                while await loop.sock_recv(sock, _READ_BYTES):
                    pass

    async def heard(self) -> int:
        """How many of them the server has spoken to, or let go; waits for each."""
        loop, spoken_to = asyncio.get_running_loop(), 0
        for sock in self.sockets:
            with suppress(ConnectionError):
                spoken_to += bool(await loop.sock_recv(sock, 9))
        return spoken_to

    def leave(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
