"""The operator's HTTP port of a process: /metrics, /healthz, /readyz. Answers from the process's own event loop.

h11 knows HTTP and a TlsPipe TLS; here are the sockets, and how much anybody may cost: so many connections, of which the
one that was quiet for longest makes room; so many bytes of a request, and so long until it is whole; one scrape for all
who ask at the same time. asyncio's own TLS would show a connection only after its handshake, when whoever never ends
one has not been counted. Reads no request's body. Never says anything that came with a request.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cluster.tls import HTTP1, TlsIdentity
from cluster.tls_pipe import TlsPipe

_CONTENT_TYPES_MAX = 8
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Limits:
    connections_max: int = 256
    request_bytes_max: int = 8 << 10
    """Of its head."""
    request_s_max: float = 10.0
    """From its first byte, or from the connection's beginning, TLS's handshake included, to the end of its head."""
    quiet_s_max: float = 300.0
    """Between two requests."""
    stalled_s_max: float = 10.0
    """Until an answer is read."""
    scrape_s_min: float = 0.1
    """Who asks for the metrics sooner gets those of before: making them takes milliseconds of the only thread."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    content_type: str = TEXT


class OperatorPort:
    """Listens from `start` to `close`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        not_ready: Callable[[], str],
        tls: TlsIdentity | None = None,
        limits: Limits | None = None,
    ) -> None:
        """
        Args:
            not_ready: why this process cannot do its work now; "" if it can.
            tls: shown to clients, who are not asked for a certificate; None: without TLS.
        """
        self.limits = limits or Limits()
        self._tls = None if tls is None else tls.server_context(HTTP1)
        self._registry = registry
        self._not_ready = not_ready
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._connections: dict[_Connection, None] = {}
        """The one that was quiet for longest comes first."""
        self._scrapes: dict[str, tuple[float, bytes]] = {}

    async def start(self, address: str) -> str:
        """Listen on HOST:PORT, where port 0 is a free one; returns it with the port that it became.

        Raises:
            RuntimeError: it cannot be bound.
        """
        host, _, port = address.rpartition(":")
        try:
            self._server = await self._loop.create_server(lambda: _Connection(self), host.strip("[]"), int(port))
        except OSError as error:
            raise RuntimeError(f"cannot listen on {address} for metrics: {error}") from error
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    @property
    def connections(self) -> int:
        return len(self._connections)

    # --- what is asked for --------------------------------------------------------------------------------------------

    def answer(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Answer:
        path = target.partition(b"?")[0]
        if path not in (b"/metrics", b"/healthz", b"/readyz"):
            return Answer(404, b"not found\n")
        if method not in (b"GET", b"HEAD"):
            return Answer(405, b"only GET and HEAD\n")
        if path == b"/metrics":
            return self._metrics(headers.get(b"accept", b"").decode("ascii", "replace"))
        # That this is said at all shows that the loop turns.
        why = self._not_ready() if path == b"/readyz" else ""
        return Answer(503, f"{why}\n".encode()) if why else Answer(200, b"ok\n")

    def _metrics(self, accept: str) -> Answer:
        encode, content_type = choose_encoder(accept)
        now_s = self._loop.time()
        made_s, body = self._scrapes.get(content_type, (float("-inf"), b""))
        if now_s - made_s >= self.limits.scrape_s_min:
            body = encode(self._registry)
            if len(self._scrapes) > _CONTENT_TYPES_MAX:
                self._scrapes.clear()  # who asks chooses some of its words
            self._scrapes[content_type] = self._loop.time(), body
        return Answer(200, body, content_type)

    # --- connections --------------------------------------------------------------------------------------------------

    def tls_pipe(self) -> TlsPipe | None:
        """Of a new connection."""
        return None if self._tls is None else TlsPipe(self._tls)

    def joined(self, connection: "_Connection") -> None:
        if len(self._connections) >= self.limits.connections_max:
            next(iter(self._connections)).abort()
        self._connections[connection] = None

    def active(self, connection: "_Connection") -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._connections[connection] = None

    def left(self, connection: "_Connection") -> None:
        self._connections.pop(connection, None)


class _Connection(asyncio.Protocol):
    """One client. While it does not read its answers, it is not read from."""

    def __init__(self, port: OperatorPort) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=port.limits.request_bytes_max)
        self._tls = port.tls_pipe()
        self._transport: asyncio.Transport | None = None
        self._stalled = False
        self._held = False
        """It has sent the next request before the last one was answered."""
        self._timer: asyncio.TimerHandle | None = None

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are asyncio.Transports in all but their type.
        self._transport = cast(asyncio.Transport, transport)
        self._end_in(self._port.limits.request_s_max)
        self._port.joined(self)

    def data_received(self, data: bytes) -> None:
        if not self._open:
            return
        if self._tls is not None:
            data = self._tls.receive(data)
            self._flush(self._tls)
        if data:
            if not self._http.trailing_data[0]:
                self._end_in(self._port.limits.request_s_max)  # a request begins
            self._http.receive_data(data)
            if not self._held:
                self._serve()
        if self._tls is not None and self._tls.ended and self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        self._stalled = True
        self._hold()
        self._end_in(self._port.limits.stalled_s_max)

    def resume_writing(self) -> None:
        self._stalled = False
        if self._open:
            self._end_in(self._port.limits.quiet_s_max)
            self._loop.call_soon(self._serve)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._port.left(self)

    # --- requests -----------------------------------------------------------------------------------------------------

    @property
    def _open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._port.left(self)

    def _serve(self) -> None:
        """One request. The next one, where it has come already, has to wait for a turn of the loop."""
        if not self._open or self._stalled:
            return
        try:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._answer(event)
                if self._open:
                    event = self._http.next_event()
                    assert isinstance(event, h11.EndOfMessage), "who sends a body is answered for the last time"
                    self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)
        if not self._open or self._stalled:
            return
        if isinstance(event, h11.EndOfMessage) and self._http.trailing_data[0]:
            self._hold()
            self._loop.call_soon(self._serve)
        else:
            self._go_on()

    def _answer(self, request: h11.Request) -> None:
        headers = dict(request.headers)
        has_body = bool({b"content-length", b"transfer-encoding"} & headers.keys())
        self._port.active(self)
        self._end_in(self._port.limits.quiet_s_max)
        answer = self._port.answer(request.method, request.target, headers)
        self._send(answer, close=has_body, bare=request.method == b"HEAD")

    def _refuse(self, status: int) -> None:
        """It does not speak HTTP, or too much of it."""
        self._send(Answer(status, b"bad request\n"), close=True)

    def _send(self, answer: Answer, *, close: bool, bare: bool = False) -> None:
        """
        Args:
            close: what the client still has to say is not heard.
            bare: without the body.
        """
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if close:
            headers.append((b"connection", b"close"))
        http = self._http
        out = http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if not bare:
            out += http.send(h11.Data(data=answer.body)) or b""
        out += http.send(h11.EndOfMessage()) or b""
        last = http.our_state is h11.MUST_CLOSE
        assert self._transport is not None
        if self._tls is None:
            self._transport.write(out)
        else:
            self._tls.say(out)
            if last:
                self._tls.end()
            self._flush(self._tls)
        if last:
            self._end_in(self._port.limits.stalled_s_max)
            self._transport.close()

    def _flush(self, tls: TlsPipe) -> None:
        if (out := tls.take()) and self._transport is not None:
            self._transport.write(out)

    # --- reading and time ---------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def _go_on(self) -> None:
        if self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()

    def _end_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.abort)
