"""The harness's proxies do to connections what they say, and to no others."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chaos.proxies import Network
from ops.ports import ReservedPorts

ME = "client"


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main()

    asyncio.run(bounded())


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self._handlers: list[asyncio.Task[None]] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            self.heard.set()
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    async def ended(self) -> None:
        await asyncio.gather(*self._handlers)


@asynccontextmanager
async def echo(network: Network) -> AsyncIterator[tuple[Echo, str]]:
    """A server behind the network; the proxy's address."""
    served = Echo()
    server = await asyncio.start_server(served.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield served, await network.front("server", f"127.0.0.1:{port}")
    finally:
        await network.close()
        server.close()
        await served.ended()


async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def nothing_comes(reader: asyncio.StreamReader, for_s: float = 0.1) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(for_s):
            await reader.read(1)


def test_a_cut_is_silent_and_what_was_sent_arrives_after_it() -> None:
    """Both connections that stand and new ones hear nothing, neither is refused; healing brings all of it, in order."""

    async def main() -> None:
        network = Network(lambda: {os.getpid(): ME})
        async with echo(network) as (_, address):
            reader, writer = await dial(address)
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            network.link(ME, "server").cut()
            writer.write(b"2")
            late_reader, late_writer = await dial(address)
            late_writer.write(b"4")
            await nothing_comes(reader)
            await nothing_comes(late_reader)
            writer.write(b"3")
            network.heal()
            assert await reader.readexactly(2) == b"23"
            assert await late_reader.readexactly(1) == b"4"
            await hang_up(writer)
            await hang_up(late_writer)

    run(main)


@pytest.mark.parametrize("way", ["up", "down"])
def test_one_way_is_cut_alone(way: str) -> None:
    """The server hears the client when only the way back is cut, and not when the way up is."""

    async def main() -> None:
        network = Network(lambda: {os.getpid(): ME})
        async with echo(network) as (server, address):
            link = network.link(ME, "server")
            (link.up if way == "up" else link.down).stop()
            reader, writer = await dial(address)
            writer.write(b"1")
            await nothing_comes(reader)
            assert server.heard.is_set() == (way == "down")
            link.heal()
            assert await reader.readexactly(1) == b"1"
            await hang_up(writer)

    run(main)


def test_links_are_told_apart_by_their_client() -> None:
    """A cut between another client and the server does not touch this one's connections."""

    async def main() -> None:
        network = Network(lambda: {os.getpid(): ME})
        async with echo(network) as (_, address):
            network.link("another", "server").cut()
            reader, writer = await dial(address)
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            await hang_up(writer)

    run(main)


def test_all_ports_of_a_server_are_one_link() -> None:
    """A cut between two processes is one of all their connections, and a dead one refuses on every port."""

    async def main() -> None:
        network = Network(lambda: {os.getpid(): ME})
        async with echo(network) as (_, address):
            another = await network.front("server", address)  # in front of the first, but that is no matter
            reader, writer = await dial(another)
            network.link(ME, "server").cut()
            writer.write(b"1")
            await nothing_comes(reader)
            network.heal()
            assert await reader.readexactly(1) == b"1"
            network.died("server")
            for place in (address, another):
                with pytest.raises(ConnectionRefusedError):
                    await dial(place)
            await hang_up(writer)

    run(main)


def test_between_servers_both_dial() -> None:
    """Who cuts two servers from each other cuts what either has dialled."""
    network = Network(dict)
    pairs = [(link.client, link.server) for link in network.between(["a"], ["b", "c"])]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "a"), ("c", "a")]


def test_the_port_of_a_dead_server_refuses() -> None:
    """As the kernel's would; and it is the same port when the server lives again."""

    async def main() -> None:
        network = Network(lambda: {os.getpid(): ME})
        async with echo(network) as (_, address):
            network.died("server")
            with pytest.raises(ConnectionRefusedError):
                await dial(address)
            with ReservedPorts() as others:
                assert not others.reserve(int(address.rpartition(":")[2])), "another could take it meanwhile"
            await network.lives("server")
            reader, writer = await dial(address)
            writer.write(b"1")
            assert await reader.readexactly(1) == b"1"
            await hang_up(writer)

    run(main)
