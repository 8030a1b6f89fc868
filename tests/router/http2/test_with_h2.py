"""One connection, with the h2 library for a client: it checks every frame of ours, and counts all windows itself."""

from random import Random

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from router.http2.connection import Connection, Limits
from tests.router.http2.talk import Answering

Event = h2.events.Event


class H2Talk:
    """Pumps bytes between the two until both are quiet. The client gives its windows back only when it is told to."""

    def __init__(self, limits: Limits | None = None, *, at_once: bool = True, seed: int | None = None) -> None:
        self.calls = Answering(at_once)
        self.connection = self.calls.connection = Connection(self.calls, limits or Limits(), lambda: None)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=False))
        self.client.initiate_connection()
        self.events: list[Event] = []
        self._rng = Random(seed) if seed is not None else None
        self.pump()

    def pump(self) -> None:
        while True:
            to_server, to_client = self.client.data_to_send(), self.connection.take()
            if not to_server and not to_client:
                return
            for piece in self._pieces(to_server):
                self.connection.receive(piece)
            for piece in self._pieces(to_client):
                self.events += self.client.receive_data(piece)

    def _pieces(self, data: bytes) -> list[bytes]:
        if self._rng is None:
            return [data]
        pieces = []
        while data:
            size = self._rng.randint(1, 20_000)
            pieces.append(data[:size])
            data = data[size:]
        return pieces

    def begin(self, path: str, *, end: bool = False) -> int:
        number = self.client.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("te", "trailers")]
        self.client.send_headers(number, fields, end_stream=end)
        return number

    def send(self, number: int, data: bytes, *, end: bool) -> None:
        """As the windows allow: the server consumes all that it is sent."""
        while True:
            room = min(self.client.local_flow_control_window(number), self.client.max_outbound_frame_size)
            piece, data = data[:room], data[room:]
            assert piece or not data, "the server gives no room"
            self.client.send_data(number, piece, end_stream=end and not data)
            if not data:
                return
            self.pump()

    def read_all(self) -> None:
        """Takes all that comes, giving its windows back for more."""
        self.pump()
        seen = 0
        while seen < len(self.events):
            for event in self.events[seen:]:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            seen = len(self.events)
            self.pump()

    def story(self, number: int) -> list[tuple[str, object]]:
        """What a client sees of one call; the body in one."""
        story: list[tuple[str, object]] = []
        for event in self.events:
            if getattr(event, "stream_id", None) != number:
                continue
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    fields = [(bytes(name), bytes(value)) for name, value in event.headers or []]
                    story.append((type(event).__name__, fields))
                case h2.events.DataReceived() if event.data:
                    if story and story[-1][0] == "Data":
                        before = story.pop()[1]
                        assert isinstance(before, bytes)
                    else:
                        before = b""
                    story.append(("Data", before + event.data))
                case h2.events.StreamEnded():
                    story.append(("End", None))
                case h2.events.StreamReset():
                    story.append(("Reset", event.error_code))
        return story


HEAD = ("ResponseReceived", [(b":status", b"200"), (b"content-type", b"application/grpc")])
ENDS = [("TrailersReceived", [(b"grpc-status", b"0")]), ("End", None)]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["/echo", "/stream"]), st.sampled_from([0, 1, 5, 16_384, 70_000, 200_000])),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([1_000, 65_535, 1 << 20]),
    st.integers(0, 1_000),
)
def test_whatever_goes_in_comes_out(calls: list[tuple[str, int]], window: int, seed: int) -> None:
    """Calls side by side, larger than every window, cut anywhere: each client has its own bytes back, in order."""
    talk = H2Talk(Limits(stream_bytes_max=100_000, connection_bytes_max=150_000), seed=seed)
    talk.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    talk.read_all()
    bodies = {talk.begin(path): bytes([65 + n]) * size for n, (path, size) in enumerate(calls)}
    for number, body in bodies.items():
        talk.send(number, body[: len(body) // 2], end=False)
    for number, body in bodies.items():
        talk.send(number, body[len(body) // 2 :], end=True)
    talk.read_all()
    for number, body in bodies.items():
        assert talk.story(number) == [HEAD, *([("Data", body)] if body else []), *ENDS]
        assert talk.calls.told[number].closed is True


def test_a_client_may_change_its_windows_in_the_middle() -> None:
    """Down to nothing and up again while a response waits: h2 fails on a byte beyond its windows."""
    talk = H2Talk()
    number = talk.begin("/stream")
    for _ in range(20):
        talk.send(number, bytes(16_384), end=False)
    talk.pump()
    for window in (0, 100, 10, 70_000, 1):
        talk.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        talk.pump()
        talk.send(number, b"more", end=False)
        talk.pump()
    talk.client.increment_flow_control_window(1 << 20, number)
    talk.client.end_stream(number)
    talk.read_all()
    assert talk.story(number) == [HEAD, ("Data", bytes(20 * 16_384) + b"more" * 5), *ENDS]


@pytest.mark.parametrize("path", ["/early", "/middle", "/refuse"])
def test_an_early_answer_is_read_as_one(path: str) -> None:
    """Answer, end, and a reset with NO_ERROR, which is no failure; the next call works."""
    talk = H2Talk()
    number = talk.begin(path)
    talk.client.send_data(number, b"x")
    talk.pump()
    *answer, reset = talk.story(number)
    assert answer[-1] == ("End", None)
    assert reset == ("Reset", 0)
    following = talk.begin("/echo", end=True)
    talk.pump()
    assert talk.story(following) == [HEAD, *ENDS]


@pytest.mark.parametrize("path", ["/echo", "/early", "/middle", "/stream", "/refuse"])
def test_a_whole_request_is_answered_like_one_in_pieces(path: str) -> None:
    """Whether `requested` was asked or `opened` and `received` were told, a client cannot see."""

    def story(*, in_pieces: bool, at_once: bool) -> list[tuple[str, object]]:
        talk = H2Talk(at_once=at_once)
        number = talk.begin(path)
        if in_pieces:
            sent = talk.client.data_to_send()
            talk.connection.receive(sent)
        talk.client.send_data(number, b"data", end_stream=True)
        talk.read_all()
        return [one for one in talk.story(number) if one != ("Reset", 0)]

    whole = story(in_pieces=False, at_once=True)
    assert whole == story(in_pieces=False, at_once=False) == story(in_pieces=True, at_once=True)
    assert whole[-1] == ("End", None)


def test_an_end_is_understood() -> None:
    """GOAWAY with the last stream that was taken: what the client sends behind it, it may repeat elsewhere."""
    talk = H2Talk()
    number = talk.begin("/echo", end=True)
    talk.pump()
    talk.connection.end()
    talk.pump()
    (ended,) = (event for event in talk.events if isinstance(event, h2.events.ConnectionTerminated))
    assert (ended.error_code, ended.last_stream_id) == (0, number)
