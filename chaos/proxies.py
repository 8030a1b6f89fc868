"""The network between a cluster's processes, as one that can be cut: a TCP proxy in front of every server's port.

Servers are told of, and dialled, by their proxy's address. Who dialled is found out by the kernel's table of sockets,
so that one proxy tells its clients apart and every pair (client, server) is a link with a fate of its own. What is cut
is silent, like a cable that was pulled: nothing is refused, nothing is lost for good, and what was sent before the cut
was healed arrives late, as TCP would bring it. Lives in the harness's loop; needs no root.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ops.ports import ReservedPorts

CHUNK_BYTES = 1 << 16
_CHUNKS_MAX = 1_024
"""Of a direction of one connection on their way; beyond it the sender's window closes."""


class Way:
    """One direction of a link: of all its connections, those to come included."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        """Every chunk arrives so much later, in order."""
        self._open = asyncio.Event()
        self._open.set()

    def stop(self) -> None:
        """Nothing arrives until `go`. Then all of it does."""
        self._open.clear()

    def go(self) -> None:
        self._open.set()

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Returns when the end of `reader` has arrived at `writer`, or when `writer` is gone."""
        coming: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_MAX)
        reading = asyncio.create_task(_read(reader, coming))
        loop = asyncio.get_running_loop()
        try:
            while True:
                came_s, data = await coming.get()
                if (early_s := came_s + self.delay_s - loop.time()) > 0:
                    await asyncio.sleep(early_s)
                await self._open.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return  # a process that was killed resets its connections
        finally:
            reading.cancel()


async def _read(reader: asyncio.StreamReader, coming: asyncio.Queue[tuple[float, bytes]]) -> None:
    """Chunks with the moment at which they came; an empty one is the end."""
    loop = asyncio.get_running_loop()
    data = b"more"
    while data:
        try:
            data = await reader.read(CHUNK_BYTES)
        except ConnectionError:
            data = b""
        await coming.put((loop.time(), data))


@dataclass(frozen=True, slots=True)
class Link:
    """From a client process to a server process, by their names."""

    client: str
    server: str
    up: Way = field(default_factory=Way)
    """To the server."""
    down: Way = field(default_factory=Way)

    def cut(self) -> None:
        """Silence, both ways."""
        self.up.stop()
        self.down.stop()

    def slow(self, delay_s: float) -> None:
        """Each way takes so much longer."""
        self.up.delay_s = self.down.delay_s = delay_s

    def heal(self) -> None:
        self.slow(0.0)
        self.up.go()
        self.down.go()


class Network:
    """All links of one cluster."""

    def __init__(self, processes: Callable[[], Mapping[int, str]]) -> None:
        """
        Args:
            processes: the names of the clients that run now, by pid.
        """
        self._processes = processes
        self._links: dict[tuple[str, str], Link] = {}
        self._proxies: dict[str, list[_Proxy]] = {}
        self._ports = ReservedPorts()

    async def front(self, server: str, address: str) -> str:
        """Put a proxy in front of one port of a server, which need not run yet. The proxy's HOST:PORT."""
        port = self._ports.take()
        proxy = _Proxy(port, address, lambda pid_of_client: self._link_of(pid_of_client, server), self._processes)
        await proxy.listen()
        self._proxies.setdefault(server, []).append(proxy)
        return proxy.address

    def link(self, client: str, server: str) -> Link:
        return self._links.setdefault((client, server), Link(client, server))

    def links(self, clients: Iterable[str], servers: Iterable[str]) -> list[Link]:
        servers = list(servers)
        return [self.link(client, server) for client in clients for server in servers if client != server]

    def between(self, some: Iterable[str], others: Iterable[str]) -> list[Link]:
        """Of servers that dial each other: the links of both."""
        some, others = list(some), list(others)
        return self.links(some, others) + self.links(others, some)

    def heal(self) -> None:
        for link in self._links.values():
            link.heal()

    def died(self, server: str) -> None:
        """The server's process is gone: its ports refuse, as its machine's kernel would."""
        for proxy in self._proxies.get(server, ()):
            proxy.refuse()

    async def lives(self, server: str) -> None:
        """The server's process is there, or about to be."""
        for proxy in self._proxies.get(server, ()):
            await proxy.listen()

    async def close(self) -> None:
        """Break all connections, those that are cut included."""
        for proxies in self._proxies.values():
            for proxy in proxies:
                await proxy.close()
        self._ports.close()

    def _link_of(self, pid: int, server: str) -> Link | None:
        client = self._processes().get(pid)
        return None if client is None else self.link(client, server)


class _Proxy:
    """In front of one server; passes the connections of all its clients."""

    def __init__(
        self,
        port: int,
        target: str,
        link_of: Callable[[int], Link | None],
        processes: Callable[[], Mapping[int, str]],
    ) -> None:
        """`port`: nobody may take it while the proxy refuses."""
        self._host, _, target_port = target.rpartition(":")
        self._target_port = int(target_port)
        self._link_of = link_of
        self._processes = processes
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port)

    def refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        self.refuse()
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        connection.add_done_callback(lambda _: writer.close())  # also of one that was cancelled before its first step

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_writer: asyncio.StreamWriter | None = None
        ways: list[asyncio.Task[None]] = []
        try:
            client_port = writer.get_extra_info("peername")[1]
            pid = pid_of_connection(client_port, self._port, self._processes())
            link = None if pid is None else self._link_of(pid)
            if link is None:
                return  # its process has ended meanwhile
            server_reader, server_writer = await asyncio.open_connection(self._host, self._target_port)
            ways = [
                asyncio.create_task(link.up.pump(reader, server_writer)),
                asyncio.create_task(link.down.pump(server_reader, writer)),
            ]
            # gRPC never closes one half of a connection: the end of either way is the end of both.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the server refuses: so does the proxy
        finally:
            for way in ways:
                way.cancel()
            writer.close()
            if server_writer is not None:
                server_writer.close()


def pid_of_connection(client_port: int, server_port: int, pids: Iterable[int]) -> int | None:
    """Which of the processes holds the client's end of a connection on loopback; None: none of them.

    Source: proc(5): /proc/net/tcp lists `local:port remote:port ... inode`, ports in hexadecimal; /proc/PID/fd/N of a
    socket links to `socket:[inode]`.
    """
    ends = (f":{client_port:04X}", f":{server_port:04X}")
    for table in ("tcp", "tcp6"):  # gRPC speaks IPv4 through an IPv6 socket
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[1].endswith(ends[0]) and columns[2].endswith(ends[1]):
                return next((pid for pid in pids if _holds(pid, f"socket:[{columns[9]}]")), None)
    return None


def _holds(pid: int, socket: str) -> bool:
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):  # it has ended
        for descriptor in os.listdir(folder):
            with suppress(OSError):  # closed since it was listed
                if os.readlink(f"{folder}/{descriptor}") == socket:
                    return True
    return False
