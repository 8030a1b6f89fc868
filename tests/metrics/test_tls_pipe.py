"""TLS without sockets: what is said comes through, however the bytes come, and nothing else does."""

import ssl
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.tls import HTTP1, NODE_NAME
from cluster.tls_pipe import TlsPipe
from tests.support.certs import certs_in, identity
from tests.support.tls_client import TlsClient


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    certs: Path = certs_in(tmp_path_factory.mktemp("certs"))
    return identity(certs, "node").server_context(HTTP1), ssl.create_default_context(cafile=certs / "ca.crt")


def receive(pipe: TlsPipe, data: bytes, size: int) -> bytes:
    """In pieces of `size` bytes."""
    return b"".join(pipe.receive(data[at : at + size]) for at in range(0, len(data), size))


def shaken(contexts: tuple[ssl.SSLContext, ssl.SSLContext], size: int = 1 << 16) -> tuple[TlsPipe, TlsClient]:
    """Both, after their handshake."""
    server, client = TlsPipe(contexts[0]), TlsClient(contexts[1], NODE_NAME)
    assert receive(server, client.begin(), size) == b""
    client.hear(server.take())
    assert receive(server, client.take(), size) == b""
    client.hear(server.take())
    return server, client


@settings(max_examples=30, deadline=None)
@given(said=st.binary(max_size=100_000), answered=st.binary(max_size=100_000), size=st.integers(1, 70_000))
def test_what_is_said_comes_through(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], said: bytes, answered: bytes, size: int
) -> None:
    """Both ways, in pieces of any size, more than a record at a time; then each side hears of the other's end."""
    server, client = shaken(contexts, size)
    assert receive(server, client.say(said), size) == said
    server.say(answered)
    server.end()
    client.hear(server.take())
    assert client.heard == answered
    assert client.ended
    assert not server.ended


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_an_end(contexts: tuple[ssl.SSLContext, ssl.SSLContext], data: st.DataObject) -> None:
    """Of any byte that the client sends, before the handshake's end or after it: nothing that was not said comes out,
    and nothing fails but the connection."""
    before = data.draw(st.booleans(), "in the handshake")
    if before:
        server, client = TlsPipe(contexts[0]), TlsClient(contexts[1], NODE_NAME)
        wire = bytearray(client.begin())
    else:
        server, client = shaken(contexts)
        wire = bytearray(client.say(b"GET /healthz"))
    at = data.draw(st.integers(0, len(wire) - 1), "at")
    wire[at] ^= data.draw(st.integers(1, 255), "changed by")
    assert server.receive(bytes(wire)) == b""
    server.take()
    assert before or server.ended or at in (3, 4), "only a length may still be waited for"


def test_who_ends_is_known_to_end(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """What was said before it is heard; what is damaged behind it takes that along, since no answer could be sent."""
    server, client = shaken(contexts)
    last = client.say(b"last")
    assert server.receive(last + client.end()) == b"last"
    assert server.ended
    server.say(b"answer")
    client.hear(server.take())
    assert client.heard == b"answer"
    server, client = shaken(contexts)
    good = client.say(b"good")
    assert server.receive(good + b"\x17\x03\x03\x00\x10" + bytes(16)) == b""
    assert server.ended
