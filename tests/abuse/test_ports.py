"""Every port of a real cluster, attacked: garbage, floods, crowds, and clients that never finish or never read.

What a unit test shows of one connection is not shown again. Here are whole processes: they live, their memory stays
within a bound, and somebody who has nothing to do with it is served all the while.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.config import shard_of
from cluster.identity import identity_of
from cluster.keys import KeyRole
from proto import coupon_pb2 as pb
from proto import node_pb2
from router.grpc_wire import written
from router.http2 import frames
from tests.abuse import said
from tests.abuse.arena import CAMPAIGN, Arena, Record, Variant, arena
from tests.abuse.raw import Crowd, Raw, Target, dial
from tests.abuse.said import Call
from tests.router.http2.talk import HELLO, data

pytestmark = pytest.mark.cluster

VARIANTS = [Variant(server, tls) for server in ("http2", "grpcio") for tls in (False, True)]
CROWD = 10_000
OURS_MIB = 120
"""By so much a process with a server of ours may grow at the worst moment of an attack. It keeps 64 MiB of calls that
are not complete, and each of the thousands of streams that they come on has a task."""
GRPC_MIB = 400
"""The same of gRPC's server, which queues acknowledgements that nobody reads, as long as they come."""
UNREAD_MIB = 80
"""Of replies that a router does not read: 16 MiB gather, 16 MiB more are on their way out."""
CROWD_MIB = 900
"""Of 10,000 connections, each with TLS in the middle of a handshake: some 50 KB."""
WIDE = HELLO + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31 - 1}) + frames.window_update(0, 2**31 - 65_536)
"""Of a client that gives room for all that it will not read."""


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_ports(tmp_path: Path, record_property: Record, variant: Variant) -> None:
    with arena(tmp_path / "data", variant, record_property) as here:
        at_a_router(here)
        # What serves the routers' callers is nothing to the other ports.
        if variant.server == "http2":
            at_an_operators_port(here)
            # gRPC lets go of a crowd long after it has left, and its memory grows a little for that.
            at_a_node(here)


def at_a_router(here: Arena) -> None:
    worst_mib = OURS_MIB if here.variant.server == "http2" else GRPC_MIB
    _, reader = here.run(here.key(KeyRole.READ))
    call = Call(f"{said.SERVICE}/IssueCoupons", here.bystander.who)
    here.run(issue_a_page(here))
    reading = Call(f"{said.SERVICE}/GetCampaign", reader)
    garbage(here, "router", here.public, call, worst_mib)
    floods(here, "router", here.public, call, worst_mib)
    if here.variant.server == "http2":  # the other one keeps 10 KB of each such call, and so is for loopback only
        with here.attack("router: calls that are given up at once", more_mib=worst_mib):
            here.run(give_up(here, Call(f"{said.SERVICE}/IssueCoupon", here.bystander.who)))
        with here.attack("router: pages without end", more_mib=worst_mib):
            here.run(read_without_end(here, reading))
    with here.attack("router: answers that nobody reads", more_mib=worst_mib):
        here.run(never_read(here, reading))
    half_open(here, "router", here.public, call, worst_mib)
    wrong(here, "router", here.public)
    crowd(here, "router", here.public)


def at_a_node(here: Arena) -> None:
    """Said by somebody with a router's certificate: a stranger does not get so far."""
    call = Call(f"{said.NODE_SERVICE}/Exchange")
    garbage(here, "node", here.node, call, GRPC_MIB)
    floods(here, "node", here.node, call, GRPC_MIB)
    half_open(here, "node", here.node, call, GRPC_MIB)
    with here.attack("node: replies that nobody reads", more_mib=UNREAD_MIB):
        here.run(never_read_replies(here, call))
    wrong(here, "node", here.node)
    crowd(here, "node", here.node)


def at_an_operators_port(here: Arena) -> None:
    """Of a router and of a node: the same code in two processes that have other things to do."""
    for name, target in zip(("router", "node"), here.operators, strict=True):
        scrape = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        attacks: dict[str, Iterator[bytes]] = {
            "a request line without end": said.endless(b"x" * 1_024),
            "header fields without end": iter((scrape[:-2], *said.endless(b"a: b\r\n"))),
            "a body without end": iter(
                (scrape.replace(b"GET", b"POST")[:-2] + b"Content-Length: 99999999999\r\n\r\n", *said.endless(b"x"))
            ),
            "scrapes that nobody reads": said.endless(scrape, 4 * said.MIB),
        }
        for what, pieces in attacks.items():
            with here.attack(f"{name}'s operator port: {what}", more_mib=OURS_MIB):
                here.run(pour_at_operator(target, pieces, slow="nobody reads" in what))
        with here.attack(f"{name}'s operator port: idle connections", more_mib=OURS_MIB):
            here.run(crowd_at_operator(target))


# --- garbage ----------------------------------------------------------------------------------------------------------


def garbage(here: Arena, name: str, target: Target, call: Call, more_mib: int) -> None:
    """Anything, alone or behind a good beginning, at once or in pieces."""
    good = [
        HELLO,
        call.begin(1),
        call.begin(3),
        frames.settings({}),
        frames.window_update(0, 9),
        b"\x16\x03\x01\x02\x00",
    ]
    pieces = st.lists(st.binary(max_size=200) | st.sampled_from(good) | st.builds(frame, KINDS, FLAGS, NUMBERS, BYTES))

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(pieces, st.booleans(), st.booleans())
    def say(spoken: list[bytes], greeted: bool, in_tls: bool) -> None:
        here.run(one(spoken, greeted, in_tls))

    async def one(spoken: list[bytes], greeted: bool, in_tls: bool) -> None:
        raw = await dial(target if in_tls else Target(target.address), HELLO if greeted else b"")
        await raw.pour(spoken)
        raw.cut()

    with here.attack(f"{name}: garbage", more_mib=more_mib):
        say()


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return frames.frame(kind, flags, number, payload)


KINDS, FLAGS, NUMBERS, BYTES = (
    st.integers(0, 10),
    st.integers(0, 255),
    st.sampled_from((0, 1, 2, 3, 5, 2**31 - 1)),
    st.binary(max_size=60),
)


# --- floods -----------------------------------------------------------------------------------------------------------


def floods(here: Arena, name: str, target: Target, call: Call, more_mib: int) -> None:
    for flood in said.FLOODS:
        with here.attack(f"{name}: {flood.__name__}", more_mib=more_mib):
            raw = here.run(pour(target, flood(call)))
            assert frames.PROTOCOL_ERROR not in raw.goaways(), "the attack itself is broken"


async def pour(target: Target, pieces: Iterator[bytes]) -> Raw:
    """Returns when the server has heard all of it, or has had enough."""
    raw = await dial(target, b"")
    assert await raw.greets(), "it has not even come to a greeting"
    await raw.pour(pieces)
    await raw.answers()
    raw.cut()
    return raw


async def give_up(here: Arena, call: Call) -> None:
    """100,000 calls, each of which is a whole one and is reset before it can be answered. CVE-2023-44487."""

    def one(number: int) -> bytes:
        request = pb.IssueCouponRequest(campaign_id=CAMPAIGN, user_id=f"impatient-{number}")
        return call.whole(number, request) + frames.rst_stream(number, frames.CANCEL)

    numbers = range(1, 200_001, 2)
    batches = (b"".join(map(one, numbers[at : at + 100])) for at in range(0, len(numbers), 100))
    raw = await pour(here.public, chain([HELLO], batches))
    assert frames.ENHANCE_YOUR_CALM in raw.goaways()


# --- slow ones --------------------------------------------------------------------------------------------------------


async def issue_a_page(here: Arena) -> None:
    """1,000 coupons, to be asked for again and again."""
    async with here.caller(here.bystander.who) as stub:
        users = (pb.IssueCouponRequest(campaign_id="long", user_id=f"{n}") for n in range(1_000))
        items = pb.IssueCouponsRequest(
            items=[pb.IssueCouponsRequest.Item(index=n, request=r) for n, r in enumerate(users)]
        )
        answers = stub.IssueCoupons(iter([items]), metadata=here.bystander.who.metadata)
        granted = [result async for answer in answers for result in answer.results]
        assert all(result.HasField("response") for result in granted)


async def never_read(here: Arena, call: Call) -> None:
    """3 clients that ask for 1,000 coupons each time, 40 times, and read nothing."""
    request = pb.GetCampaignRequest(campaign_id="long", page_size=1_000)
    clients = [await dial(here.public, WIDE, receive_bytes=4_096) for _ in range(3)]
    for first in range(1, 81, 10):
        for client in clients:
            for number in range(first, first + 10, 2):
                client.writer.write(call.whole(number, request))
        await here.served(2)  # more at a time are refused
    for client in clients:
        client.cut()


async def read_without_end(here: Arena, call: Call) -> None:
    """6,000 pages of 1,000 coupons, asked for at once: 18 s of their owner's time, if they were shown."""
    request = pb.GetCampaignRequest(campaign_id="long", page_size=1_000)
    clients = [await dial(here.public, WIDE) for _ in range(2)]
    for client in clients:
        client.writer.write(b"".join(call.whole(number, request) for number in range(1, 6_000, 2)))
    assert all([await client.answers() for client in clients])
    await here.served(50)
    for client in clients:
        client.cut()


async def never_read_replies(here: Arena, call: Call) -> None:
    """A router that asks for 1,000 coupons, 1,500 times, and reads none of the 100 MB of replies."""
    status = await here.status()
    shard = shard_of("long", status.config.shards)
    owner = here.node_called(status.shards[shard].owner)
    page = pb.GetCampaignRequest(campaign_id="long", page_size=1_000).SerializeToString()

    def asked(first: int) -> bytes:
        calls = (
            node_pb2.Call(call_id=number, shard=shard, method=node_pb2.GET_CAMPAIGN, request=page, timeout_ms=60_000)
            for number in range(first, first + 100)
        )
        frame = node_pb2.RouterFrame(calls=node_pb2.Calls(calls=calls))
        return data(1, written(frame.SerializeToString()))

    hello = node_pb2.RouterFrame(hello=node_pb2.Hello(identity=identity_of(status.config), router_id="deaf"))
    said = call.begin(1) + data(1, written(hello.SerializeToString()))
    deaf = await dial(owner, WIDE + said, receive_bytes=4_096)
    for first in range(0, 1_500, 100):
        deaf.writer.write(asked(first))
    await here.served(100)
    deaf.cut()


def half_open(here: Arena, name: str, target: Target, call: Call, more_mib: int) -> None:
    """300 connections for each place where a client may stop in the middle: of TLS's greeting, HTTP/2's, a frame, a
    header block, a message. All stay open together."""
    middles = [
        HELLO[:7],
        HELLO + b"\0\0",
        HELLO + call.begin(1)[:-1],
        HELLO + frames.frame(frames.HEADERS, 0, 1, call.block()),
        HELLO + call.begin(1) + frames.frame(frames.DATA, 0, 1, b"\0\0\0\0\x09half"),
    ]

    async def stop_in_the_middle() -> None:
        crowd = Crowd()
        bare = Target(target.address)
        for middle in middles if target.tls is None else [b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03"]:
            await crowd.gather(bare, 300, middle)
        spoken = [await dial(target, middle) for middle in middles for _ in range(20)]
        await here.served(10)
        crowd.leave()
        for raw in spoken:
            raw.cut()

    with here.attack(f"{name}: half-open", more_mib=more_mib):
        here.run(stop_in_the_middle())


# --- many, one after the other ---------------------------------------------------------------------------------------


def wrong(here: Arena, name: str, target: Target) -> None:
    """3,000 clients who speak something else than is spoken there. Each is let go."""

    async def come() -> None:
        lost = Crowd()
        await lost.gather(Target(target.address), 3_000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await lost.let_go()
        lost.leave()

    with here.attack(f"{name}: 3,000 who speak something else", more_mib=OURS_MIB):
        here.run(come())


# --- crowds -----------------------------------------------------------------------------------------------------------


def crowd(here: Arena, name: str, target: Target) -> None:
    """10,000 connections that do nothing. With TLS they have not begun to speak it; without, they have greeted."""
    idle = Crowd()

    async def come() -> int:
        await idle.gather(Target(target.address), CROWD, HELLO if target.tls is None else b"")
        if target.tls is None:
            await idle.heard()
        late = await dial(target)
        assert await late.answers(), "who comes after them is not served"
        late.cut()
        await here.served(10)
        return len(idle.sockets)

    with here.attack(f"{name}: idle connections", more_mib=CROWD_MIB):
        count = here.run(come())
        here.note(f"{name}: idle connections at a time", f"{count:,} of {CROWD:,} {idle.refused}")
        idle.leave()


# --- an operator's port -----------------------------------------------------------------------------------------------


async def pour_at_operator(target: Target, pieces: Iterator[bytes], *, slow: bool) -> None:
    raw = await dial(target, b"", receive_bytes=4_096 if slow else None)
    if slow:
        for piece in pieces:
            raw.writer.write(piece)  # more than its own buffer takes: the server has stopped to read
        await serves(target)
    else:
        await raw.pour(pieces)
    raw.cut()
    await serves(target)


async def crowd_at_operator(target: Target) -> None:
    """In the middle of a request, or of TLS's greeting."""
    idle = Crowd()
    await idle.gather(target, 2_000, b"GET /met" if target.tls is None else b"\x16\x03\x01\x02\x00")
    await serves(target)
    idle.leave()
    await serves(target)


async def serves(target: Target) -> None:
    raw = await dial(target, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await raw.ended()
    raw.cut()
    assert raw.heard.startswith(b"HTTP/1.1 200"), bytes(raw.heard)
