"""etcd over mutual TLS, as `ops.etcd` sets it up."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from cluster.etcd import GrpcEtcd
from cluster.kv import EtcdUnavailable, Get
from cluster.session import EtcdClient
from cluster.tls import TlsIdentity
from cluster.types import Revision
from ops.child import Child
from ops.etcd import EtcdMember, EtcdTls, find_etcd, is_healthy, member_spec, start_member, wait_healthy
from ops.ports import ReservedPorts
from tests.etcd.clients import put, run
from tests.support.certs import certs_in, identity


@asynccontextmanager
async def secured(directory: Path) -> AsyncIterator[str]:
    certs = directory / "certs"
    tls = EtcdTls(certs / "ca.crt", certs / "etcd.crt", certs / "etcd.key")
    (directory / "logs").mkdir()
    with ReservedPorts() as ports:
        members = [EtcdMember(f"m{i}", ports.take(), ports.take()) for i in range(3)]
        children = [Child(member_spec(find_etcd(), member, members, directory, tls)) for member in members]
        try:
            for member, child in zip(members, children, strict=True):
                await start_member(member, child, 20)
            for member, child in zip(members, children, strict=True):
                await wait_healthy(member, child, 20, tls)
            yield members[0].endpoint
        finally:
            for child in children:
                await child.stop(10)


async def read(endpoint: str, tls: TlsIdentity | None) -> None:
    rpc = GrpcEtcd(endpoint, tls)
    try:
        async with asyncio.timeout(5):
            await rpc.get(Get("k"))
    finally:
        await rpc.close()


def test_who_gets_in(tmp_path: Path) -> None:
    """Members find each other; router, node, operator get in; others of the same CA, strangers and the clear do not."""
    certs, others = certs_in(tmp_path / "certs"), certs_in(tmp_path / "others")
    plain = tmp_path / "plain"
    make_plain(certs, plain)

    async def test() -> None:
        async with secured(tmp_path) as endpoint:
            for name in ("router", "node", "operator"):
                await read(endpoint, identity(certs, name))
            for stranger in (identity(others, "router"), identity(plain, "plain"), None):
                with pytest.raises(EtcdUnavailable):
                    await read(endpoint, stranger)
            assert not await is_healthy(endpoint)

    run(test(), seconds=60)


def make_plain(certs: Path, directory: Path) -> None:
    """A good certificate of the same CA for somebody who has nothing to do with etcd."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    from ops.certs import issue

    ca = x509.load_pem_x509_certificate((certs / "ca.crt").read_bytes())
    ca_key = load_pem_private_key((certs / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue(ca, ca_key, key, "plain", [x509.DNSName("localhost")], days=1)
    directory.mkdir()
    (directory / "ca.crt").write_bytes((certs / "ca.crt").read_bytes())
    (directory / "plain.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "plain.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_a_new_certificate(tmp_path: Path) -> None:
    """Calls go over a new connection once the files have changed; a watch that is open misses nothing, and the old
    connection is closed behind it."""
    certs = certs_in(tmp_path / "certs")

    async def test() -> None:
        async with secured(tmp_path) as endpoint:
            rpc = GrpcEtcd(endpoint, identity(certs, "node"))
            watch = rpc.watch("k", None, Revision(1))
            await put(rpc, "k", b"1")
            assert (await anext(watch)).events[0].kv.value == b"1"
            certs_in(certs)
            await put(rpc, "k", b"2")
            old, new = rpc._wires
            assert old.pem is not new.pem
            assert (await anext(watch)).events[0].kv.value == b"2"
            await watch.aclose()
            assert rpc._wires == [new]
            await put(rpc, "k", b"3")
            await rpc.close()
            client = EtcdClient([endpoint], partial(GrpcEtcd, tls=identity(certs, "node")), rng=random.Random(1))
            assert (await client.get(Get("k"))).kvs[0].value == b"3"
            await client.close()

    run(test(), seconds=60)
