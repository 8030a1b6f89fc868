"""The router's own server at its sockets: what no well-behaved client does, what is left of it, and how it ends.

What a client library would hide is said in bytes here. Whoever waits, waits for something that the server does.
"""

import asyncio
import os
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2
from grpc_health.v1 import health_pb2

from proto import coupon_pb2 as pb
from proto import node_pb2
from router.api import SERVICE_NAME
from router.dispatch import DispatchSettings
from router.grpc_wire import written
from router.http2 import frames
from router.http2.frames import HEAD, HEAD_BYTES, frame
from router.limits import Rate
from router.observer import UNOBSERVED, Observer
from router.peer import Peer
from router.server import ApiServer, ServerSettings
from tests.router.fake_node import FakeNode, issued, running_node, silent
from tests.router.http2.talk import END_HEADERS, HELLO, Frame, block, data, fields_of, parsed
from tests.router.rig import UNDERNEATH, Rig, rig, run, underneath
from tests.support.memory import forget_peak, memory_mib

pytestmark = pytest.mark.usefixtures("on_every_loop")

WIDE = (
    frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31 - 1}) + frames.window_update(0, 2**31 - 65_536)
)
"""A client that takes whatever comes."""
ISSUE = pb.IssueCouponRequest(campaign_id="c", user_id="u")


def begin(number: int, method: str = "IssueCoupon", *others: tuple[bytes, bytes]) -> bytes:
    path = method if method.startswith("/") else f"/{SERVICE_NAME}/{method}"
    fields = ((b"content-type", b"application/grpc"), *others)
    return frame(frames.HEADERS, END_HEADERS, number, block(path, *fields))


def message(number: int, what: Message | bytes = ISSUE, *, end: bool = True) -> bytes:
    return data(number, written(what if isinstance(what, bytes) else what.SerializeToString()), end=end)


def issue(number: int, user: str = "u") -> bytes:
    return begin(number) + message(number, pb.IssueCouponRequest(campaign_id="c", user_id=user))


@dataclass
class Raw:
    """A client's socket."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: list[Frame] = field(default_factory=list)
    """All that came."""
    reset: bool = False
    """The connection was cut off instead of ended."""

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def next(self) -> Frame:
        """Raises IncompleteReadError at the end, ConnectionError when it was cut off."""
        head = await self.reader.readexactly(HEAD_BYTES)
        high, low, *_ = HEAD.unpack(head)
        (one,) = parsed(head + await self.reader.readexactly(high << 16 | low))
        self.frames.append(one)
        return one

    async def until(self, condition: Callable[[Frame], bool]) -> Frame:
        while True:
            one = await self.next()
            if condition(one):
                return one

    async def ended(self, number: int) -> dict[bytes, bytes]:
        """The fields of a response, when it is there."""
        await self.until(lambda one: one.stream == number and one.end)
        return dict(fields_of(one for one in self.frames if one.stream == number))

    async def answers(self) -> None:
        """A round through the server: all that was said before has been read, and it still answers."""
        self.say(frame(frames.PING, 0, 0, b"are you?"))
        await self.until(lambda one: one == Frame(frames.PING, frames.ACK, 0, b"are you?"))

    async def rest(self) -> list[Frame]:
        """Everything until the server closes."""
        before = len(self.frames)
        try:
            while True:
                await self.next()
        except asyncio.IncompleteReadError:
            self.close()
        except ConnectionError:
            self.reset = True
        return self.frames[before:]

    def goaways(self) -> list[tuple[int, int]]:
        """Last stream and code of each."""
        return [
            (int.from_bytes(one.payload[:4], "big"), int.from_bytes(one.payload[4:8], "big"))
            for one in self.frames
            if one.kind == frames.GOAWAY
        ]

    def close(self) -> None:
        self.writer.close()

    def cut(self) -> None:
        self.writer.transport.abort()


@dataclass
class Place:
    """A server, its router, and how to get to it."""

    server: ApiServer
    router: Rig
    address: tuple[str, int]
    clients: list[Raw] = field(default_factory=list)

    async def client(self, hello: bytes = HELLO, *, receive_bytes: int | None = None) -> Raw:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        await asyncio.get_running_loop().sock_connect(sock, self.address)
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 12)
        client = Raw(reader, writer)
        client.say(hello)
        self.clients.append(client)
        return client

    async def reached(self, condition: Callable[[], bool]) -> None:
        """What the server does by itself is found out by looking again; the test's own timeout is the limit."""
        while not condition():
            await asyncio.sleep(0.002)

    @property
    def left_behind(self) -> tuple[int, int, int]:
        """Calls, kept bytes, connections."""
        return self.server._calls, self.server.budget.kept, len(self.server._peers)


@asynccontextmanager
async def place(
    settings: ServerSettings | None = None,
    dispatch: DispatchSettings | None = None,
    user_rate: Rate | None = None,
    observer: Observer = UNOBSERVED,
) -> AsyncIterator[tuple[Place, FakeNode]]:
    async with running_node() as node, rig(dispatch=dispatch, user_rate=user_rate, observer=observer) as router:
        router.own(node)
        await router.link_up("c")
        server = ApiServer(router.service, settings or ServerSettings(drain_s_max=1.0))
        host, _, port = server.listen("127.0.0.1:0").rpartition(":")
        await server.start()
        here = Place(server, router, (host, int(port)))
        try:
            yield here, node
        finally:
            for client in here.clients:
                client.cut()
            await server.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server looks after its peers all the time."""
    monkeypatch.setattr("router.server._LOOK_S", 0.01)


# --- who does not speak HTTP/2 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + bytes(200),
        bytes(100_000),
        frames.PREFACE + b"garbage behind it" * 1_000,
    ],
    ids=["HTTP/1.1", "TLS", "zeros", "garbage"],
)
def test_garbage_is_told_so_and_disconnected(said: bytes) -> None:
    """GOAWAY, then the end; nobody else notices, and nothing is left."""

    async def test() -> None:
        async with place() as (here, _):
            good = await here.client()
            bad = await here.client(said)
            await bad.rest()
            assert not bad.reset
            assert [code for _, code in bad.goaways()] in ([frames.PROTOCOL_ERROR], [frames.FRAME_SIZE_ERROR])
            good.say(issue(1))
            assert (await good.ended(1))[b"grpc-status"] == b"0"
            await here.reached(lambda: here.left_behind == (0, 0, 1))

    run(test())


@pytest.mark.usefixtures("impatient")
def test_who_does_not_hear_the_end_is_cut_off() -> None:
    """A client that was told to go and goes on sending is not read for ever."""

    async def test() -> None:
        async with place() as (here, _):
            bad = await here.client(b"GET / HTTP/1.1\r\n\r\n")
            await bad.until(lambda one: one.kind == frames.GOAWAY)
            bad.say(b"more")
            await here.reached(lambda: here.left_behind == (0, 0, 0))

    run(test())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("said", [b"", frames.PREFACE[:10], frames.PREFACE], ids=len)
def test_who_does_not_greet_is_disconnected(said: bytes) -> None:
    """Silence, half a preface, or a preface without SETTINGS: after greeting_s_max; who has greeted may be silent."""

    async def test() -> None:
        async with place(ServerSettings(greeting_s_max=0.05)) as (here, _):
            good = await here.client()
            bad = await here.client(said)
            assert [one.kind for one in await bad.rest()] == [frames.SETTINGS, frames.WINDOW_UPDATE]
            await good.answers()

    run(test())


@pytest.mark.usefixtures("impatient")
def test_who_is_silent_is_asked_and_then_disconnected() -> None:
    """A PING after ping_s; who answers it stays, who does not is gone after silence_s_max."""

    async def test() -> None:
        async with place(ServerSettings(ping_s=0.05, silence_s_max=0.3)) as (here, _):
            good, dead = await here.client(), await here.client()

            async def answer() -> None:
                while not dead.reader.at_eof():
                    ping = await good.until(lambda one: one.kind == frames.PING and not one.flags)
                    good.say(frame(frames.PING, frames.ACK, 0, ping.payload))

            answering = asyncio.create_task(answer())
            assert frames.PING in [one.kind for one in await dead.rest()]
            await answering
            await good.answers()

    run(test())


# --- who does not read ------------------------------------------------------------------------------------------------


def large(call: node_pb2.Call) -> node_pb2.Reply:
    return node_pb2.Reply(call_id=call.call_id, response=bytes(1 << 20))


async def stalled(here: Place, node: FakeNode) -> Raw:
    """A client that asked for much more than fits in its socket, and reads nothing."""
    node.script = large
    client = await here.client(WIDE, receive_bytes=4_096)
    client.say(*(issue(number) for number in range(1, 49, 2)))
    (peer,) = here.server._peers
    await here.reached(lambda: peer.stalled_s is not None and len(node.calls) == 24 and not here.server._calls)
    node.script = issued
    return client


def test_who_does_not_read_is_not_read_from() -> None:
    """Its next call is not begun before it has taken its answers; then it is, and every answer has arrived."""

    async def test() -> None:
        async with place() as (here, node):
            slow = await stalled(here, node)
            slow.say(issue(101, "slow"))
            other = await here.client()
            other.say(issue(1, "other"))
            assert (await other.ended(1))[b"grpc-status"] == b"0"
            await other.answers()
            assert node.users[-1] == "other"
            assert (await slow.ended(101))[b"grpc-status"] == b"0"
            assert node.users[-1] == "slow"
            bodies = dict.fromkeys(range(1, 49, 2), 0)
            for one in slow.frames:
                if one.kind == frames.DATA and one.stream in bodies:
                    bodies[one.stream] += len(one.payload)
            assert set(bodies.values()) == {(1 << 20) + 5}

    run(test())


@pytest.mark.usefixtures("impatient")
def test_who_does_not_read_for_long_is_disconnected() -> None:
    """After stalled_s_max, with all that waited for it; a client that reads stays."""

    async def test() -> None:
        async with place(ServerSettings(stalled_s_max=0.2)) as (here, node):
            await stalled(here, node)
            other = await here.client()
            await here.reached(lambda: here.left_behind == (0, 0, 1))
            await other.answers()

    run(test())


# --- limits -----------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_dropped() -> None:
    """At once, without a word; when one has gone there is room for the next."""

    async def test() -> None:
        async with place(ServerSettings(connections_max=2)) as (here, _):
            first, second = await here.client(), await here.client()
            await first.answers()
            await second.answers()
            third = await here.client()
            assert await third.rest() == []
            await first.answers()
            first.close()
            await here.reached(lambda: here.left_behind == (0, 0, 1))
            fourth = await here.client()
            await fourth.answers()

    run(test())


@pytest.mark.parametrize(
    "said",
    [issue(5), begin(5), begin(5, "IssueCoupons"), begin(5, "GetCampaign") + message(5, b"")],
    ids=["whole", "begun", "stream", "task"],
)
def test_calls_beyond_the_limit_are_refused(said: bytes) -> None:
    """RESOURCE_EXHAUSTED at once, whatever the call; when one has ended there is room for the next."""

    async def test() -> None:
        async with place(ServerSettings(rpcs_max=2)) as (here, node):
            node.script = silent
            one, other, client = await here.client(), await here.client(), await here.client()
            one.say(issue(1))
            other.say(begin(1, "IssueCoupons"))
            await node.came(1)
            await other.answers()
            client.say(said)
            assert (await client.ended(5))[b"grpc-status"] == b"%d" % code_pb2.RESOURCE_EXHAUSTED
            other.say(frames.rst_stream(1, frames.CANCEL))
            await other.answers()
            node.script = issued
            client.say(issue(7))
            assert (await client.ended(7))[b"grpc-status"] == b"0"

    run(test())


def test_calls_that_need_a_task_are_few_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others get theirs, and so do coupons on the same connection; an answer and a reset make room again."""

    async def test() -> None:
        monkeypatch.setattr("router.peer._TASKS_MAX", 3)
        monkeypatch.setattr("router.peer._REST_S", 0.0)
        async with place() as (here, node):
            node.script = lambda call: None if call.method == node_pb2.GET_COUPON else issued(call)
            greedy, modest = await here.client(), await here.client()
            coupon = pb.GetCouponRequest(campaign_user=pb.GetCouponRequest.CampaignUser(campaign_id="c", user_id="u"))

            def get(number: int) -> bytes:
                return begin(number, "GetCoupon") + message(number, coupon)

            for number in (1, 3, 5):
                greedy.say(get(number))
            await node.came(3)
            greedy.say(get(7))
            assert (await greedy.ended(7))[b"grpc-status"] == b"%d" % code_pb2.RESOURCE_EXHAUSTED
            greedy.say(issue(9))
            assert (await greedy.ended(9))[b"grpc-status"] == b"0"
            modest.say(get(1))
            await node.came(5)
            node.say(node_pb2.Reply(call_id=node.calls[0].call_id, response=b""))
            await greedy.ended(1)
            greedy.say(frames.rst_stream(3, frames.CANCEL), get(11), get(13), get(15))
            assert (await greedy.ended(15))[b"grpc-status"] == b"%d" % code_pb2.RESOURCE_EXHAUSTED
            await node.came(7)

    run(test())


@pytest.mark.parametrize("how", ["a crowded node", "a full server"])
def test_who_is_refused_is_not_read_from_for_a_moment(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Its next calls come together then; other clients are read from all the time."""

    async def test() -> None:
        monkeypatch.setattr("router.peer._REST_S", 600.0)
        crowded = how == "a crowded node"
        dispatch = DispatchSettings(node_calls_max=1 if crowded else 1_000)
        async with place(ServerSettings(rpcs_max=1_000 if crowded else 1), dispatch) as (here, node):
            node.script = silent
            first, refused = await here.client(), await here.client()
            first.say(issue(1))
            await node.came(1)
            refused.say(issue(1))
            assert (await refused.ended(1))[b"grpc-status"] == b"%d" % code_pb2.RESOURCE_EXHAUSTED
            (resting,) = [peer for peer in here.server._peers if peer._transport and not peer._transport.is_reading()]
            await first.answers()
            node.say(*(issued(call) for call in node.calls))
            await first.ended(1)
            node.script = issued
            resting._rested()
            refused.say(issue(3))
            assert (await refused.ended(3))[b"grpc-status"] == b"0"

    run(test())


def test_a_user_beyond_his_rate_lets_nobody_else_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may come over the same connection."""

    async def test() -> None:
        monkeypatch.setattr("router.peer._REST_S", 600.0)
        async with place(user_rate=Rate(0.001, 1)) as (here, _):
            client = await here.client()
            for number, code in ((1, code_pb2.OK), (3, code_pb2.RESOURCE_EXHAUSTED)):
                client.say(issue(number, "greedy"))
                assert (await client.ended(number))[b"grpc-status"] == b"%d" % code
            client.say(issue(5, "modest"))
            assert (await client.ended(5))[b"grpc-status"] == b"0"

    run(test())


@pytest.mark.parametrize("longer", ["the rest", "the stall"])
def test_who_rests_and_does_not_read_is_read_from_after_both(monkeypatch: pytest.MonkeyPatch, longer: str) -> None:
    """In whichever order they end."""

    async def test() -> None:
        monkeypatch.setattr("router.peer._REST_S", 0.01 if longer == "the stall" else 600.0)
        async with place() as (here, node):
            slow = await stalled(here, node)
            (peer,) = here.server._peers
            transport = peer._transport
            assert transport is not None
            peer._rest()
            if longer == "the stall":
                await here.reached(lambda: not peer._resting)
            else:
                await slow.ended(47)
                await here.reached(lambda: peer.stalled_s is None)
            assert not transport.is_reading()
            if longer == "the rest":
                peer._rested()
            slow.say(issue(101, "slow"))
            assert (await slow.ended(101))[b"grpc-status"] == b"0"
            assert transport.is_reading()

    run(test())


def test_one_connection_does_not_get_all_calls() -> None:
    """A quarter of rpcs_max: what is beyond may be repeated, and others go on being served."""

    async def test() -> None:
        async with place(ServerSettings(rpcs_max=8, drain_s_max=0.1)) as (here, _):
            greedy, other = await here.client(), await here.client()
            greedy.say(*(begin(number) for number in range(1, 17, 2)))
            await greedy.answers()
            resets = [(one.stream, one.number) for one in greedy.frames if one.kind == frames.RST_STREAM]
            assert resets == [(number, frames.REFUSED_STREAM) for number in range(5, 17, 2)]
            other.say(issue(1))
            assert (await other.ended(1))[b"grpc-status"] == b"0"

    run(test())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("said", [begin(1), begin(1) + data(1, written(bytes(100))[:50])], ids=["nothing", "half"])
def test_a_request_without_end_is_given_up_on(said: bytes) -> None:
    """After stalled_s_max, though the client lives; its other calls, and a stream on which nothing comes, go on."""

    async def test() -> None:
        async with place(ServerSettings(stalled_s_max=0.1, drain_s_max=0.1)) as (here, node):
            node.script = silent
            client = await here.client()
            client.say(said, begin(3, "IssueCoupons"), issue(5))
            reset = await client.until(lambda one: one.kind == frames.RST_STREAM)
            assert (reset.stream, reset.number) == (1, frames.CANCEL)
            await client.answers()
            assert here.server._calls == 2
            assert here.server.budget.kept == 0

    run(test())


@pytest.mark.usefixtures("impatient")
def test_an_answer_without_room_is_given_up_on() -> None:
    """The client lets us send nothing on any stream: what it cannot take is kept for stalled_s_max."""

    async def test() -> None:
        async with place(ServerSettings(stalled_s_max=0.1)) as (here, _):
            client = await here.client(frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            client.say(issue(1))
            reset = await client.until(lambda one: one.kind == frames.RST_STREAM)
            assert (reset.stream, reset.number) == (1, frames.CANCEL)
            await client.answers()
            assert here.server._calls == 0

    run(test())


def test_who_takes_no_answer_is_disconnected_before_they_are_many() -> None:
    """32 MiB of answers that wait for room, however many calls they belong to."""

    async def test() -> None:
        async with place() as (here, node):
            node.script = large
            client = await here.client(frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
            client.say(*(issue(number) for number in range(1, 63, 2)))
            (peer,) = here.server._peers
            await here.reached(lambda: peer.connection.pending_bytes == 31 * ((1 << 20) + 5))
            await client.answers()
            client.say(issue(63))
            await client.rest()
            assert client.goaways()[-1] == (63, frames.ENHANCE_YOUR_CALM)
            await here.reached(lambda: here.left_behind == (0, 0, 0))

    run(test())


NO_ROOM = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
"""A client that lets us send nothing."""


def unread(here: Place) -> dict[Peer, int]:
    return {peer: peer.unread_bytes for peer in here.server._peers}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("hello", [NO_ROOM, WIDE], ids=["no room", "full socket"])
def test_what_all_clients_do_not_read_is_bounded(hello: bytes, record_property: Callable[[str, object], None]) -> None:
    """20 connections that ask for 480 MiB and read nothing: of theirs the server keeps 64 MiB, and this process, with
    the node and the clients in it, grows by little more. Who has a little to read, and who reads, is served all the
    time."""
    unread_mib, slack_mib, calls = 64, 160, 24

    async def test() -> None:
        async with place(ServerSettings(unread_bytes_max=unread_mib << 20, drain_s_max=0.1)) as (here, node):
            modest, other = await here.client(NO_ROOM), await here.client()
            node.script = large
            modest.say(issue(1, "modest"))
            await node.came(1)
            await here.reached(lambda: sum(unread(here).values()) > 1 << 19)
            forget_peak(os.getpid())
            before_mib, most = memory_mib(os.getpid(), "VmRSS"), 0
            for number in range(20):
                node.script = silent
                client = await here.client(hello, receive_bytes=4_096)
                client.say(*(issue(2 * n + 1, "greedy") for n in range(calls)))
                await node.came(1 + (calls + 1) * number + calls)
                for call in node.calls[-calls:]:
                    # One by one: on its way from the node each is there several times.
                    node.say(large(call))
                    left = here.router.dispatcher.in_flight - 1
                    await here.reached(lambda left=left: here.router.dispatcher.in_flight == left)  # type: ignore[misc]
                await here.reached(lambda: sum(unread(here).values()) <= unread_mib << 20)
                most = max(most, len(here.server._peers))
                node.script = issued
                other.say(issue(2 * number + 1, "other"))
                assert (await other.ended(2 * number + 1))[b"grpc-status"] == b"0"
            grown_mib = memory_mib(os.getpid(), "VmHWM") - before_mib
            record_property("grown by", f"{grown_mib} MiB at the most, with {most} connections")
            if underneath.get() is UNDERNEATH["own on uvloop"]:
                # asyncio's own sockets keep what was not sent in one array that grows, and the heap has holes.
                assert grown_mib <= unread_mib + slack_mib
            assert most >= 2 + unread_mib // calls, "they were disconnected before they held much"
            await here.reached(lambda: len(here.server._peers) <= 2 + unread_mib // calls + 1)
            modest.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31 - 1}), frames.window_update(0, 1 << 24))
            assert (await modest.ended(1))[b"grpc-status"] == b"0"

    run(test())


def test_who_holds_most_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and if it can be told: not behind all that it does not take from its socket. The one that holds less
    goes on."""

    async def test() -> None:
        monkeypatch.setattr("router.server._LOOK_S", 600.0)
        async with place(ServerSettings(unread_bytes_max=20 << 20)) as (here, node):
            modest = await here.client(NO_ROOM)
            node.script = large
            modest.say(issue(1))
            await here.reached(lambda: sum(unread(here).values()) > 1 << 20)
            for hello in (NO_ROOM, WIDE):
                client = await here.client(hello, receive_bytes=4_096)
                client.say(*(issue(number) for number in range(1, 49, 2)))
                await here.reached(lambda: len(here.server._peers) == 2)  # the one that is new
                if hello == NO_ROOM:
                    await client.rest()
                    assert [code for _, code in client.goaways()] == [frames.ENHANCE_YOUR_CALM]
                await here.reached(lambda: len(here.server._peers) == 1)
            await modest.answers()
            assert here.server._unread.look(*here.server._peers) is False
            assert here.server._unread.bytes == (1 << 20) + 5

    run(test())


@pytest.mark.usefixtures("impatient")
def test_a_little_for_each_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a socket does not take is told of when it is much. What is less is found by looking, now and then."""

    async def test() -> None:
        async with place(ServerSettings(unread_bytes_max=100_000)) as (here, _):
            clients = [await here.client() for _ in range(3)]
            for client in clients:
                await client.answers()
            monkeypatch.setattr(Peer, "unread_bytes", property(lambda _: 40_000))
            await here.reached(lambda: len(here.server._peers) < 3)
            left = [peer for peer in here.server._peers if not peer.connection.ended]
            assert len(left) == 2, "who was on his way out was counted, and others had to go for it"
            assert here.server._unread.bytes == 80_000

    run(test())


def test_a_request_that_comes_in_pieces_has_no_more_time() -> None:
    """The client counts from its first byte, and so do we: a request that ends after its deadline is not begun."""

    async def test() -> None:
        async with place() as (here, node):
            client = await here.client()
            client.say(begin(1, "IssueCoupon", (b"grpc-timeout", b"200m")))
            await client.answers()
            began_s = asyncio.get_running_loop().time()
            await here.reached(lambda: asyncio.get_running_loop().time() > began_s + 0.2)
            client.say(message(1))
            assert (await client.ended(1))[b"grpc-status"] == b"%d" % code_pb2.DEADLINE_EXCEEDED
            assert not node.calls

    run(test())


def test_a_server_that_stood_still_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is stopped for longer than silence_s_max drops no client that lives."""

    async def test() -> None:
        monkeypatch.setattr("router.server._LOOK_S", 0.05)
        monkeypatch.setattr("router.server._LATE_S", 0.1)
        settings = ServerSettings(ping_s=0.3, silence_s_max=0.4, greeting_s_max=0.4, stalled_s_max=0.4)
        async with place(settings) as (here, _):
            client, greeting = await here.client(), await here.client(frames.PREFACE)
            client.say(begin(1))
            await client.answers()
            await here.reached(lambda: all(peer.connection._preface_heard for peer in here.server._peers))
            time.sleep(0.8)  # noqa: ASYNC251  # the whole process
            await client.answers()
            greeting.say(frames.settings({}))
            await greeting.answers()
            client.say(message(1))
            assert (await client.ended(1))[b"grpc-status"] == b"0"

    run(test())


def test_what_all_clients_make_us_keep_is_bounded() -> None:
    """kept_bytes_max of messages that are not complete: then RESOURCE_EXHAUSTED, until somebody completes or goes."""

    async def test() -> None:
        async with place(ServerSettings(kept_bytes_max=40_000, drain_s_max=0.1)) as (here, _):
            one, two = await here.client(), await here.client()
            half = written(bytes(100_000))[:15_000]
            for client, method in ((one, "IssueCoupon"), (two, "IssueCoupons")):
                client.say(begin(1, method) + data(1, half))
                await client.answers()
            for method in ("IssueCoupon", "IssueCoupons", "WatchCampaign"):
                third = await here.client()
                third.say(begin(1, method) + data(1, half))
                assert (await third.ended(1))[b"grpc-status"] == b"%d" % code_pb2.RESOURCE_EXHAUSTED
                third.close()
            assert here.server.budget.kept == 30_000
            one.say(frames.rst_stream(1, frames.CANCEL))
            await one.answers()
            assert here.server.budget.kept == 15_000
            two.cut()
            await here.reached(lambda: here.server.budget.kept == 0)
            one.say(begin(3) + data(3, half[:10]))
            await one.answers()
            assert here.server.budget.kept == 10

    run(test())


# --- who goes away ----------------------------------------------------------------------------------------------------

WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
HALF = written(bytes(100_000))[:15_000]
CALLS: dict[str, bytes] = {
    "begun": begin(1),
    "half a message": begin(1) + data(1, HALF),
    "with a node": issue(1),
    "a task": begin(1, "GetCampaign") + message(1, pb.GetCampaignRequest(campaign_id="c")),
    "an open stream": begin(1, "IssueCoupons"),
    "half a message of a stream": begin(1, "IssueCoupons") + data(1, HALF),
    "a stream with a node": begin(1, "IssueCoupons")
    + message(1, pb.IssueCouponsRequest(items=[pb.IssueCouponsRequest.Item(index=1, request=ISSUE)]), end=False),
    "a watch": begin(1, "WatchCampaign") + message(1, pb.WatchCampaignRequest(campaign_id="c")),
    "health": begin(1, WATCH_HEALTH) + message(1, health_pb2.HealthCheckRequest()),
    "reflection": begin(1, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
}


@pytest.mark.parametrize("how", ["reset", "closed", "cut", "fault"])
@pytest.mark.parametrize("said", CALLS.values(), ids=CALLS.keys())
def test_who_goes_away_leaves_nothing_behind(said: bytes, how: str) -> None:
    """In the middle of any call: no task, no kept byte, no counted call. What a node was asked is still answered there,
    and its late answer reaches nobody and harms nothing."""

    async def test() -> None:
        async with place() as (here, node):
            node.script = silent
            node.campaigns["c"] = [pb.Campaign(campaign_id="c")]
            before = asyncio.all_tasks()
            client = await here.client(HELLO + said)
            await client.answers()
            if said in (CALLS["with a node"], CALLS["a task"], CALLS["a stream with a node"]):
                await node.came(1)
            assert here.server._calls == 1
            match how:
                case "reset":
                    client.say(frames.rst_stream(1, frames.CANCEL))
                    await client.answers()
                case "closed":
                    client.close()
                case "cut":
                    client.cut()
                case _:
                    client.say(data(0, b"x"))
                    await client.rest()
            await here.reached(lambda: here.left_behind == (0, 0, how == "reset"))
            await here.reached(lambda: not {task for task in asyncio.all_tasks() - before if _is_ours(task)})
            node.say(*(issued(call) for call in node.calls))
            node.script = issued
            await here.router.issue()
            assert here.router.dispatcher.in_flight == 0

    run(test())


def _is_ours(task: "asyncio.Task[object]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "/router/" in code.co_filename and "/tests/" not in code.co_filename


def test_the_longest_timeout_is_no_error() -> None:
    """99999999H: a call like any other, on every loop's timers."""

    async def test() -> None:
        async with place() as (here, _):
            client = await here.client()
            client.say(begin(1, "IssueCoupon", (b"grpc-timeout", b"99999999H")) + message(1))
            assert (await client.ended(1))[b"grpc-status"] == b"0"

    run(test())


# --- the end ----------------------------------------------------------------------------------------------------------


def test_watchers_of_health_do_not_hold_a_stopping_server() -> None:
    """They hear NOT_SERVING and the end, and nobody waits for them to go."""

    async def test() -> None:
        async with place(ServerSettings(drain_s_max=60.0)) as (here, _):
            client = await here.client()
            client.say(begin(1, WATCH_HEALTH) + message(1, health_pb2.HealthCheckRequest()))
            await client.until(lambda one: one.kind == frames.DATA)
            await here.server.stop()
            assert here.left_behind == (0, 0, 0)
            last = [one.payload for one in await client.rest() if one.kind == frames.DATA][-1]
            assert last == written(
                health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING).SerializeToString()
            )
            assert client.goaways() == [(2**31 - 1, frames.NO_ERROR), (1, frames.NO_ERROR)]

    run(test())


def test_a_stopping_server_takes_calls_until_its_clients_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens no more. Who was told to go and has not heard it yet is served; who does not go is refused, and told
    when to come again; streams are refused at once."""

    async def test() -> None:
        monkeypatch.setattr("router.server._SERVE_ON_S", 600.0)
        async with place(ServerSettings(drain_s_max=60.0)) as (here, node):
            node.script = silent
            client = await here.client()
            client.say(issue(1))
            await node.came(1)
            stopping = asyncio.create_task(here.server.stop())
            await client.until(lambda one: one.kind == frames.GOAWAY)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*here.address)
            node.script = issued
            client.say(issue(3))
            assert (await client.ended(3))[b"grpc-status"] == b"0"
            client.say(begin(5, "IssueCoupons"))
            assert (await client.ended(5))[b"grpc-status"] == b"%d" % code_pb2.UNAVAILABLE
            here.router.service.refuse()  # as the server does when the time is over
            client.say(issue(7))
            assert (await client.ended(7))[b"grpc-status"] == b"%d" % code_pb2.UNAVAILABLE
            assert not stopping.done()
            node.say(issued(node.calls[0]))
            assert (await client.ended(1))[b"grpc-status"] == b"0"
            await stopping

    run(test())


def test_who_does_not_go_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a client that never goes would keep a stopping server for all of drain_s_max."""

    async def test() -> None:
        monkeypatch.setattr("router.server._SERVE_ON_S", 0.0)
        async with place(ServerSettings(drain_s_max=60.0)) as (here, node):
            node.script = silent
            client = await here.client()
            client.say(issue(1))
            await node.came(1)
            stopping = asyncio.create_task(here.server.stop())
            await client.until(lambda one: one.kind == frames.GOAWAY)
            await here.reached(lambda: here.router.service._stopping)
            client.say(issue(3))
            assert (await client.ended(3))[b"grpc-status"] == b"%d" % code_pb2.UNAVAILABLE
            assert len(node.calls) == 1
            node.say(issued(node.calls[0]))
            await stopping

    run(test())


def test_a_stopping_server_ends_though_a_client_does_not_read() -> None:
    """What it would not take does not hold the end for longer than a moment."""

    async def test() -> None:
        async with place() as (here, node):
            await stalled(here, node)
            await here.server.stop()
            assert here.left_behind == (0, 0, 0)

    run(test())


def test_a_call_that_comes_while_the_last_one_ends_is_not_forgotten() -> None:
    """Begun in the very turn of the loop in which the last call was answered: the server waits for it as well, instead
    of naming it in its GOAWAY and leaving without an answer."""

    async def test() -> None:
        async with place(ServerSettings(drain_s_max=60.0)) as (here, _):
            client = await here.client()
            await client.answers()
            server = here.server
            server.began(None)
            stopping = asyncio.create_task(server.stop())
            await client.until(lambda one: one.kind == frames.GOAWAY)
            server.done(None)
            server.began(None)
            await client.answers()
            assert not stopping.done()
            server.done(None)
            await stopping
            await client.rest()
            assert client.goaways() == [(2**31 - 1, frames.NO_ERROR), (0, frames.NO_ERROR)]

    run(test())


def test_an_answer_behind_the_last_word_goes_nowhere() -> None:
    """The drain was cut short, the client has not closed its side yet, and a node answers now: no error, no byte."""

    async def test() -> None:
        async with place(ServerSettings(drain_s_max=0.01)) as (here, node):
            node.script = silent
            client = await here.client()
            client.say(issue(1))
            await node.came(1)
            stopping = asyncio.create_task(here.server.stop())
            await client.until(lambda one: one.kind == frames.GOAWAY)
            await client.until(lambda one: one.kind == frames.GOAWAY)
            node.say(issued(node.calls[0]))
            node.script = issued
            await here.reached(lambda: here.router.dispatcher.in_flight == 0)
            await asyncio.sleep(0)  # the turn in which it would be written
            assert await client.rest() == []
            await stopping

    run(test())


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_client_that_has_just_gone_is_no_error_for_a_stopping_server(how: str) -> None:
    """The server's last word meets a socket whose other end is gone, and the server does not know yet."""

    async def test() -> None:
        async with place() as (here, _):
            client = socket.create_connection(here.address)
            client.sendall(HELLO)
            await here.reached(lambda: any(peer.connection.greeted for peer in here.server._peers))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", how == "reset", 0))
            client.recv(1_000)
            (peer,) = here.server._peers
            client.close()
            peer.connection.end()
            peer.flush()
            await here.reached(lambda: here.left_behind == (0, 0, 0))

    run(test())


@pytest.mark.parametrize("calls", range(1, 12))
def test_a_call_that_comes_at_the_end_is_answered_or_can_be_repeated(calls: int) -> None:
    """Clients that go on calling while the server stops: for each call there is an answer, or a GOAWAY whose last
    stream is below it."""

    async def test() -> None:
        async with place() as (here, node):
            node.script = silent
            first = await here.client()
            first.say(issue(1))
            await node.came(1)
            clients = [await here.client() for _ in range(3)]
            for client in clients:
                await client.answers()
            stopping = asyncio.create_task(here.server.stop())
            await first.until(lambda one: one.kind == frames.GOAWAY)

            def call_again(count: int) -> None:
                """A few calls in each of the turns around the last answer."""
                for n, client in enumerate(clients):
                    number = 1 + 2 * (calls - count)
                    get = begin(number, "GetCampaign") + message(number, pb.GetCampaignRequest(campaign_id="c"))
                    client.say(get if n else begin(number, "/grpc.health.v1.Health/Check") + message(number, b""))
                if count > 1:
                    asyncio.get_running_loop().call_soon(call_again, count - 1)

            node.script = lambda call: node_pb2.Reply(call_id=call.call_id, response=b"")
            node.say(issued(node.calls[0]))
            call_again(calls)
            assert (await first.ended(1))[b"grpc-status"] == b"0"
            await stopping
            for client in clients:
                await client.rest()
                assert not client.reset
                answered = {one.stream for one in client.frames if one.end}
                last, code = client.goaways()[-1]
                assert code == frames.NO_ERROR
                assert {number for number in range(1, 2 * calls, 2) if number <= last} <= answered

    run(test())


def test_the_fixture_is_on_the_loop_that_it_says() -> None:
    """Or half of these tests would prove nothing about production's loop."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        made = underneath.get().loop()
        made.close()
        assert type(loop) is type(made)

    run(test())
