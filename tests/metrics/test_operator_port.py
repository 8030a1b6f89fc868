"""The operator's port at its socket: it answers, and nothing that is sent to it costs more than it may."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Metric

from cluster.metrics import gauge, registry_of
from cluster.operator_port import Limits, OperatorPort
from cluster.tls import NODE_NAME
from tests.support.certs import certs_in, identity
from tests.support.tls_client import TlsClient

Test = Callable[["Rig"], Awaitable[None]]
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
TEST_S_MAX = 30.0


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certs_in(tmp_path_factory.mktemp("certs"))


@pytest.fixture(params=["plain", "tls"])
def spoken(request: pytest.FixtureRequest, certs: Path) -> Path | None:
    """The certificates of a port with TLS; None: without."""
    return certs if request.param == "tls" else None


def client_of(certs: Path) -> ssl.SSLContext:
    """As a scraper's, and a browser's: it offers HTTP/2, too."""
    context = ssl.create_default_context(cafile=certs / "ca.crt")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Rig:
    def __init__(self, certs: Path | None = None) -> None:
        """
        Args:
            certs: None: without TLS.
        """
        self.certs = certs
        self.scrapes = 0
        self.why = ""
        self.limits = Limits(scrape_s_min=0.0)
        self.writers: list[asyncio.StreamWriter] = []
        self._address: tuple[str, int] | None = None
        self.port: OperatorPort | None = None

    def families(self) -> Iterator[Metric]:
        self.scrapes += 1
        yield gauge("scrapes", "So far.", values=self.scrapes)

    async def start(self, limits: Limits | None = None) -> None:
        tls = None if self.certs is None else identity(self.certs, "node")
        self.port = OperatorPort(registry_of(self), lambda: self.why, tls, limits or self.limits)
        host, _, number = (await self.port.start("127.0.0.1:0")).rpartition(":")
        self._address = host, int(number)

    @property
    def address(self) -> str:
        assert self._address is not None, "not started"
        return f"{self._address[0]}:{self._address[1]}"

    async def connect(self, *, bare: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """
        Args:
            bare: without TLS, whatever the port speaks.
        """
        if self._address is None:
            await self.start()
        assert self._address is not None
        tls = None if self.certs is None or bare else client_of(self.certs)
        name = None if tls is None else NODE_NAME
        reader, writer = await asyncio.open_connection(*self._address, ssl=tls, server_hostname=name)
        self.writers.append(writer)
        return reader, writer

    async def ask(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer, on a new connection."""
        reader, writer = await self.connect()
        writer.write(sent)
        answer = await read_answer(reader, head=sent.startswith(b"HEAD"))
        writer.close()
        return answer

    async def serves(self) -> None:
        status, _, body = await self.ask(HEALTH)
        assert (status, body) == (200, b"ok\n")


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = b"" if head else await reader.readexactly(int(headers["content-length"]))
    return int(lines[0].split()[1]), headers, body


async def closed(reader: asyncio.StreamReader) -> None:
    """Returns when the other side has ended the connection, in whatever way."""
    with suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


def run(test: Test, certs: Path | None = None) -> None:
    """On asyncio's loop, and on uvloop's as in production. Fails as well for an error that nobody waits for."""
    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        failed: list[dict[str, object]] = []

        async def main(failed: list[dict[str, object]] = failed) -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
            rig = Rig(certs)
            async with asyncio.timeout(TEST_S_MAX):
                try:
                    await test(rig)
                finally:
                    for writer in rig.writers:
                        writer.close()
                    if rig.port is not None:
                        await rig.port.close()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert not failed, failed


def test_what_is_asked_for(spoken: Path | None) -> None:
    """The three paths, HEAD, and what is neither."""

    async def test(rig: Rig) -> None:
        status, headers, body = await rig.ask(SCRAPE)
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b"seonchak_scrapes 1.0\n" in body
        accept = b"\r\nAccept: application/openmetrics-text\r\n\r\n"
        status, headers, body = await rig.ask(SCRAPE.replace(b"\r\n\r\n", accept))
        assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith(b"# EOF\n")
        assert (await rig.ask(HEALTH))[::2] == (200, b"ok\n")
        assert (await rig.ask(HEALTH.replace(b"GET", b"HEAD")))[0] == 200
        assert (await rig.ask(HEALTH.replace(b"GET", b"DELETE")))[0] == 405
        assert (await rig.ask(HEALTH.replace(b"healthz", b"healthz?verbose")))[0] == 200
        status, _, body = await rig.ask(HEALTH.replace(b"healthz", b"api-key-0123"))
        assert (status, body) == (404, b"not found\n")

    run(test, spoken)


def test_ready_says_why_not() -> None:
    """200 while there is nothing to say, else 503 and the reason; that it lives is another question."""

    async def test(rig: Rig) -> None:
        ask = HEALTH.replace(b"healthz", b"readyz")
        assert (await rig.ask(ask))[::2] == (200, b"ok\n")
        rig.why = "2 of 8 shards have no owner"
        assert (await rig.ask(ask))[::2] == (503, b"2 of 8 shards have no owner\n")
        await rig.serves()

    run(test)


def test_who_scrapes_at_the_same_time_shares_a_scrape() -> None:
    """Within scrape_s_min metrics are made once, however many ask; and again later."""

    async def test(rig: Rig) -> None:
        await rig.start(replace(rig.limits, scrape_s_min=3_600.0))
        first, second = [await rig.ask(SCRAPE) for _ in range(2)]
        assert first[2] == second[2]
        assert rig.scrapes == 1

    run(test)


def test_a_connection_carries_many_requests(spoken: Path | None) -> None:
    """One after the other, and all at once: answered in order, while others are served."""

    async def test(rig: Rig) -> None:
        reader, writer = await rig.connect()
        for _ in range(3):
            writer.write(HEALTH)
            assert (await read_answer(reader))[0] == 200
        count = 2_000
        writer.write((HEALTH + HEALTH.replace(b"healthz", b"nothing")) * count)
        await rig.serves()
        statuses = [(await read_answer(reader))[0] for _ in range(2 * count)]
        assert statuses == [200, 404] * count

    run(test, spoken)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\xff garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # a TLS client
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000, 431),
        (b"GET /" + b"y" * 20_000, 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000, 431),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * 9, 405),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nxxx", 200),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_ends(sent: bytes, status: int, spoken: Path | None) -> None:
    """So is what is too long, and what would have a body: nobody reads that."""

    async def test(rig: Rig) -> None:
        reader, writer = await rig.connect()
        writer.write(sent)
        assert (await read_answer(reader))[0] == status
        if status != 404:
            await closed(reader)
        await rig.serves()

    run(test, spoken)


def test_a_request_that_never_ends_is_cut_off(spoken: Path | None) -> None:
    """One that comes byte by byte, and one that does not come at all; however long its sender goes on."""

    async def test(rig: Rig) -> None:
        await rig.start(replace(rig.limits, request_s_max=0.2))
        silent, _ = await rig.connect()
        reader, writer = await rig.connect()

        async def dribble() -> None:
            with suppress(ConnectionError):
                while not writer.is_closing():
                    writer.write(b"G" if not reader.at_eof() else b"")
                    await writer.drain()
                    await asyncio.sleep(0.01)

        dribbling = asyncio.create_task(dribble())
        await closed(silent)
        await closed(reader)
        dribbling.cancel()
        await asyncio.wait([dribbling])
        await rig.serves()

    run(test, spoken)


def test_a_quiet_connection_ends(spoken: Path | None) -> None:
    """Between two requests as well."""

    async def test(rig: Rig) -> None:
        await rig.start(replace(rig.limits, quiet_s_max=0.1))
        reader, writer = await rig.connect()
        writer.write(HEALTH)
        await read_answer(reader)
        await closed(reader)

    run(test, spoken)


def test_who_does_not_read_is_not_read_from_and_goes(spoken: Path | None) -> None:
    """Answers do not pile up: its requests stay with it, and the connection ends."""

    async def test(rig: Rig) -> None:
        await rig.start(replace(rig.limits, stalled_s_max=0.5))
        _, writer = await rig.connect()
        # Far more answers than socket buffers hold; a reader that is not asked stops reading at 128 KiB.
        scrape, total = SCRAPE * 100, 20_000
        sent = 0

        async def send() -> None:
            nonlocal sent
            with suppress(ConnectionError):
                while sent < total:
                    writer.write(scrape)
                    await writer.drain()
                    sent += 100

        writer.transport.pause_reading()  # type: ignore[attr-defined]  # as a client that is stopped
        sending = asyncio.create_task(send())
        while rig.port is not None and rig.port.connections:
            await asyncio.sleep(0.02)
        scrapes = rig.scrapes
        sending.cancel()
        await asyncio.wait([sending])
        assert scrapes < total / 2
        await rig.serves()

    run(test, spoken)


def test_idle_connections_are_bounded_and_lock_nobody_out(spoken: Path | None) -> None:
    """The one that was quiet for longest makes room; a scraper that was there before is served to the end."""

    async def test(rig: Rig) -> None:
        await rig.start(replace(rig.limits, connections_max=16))
        assert rig.port is not None
        first, _ = await rig.connect()
        for _ in range(300):
            await rig.connect()
            assert rig.port.connections <= 16
        await closed(first)
        await rig.serves()

    run(test, spoken)


def test_half_a_handshake(certs: Path) -> None:
    """Whoever does not end it is cut off, however slowly he goes on; until then he counts among the connections."""

    async def test(rig: Rig) -> None:
        await rig.start(replace(rig.limits, connections_max=16))
        assert rig.port is not None
        for _ in range(100):
            await rig.connect(bare=True)
        while rig.port.connections < 16:
            await asyncio.sleep(0.01)
        await rig.serves()
        assert rig.port.connections <= 16
        await rig.port.close()
        await rig.start(replace(rig.limits, request_s_max=0.3))
        silent, _ = await rig.connect(bare=True)
        reader, writer = await rig.connect(bare=True)
        greeting = TlsClient(client_of(certs), NODE_NAME).begin()
        said = 0

        async def dribble() -> None:
            nonlocal said
            with suppress(ConnectionError):
                for byte in greeting:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    said += 1
                    await asyncio.sleep(0.02)

        dribbling = asyncio.create_task(dribble())
        await closed(silent)
        await closed(reader)
        dribbling.cancel()
        await asyncio.wait([dribbling])
        assert said < len(greeting), "it was through before it was cut off"

    run(test, certs)


def test_what_tls_shows(certs: Path, tmp_path: Path) -> None:
    """HTTP/1.1 to who would speak HTTP/2, too; the certificate that the files have now; nothing in the clear, nothing
    to who believes another CA."""
    mine = certs_in(tmp_path / "mine")

    async def shown(rig: Rig) -> int:
        _, writer = await rig.connect()
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number

    async def test(rig: Rig) -> None:
        first = await shown(rig)
        certs_in(mine)
        second = await shown(rig)
        assert second != first
        await rig.serves()
        reader, writer = await rig.connect(bare=True)
        writer.write(HEALTH)
        with suppress(ConnectionError):
            assert not (await reader.read()).startswith(b"HTTP")
        rig.certs = certs
        with pytest.raises(ssl.SSLCertVerificationError):
            await rig.connect()

    run(test, mine)


def test_the_last_word_is_heard(certs: Path) -> None:
    """An answer after which the connection ends is whole, and TLS ends as it should; so does a client that ends it."""

    async def test(rig: Rig) -> None:
        reader, writer = await rig.connect(bare=True)
        client = TlsClient(client_of(certs), NODE_NAME)
        writer.write(client.begin())
        while not client.ended:
            data = await reader.read(1 << 16)
            assert data, "cut off"
            fresh = not client.heard
            client.hear(data)
            writer.write(client.take())
            if fresh and not client.heard and client.shaken:
                writer.write(client.say(HEALTH.replace(b"Host: x", b"Host: x\r\nContent-Length: 9")))
        assert client.heard.startswith(b"HTTP/1.1 200")
        assert client.heard.endswith(b"ok\n")
        reader, writer = await rig.connect(bare=True)
        client = TlsClient(client_of(certs), NODE_NAME)
        writer.write(client.begin())
        while not client.shaken:
            client.hear(await reader.read(1 << 16))
        writer.write(client.take() + client.say(HEALTH) + client.end())
        client.hear(await reader.read())  # its socket is open still
        assert client.heard.endswith(b"ok\n")

    run(test, certs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    good=st.lists(st.sampled_from([HEALTH, SCRAPE, b"GET "]), max_size=4),
    then=st.sampled_from(["end", "garbage", "silence"]) | st.binary(max_size=60),
)
def test_no_bytes_within_tls_hurt(certs: Path, good: list[bytes], then: str | bytes) -> None:
    """Requests, and in the same piece TLS's end, what is no TLS, or what is neither: nothing fails inside."""

    async def test(rig: Rig) -> None:
        reader, writer = await rig.connect(bare=True)
        client = TlsClient(client_of(certs), NODE_NAME)
        writer.write(client.begin())
        while not client.shaken:
            client.hear(await reader.read(1 << 16))
        wire = client.take() + b"".join(client.say(piece) for piece in good)
        match then:
            case "end":
                wire += client.end()
            case "garbage":
                wire += b"\x17\x03\x03\x00\x10" + bytes(16)
            case bytes():
                wire += then
        writer.write(wire)
        writer.write_eof()
        await closed(reader)
        await rig.serves()

    run(test, certs)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=200),
            st.sampled_from([HEALTH, SCRAPE, b"\r\n", b"GET ", b" HTTP/1.1\r\n", b"Host: x\r\n", b"\x00" * 9_000]),
        ),
        max_size=12,
    )
)
def test_no_bytes_hurt(pieces: list[bytes]) -> None:
    """Whatever is sent, in whatever pieces: nothing fails inside, and the next one is served."""

    async def test(rig: Rig) -> None:
        reader, writer = await rig.connect()
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
        await closed(reader)
        await rig.serves()

    run(test)


def test_an_address_that_is_taken_is_an_error() -> None:
    """And it names it."""

    async def test(rig: Rig) -> None:
        await rig.connect()
        assert rig.port is not None
        second = OperatorPort(registry_of(), lambda: "")
        with pytest.raises(RuntimeError, match=f"cannot listen on {rig.address} for metrics"):
            await second.start(rig.address)

    run(test)
