"""Every RPC counts once, by its status: whatever the method, and however little came of it."""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from cluster.audit_log import AuditLog
from cluster.health import Health
from proto import coupon_pb2 as pb
from proto import node_pb2
from router.api import Prompt, Unary, methods
from router.grpc_wire import written
from router.http2 import frames
from router.http2.frames import frame
from router.metrics import RouterMetrics
from router.observer import NO_METHOD, method_name
from router.server import ServerSettings
from tests.metrics.reading import said
from tests.router.fake_node import running_node, silent
from tests.router.http2.talk import data
from tests.router.rig import Client, rig, run, served
from tests.router.test_sockets import begin, message, place

CANCEL = b"\x00\x00\x00\x08"


def counts(metrics: RouterMetrics) -> dict[tuple[str, ...], float]:
    """By method and status, of those that moved."""
    return {key[1:]: value for key, value in said(metrics).items() if key[0] == "calls_total" and value}


async def until_counted(metrics: RouterMetrics, calls: int) -> dict[tuple[str, ...], float]:
    """What a call counts as is known when it has ended, which its client may hear before."""
    while sum((found := counts(metrics)).values()) < calls:
        await asyncio.sleep(0.002)
    return found


async def call(client: Client, path: str, *, unary: bool) -> None:
    """An empty request. A stream that goes on is left after its first message."""
    try:
        if unary:
            await client.channel.unary_unary(path, None, None)(b"", timeout=5)
            return

        async def requests() -> AsyncIterator[bytes]:
            yield b""

        stream = client.channel.stream_stream(path, None, None)(requests(), timeout=5)
        if await stream.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
            stream.cancel()
    except grpc.aio.AioRpcError:
        pass


def test_every_method_counts(on_every_server: None) -> None:
    """Each that there is, under its own name and no other; and one that there is not, whatever it is called."""

    async def test() -> None:
        metrics = RouterMetrics()
        async with running_node() as node, rig(observer=metrics) as router, served(router) as (_, client):
            node.script = lambda call: node_pb2.Reply(call_id=call.call_id, response=b"")
            router.own(node)
            wanted: dict[str, int] = {}
            for path, method in methods(router.service, Health(), AuditLog()).items():
                await call(client, path, unary=isinstance(method, Prompt | Unary))
                wanted[method_name(path)] = 1
                found = await until_counted(metrics, len(wanted))
                assert {name: value for (name, _), value in found.items()} == wanted
            for name in ("Nonsense", "Rubbish"):
                await call(client, f"/coupon.v1.CouponService/{name}", unary=True)
            found = await until_counted(metrics, len(wanted) + 2)
            assert found[NO_METHOD, "UNIMPLEMENTED"] == 2
            assert len(found) == len(wanted) + 1

    run(test())


TOO_LARGE = written(bytes((1 << 20) + 1))[: (1 << 14)]
"""Its prefix says so."""
TURNED_AWAY = {
    "no message": (begin(1) + data(1, b"", end=True), "IssueCoupon", "INVALID_ARGUMENT"),
    "half a message": (begin(1) + data(1, b"\0\0\0", end=True), "IssueCoupon", "INVALID_ARGUMENT"),
    "half a message of another": (begin(1, "GetCoupon") + data(1, b"\0\0", end=True), "GetCoupon", "INVALID_ARGUMENT"),
    "too large": (begin(1) + data(1, TOO_LARGE), "IssueCoupon", "INVALID_ARGUMENT"),
    "compressed as nobody knows": (
        begin(1, "IssueCoupon", (b"grpc-encoding", b"zip")) + data(1, b"\1\0\0\0\1x", end=True),
        "IssueCoupon",
        "UNIMPLEMENTED",
    ),
    "no timeout": (begin(1, "GetCampaign", (b"grpc-timeout", b"soon")), "GetCampaign", "INVALID_ARGUMENT"),
    "no method": (begin(1, "/a/B") + message(1), NO_METHOD, "UNIMPLEMENTED"),
    "given up before its end": (begin(1) + frame(frames.RST_STREAM, 0, 1, CANCEL), "IssueCoupon", "CANCELLED"),
    "given up before its first step": (
        begin(1, "GetCampaign") + message(1, pb.GetCampaignRequest(campaign_id="c")) + frame(3, 0, 1, CANCEL),
        "GetCampaign",
        "CANCELLED",
    ),
    "a stream given up before its first step": (
        begin(1, "WatchCampaign") + message(1) + frame(frames.RST_STREAM, 0, 1, CANCEL),
        "WatchCampaign",
        "CANCELLED",
    ),
}


@pytest.mark.parametrize("how", TURNED_AWAY)
def test_what_the_door_says_counts(how: str, on_every_loop: None) -> None:
    """A request that is none, one that nobody waits for, and what is asked for in vain: once each, and nothing else."""
    spoken, method, code = TURNED_AWAY[how]

    async def test() -> None:
        metrics = RouterMetrics()
        async with place(observer=metrics) as (here, _):
            client = await here.client()
            client.say(spoken)
            await client.answers()
            await until_counted(metrics, 1)
            assert counts(metrics) == {(method, code): 1}
            client.say(begin(3) + message(3))
            await client.ended(3)
            await until_counted(metrics, 2)
            wanted = {(method, code): 1.0}
            wanted["IssueCoupon", "OK"] = 1
            assert counts(metrics) == wanted

    run(test())


def test_what_is_no_rpc_does_not_count(on_every_loop: None) -> None:
    """A request that is not gRPC's has a status of HTTP alone."""

    async def test() -> None:
        metrics = RouterMetrics()
        async with place(observer=metrics) as (here, _):
            client = await here.client()
            client.say(begin(1, "IssueCoupon", (b"content-type", b"text/html")) + data(1, b"", end=True))
            assert (await client.ended(1))[b":status"] == b"415"
            assert counts(metrics) == {}

    run(test())


@pytest.mark.parametrize("method", ["IssueCoupon", "GetCampaign", "IssueCoupons"])
def test_who_finds_the_server_full_counts(method: str, on_every_loop: None) -> None:
    """RESOURCE_EXHAUSTED before anybody has looked at the call."""

    async def test() -> None:
        metrics = RouterMetrics()
        async with place(ServerSettings(rpcs_max=1, drain_s_max=0.1), observer=metrics) as (here, node):
            node.script = silent
            first, second = await here.client(), await here.client()
            first.say(begin(1) + message(1))
            await node.came(1)
            second.say(begin(1, method) + message(1))
            assert (await second.ended(1))[b"grpc-status"] == b"8"
            assert counts(metrics) == {(method, "RESOURCE_EXHAUSTED"): 1}

    run(test())


def test_a_bug_counts(on_every_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """INTERNAL, of the method that has it, the one that needs no task too."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def test() -> None:
        metrics = RouterMetrics()
        async with rig(observer=metrics) as router:
            for name in ("admit_issue_coupon", "get_coupon", "issue_coupons"):
                monkeypatch.setattr(router.service, name, broken)
            async with served(router) as (_, client):
                for name in ("IssueCoupon", "GetCoupon", "IssueCoupons"):
                    await call(client, f"/coupon.v1.CouponService/{name}", unary=not name.endswith("s"))
                found = await until_counted(metrics, 3)
                assert found == {(name, "INTERNAL"): 1 for name in ("IssueCoupon", "GetCoupon", "IssueCoupons")}

    run(test())
