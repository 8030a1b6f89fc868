"""One connection, fed with bytes: what is told, what is answered, what is kept, and how it ends.

Source: RFC 9113; the numbers in docstrings are its sections.
"""

from collections.abc import Callable
from functools import cache
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http2 import frames
from router.http2.connection import Limits, Stream
from router.http2.frames import NUMBER, frame
from router.http2.headers import fields_block
from tests.router.http2.talk import (
    END_HEADERS,
    END_STREAM,
    HEAD_BLOCK,
    HELLO,
    REFUSAL,
    TRAILERS,
    Frame,
    Talk,
    Told,
    block,
    chopped,
    cut,
    data,
    fields_of,
    headers,
    parsed,
    request,
)

CONTINUATION, PADDED, WITH_PRIORITY = frames.CONTINUATION, frames.PADDED, frames.WITH_PRIORITY
FIRST_FRAMES = 3
"""SETTINGS, the connection's window, and the acknowledgement of the client's SETTINGS."""


def padded(payload: bytes, padding: int) -> bytes:
    return bytes([padding]) + payload + bytes(padding)


def prioritized(payload: bytes) -> bytes:
    return bytes(frames.PRIORITY_BYTES) + payload


# --- requests ---------------------------------------------------------------------------------------------------------

SHAPES: dict[str, bytes] = {
    "HEADERS, DATA": request(1, payload=b"data"),
    "DATA in pieces": headers(1) + data(1, b"da") + data(1) + data(1, b"ta", end=True),
    "an end of its own": headers(1) + data(1, b"data") + data(1, end=True),
    "padding": frame(frames.HEADERS, END_HEADERS | PADDED, 1, padded(block(), 7))
    + frame(frames.DATA, PADDED, 1, padded(b"da", 255))
    + frame(frames.DATA, PADDED | END_STREAM, 1, padded(b"ta", 0)),
    "priority": frame(frames.HEADERS, END_HEADERS | WITH_PRIORITY, 1, prioritized(block()))
    + frame(frames.PRIORITY, 0, 1, bytes(frames.PRIORITY_BYTES))
    + data(1, b"data", end=True),
    "padding and priority": frame(
        frames.HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, padded(prioritized(block()), 3)
    )
    + data(1, b"data", end=True),
    "CONTINUATION": frame(frames.HEADERS, 0, 1, block()[:1])
    + frame(CONTINUATION, 0, 1, block()[1:3])
    + frame(CONTINUATION, 0, 1)
    + frame(CONTINUATION, END_HEADERS, 1, block()[3:])
    + data(1, b"data", end=True),
    "trailers": headers(1) + data(1, b"data") + frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
    "trailers with CONTINUATION": headers(1)
    + data(1, b"data")
    + frame(frames.HEADERS, END_STREAM, 1, TRAILERS[:2])
    + frame(CONTINUATION, END_HEADERS, 1, TRAILERS[2:]),
    "a frame of a later protocol": headers(1) + frame(0xFA, 0xFF, 1, b"?") + data(1, b"data", end=True),
    "a flag of a later protocol": frame(frames.HEADERS, END_HEADERS | 0x80, 1, block())
    + frame(frames.DATA, END_STREAM | 0x80, 1, b"data"),
    "a reserved bit": frame(frames.HEADERS, END_HEADERS, 1 | 1 << 31, block())
    + frame(frames.DATA, END_STREAM, 1 | 1 << 31, b"data"),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_request_means_the_same_in_every_shape(shape: bytes) -> None:
    """4.1, 6.1, 6.2, 6.10, 8.1: however its frames are cut, padded and decorated, it is told, answered and closed."""
    talk = Talk()
    answer = talk.say(shape)
    assert talk.calls.told == {1: Told("/echo", b"data", ended=True, closed=True)}
    assert [one for one in answer if one.stream == 1 and one.kind != frames.WINDOW_UPDATE] == [
        Frame(frames.HEADERS, END_HEADERS, 1, HEAD_BLOCK),
        Frame(frames.DATA, 0, 1, b"data"),
        Frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS),
    ]
    assert talk.alive()


def test_a_request_without_a_body_is_told_whole() -> None:
    """HEADERS with END_STREAM: opened, then an end without data."""
    talk = Talk()
    talk.say(headers(1, flags=END_HEADERS | END_STREAM))
    assert talk.calls.told == {1: Told("/echo", b"", ended=True, closed=True)}


def test_neighbours_in_one_read_are_not_confused() -> None:
    """HEADERS of one stream and the end of another, side by side: each belongs where its number says."""
    talk = Talk()
    talk.say(headers(1, "/echo"))
    talk.say(headers(3, "/echo") + data(1, b"one", end=True) + data(3, b"three", end=True))
    assert {number: told.data for number, told in talk.calls.told.items()} == {1: b"one", 3: b"three"}
    assert (talk.body(1), talk.body(3)) == (b"one", b"three")


def test_requests_on_skipped_streams_are_taken() -> None:
    """5.1.1: a client may leave out numbers; what it leaves out is closed, and windows for it are no error."""
    talk = Talk()
    talk.say(request(7), frames.window_update(3, 1), frames.rst_stream(5, frames.CANCEL), request(9))
    assert set(talk.calls.told) == {7, 9}
    assert talk.alive()


# --- cuts -------------------------------------------------------------------------------------------------------------

SESSION = b"".join(
    (
        HELLO,
        SHAPES["CONTINUATION"],
        request(3, "/refuse"),
        headers(5, "/stream") + data(5, b"a" * 200) + request(7, "/hold", b"b") + data(5, b"c" * 100, end=True),
        headers(9, "/early") + data(9, b"late") + data(9, end=True),
        headers(11, "/refuse") + data(11, b"late", end=True),
        request(13, "/early"),
        headers(15, "/middle") + data(15, b"x") + data(15, b"y", end=True),
        frame(frames.PING, 0, 0, b"12345678"),
        frames.settings({frames.INITIAL_WINDOW_SIZE: 3}),
        request(17, "/echo", b"does not fit"),
        frames.window_update(17, 4),
        request(19, "/hold") + frames.rst_stream(19, frames.CANCEL),
        frames.settings({frames.INITIAL_WINDOW_SIZE: 100}),
        frame(frames.HEADERS, END_HEADERS, 21, b""),  # no request
        data(21, b"late", end=True),
        headers(23, "/stream"),
        *(data(23, b"d" * 60) for _ in range(10)),
        frame(frames.DATA, PADDED, 23, padded(b"p", 40)),
        frames.window_update(23, 10_000),
        data(23, b"", end=True),
        request(25),
    )
)
SMALL = Limits(streams_max=100, stream_bytes_max=300, connection_bytes_max=1 << 16)


def story(*pieces: bytes) -> tuple[dict[int, Told], list[Frame]]:
    """All that a session comes to, but for the two things that a cut may change: that a refused request was a stream
    for us, and that the client is told that we need no more of what it has sent already."""
    talk = Talk(SMALL, greeted=False)
    talk.say(*pieces)
    told = {number: one for number, one in talk.calls.told.items() if one.path != "/refuse"}
    no_more = NUMBER.pack(frames.NO_ERROR)
    sent = [one for one in talk.frames if not (one.kind == frames.RST_STREAM and one.payload == no_more)]
    assert talk.alive()
    return told, sent


@cache
def whole_story() -> tuple[dict[int, Told], list[Frame]]:
    return story(SESSION)


def test_a_session_is_what_it_is_meant_to_be() -> None:
    """What the cuts below are compared with: everything answered but what is held, reset or malformed."""
    told, sent = whole_story()
    outcomes = {number: one.closed for number, one in told.items()}
    assert outcomes == {1: True, 5: True, 7: None, 9: True, 13: True, 15: True, 17: True, 19: False, 23: True, 25: True}
    assert told[23].data == b"d" * 600 + b"p"
    codes = [(one.stream, one.number) for one in sent if one.kind == frames.RST_STREAM]
    assert codes == [(21, frames.PROTOCOL_ERROR)]
    assert any(one.kind == frames.WINDOW_UPDATE and one.stream == 23 for one in sent)


def test_one_byte_at_a_time_tells_the_same() -> None:
    """Nothing depends on how the bytes are cut: what is told and what is sent are the same, in the same order."""
    assert story(*(SESSION[at : at + 1] for at in range(len(SESSION)))) == whole_story()


@given(st.lists(st.integers(0, len(SESSION)), max_size=12))
def test_any_cut_tells_the_same(at: list[int]) -> None:
    """As one byte at a time."""
    assert story(*cut(SESSION, at)) == whole_story()


@given(st.binary(max_size=200), st.sampled_from([b"", frames.PREFACE, HELLO, HELLO + headers(1, "/stream")]))
def test_garbage_never_raises(garbage: bytes, before: bytes) -> None:
    """The worst is a GOAWAY. What was opened is closed once, when it is over."""
    talk = Talk(SMALL, greeted=False)
    talk.say(before, garbage)
    talk.connection.lost()
    assert all(told.closed is not None for told in talk.calls.told.values())


@given(
    st.lists(st.tuples(st.integers(0, len(SESSION) * 8 - 1)), min_size=1, max_size=4),
    st.lists(st.integers(0, len(SESSION)), max_size=3),
)
def test_a_session_with_flipped_bits_never_raises(flips: list[tuple[int]], at: list[int]) -> None:
    """As garbage; and whatever is sent is made of whole frames, that stay within what the client takes."""
    broken = bytearray(SESSION)
    for (bit,) in flips:
        broken[bit // 8] ^= 1 << bit % 8
    talk = Talk(SMALL, greeted=False)
    talk.say(*cut(bytes(broken), at))
    assert talk.connection.ended == bool(talk.connection.fault)
    assert (talk.goaway() is not None) == talk.connection.ended
    talk.connection.lost()
    assert all(told.closed is not None for told in talk.calls.told.values())


# --- the client's windows ---------------------------------------------------------------------------------------------


class Windows:
    """What the client has allowed, as the client counts. Fails when more comes, or when something is held back."""

    def __init__(self, streams: int) -> None:
        self.talk = Talk(Limits())
        self.first = self.room = frames.WINDOW_BYTES
        self.frame_bytes_max = frames.FRAME_BYTES
        self.rooms: dict[int, int] = {}
        self.sent: dict[int, bytes] = {}
        self.ended: set[int] = set()
        for number in range(1, 2 * streams, 2):
            self.hear(self.talk.say(headers(number, "/sink")))
            self.rooms[number] = self.first
            self.sent[number] = b""

    def hear(self, news: list[Frame]) -> None:
        for one in news:
            if one.kind == frames.DATA:
                size = len(one.payload)
                self.room -= size
                self.rooms[one.stream] -= size
                assert size <= self.frame_bytes_max
                assert self.room >= 0, "beyond the connection's window"
                assert self.rooms[one.stream] >= 0, "beyond the stream's window"
                assert self.sent[one.stream].startswith(one.payload), "out of order"
                self.sent[one.stream] = self.sent[one.stream][size:]
        for number, left in self.sent.items():
            assert not left or self.room <= 0 or self.rooms[number] <= 0, "held back"
            pending = 0 if self.stream(number).closed else self.stream(number).pending_bytes
            assert pending == len(left)

    def stream(self, number: int) -> Stream:
        return self.talk.calls.streams[number]

    def send(self, number: int, size: int) -> None:
        if number in self.ended:
            return
        payload = bytes([number]) * (size - 1) + b"." if size else b""
        self.sent[number] += payload
        self.talk.connection.send(self.stream(number), payload)
        self.hear(self.talk.heard())

    def finish(self, number: int) -> None:
        if number not in self.ended:
            self.ended.add(number)
            self.talk.connection.finish(self.stream(number), TRAILERS)
            self.hear(self.talk.heard())

    def open(self, number: int, more: int) -> None:
        if not number:
            self.room += more
        else:
            self.rooms[number] += more
        self.hear(self.talk.say(frames.window_update(number, more)))

    def start_with(self, first: int) -> None:
        for number in self.rooms:
            self.rooms[number] += first - self.first
        self.first = first
        self.hear(self.talk.say(frames.settings({frames.INITIAL_WINDOW_SIZE: first})))

    def frames_of(self, size: int) -> None:
        self.frame_bytes_max = size
        self.hear(self.talk.say(frames.settings({frames.MAX_FRAME_SIZE: size})))


NUMBERS = st.sampled_from([1, 3, 5])
SIZES = st.one_of(st.integers(0, 20), st.integers(0, 100_000))
Move = tuple[Callable[..., None], tuple[int, ...]]
MOVES = st.one_of(
    st.tuples(st.just(Windows.send), st.tuples(NUMBERS, SIZES)),
    st.tuples(st.just(Windows.open), st.tuples(st.sampled_from([0, 1, 3, 5]), st.integers(1, 70_000))),
    st.tuples(st.just(Windows.start_with), st.tuples(st.one_of(st.integers(0, 50), st.integers(0, 200_000)))),
    st.tuples(st.just(Windows.frames_of), st.tuples(st.integers(16_384, 70_000))),
    st.tuples(st.just(Windows.finish), st.tuples(NUMBERS)),
)


@given(st.lists(MOVES, max_size=30))
def test_responses_keep_to_the_clients_windows(moves: list[Move]) -> None:
    """5.2, 6.9: whatever the client does with its windows, nothing leaves beyond them, nothing that fits is held back,
    the order stands, and the trailers come last."""
    windows = Windows(3)
    for move, arguments in moves:
        move(windows, *arguments)
    windows.start_with(1 << 24)
    windows.open(0, 1 << 24)
    for number in windows.rooms:
        windows.finish(number)
        # A client's window may have been negative; it was made good above.
        assert not windows.sent[number]
        assert [one.kind for one in windows.talk.of(number) if one.end] == [frames.HEADERS]
        *_, last, reset = windows.talk.of(number)
        assert (last.payload, reset.kind) == (TRAILERS, frames.RST_STREAM)
        assert windows.talk.calls.told[number].closed is True


def test_streams_without_room_of_their_own_do_not_wait_for_the_connection() -> None:
    """Windows for the connection cost nothing for streams that could not send anyway."""
    windows = Windows(3)
    windows.start_with(0)
    for number in windows.rooms:
        windows.send(number, 10)
    pushed: list[int] = []
    push = windows.talk.connection._push

    def noted(stream: Stream) -> None:
        pushed.append(stream.id)
        push(stream)

    windows.talk.connection._push = noted  # type: ignore[method-assign]
    for _ in range(5):
        windows.open(0, 100)
    assert pushed == []
    windows.start_with(10)
    assert sorted(pushed) == sorted(windows.rooms)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537])
def test_a_response_as_large_as_a_clients_largest_frame(size: int) -> None:
    """`answer` around the lengths that do not fit 16 bits, where client and windows would take them in one frame."""
    talk = Talk()
    talk.say(frames.settings({frames.MAX_FRAME_SIZE: 1 << 20, frames.INITIAL_WINDOW_SIZE: 1 << 24}))
    talk.say(frames.window_update(0, 1 << 24), headers(1, "/sink", END_HEADERS | END_STREAM))
    talk.connection.answer(talk.calls.streams[1], b"", bytes(size), TRAILERS)
    talk.heard()
    assert len(talk.body(1)) == size
    assert talk.calls.told[1].closed is True


def test_a_number_of_thousands_of_digits_ends_the_connection() -> None:
    """A header block whose index hpack cannot even name: COMPRESSION_ERROR, and no exception."""
    talk = Talk()
    talk.say(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, b"\xff" + b"\xff" * 2_200 + b"\x01"))
    assert talk.goaway() == (frames.COMPRESSION_ERROR, 1)


def test_a_negative_window_has_to_be_made_good() -> None:
    """6.9.2: after the client lowered it, nothing is sent until it has given back more than it took."""
    windows = Windows(1)
    windows.send(1, 60_000)
    windows.start_with(10)
    windows.send(1, 5)
    assert windows.rooms[1] == 10 - 60_000
    windows.open(1, 60_000 - 10)
    assert len(windows.sent[1]) == 5
    windows.open(1, 1)
    assert len(windows.sent[1]) == 4


def test_a_whole_answer_that_does_not_fit_waits_its_turn() -> None:
    """`answer` in a small window: HEADERS at once, DATA as room comes, trailers behind them, closed only then."""
    talk = Talk()
    talk.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 4}))
    talk.say(request(1, payload=b"123456789"))
    assert talk.body(1) == b"1234"
    assert talk.calls.told[1].closed is None
    talk.say(frames.window_update(1, 4))
    assert talk.calls.told[1].closed is None
    talk.say(frames.window_update(1, 4))
    assert talk.body(1) == b"123456789"
    assert talk.of(1)[-1] == Frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)
    assert talk.calls.told[1].closed is True


def test_an_answer_without_room_for_anything_still_ends() -> None:
    """Trailers need no window: a refusal reaches a client whose windows are closed, or negative."""
    talk = Talk()
    talk.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    talk.say(request(1, payload=b""))
    assert talk.calls.told[1].closed is True
    assert talk.of(1)[-1].end


def test_a_crowd_shares_the_connections_window() -> None:
    """No stream goes without while another one is sent twice: room that comes in small pieces goes round."""
    windows = Windows(3)
    for number in windows.rooms:
        windows.send(number, 60_000)
    before = {number: len(left) for number, left in windows.sent.items()}
    for _ in range(30):
        windows.open(0, 100)
    assert {before[number] - len(left) for number, left in windows.sent.items() if before[number]} <= {1_000, 1_500}


def test_what_was_waiting_is_told_when_it_has_left() -> None:
    """`flushed` once, after the last of it; never for what did not wait, nor for what ends with its trailers."""
    windows = Windows(3)
    windows.send(1, 100)
    assert windows.talk.calls.flushes == []
    windows.start_with(0)
    windows.send(3, 10)
    windows.send(5, 10)
    windows.finish(5)
    windows.open(3, 9)
    assert windows.talk.calls.flushes == []
    windows.start_with(100)
    assert windows.talk.calls.flushes == [3]


def test_who_is_flushed_may_send_on_any_stream() -> None:
    """The answering side may use what room there is from within `flushed`, for others that wait as well."""
    talk = Talk()
    talk.say(headers(1, "/sink"), headers(3, "/sink"))
    one, three = (talk.calls.streams[number] for number in (1, 3))
    talk.connection.send(one, bytes(frames.WINDOW_BYTES))
    talk.connection.send(one, b"one")
    talk.connection.send(three, b"three")
    talk.heard()
    talk.calls.on_flushed = lambda stream: talk.connection.send(one, b", two") if stream is three else None
    talk.say(frames.window_update(1, 100), frames.window_update(0, 100))
    assert talk.body(1).endswith(b"one, two")
    assert talk.body(3) == b"three"
    assert talk.calls.flushes == [3, 1]


# --- our windows ------------------------------------------------------------------------------------------------------


class Sending:
    """A client that keeps to our windows and uses all that it is given."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.talk = Talk(limits)
        self.limits = limits or Limits()
        self.spent: dict[int, int] = {0: 0}

    def room(self, number: int) -> int:
        first = self.limits.stream_bytes_max
        return min(
            frames.WINDOW_BYTES + self.talk.granted(0) - self.spent[0],
            first + self.talk.granted(number) - self.spent.get(number, 0),
        )

    def send(self, number: int, payload: bytes) -> bytes:
        """Returns what could not be sent."""
        while payload and (room := self.room(number)):
            assert room > 0
            size = min(room, frames.FRAME_BYTES)
            piece, payload = payload[:size], payload[size:]
            self.spent[0] += len(piece)
            self.spent[number] = self.spent.get(number, 0) + len(piece)
            self.talk.say(data(number, piece))
        return payload


def test_what_is_consumed_may_be_sent_again() -> None:
    """6.9.1: many times the window goes through, as long as somebody takes it."""
    client = Sending(Limits(stream_bytes_max=40_000, connection_bytes_max=1 << 16))
    client.talk.say(headers(1, "/sink"))
    assert client.send(1, bytes(2 << 20)) == b""
    assert len(client.talk.calls.told[1].data) == 2 << 20


@pytest.mark.parametrize("first", [1_000, 100_000, 500_000, 600_000, 1 << 20])
def test_a_message_that_fits_the_limit_always_comes_through(first: int) -> None:
    """Nobody can take half a message: behind a smaller one that was taken, one of 1 MiB still has to find room."""
    client = Sending()
    client.talk.say(headers(1, "/hold"))
    stream = client.talk.calls.streams[1]
    for size in (first, 1 << 20, first, 1 << 20):
        assert client.send(1, bytes(size)) == b""
        client.talk.connection.consumed(stream, size)
        client.talk.heard()


def test_what_one_stream_gives_back_another_one_gets() -> None:
    """The connection's window as well: while less than its limit is kept, there is room for more."""
    client = Sending(Limits(connection_bytes_max=1_000_000))
    client.talk.say(*(headers(number, "/hold") for number in (1, 3, 5)))
    assert client.send(1, bytes(400_000)) == b""
    client.talk.connection.consumed(client.talk.calls.streams[1], 400_000)
    client.talk.heard()
    assert client.send(3, bytes(500_000)) == b""
    assert client.send(5, bytes(499_000)) == b""


@pytest.mark.parametrize("how", ["answered", "reset", "refused", "malformed", "padding", "ended early"])
def test_room_never_leaks(how: str) -> None:
    """However a stream ends, all that was sent on it is given back to the connection: 200 times 1/16 of the window."""
    limits = Limits(connection_bytes_max=1 << 20, idle_frames_max=10_000, streams_max=1 if how == "refused" else 10)
    client = Sending(limits)
    talk = client.talk
    if how == "refused":
        talk.say(headers(1, "/hold"))
    for number in range(3, 400, 2):
        if how == "padding":
            talk.say(headers(number, "/sink"))
            for _ in range(240):
                assert client.room(number) >= 257
                client.spent[0] += 257
                client.spent[number] = client.spent.get(number, 0) + 257
                talk.say(frame(frames.DATA, PADDED, number, padded(b"x", 255)))
            talk.say(frames.rst_stream(number, frames.CANCEL))
            continue
        match how:
            case "malformed":
                talk.say(frame(frames.HEADERS, END_HEADERS, number, b""))
            case "ended early":
                talk.say(headers(number, "/early"))
            case _:
                talk.say(headers(number, "/echo" if how == "answered" else "/hold"))
        assert client.send(number, bytes(1 << 16)) == b""
        if how == "answered":
            talk.say(data(number, end=True), frames.window_update(0, 1 << 16))
        elif how == "reset":
            talk.say(frames.rst_stream(number, frames.CANCEL))
    assert talk.alive()
    client.spent[number + 2] = 0
    assert client.room(number + 2) > 1 << 18


@pytest.mark.parametrize("pieces", [1, 2])
def test_room_never_leaks_with_whole_requests(pieces: int) -> None:
    """The same for those that come in one frame, refused at once, answered, or refused for want of streams."""
    client = Sending(Limits(connection_bytes_max=1 << 17, streams_max=1, idle_frames_max=10_000))
    client.talk.say(headers(1, "/hold"))
    for number in range(3, 600, 2):
        if number == 203:
            client.talk.say(frames.rst_stream(1, frames.CANCEL))
        path = "/refuse" if number > 400 else "/echo"
        client.spent[number] = 0
        assert client.room(number) >= 3_000
        client.spent[0] += 3_000
        client.talk.say(*cut(request(number, path, bytes(3_000)), [20] * (pieces - 1)), frames.window_update(0, 3_000))
    assert client.talk.calls.refused == (100 if pieces == 1 else 0)
    assert client.talk.alive()


def test_padding_is_given_back_as_it_comes() -> None:
    """6.1: it counts against the windows and nobody consumes it: many times the windows of nearly nothing else."""
    client = Sending(Limits(stream_bytes_max=20_000, connection_bytes_max=1 << 16))
    client.talk.say(headers(1, "/sink"))
    client.spent[1] = 0
    for _ in range(1_000):
        assert client.room(1) >= 257
        client.spent[0] += 257
        client.spent[1] += 257
        client.talk.say(frame(frames.DATA, PADDED, 1, padded(b"x", 255)))
    assert client.talk.calls.told[1].data == b"x" * 1_000


def test_no_more_is_kept_than_was_said() -> None:
    """A client that uses every window, where nobody takes anything, makes us keep each stream's limit and no byte more;
    no stream is held up by the others."""
    client = Sending()
    limits = client.limits
    for number in range(1, 41, 2):
        client.talk.say(headers(number, "/hold"))
        client.send(number, bytes(2 << 20))
    kept = [len(told.data) for told in client.talk.calls.told.values()]
    assert set(kept) == {limits.stream_bytes_max}
    assert sum(kept) > limits.connection_bytes_max
    assert client.talk.alive()


def test_a_client_beyond_a_streams_window_is_ended() -> None:
    """6.9.1: one byte more than it was allowed on a stream."""
    talk = Talk(Limits(stream_bytes_max=20_000))
    talk.say(headers(1, "/hold"), *(data(1, piece) for piece in chopped(bytes(20_000))))
    assert talk.alive()
    talk.say(data(1, b"x"))
    assert talk.goaway() == (frames.FLOW_CONTROL_ERROR, 1)
    assert len(talk.calls.told[1].data) == 20_000


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/early", "/refuse"])
def test_an_early_answer_ends_the_request(path: str) -> None:
    """8.1: answer, trailers, then RST_STREAM(NO_ERROR); what is on its way is told to nobody and is no error."""
    talk = Talk()
    answer = talk.say(headers(1, path))
    assert [one.kind for one in answer][-2:] == [frames.HEADERS, frames.RST_STREAM]
    assert answer[-2].end
    assert talk.resets(1) == [frames.NO_ERROR]
    talk.say(data(1, b"late"), data(1, b"later", end=True))
    talk.say(headers(5, path, END_HEADERS | END_STREAM))
    assert talk.calls.told.pop(5) == Told(path, closed=True)
    assert talk.resets(5) == []
    talk.say(headers(7, path), frame(frames.HEADERS, END_HEADERS | END_STREAM, 7, TRAILERS), frames.rst_stream(7, 0))
    assert talk.calls.told == {1: Told(path, closed=True), 7: Told(path, closed=True)}
    assert talk.alive()


def test_an_answer_in_the_middle_ends_the_request_too() -> None:
    """As an early one: what had come was told, what comes is not."""
    talk = Talk()
    talk.say(headers(1, "/middle"), data(1, b"a"), data(1, b"b", end=True))
    assert talk.calls.told == {1: Told("/middle", b"a", closed=True)}
    assert talk.resets(1) == [frames.NO_ERROR]
    assert talk.alive()


def test_a_reset_stream_hears_nothing_more() -> None:
    """5.4.2: after the client's RST_STREAM it is closed, not answered, and whatever is said on it goes nowhere."""
    talk = Talk()
    talk.say(headers(1, "/hold"), data(1, b"a"), frames.rst_stream(1, frames.CANCEL))
    stream = talk.calls.streams[1]
    assert talk.calls.told == {1: Told("/hold", b"a", closed=False)}
    before = len(talk.frames)
    talk.connection.begin(stream, HEAD_BLOCK)
    talk.connection.send(stream, b"nobody hears")
    talk.connection.consumed(stream, 1)
    talk.connection.answer(stream, HEAD_BLOCK, b"nobody hears", TRAILERS)
    talk.connection.finish(stream, TRAILERS)
    talk.heard()
    talk.say(data(1, b"late"), frames.window_update(1, 5), frames.rst_stream(1, frames.CANCEL))
    assert talk.frames[before:] == []
    assert talk.alive()


def test_what_waits_for_room_goes_with_its_stream() -> None:
    """A reset while the response is blocked: nothing of it leaves later, others go on."""
    windows = Windows(2)
    for number in (1, 3):
        windows.send(number, 100_000)
    windows.finish(1)
    stream = windows.stream(1)
    windows.sent[1] = b""
    windows.hear(windows.talk.say(frames.rst_stream(1, frames.CANCEL)))
    assert stream.pending_bytes == 0
    windows.open(0, 200_000)
    windows.open(3, 200_000)
    assert not windows.sent[3]
    assert windows.talk.calls.told[1].closed is False


def test_a_lost_connection_closes_what_it_had() -> None:
    """Each stream once, as not answered; not those that had been."""
    talk = Talk()
    talk.say(request(1), headers(3, "/hold"), headers(5, "/stream"))
    talk.connection.lost()
    talk.connection.lost()
    assert {number: told.closed for number, told in talk.calls.told.items()} == {1: True, 3: False, 5: False}


STREAM_FAULTS: dict[str, tuple[bytes, int]] = {
    "too many fields": (
        frame(frames.HEADERS, 0, 1, block("/echo", (b"x", b"v" * 10_000)))
        + frame(CONTINUATION, END_HEADERS, 1, fields_block([(b"y", b"v" * 10_000)])),
        frames.ENHANCE_YOUR_CALM,
    ),
    "no request": (frame(frames.HEADERS, END_HEADERS, 1, b"\x83"), frames.PROTOCOL_ERROR),
    "no request, whole": (
        frame(frames.HEADERS, END_HEADERS, 1, b"\x83") + data(1, b"x", end=True),
        frames.PROTOCOL_ERROR,
    ),
    "no room": (headers(1, "/hold") + frames.window_update(1, 0), frames.PROTOCOL_ERROR),
    "too much room": (headers(1, "/hold") + frames.window_update(1, 2**31 - 1), frames.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize(("said", "code"), STREAM_FAULTS.values(), ids=STREAM_FAULTS.keys())
def test_an_error_of_a_stream_costs_the_stream(said: bytes, code: int) -> None:
    """5.4.2: RST_STREAM with its code; whoever answered is told, and the connection goes on."""
    talk = Talk()
    talk.say(said)
    assert talk.resets(1) == [code]
    assert {told.closed for told in talk.calls.told.values()} <= {False}
    talk.say(request(3))
    assert talk.calls.told[3].closed is True


PROTOCOL, SIZE, FLOW = frames.PROTOCOL_ERROR, frames.FRAME_SIZE_ERROR, frames.FLOW_CONTROL_ERROR
FAULTS: dict[str, tuple[bytes, int]] = {
    "a frame of more than 16 KiB": (frame(0xFA, 0, 0, bytes(16_385)), SIZE),
    "SETTINGS of a stream": (frame(frames.SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS acknowledged with a payload": (frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), SIZE),
    "SETTINGS of a broken length": (frame(frames.SETTINGS, 0, 0, bytes(5)), SIZE),
    "ENABLE_PUSH of 2": (frames.settings({frames.ENABLE_PUSH: 2}), PROTOCOL),
    "INITIAL_WINDOW_SIZE too large": (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), FLOW),
    "INITIAL_WINDOW_SIZE too large for a stream": (
        headers(5, "/hold") + frames.window_update(5, 2**31 - 1 - 65_535) + frames.settings({4: 65_536}),
        FLOW,
    ),
    "MAX_FRAME_SIZE too small": (frames.settings({frames.MAX_FRAME_SIZE: 16_383}), PROTOCOL),
    "MAX_FRAME_SIZE too large": (frames.settings({frames.MAX_FRAME_SIZE: 2**24}), PROTOCOL),
    "PING of a stream": (frame(frames.PING, 0, 1, bytes(8)), PROTOCOL),
    "PING of seven bytes": (frame(frames.PING, 0, 0, bytes(7)), SIZE),
    "WINDOW_UPDATE of three bytes": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    "WINDOW_UPDATE of nothing": (frames.window_update(0, 0), PROTOCOL),
    "WINDOW_UPDATE beyond all windows": (frames.window_update(0, 2**31 - 1), FLOW),
    "WINDOW_UPDATE before its stream": (frames.window_update(5, 1), PROTOCOL),
    "RST_STREAM of three bytes": (frame(frames.RST_STREAM, 0, 3, bytes(3)), SIZE),
    "RST_STREAM of the connection": (frames.rst_stream(0, 0), PROTOCOL),
    "RST_STREAM before its stream": (frames.rst_stream(5, 0), PROTOCOL),
    "DATA of the connection": (data(0, b"x"), PROTOCOL),
    "DATA before its stream": (data(5, b"x"), PROTOCOL),
    "DATA after its end": (headers(5, "/hold", END_HEADERS | END_STREAM) + data(5, b"x"), frames.STREAM_CLOSED),
    "DATA with too much padding": (headers(5, "/hold") + frame(frames.DATA, PADDED, 5, b"\x04abc"), PROTOCOL),
    "DATA padded with nothing": (headers(5, "/hold") + frame(frames.DATA, PADDED, 5, b""), PROTOCOL),
    "HEADERS of the connection": (headers(0), PROTOCOL),
    "HEADERS of a server's stream": (headers(6), PROTOCOL),
    "HEADERS with too much padding": (frame(frames.HEADERS, END_HEADERS | PADDED, 5, b"\x04abc"), PROTOCOL),
    "HEADERS without their priority": (frame(frames.HEADERS, END_HEADERS | WITH_PRIORITY, 5, bytes(4)), SIZE),
    "a whole second request on a stream": (headers(5, "/hold") + request(5), PROTOCOL),
    "a whole request on a server's stream": (request(6), PROTOCOL),
    "a second request on a stream": (headers(5, "/hold") + headers(5, "/hold"), PROTOCOL),
    "trailers after the end": (
        headers(5, "/hold", END_HEADERS | END_STREAM) + headers(5, "/hold", END_HEADERS | END_STREAM),
        PROTOCOL,
    ),
    "CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 5), PROTOCOL),
    "CONTINUATION of another stream": (headers(5, flags=0) + frame(CONTINUATION, END_HEADERS, 7), PROTOCOL),
    "CONTINUATION interrupted by DATA": (headers(5, flags=0) + data(3, b"x"), PROTOCOL),
    "CONTINUATION interrupted by PING": (headers(5, flags=0) + frame(frames.PING, 0, 0, bytes(8)), PROTOCOL),
    "CONTINUATION interrupted by nobody knows": (headers(5, flags=0) + frame(0xFA, 0, 0), PROTOCOL),
    "PUSH_PROMISE": (frame(frames.PUSH_PROMISE, END_HEADERS, 3, bytes(4)), PROTOCOL),
    "an entry of no table": (frame(frames.HEADERS, END_HEADERS, 5, b"\xff\x00"), frames.COMPRESSION_ERROR),
    "trailers that cannot be read": (
        headers(5, "/hold") + frame(frames.HEADERS, END_HEADERS | END_STREAM, 5, b"\xff\x00"),
        frames.COMPRESSION_ERROR,
    ),
    "a header block without end": (
        headers(5, flags=0) + frame(CONTINUATION, 0, 5, b"\x83" * 16_384) * 4,
        frames.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize(("said", "code"), FAULTS.values(), ids=FAULTS.keys())
def test_an_error_of_the_connection_ends_it(said: bytes, code: int) -> None:
    """5.4.1: GOAWAY with the code that its section names and the last stream that was taken; every stream is closed,
    and nothing is told any more."""
    talk = Talk()
    talk.say(headers(3, "/hold"))
    talk.say(said + request(101))
    last = max(talk.calls.told)
    assert talk.connection.ended
    assert talk.connection.fault
    assert talk.goaway() == (code, 5 if last == 5 or code == frames.COMPRESSION_ERROR else 3)
    assert {told.closed for told in talk.calls.told.values()} == {False}
    assert 101 not in talk.calls.told
    assert talk.say(request(103)) == []
    assert 103 not in talk.calls.told


@pytest.mark.parametrize(
    "hello",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        frames.PREFACE + request(1),
        frames.PREFACE + frame(frames.PING, 0, 0, bytes(8)),
        frames.PREFACE + data(1, b"x"),
    ],
    ids=["HTTP/1.1", "half a preface", "TLS", "a request first", "PING first", "DATA first"],
)
def test_a_client_has_to_greet(hello: bytes) -> None:
    """3.4: the preface, then SETTINGS; anything else is told why, and nothing of it is taken for a call."""
    talk = Talk(greeted=False)
    talk.say(*(hello[at : at + 1] for at in range(len(hello))))
    assert talk.goaway() == (PROTOCOL, 0)
    assert not talk.connection.greeted
    assert not talk.calls.told


def test_the_greeting_says_our_limits() -> None:
    """6.5.2: SETTINGS come first, and tell each of the Limits that a client can keep to."""
    limits = Limits(streams_max=7, stream_bytes_max=70_000, connection_bytes_max=700_000)
    talk = Talk(limits, greeted=False)
    first, second = talk.heard()
    assert dict(frames.SETTING.iter_unpack(first.payload)) == {
        frames.MAX_CONCURRENT_STREAMS: 7,
        frames.INITIAL_WINDOW_SIZE: 70_000,
        frames.MAX_HEADER_LIST_SIZE: 16_384,
    }
    assert (second.stream, second.number) == (0, 700_000 - 65_535)
    assert not talk.connection.greeted
    assert talk.say(HELLO) == [Frame(frames.SETTINGS, frames.ACK, 0, b"")]
    assert talk.connection.greeted


def test_an_announced_end_still_takes_calls() -> None:
    """6.8: GOAWAY with the largest stream says only that the end is near; the next one names the last that was told,
    and what comes after that is not."""
    talk = Talk()
    talk.say(request(1))
    talk.connection.announce_end()
    talk.heard()
    assert talk.goaway() == (frames.NO_ERROR, 2**31 - 1)
    talk.say(request(3), headers(5, "/hold"))
    talk.connection.end()
    talk.heard()
    assert talk.goaway() == (frames.NO_ERROR, 5)
    assert talk.connection.ended
    assert talk.say(request(7)) == []
    assert set(talk.calls.told) == {1, 3, 5}
    assert not talk.connection.fault
    talk.connection.end()
    assert talk.heard() == []


def test_what_has_to_wait_is_told_of() -> None:
    """Though there is nothing to write: whoever has the socket counts what is kept."""
    talk = Talk()
    talk.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), headers(1, "/sink"))
    stream = talk.calls.streams[1]
    talk.connection.begin(stream, HEAD_BLOCK)
    talk.heard()
    wakes = talk.wakes
    talk.connection.send(stream, bytes(100))
    assert (talk.wakes, talk.connection.pending_bytes) == (wakes + 1, 100)
    assert talk.heard() == []


def test_who_is_dismissed_holds_nothing() -> None:
    """GOAWAY, ENHANCE_YOUR_CALM; its streams are closed and what waited for room is gone. Once is enough."""
    talk = Talk()
    talk.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), request(1), request(3))
    assert talk.connection.pending_bytes == 8
    for _ in range(2):
        talk.connection.dismiss("too much")
    goaways = [one for one in talk.heard() if one.kind == frames.GOAWAY]
    assert len(goaways) == 1
    assert talk.goaway() == (frames.ENHANCE_YOUR_CALM, 3)
    assert (talk.connection.ended, talk.connection.pending_bytes, talk.connection.streams) == (True, 0, {})
    assert [told.closed for told in talk.calls.told.values()] == [False, False]


def test_whoever_writes_is_woken_once() -> None:
    """Output outside of `receive` wakes, the first of it only, until it is taken; inside it nobody is."""
    talk = Talk()
    talk.say(headers(1, "/hold"), request(3))
    assert talk.wakes == 0
    stream = talk.calls.streams[1]
    talk.connection.begin(stream, HEAD_BLOCK)
    talk.connection.send(stream, b"x")
    assert talk.wakes == 1
    assert len(talk.heard()) == 2
    talk.connection.send(stream, b"y")
    assert talk.wakes == 2
    talk.connection.finish(stream, TRAILERS)
    assert talk.wakes == 2
    assert len(talk.heard()) == 3


# --- limits -----------------------------------------------------------------------------------------------------------

OPENED = headers(1, "/hold")
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "PING": (b"", frame(frames.PING, 0, 0, bytes(8))),
    "SETTINGS": (b"", frames.settings({})),
    "PRIORITY": (b"", frame(frames.PRIORITY, 0, 9, bytes(5))),
    "nobody knows": (b"", frame(0xFA, 0, 0)),
    "GOAWAY": (b"", frames.goaway(0, 0)),
    "empty DATA": (OPENED, data(1)),
    "padding": (OPENED, frame(frames.DATA, PADDED, 1, padded(b"", 9))),
    "CONTINUATION": (headers(1, flags=0), frame(CONTINUATION, 0, 1)),
    "trailers of a closed stream": (OPENED + frames.rst_stream(1, 8), headers(1, flags=END_HEADERS | END_STREAM)),
}


@pytest.mark.parametrize(("before", "flood"), FLOODS.values(), ids=FLOODS.keys())
def test_a_flood_of_idle_frames_ends_the_connection(before: bytes, flood: bytes) -> None:
    """Frames that belong to no call and cost us something, as many as the limit and one more: ENHANCE_YOUR_CALM."""
    talk = Talk(Limits(idle_frames_max=20))
    talk.connection.forgive()
    talk.say(before + flood * 19)
    assert not talk.connection.ended
    talk.say(flood * 2)
    assert talk.goaway() is not None
    assert talk.goaway() == (frames.ENHANCE_YOUR_CALM, 1 if talk.calls.told else 0)


@pytest.mark.parametrize(("before", "flood"), FLOODS.values(), ids=FLOODS.keys())
def test_a_trickle_of_idle_frames_is_forgiven(before: bytes, flood: bytes) -> None:
    """Every `forgive` begins the count anew: a client that pings now and then is never ended."""
    talk = Talk(Limits(idle_frames_max=20))
    talk.say(before)
    for _ in range(10):
        talk.connection.forgive()
        talk.say(flood * 20)
    assert not talk.connection.ended


@pytest.mark.parametrize("said", [headers, request], ids=["in pieces", "whole"])
@pytest.mark.parametrize("fault", ["refused", "malformed"])
def test_a_flood_of_requests_that_are_none_ends_the_connection(said: Callable[[int], bytes], fault: str) -> None:
    """Refused or malformed ones are no calls either."""
    talk = Talk(Limits(idle_frames_max=20, streams_max=1))
    talk.connection.forgive()
    talk.say(OPENED)
    for number in range(3, 43, 2):
        talk.say(said(number) if fault == "refused" else frame(frames.HEADERS, END_HEADERS, number, b"\x83"))
    assert not talk.connection.ended
    talk.say(said(43))
    assert talk.goaway() == (frames.ENHANCE_YOUR_CALM, 43)


RESET = {
    "by the client": lambda number: frames.rst_stream(number, frames.CANCEL),
    "by us, as the client wants": lambda number: frames.window_update(number, 0),
}


@pytest.mark.parametrize("how", RESET.values(), ids=RESET.keys())
def test_a_flood_of_calls_that_are_given_up_ends_the_connection(how: Callable[[int], bytes]) -> None:
    """Whoever begins calls and never waits for one keeps us busy beyond any number of streams (CVE-2023-44487; by our
    own resets, CVE-2025-8671)."""
    talk = Talk(Limits(resets_max=20))
    for number in range(1, 41, 2):
        talk.say(request(number, "/hold") + how(number))
    assert not talk.connection.ended
    talk.say(request(41, "/hold") + how(41))
    assert talk.goaway() == (frames.ENHANCE_YOUR_CALM, 41)
    assert all(told.closed is False for told in talk.calls.told.values())


def test_calls_that_are_given_up_now_and_then_are_forgiven() -> None:
    """By every `forgive`, and one by each call that is answered: one connection may carry the calls of many users."""
    talk = Talk(Limits(resets_max=20))
    numbers = iter(range(1, 10_000, 2))

    def give_up(times: int) -> None:
        for number in islice(numbers, times):
            talk.say(request(number, "/hold") + frames.rst_stream(number, frames.CANCEL))

    for _ in range(5):
        give_up(20)
        talk.connection.forgive()
    for _ in range(100):
        give_up(1)
        talk.say(request(next(numbers)))
    give_up(20)
    assert talk.alive()
    give_up(1)
    assert talk.goaway() is not None


def test_calls_are_no_idle_frames() -> None:
    """However many calls come, in whatever frames: only what belongs to none is counted."""
    talk = Talk(Limits(idle_frames_max=1))
    talk.connection.forgive()
    for number in range(1, 300, 2):
        talk.say(headers(number), data(number, b"x"), data(number, end=True), frames.window_update(0, 1))
    assert talk.alive()


@pytest.mark.parametrize("said", [headers, request], ids=["in pieces", "whole"])
def test_streams_beyond_the_limit_are_refused(said: Callable[..., bytes]) -> None:
    """5.1.2, 8.7: REFUSED_STREAM, which says that nothing was done; when one has ended there is room for the next."""
    talk = Talk(Limits(streams_max=2))
    talk.say(headers(1, "/hold"), headers(3, "/hold"), said(5, "/hold"))
    assert talk.resets(5) == [frames.REFUSED_STREAM]
    talk.say(
        data(5, b"late", end=True) if said is headers else b"", frames.rst_stream(1, frames.CANCEL), said(7, "/hold")
    )
    assert set(talk.calls.told) == {1, 3, 7}
    assert talk.resets(7) == []


def test_the_bytes_of_a_refused_request_still_change_the_table() -> None:
    """4.3: its header block is read like any other, or all later ones would mean something else."""
    talk = Talk(Limits(streams_max=1))
    added = b"\x83\x86\x44\x05/hold"
    talk.say(frame(frames.HEADERS, END_HEADERS, 1, b"\x83\x86\x04\x05/hold"))
    talk.say(frame(frames.HEADERS, END_HEADERS, 3, added) + data(3, end=True))
    talk.say(frames.rst_stream(1, frames.CANCEL))
    talk.say(frame(frames.HEADERS, END_HEADERS, 5, b"\x83\x86\xbe"))
    assert talk.calls.told[5].path == "/hold"


# --- whole requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/echo", "/early", "/middle", "/stream", "/hold", "/refuse", "/sink"])
@pytest.mark.parametrize("payload", [b"", b"data", bytes(16_384)], ids=len)
@pytest.mark.parametrize("window", [0, 3, 65_535])
def test_a_whole_request_is_answered_like_one_in_pieces(path: str, payload: bytes, window: int) -> None:
    """`requested` saves work, and nothing else: the client gets the same frames. One exception: where nothing of the
    request is missing, it is not told to send no more."""

    def answers(pieces: int, *, at_once: bool) -> tuple[list[Frame], int]:
        talk = Talk(at_once=at_once)
        talk.say(frames.settings({frames.INITIAL_WINDOW_SIZE: window}))
        whole = request(1, path, payload)
        talk.say(*cut(whole, [len(headers(1, path))] * (pieces - 1)))
        talk.say(frames.window_update(1, 1 << 20))
        assert len(talk.connection.streams) == (path in ("/hold", "/sink"))
        return [one for one in talk.of(1) if one.kind != frames.RST_STREAM], talk.granted(0)

    in_pieces = answers(2, at_once=False)
    assert answers(1, at_once=True) == answers(1, at_once=False) == in_pieces
    if path == "/refuse":
        assert in_pieces[0] == [Frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, REFUSAL)]


def test_a_refusal_at_once_makes_no_stream() -> None:
    """Nobody is told that it began or ended, and the next request follows in the same read."""
    talk = Talk()
    talk.say(b"".join(request(number, "/refuse") for number in range(1, 200, 2)) + request(201))
    assert talk.calls.refused == 100
    assert set(talk.calls.told) == {201}
    assert fields_of(talk.of(199)) == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"8"),
    ]


def test_understanding_is_asked_once_for_the_same_bytes() -> None:
    """And what it said is the head of each stream, whichever way it came."""
    talk = Talk()
    talk.say(request(1), headers(3), request(5), headers(7, flags=0) + frame(CONTINUATION, END_HEADERS, 7))
    assert len(talk.calls.understood) == 1
    assert {stream.head for stream in talk.calls.streams.values()} == {"/echo"}
    assert fields_block([]) == b""
    assert parsed(b"") == []
