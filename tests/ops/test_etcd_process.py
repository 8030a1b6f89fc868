"""Real etcd members as this machine runs them."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from ops.child import Child, ChildFailed
from ops.etcd import (
    EtcdBinary,
    EtcdMember,
    EtcdNotFound,
    find_etcd,
    is_healthy,
    member_spec,
    start_member,
    wait_healthy,
)
from ops.ports import ReservedPorts


@pytest.mark.cluster
def test_three_members_serve_and_continue_after_a_restart(tmp_path: Path) -> None:
    """They find each other, report healthy, stop on SIGTERM, and come back with the same ports and data."""

    async def main() -> None:
        members = [EtcdMember(f"etcd-{i}", ports.take(), ports.take()) for i in range(3)]
        (tmp_path / "logs").mkdir()
        binary = find_etcd()
        children = [Child(member_spec(binary, member, members, tmp_path)) for member in members]
        for _ in range(2):
            for child in children:
                await child.start()
            for member, child in zip(members, children, strict=True):
                await wait_healthy(member, child, 60)
            for child in children:
                await child.stop(20)
            assert not await is_healthy(members[0].endpoint)

    async def bounded() -> None:
        async with asyncio.timeout(120):
            await main()

    with ReservedPorts() as ports:
        asyncio.run(bounded())


def test_the_binary_named_by_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SEONCHAK_ETCD, then PATH; what does not run, or is not etcd, is an error that names it."""
    fake = tmp_path / "etcd"
    fake.write_text("#!/bin/sh\necho 'etcd Version: 9.8.7'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("SEONCHAK_ETCD", str(fake))
    assert (find_etcd().version, find_etcd().warning) == ("9.8.7", "")
    monkeypatch.delenv("SEONCHAK_ETCD")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_etcd().path == fake
    fake.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(EtcdNotFound, match="is not etcd"):
        find_etcd()
    monkeypatch.setenv("SEONCHAK_ETCD", str(tmp_path / "nothing"))
    with pytest.raises(EtcdNotFound, match="does not run"):
        find_etcd()


def test_the_wheels_etcd_is_named_as_what_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any other, the wheel's is used, and its warning says that it is not for production."""
    monkeypatch.delenv("SEONCHAK_ETCD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_etcd().from_wheel
    assert "not for production" in find_etcd().warning


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    """A member waits for each of its ports, and is not started without them."""

    async def main() -> None:
        with ReservedPorts() as ports:
            member = EtcdMember("etcd-0", ports.take(), ports.take(), ports.take())
            child = Child(member_spec(EtcdBinary(Path("etcd"), "3.6.0", from_wheel=False), member, [member], tmp_path))
            for port in (member.client_port, member.peer_port, member.metrics_port):
                with socket.create_server(("127.0.0.1", port)), pytest.raises(ChildFailed, match=f"{port}.* is used"):
                    await start_member(member, child, 0.05)
            assert not child.running

    asyncio.run(main())
