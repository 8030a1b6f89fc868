"""A TCP proxy between a client and one server, to cut, hold back and delay what passes. Lives in the test's loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16


@dataclass
class Way:
    """One direction of all connections."""

    delay_s: float = 0.0
    """Every chunk is passed on so much later, in order."""
    came_bytes: int = 0
    """Came in since the start, passed on or not."""
    passed_bytes: int = 0
    """Passed on since the start."""
    held: bytearray = field(default_factory=bytearray)
    """What came since `hold`, of all connections."""
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _dropping: bool = False

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """Keep back what comes, until `release`. Held for ever, or until `cut`, it is a one-way loss."""
        self.held.clear()
        self._open.clear()

    def drop(self) -> None:
        """Lose what comes from now on, until `release`. What is held back already is kept: hold a question, drop the
        caller's word that it gave up, release, and the question arrives late."""
        self._dropping = True

    def release(self) -> None:
        """Pass on what was held back. A connection that has lost bytes is of no use afterwards: `cut` it."""
        self._dropping = False
        self._open.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ends when either side does."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1024)
        loop = asyncio.get_running_loop()

        async def read() -> None:
            try:
                while data := await reader.read(CHUNK_BYTES):
                    self.came_bytes += len(data)
                    if not self._open.is_set():
                        self.held += data
                    if not self._dropping:
                        await due.put((loop.time() + self.delay_s, data))
            except ConnectionError:
                pass  # a process that is killed resets its connections; what it sent before is still on its way
            await due.put((0.0, b""))

        async def write() -> None:
            while True:
                due_s, data = await due.get()
                await asyncio.sleep(max(0.0, due_s - loop.time()))
                await self._open.wait()
                if not data:
                    # When words of a client were held back the server is not told that it is gone: it would drop them.
                    if not self.held and not writer.transport.is_closing():
                        writer.write_eof()
                    return
                try:
                    writer.write(data)
                    await writer.drain()
                except ConnectionError:
                    continue  # nobody is there; the other way may still have to arrive
                self.passed_bytes += len(data)

        tasks = [asyncio.create_task(read()), asyncio.create_task(write())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Use `running_proxy`. `up` is the way to the server, `down` the way back."""

    def __init__(self, target_port: int) -> None:
        self.up = Way()
        self.down = Way()
        self.accepted = 0
        """Connections that were let through, since the start."""
        self._target_port = target_port
        self._is_cut = False
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def cut(self) -> None:
        """Break all connections, with what is held back in them, and refuse new ones until `heal`."""
        self._is_cut = True
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def heal(self) -> None:
        self._is_cut = False
        self.up.release()
        self.down.release()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        self.accepted += 1
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        connection.add_done_callback(lambda _: writer.transport.abort())  # also of one cancelled before its first step

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_writer: asyncio.StreamWriter | None = None
        ways: list[asyncio.Task[None]] = []
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ways = [
                asyncio.create_task(self.up.pump(reader, server_writer)),
                asyncio.create_task(self.down.pump(server_reader, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        except OSError:
            pass  # the server refuses: so does the proxy
        finally:
            writer.transport.abort()
            if server_writer is not None:
                server_writer.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@asynccontextmanager
async def running_proxy(target_port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(target_port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
