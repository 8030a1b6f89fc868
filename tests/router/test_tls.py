"""The public API over TLS, on both servers and both loops."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from proto import coupon_pb2 as pb
from router.http2 import frames
from router.server import ApiServer, ServerSettings
from tests.router.fake_node import issued, running_node
from tests.router.http2.talk import parsed
from tests.router.rig import Client, listening, rig, run
from tests.support.certs import certs_in, identity
from tests.support.tls_client import TlsClient

ISSUE = pb.IssueCouponRequest(campaign_id="c", user_id="u")


@asynccontextmanager
async def client_of(address: str, ca: Path) -> AsyncIterator[Client]:
    """On a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(read(ca))
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        yield Client(channel)


def read(path: Path) -> bytes:
    return path.read_bytes()


async def shown(address: str, ca: Path, **versions: ssl.TLSVersion) -> tuple[int, str]:
    """The serial number of the certificate that a client is shown who names nobody, and the protocol's version."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    for name, version in versions.items():
        setattr(context, name, version)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    spoken: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert spoken.selected_alpn_protocol() == "h2"
    certificate = spoken.getpeercert(binary_form=True)
    assert certificate is not None
    writer.transport.abort()
    return x509.load_der_x509_certificate(certificate).serial_number, spoken.version() or ""


def serial_in(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


@pytest.mark.usefixtures("on_every_server")
def test_calls_of_every_kind(tmp_path: Path) -> None:
    """A unary call and a stream are answered; nobody else's CA is believed, and nobody is served in the clear."""
    mine, others = certs_in(tmp_path / "mine"), certs_in(tmp_path / "others")

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = issued
            router.own(node, "c")
            async with listening(router, tls=identity(mine, "router")) as (_, address):
                async with client_of(address, mine / "ca.crt") as client:
                    data = await client.unary("IssueCoupon", ISSUE)
                    assert pb.IssueCouponResponse.FromString(data).coupon.user_id == "u"
                    stream = client.stream("IssueCoupons")
                    request = pb.IssueCouponsRequest()
                    for index in range(500):
                        request.items.add(index=index, request=ISSUE)
                    await stream.write(request.SerializeToString())
                    await stream.done_writing()
                    results = [
                        r
                        for data in [d async for d in stream]
                        for r in pb.IssueCouponsResponse.FromString(data).results
                    ]
                    assert sorted(result.index for result in results) == list(range(500))
                async with client_of(address, others / "ca.crt") as stranger:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await stranger.unary("IssueCoupon", ISSUE)
                    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                async with grpc.aio.insecure_channel(address) as channel:
                    with pytest.raises(grpc.aio.AioRpcError) as refused:
                        await Client(channel).unary("IssueCoupon", ISSUE)
                    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

    run(test())


@pytest.mark.usefixtures("on_every_server")
def test_reloads(tmp_path: Path) -> None:
    """Later connections see the new certificate, as soon as the files are whole; those that are open go on."""
    mine = certs_in(tmp_path)

    async def test() -> None:
        async with running_node() as node, rig() as router:
            node.script = issued
            router.own(node, "c")
            async with (
                listening(router, tls=identity(mine, "router")) as (_, address),
                client_of(address, mine / "ca.crt") as before,
            ):
                await before.unary("IssueCoupon", ISSUE)
                first = serial_in(mine / "router.crt")
                assert (await shown(address, mine / "ca.crt"))[0] == first
                key, cert = (mine / "router.key").read_bytes(), (mine / "router.crt").read_bytes()
                certs_in(mine)
                second, fresh_cert = serial_in(mine / "router.crt"), (mine / "router.crt").read_bytes()
                assert second != first
                # As if the key had not been written yet.
                (fresh_key := mine / "router.key").rename(kept := mine / "kept.key")
                fresh_key.write_bytes(key)
                assert (await shown(address, mine / "ca.crt"))[0] == first
                (mine / "router.crt").unlink()
                assert (await shown(address, mine / "ca.crt"))[0] == first
                (mine / "router.crt").write_bytes(fresh_cert)
                kept.replace(fresh_key)
                assert (await shown(address, mine / "ca.crt"))[0] == second
                await before.unary("IssueCoupon", ISSUE)
                async with client_of(address, mine / "ca.crt") as after:
                    await after.unary("IssueCoupon", ISSUE)
                assert cert != fresh_cert

    run(test())


@pytest.mark.usefixtures("on_every_server")
def test_versions(tmp_path: Path) -> None:
    """TLS 1.3 where the client can, 1.2 where it cannot, nothing before."""
    mine = certs_in(tmp_path)

    async def test() -> None:
        async with rig() as router, listening(router, tls=identity(mine, "router")) as (_, address):
            assert (await shown(address, mine / "ca.crt"))[1] == "TLSv1.3"
            assert (await shown(address, mine / "ca.crt", maximum_version=ssl.TLSVersion.TLSv1_2))[1] == "TLSv1.2"

            def old() -> ssl.SSLContext:
                context = ssl.create_default_context(cafile=mine / "ca.crt")
                context.set_ciphers("ALL:@SECLEVEL=0")
                with pytest.warns(DeprecationWarning, match="TLSv1_1"):
                    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
                return context

            host, _, port = address.rpartition(":")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(host, int(port), ssl=old())

    run(test())


@pytest.mark.usefixtures("on_every_loop")
def test_a_name_that_is_none(tmp_path: Path) -> None:
    """A client that asks for a name which is no ASCII is answered, or not; nothing is written for it (pytest makes an
    error of what Python says there)."""
    mine = certs_in(tmp_path)

    async def test() -> None:
        async with rig() as router, listening(router, tls=identity(mine, "router")) as (_, address):
            client = TlsClient(ssl.create_default_context(cafile=mine / "ca.crt"), "localhost")
            greeting = client.begin()
            assert greeting.count(b"localhost") == 1
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(greeting.replace(b"localhost", b"local\xa5ost"))
            assert await reader.read(1)
            writer.close()

    run(test())


def told_to_a_client_at_fault(host: str, port: int, context: ssl.SSLContext) -> bytes:
    """Raises ssl.SSLError: the connection was cut off."""
    with (
        socket.create_connection((host, port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as client,
    ):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
        heard = b""
        while piece := client.recv(1 << 16):
            heard += piece
        return heard


@pytest.mark.usefixtures("on_every_loop")
def test_the_last_word_is_heard(tmp_path: Path) -> None:
    """A client at fault, and one whose server stops, read the GOAWAY and then a clean end: TLS has no half-close."""
    mine = certs_in(tmp_path)

    async def test() -> None:
        async with rig() as router, listening(router, tls=identity(mine, "router")) as (server, address):
            context = ssl.create_default_context(cafile=mine / "ca.crt")
            context.set_alpn_protocols(["h2"])
            host, _, port = address.rpartition(":")
            # On a thread, since asyncio hides whether TLS ended as it should or was cut off.
            heard = parsed(await asyncio.to_thread(told_to_a_client_at_fault, host, int(port), context))
            assert heard[-1].kind == frames.GOAWAY
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(frames.PREFACE + frames.settings({}))
            await reader.readexactly(1)
            await server.stop()
            heard = parsed(b"\0" + await reader.read())
            assert heard[-1].kind == frames.GOAWAY
            writer.close()

    run(test())


@pytest.mark.usefixtures("on_every_loop")
def test_half_a_handshake(tmp_path: Path) -> None:
    """Who connects and never shakes hands is disconnected; others are served meanwhile."""
    mine = certs_in(tmp_path)

    async def test() -> None:
        settings = ServerSettings(greeting_s_max=0.3)
        async with running_node() as node, rig() as router:
            node.script = issued
            router.own(node, "c")
            async with listening(router, settings, identity(mine, "router")) as (server, address):
                assert isinstance(server, ApiServer)
                host, _, port = address.rpartition(":")
                silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
                async with client_of(address, mine / "ca.crt") as client:
                    await client.unary("IssueCoupon", ISSUE)
                for reader, writer in silent:
                    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                        await reader.readexactly(1)
                    writer.close()

    run(test())
