"""A router whose process may have few descriptors: clients get only what it can do without."""

import asyncio
import json
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from router.config import RouterSettings
from router.process import server_settings
from router.server import connections_within
from tests.router.http2.talk import HELLO
from tests.router.test_sockets import Raw, issue

ROOT = Path(__file__).parents[2]
LIMIT = 400


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(1 << 20, 20_000), (20_512, 20_000), (20_511, 19_999), (4_096, 3_584), (1_024, 512), (256, 128)],
)
def test_clients_leave_descriptors_for_the_rest(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, connections: int
) -> None:
    """512 of them, or half of what there is; and the log says so where it makes a difference."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    with capture_logs() as logged:
        assert server_settings(RouterSettings()).connections_max == connections
    assert connections <= connections_within(descriptors) < descriptors
    warned = [(one["log_level"], one["connections_max"]) for one in logged if one["event"] == "few_descriptors"]
    assert warned == ([("warning", connections)] if connections < 20_000 else [])


def test_a_process_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIM_INFINITY is a number below all others."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert server_settings(RouterSettings()).connections_max == 20_000


async def connect(address: str) -> Raw:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = Raw(reader, writer)
    client.say(HELLO)
    return client


async def lives(client: Raw) -> bool:
    try:
        await client.answers()
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return True


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def test_a_crowd_at_a_router_with_few_descriptors() -> None:
    """Twice as many clients as it may have descriptors: as many as it takes are served, the others are cut off at once,
    it reaches a node that it had no link to, and takes others when those have gone."""

    async def test() -> None:
        async with AsyncExitStack() as stack:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.router.few_descriptors", str(LIMIT)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            stack.push_async_callback(ended, process)
            assert process.stdin is not None
            assert process.stdout is not None

            async def said() -> dict[str, object]:
                assert process.stdout is not None
                while not (line := await process.stdout.readline()).startswith(b"{"):
                    assert line, "it has ended"
                facts: dict[str, object] = json.loads(line)
                return facts

            where = await said()
            assert where["connections_max"] == LIMIT // 2
            address = str(where["address"])
            first = await connect(address)
            assert await lives(first)
            crowd = [await connect(address) for _ in range(2 * LIMIT)]
            alive = [client for client in crowd if await lives(client)]
            assert len(alive) == LIMIT // 2 - 1
            process.stdin.write(b"\n")
            assert (await said())["reached"]
            first.say(issue(1))
            assert (await first.ended(1))[b"grpc-status"] == b"0"
            for client in crowd:
                client.cut()
            late = await connect(address)
            while not await lives(late):
                late.cut()
                late = await connect(address)  # it has not seen yet that they have gone; the test's timeout bounds this
            for client in (first, late):
                client.cut()
            process.stdin.write(b"\n")
            assert await process.wait() == 0

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(bounded())
