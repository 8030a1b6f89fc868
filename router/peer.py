"""One client's socket: what its connection says is read and written, its calls are begun, answered and given up.

A call of the one method that everybody calls at noon is begun by a function and answered by a callback; every other one
gets a task. A client that does not read what it is sent is not read from either.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import structlog
from google.rpc import code_pb2

from proto import coupon_pb2
from router import grpc_wire
from router.access import Access, Permit
from router.api import Method, Prompt, Streaming, Unary
from router.errors import ApiError
from router.grpc_wire import Failed
from router.http2.connection import Connection, Limits, Stream
from router.http2.headers import Request
from router.inbox import Budget, Inbox
from router.observer import NO_METHOD, Observer, method_name
from router.service import Begin, CallContext
from router.streaming import INTERNAL, StreamingCall, failure_block

log = structlog.get_logger()

_MARGIN_S = 0.03
"""So much before the client's deadline the answer has to be ready: when the deadline comes, the client has no ear for
details any more."""
_REST_S = 0.02
"""So long nothing is read from a client who was refused because too many came. What it says meanwhile is read at once,
for a part of what it would cost piece by piece, and that part belongs to those who were taken."""
_TASKS_MAX = 256
"""Calls of one connection at a time that need a task. Whoever sends thousands at once shall not fill the loop with
them: coupons are asked for without a task."""
_FULL = Failed(code_pb2.RESOURCE_EXHAUSTED, "too many calls at a time")
_UNIMPLEMENTED = Failed(code_pb2.UNIMPLEMENTED, "no such method")
_GIVEN_UP = Failed(code_pb2.CANCELLED, "the request did not end")


@dataclass(frozen=True, slots=True)
class Head:
    """What the header fields of a call mean."""

    method: Method | None
    refusal: bytes | Failed
    """Where there is no method: why, or the whole response to what is no RPC."""
    name: str = NO_METHOD
    timeout_s: float | None = None
    encoding: bytes | None = None
    permit: Permit | None = None
    """None: nobody is asked for a key."""


class Host(Protocol):
    """What all connections of a server have in common."""

    methods: Mapping[bytes, Method]
    budget: Budget
    access: Access | None
    """None: nobody is asked for a key."""
    observer: Observer

    full: bool
    """No further call is taken."""

    def joined(self, peer: "Peer") -> None: ...

    def left(self, peer: "Peer") -> None: ...

    def began(self, method: Method | None) -> None:
        """A call, on any connection; `done` follows, once."""
        ...

    def done(self, method: Method | None) -> None: ...

    def behind(self, peer: "Peer") -> None:
        """What it has not read may have become more."""
        ...


class Peer(asyncio.Protocol):
    def __init__(self, host: Host, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self.opened_s = self.heard_s = self._loop.time()
        """loop.time()"""
        self.stalled_s: float | None = None
        """Since when it does not read what it is sent."""
        self.said_all_s: float | None = None
        """When our last word was written."""
        self._slow: dict[Stream, float] = {}
        """Unary calls that wait for the client: for the rest of a request, or for room for an answer; since when."""
        self.connection = Connection(self, limits, self._wake)
        self._host = host
        self._address = ""
        self._transport: asyncio.Transport | None = None
        self._refused = self._resting = False
        self._tasks = 0
        self._writable = asyncio.Event()
        self._writable.set()

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are asyncio.Transports in all but their type.
        self._transport = cast(asyncio.Transport, transport)
        self._address = _address_of(transport)
        self._host.joined(self)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.heard_s = self._loop.time()
        self.connection.receive(data)
        self.flush()
        if self._refused:
            self._refused = False
            self._rest()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self.stalled_s = self._loop.time()
        self._writable.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self.stalled_s = None
        self._writable.set()
        if not self._resting:
            self._read_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.connection.lost()
        self._host.left(self)

    # --- the socket ---------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what the connection has to say; behind its last word only the client's own end is waited for.

        A socket that is closed with something in it that was not read resets the connection, and what was written last
        may be lost with it: the client would not learn which of its calls were taken.
        """
        out = self.connection.take()
        if self._transport is None or self._transport.is_closing() or self.said_all_s is not None:
            return
        if out:
            self._transport.write(out)
        if self.connection.pending_bytes or self.stalled_s is not None:
            self._host.behind(self)
        if self.connection.ended:
            self.said_all_s = self._loop.time()
            if self.connection.fault:
                log.info("client_disconnected", why=self.connection.fault)
            try:
                if self._transport.can_write_eof():
                    self._transport.write_eof()
                else:
                    self._transport.close()  # TLS says its own farewell, and waits for the client's
            except OSError:
                self._transport.abort()  # it has just been reset

    @property
    def unread_bytes(self) -> int:
        """Of answers: those for which the client has given no room, and those that its socket does not take."""
        written = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self.connection.pending_bytes + written

    def dismiss(self) -> None:
        """For what it does not read."""
        self.connection.dismiss("answers are asked for and not read, of which there are too many in all")
        self.flush()
        if self.stalled_s is not None:
            self.abort()  # behind all that it does not read no word would reach it

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def excuse(self, stood_s: float) -> None:
        """We stood still for so long, and heard nobody: that time does not count."""
        self.opened_s += stood_s
        self.heard_s += stood_s
        if self.stalled_s is not None:
            self.stalled_s += stood_s
        for stream in self._slow:
            self._slow[stream] += stood_s

    def give_up_since(self, before_s: float) -> None:
        """On unary calls that have waited for the client since then: they count among those that we have."""
        for stream, since_s in tuple(self._slow.items()):
            if since_s > before_s:
                return
            self.connection.give_up(stream)

    def _rest(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._resting = True
        self._transport.pause_reading()
        self._loop.call_later(_REST_S, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self.stalled_s is None:
            self._read_on()

    def _read_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _wake(self) -> None:
        # What else is answered in this turn of the loop leaves in the same write.
        self._loop.call_soon(self.flush)

    # --- router.http2.connection.Calls --------------------------------------------------------------------------------

    def understand(self, request: Request) -> Head:
        if request.method != b"POST":
            return Head(None, grpc_wire.NOT_POST)
        if request.fields.get(b"content-type", b"").partition(b";")[0] not in grpc_wire.CONTENT_TYPES:
            return Head(None, grpc_wire.NOT_GRPC)
        method = self._host.methods.get(request.path)
        if method is None:
            return Head(None, _UNIMPLEMENTED)
        path = request.path.decode()
        name = method_name(path)
        try:
            timeout_s = grpc_wire.timeout_s(request.fields)
        except Failed as error:
            return Head(None, error, name)
        permit, access = None, self._host.access
        if access is not None:
            permit = access.permit(path, request.fields.get(b"authorization", b""), self._address)
        return Head(method, b"", name, timeout_s, request.fields.get(b"grpc-encoding"), permit)

    def requested(self, head: Head, data: bytes) -> bytes | Callable[[Stream], None]:
        method = head.method
        if not isinstance(method, Prompt) or self._host.full or (message := grpc_wire.whole(data)) is None:
            return partial(self._open_whole, data)
        if head.permit is not None and (refusal := head.permit.admit()) is not None:
            return failure_block(refusal, only=True)
        admitted = self._admit(head, method, message)
        if isinstance(admitted, Exception):
            # Not for a rate of his own, which is no reason to let others wait that come over the same connection.
            self._refused |= isinstance(admitted, ApiError) and admitted.reason == coupon_pb2.OVERLOADED
            return failure_block(admitted, only=True)
        return partial(self._begin_prompt, method, admitted)

    def _open_whole(self, data: bytes, stream: Stream) -> None:
        self.opened(stream)
        if not stream.closed:
            self.received(stream, data, True)

    def _begin_prompt(self, method: Prompt, begin: Begin, stream: Stream) -> None:
        self._host.began(method)
        self.connection.consumed(stream, stream.unconsumed)
        begin(self._context(stream), partial(self._reply, stream))

    def opened(self, stream: Stream) -> None:
        method = stream.head.method
        full = self._host.full
        self._host.began(method)
        if method is None:
            if isinstance(stream.head.refusal, Failed):
                self._turn_away(stream, stream.head.refusal)
            else:
                self.connection.finish(stream, stream.head.refusal)
        elif full:
            self._refused = True
            self._turn_away(stream, _FULL)
        elif stream.head.permit is not None and (refusal := stream.head.permit.admit()) is not None:
            self._fail(stream, refusal)
        elif isinstance(method, Streaming):
            stream.user = StreamingCall(
                self.connection, stream, self._inbox(stream), self._context(stream), self._writable
            )
            self._count(stream, stream.user.start(method))
        elif not stream.heard_all:
            self._slow[stream] = self._loop.time()

    def received(self, stream: Stream, data: bytes, ended: bool) -> None:
        if isinstance(stream.user, StreamingCall):
            stream.user.inbox.put(data, ended=ended)
            return
        if stream.user is None and ended and (message := grpc_wire.whole(data)) is not None:
            self._begin(stream, message)
            return
        # It comes in pieces, or compressed.
        if stream.user is None:
            stream.user = self._inbox(stream)
        stream.user.put(data, ended=ended)
        if ended or stream.user.failure is not None:
            try:
                message = stream.user.only()
            except (ApiError, Failed) as error:
                self._turn_away(stream, error)
            else:
                stream.user.close()
                self._begin(stream, message)

    def flushed(self, stream: Stream) -> None:
        if isinstance(stream.user, StreamingCall):
            stream.user.flushed.set()

    def closed(self, stream: Stream, answered: bool) -> None:
        self._host.done(stream.head.method)
        self._slow.pop(stream, None)
        if not answered and not stream.heard_all and not isinstance(stream.user, StreamingCall):
            self._host.observer.turned_away(stream.head.name, _GIVEN_UP)  # it was never begun
        match stream.user:
            case Inbox() as inbox:
                inbox.close()
            case StreamingCall() as call:
                call.close(answered)
            case asyncio.Task() as task:
                self._tasks -= 1
                if not answered:
                    task.cancel()

    # --- unary calls --------------------------------------------------------------------------------------------------

    def _begin(self, stream: Stream, message: bytes) -> None:
        method = stream.head.method
        began_s, permit = self._slow.pop(stream, None), stream.head.permit
        if began_s is not None and permit is not None and (refusal := permit.refusal()) is not None:
            self._turn_away(stream, refusal)  # it was let in when it began, which may be long ago
            return
        context = self._context(stream, began_s)
        self.connection.consumed(stream, stream.unconsumed)
        if not isinstance(method, Prompt):
            if self._tasks == _TASKS_MAX:
                self._refused = True
                self._turn_away(stream, _FULL)
                return
            self._tasks += 1
            stream.user = self._loop.create_task(self._run(stream, method, message, context))
            self._count(stream, stream.user)
            return
        stream.user = None
        admitted = self._admit(stream.head, method, message)
        if isinstance(admitted, Exception):
            self._fail(stream, admitted)
        else:
            admitted(context, partial(self._reply, stream))

    def _admit(self, head: Head, method: Prompt, message: bytes) -> Begin | ApiError | Failed:
        try:
            return method.admit(message)
        except Exception:
            # A bug: its trace is for the log, nothing of it for the caller.
            log.exception("call_failed")
            self._host.observer.turned_away(head.name, INTERNAL)
            return INTERNAL

    async def _run(self, stream: Stream, method: Unary, message: bytes, context: CallContext) -> int:
        """Returns the status."""
        try:
            answer = await method.handle(message, context)
        except (ApiError, Failed) as error:
            self._fail(stream, error)
            return error.code
        except Exception:
            log.exception("call_failed")
            self._fail(stream, INTERNAL)
            return INTERNAL.code
        self._reply(stream, answer)
        return code_pb2.OK

    def _reply(self, stream: Stream, result: bytes | ApiError) -> None:
        if isinstance(result, ApiError):
            self._fail(stream, result)
        else:
            self.connection.answer(stream, grpc_wire.HEAD, grpc_wire.written(result), grpc_wire.OK)
            if not stream.closed:
                self._slow[stream] = self._loop.time()

    def _fail(self, stream: Stream, error: ApiError | Failed) -> None:
        self.connection.finish(stream, failure_block(error, only=True))

    def _turn_away(self, stream: Stream, error: ApiError | Failed) -> None:
        """Nobody else has heard of the call."""
        self._host.observer.turned_away(stream.head.name, error)
        self._fail(stream, error)

    # --- all calls ----------------------------------------------------------------------------------------------------

    def _count(self, stream: Stream, task: asyncio.Task[int]) -> None:
        """When it ends, of itself or with its client, if only before its first step."""
        observer = self._host.observer
        began_s = observer.now()

        def tell(ended: asyncio.Task[int]) -> None:
            code = code_pb2.CANCELLED if ended.cancelled() else ended.result()
            observer.answered(stream.head.name, code, observer.now() - began_s)

        task.add_done_callback(tell)

    def _inbox(self, stream: Stream) -> Inbox:
        return Inbox(stream.head.encoding, self._host.budget, partial(self.connection.consumed, stream))

    def _context(self, stream: Stream, began_s: float | None = None) -> CallContext:
        """
        Args:
            began_s: when its header fields came; None: now.
        """
        timeout_s = stream.head.timeout_s
        deadline = None
        if timeout_s is not None:
            deadline = deadline_of(timeout_s, self._loop.time() if began_s is None else began_s)
        return CallContext(deadline, stream.head.permit, self._address)


def _address_of(transport: asyncio.BaseTransport) -> str:
    """HOST:PORT of the client; empty: it has gone already."""
    name = transport.get_extra_info("peername")
    return f"{name[0]}:{name[1]}" if name else ""


def deadline_of(timeout_s: float, began_s: float) -> float:
    """When the answer has to be ready to a call that began then. Both loop.time()."""
    return began_s + timeout_s - min(_MARGIN_S, timeout_s / 5)
