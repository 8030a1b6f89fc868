"""Who may call a node: a real gRPC server with mutual TLS, a client of each role, every method."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

import cluster.tls
from cluster.roles import Role, role_of, uri_of
from cluster.tls import _TAKEN_UP_S, NODE_NAME, TlsIdentity, TlsUnusable, node_channel
from node.callers import CALLERS, OnlyCallers
from node.health import NodeHealth
from node.process import add_services
from proto import node_pb2, node_pb2_grpc
from tests.support.certs import certs_in, identity

OK = grpc.StatusCode.OK
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in (node_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@asynccontextmanager
async def node(tls: TlsIdentity) -> AsyncIterator[str]:
    """One that implements nothing: who gets through hears UNIMPLEMENTED. But for health, which is a node's own."""
    server = grpc.aio.server(interceptors=[OnlyCallers()])
    streams: Any = _Streams()
    add_services(server, streams, NodeHealth())
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(mutual=True))
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class _Streams(node_pb2_grpc.NodeServiceServicer):
    """The generated servicer's streams are no streams."""

    async def Exchange(  # noqa: N802
        self, frames: object, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[object]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        yield

    Watch = Presence = Exchange


async def said(channel: grpc.aio.Channel, path: str) -> grpc.StatusCode:
    """The status of an empty call; OK as soon as a message has come."""
    method = METHODS[path]
    try:
        if not method.server_streaming:
            await channel.unary_unary(path, None, None)(b"", timeout=5)
        elif not method.client_streaming:
            async for _ in channel.unary_stream(path, None, None)(b"", timeout=5):
                break
        else:
            call = channel.stream_stream(path, None, None)(None, timeout=5)
            await call.done_writing()
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return OK


def test_roles(tmp_path: Path) -> None:
    """Each role may call what it needs and nothing else; etcd's certificate, of the same CA, may call nothing. How a
    node is, everybody may ask who has a role."""
    certs = certs_in(tmp_path)

    async def test() -> None:
        async with node(identity(certs, "node")) as address:
            for name in ("router", "node", "operator", "etcd"):
                async with node_channel(address, identity(certs, name)) as channel:
                    for path, roles in CALLERS.items():
                        allowed = name in {role.value for role in (Role if "Health" in path else roles)}
                        answered = OK if "Health" in path else grpc.StatusCode.UNIMPLEMENTED
                        wanted = answered if allowed else grpc.StatusCode.PERMISSION_DENIED
                        assert await said(channel, path) is wanted, (name, path)

    asyncio.run(test())


class _Register:
    """Stands for a server: keeps the paths of what is added to it."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, object]) -> None:
        self.paths |= {f"/{service}/{method}" for method in methods}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The same methods once more, for older servers."""


def test_every_method_has_its_callers() -> None:
    """Of every service that a node's process serves: a method that is added has to say who may call it."""
    register: Any = _Register()
    node: Any = _Streams()
    add_services(register, node, NodeHealth())
    assert CALLERS.keys() == register.paths == METHODS.keys()


def test_strangers(tmp_path: Path) -> None:
    """No certificate, one of another CA, a node that is none: no connection."""
    mine, others = certs_in(tmp_path / "mine"), certs_in(tmp_path / "others")
    ca = (mine / "ca.crt").read_bytes()
    options = (("grpc.ssl_target_name_override", NODE_NAME),)

    async def test() -> None:
        path = next(path for path, roles in CALLERS.items() if Role.OPERATOR in roles)
        async with node(identity(mine, "node")) as address:
            async with node_channel(address, identity(others, "router")) as channel:
                assert await said(channel, path) is grpc.StatusCode.UNAVAILABLE
            half = TlsIdentity(mine / "ca.crt", others / "router.crt", others / "router.key")
            async with node_channel(address, half) as channel:
                assert await said(channel, path) is grpc.StatusCode.UNAVAILABLE
            credentials = grpc.ssl_channel_credentials(ca)
            async with grpc.aio.secure_channel(address, credentials, options) as channel:
                assert await said(channel, path) is grpc.StatusCode.UNAVAILABLE
        async with (
            node(identity(mine, "router")) as impostor,
            node_channel(impostor, identity(mine, "operator")) as channel,
        ):
            assert await said(channel, path) is grpc.StatusCode.UNAVAILABLE

    asyncio.run(test())


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://x/router/a"],
        ["seonchak://router/"],
        ["seonchak://king/a"],
        ["seonchak://router/a", "seonchak://node/a"],
    ],
)
def test_no_role(uris: list[str]) -> None:
    assert role_of({"peer_uri": [uri.encode() for uri in uris]}) is None
    assert role_of({"peer_uri": [uri_of(Role.NODE, "a").encode(), b"spiffe://x/y"]}) is Role.NODE


def test_unusable_files(tmp_path: Path) -> None:
    """What is wrong is said with the file's name, and nothing of what is in it."""
    certs = certs_in(tmp_path)
    secret = "".join((certs / "node.key").read_text().splitlines()[1:-1])
    for name, content in (("node.key", (certs / "router.key").read_bytes()), ("node.crt", b"x"), ("ca.crt", b"\xff")):
        (kept := certs / name).rename(certs / "kept")
        with pytest.raises(TlsUnusable):
            identity(certs, "node")
        kept.write_bytes(content)
        with pytest.raises(TlsUnusable, match=name) as unusable:
            identity(certs, "node")
        assert secret not in str(unusable.value)
        (certs / "kept").replace(kept)
    assert secret not in repr(identity(certs, "node").pem())
    identity(certs, "node")


class _Time:
    """Of cluster.tls: passes while somebody sleeps, and no sooner than he may wake."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.may_wake = threading.Event()
        self.may_wake.set()
        self.sleeps = threading.Event()

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.sleeps.set()
        assert self.may_wake.wait(20)
        self.slept.append(seconds)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What gRPC is told to ask with every handshake, for each server."""
    asked: list[Callable[[], object]] = []

    def keep(_: object, news: Callable[[], object], __: bool) -> object:
        asked.append(news)
        return None

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", keep)
    return asked


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> _Time:
    passing = _Time()
    monkeypatch.setattr(cluster.tls, "time", passing)
    return passing


def test_grpc_is_given_a_certificate_once(tmp_path: Path, asked: list[Callable[[], object]], passing: _Time) -> None:
    """It asks with every handshake, and breaks when it is told each time that there is a new one: see tests/abuse."""
    tls = identity(certs_in(tmp_path), "node")
    tls.server_credentials(mutual=True)
    tls.server_credentials(mutual=True)
    certs_in(tmp_path)
    first, second = asked
    assert first() is not None
    assert (first(), first()) == (None, None)
    assert second() is not None, "what one server has taken is news to the other"
    assert second() is None


def test_grpc_takes_up_a_certificate_alone(tmp_path: Path, asked: list[Callable[[], object]], passing: _Time) -> None:
    """Handshakes begin some time before it is given a new one, or some time after: it frees the old one meanwhile.
    Otherwise none of them waits."""
    identity(certs_in(tmp_path), "node").server_credentials(mutual=True)
    (news,) = asked
    assert news() is None
    assert passing.slept == [0.0]
    passing.slept.clear()
    certs_in(tmp_path)
    passing.may_wake.clear()
    passing.sleeps.clear()
    given: list[object] = []
    threads = [threading.Thread(target=lambda: given.append(news())) for _ in range(2)]
    threads[0].start()
    assert passing.sleeps.wait(20), "before it is given"
    threads[1].start()
    threads[1].join(0.1)
    assert not given, "one waits for the other"
    passing.may_wake.set()
    for thread in threads:
        thread.join(20)
    assert given[0] is not None
    assert given[1] is None
    assert passing.slept == [_TAKEN_UP_S, _TAKEN_UP_S], "before and after"
    assert news() is None
    assert passing.slept[2:] == [0.0]
