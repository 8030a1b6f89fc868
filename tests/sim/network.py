"""What connects processes: gRPC-like calls of two streams of messages and a status, over something like TCP.

A message takes its time, never overtakes one of its own stream, and is never lost alone: it is late, or the connection
breaks and everything under way is gone. Two hosts that are apart hear nothing of each other, nor that it is so. Knows
nothing of nodes and routers.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from contextvars import Context
from typing import Any, NoReturn, Protocol

import grpc

from tests.sim.loop import Cpu

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Failed(Exception):
    """A call ended with a status that is not OK.

    Args:
        detail: what the server said beside it: an ApiError of a router.
    """

    def __init__(self, code: grpc.StatusCode, details: str, detail: object = None) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.detail = detail


class _End(Exception):
    """The other side has said all."""


class ServerContext:
    """The part of grpc.aio.ServicerContext that servers here use."""

    def __init__(self, caller: str) -> None:
        self._caller = caller

    def peer(self) -> str:
        return self._caller

    async def abort(self, code: grpc.StatusCode, details: str = "", detail: object = None) -> NoReturn:
        raise Failed(code, details, detail)


class Server(Protocol):
    """A process that listens."""

    cpu: Cpu

    def handle(self, method: str, requests: AsyncIterator[Any], context: ServerContext) -> AsyncGenerator[Any, None]:
        """One call. Raises Failed by `context.abort`."""
        ...

    async def leaving(self, method: str, message: Any) -> None:
        """A message is about to leave."""
        ...

    async def left(self, method: str, message: Any) -> None: ...


class Pipe:
    """One way of a call."""

    def __init__(self, network: "Network", sender: str, receiver: str, arrive: Callable[[Any], None]) -> None:
        self._network = network
        self._way = (sender, receiver)
        self._arrive = arrive
        self._under_way: deque[Any] = deque()
        self._due_s = 0.0
        self._cut = False

    def send(self, message: Any) -> None:
        if self._cut:
            return
        self._under_way.append(message)
        loop = asyncio.get_running_loop()
        self._due_s = max(self._due_s, loop.time() + self._network.delay_s(self._way))
        loop.call_at(self._due_s, self._next, context=Context())

    def lose(self) -> None:
        """Of what is under way nothing arrives, nor of what follows."""
        self._cut = True
        self._under_way.clear()

    def _next(self) -> None:
        if self._network.hold(self._way, self._next):
            return
        if self._under_way:
            self._arrive(self._under_way.popleft())


class _Inbox:
    """What has arrived and was not read."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque()
        self._end: Exception | None = None
        self._waiting: asyncio.Future[None] | None = None

    def put(self, message: Any) -> None:
        if self._end is None:
            if isinstance(message, Exception):
                self._end = message
            else:
                self._messages.append(message)
            self._wake()

    def break_off(self, error: Exception) -> None:
        self._messages.clear()
        self._end = self._end or error
        self._wake()

    async def get(self) -> Any:
        """Raises what ended it."""
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._messages.popleft()

    @property
    def ended(self) -> Exception | None:
        return self._end

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Call:
    """The caller's end of a call."""

    def __init__(self, network: "Network", caller: str, address: str, method: str) -> None:
        self.caller = caller
        self.address = address
        self.method = method
        self._network = network
        self._answers = _Inbox()
        self._requests = _Inbox()
        self._handling: asyncio.Task[None] | None = None
        self._opened = False
        self._over = False
        self.up = Pipe(network, caller, address, self._at_server)
        self.down = Pipe(network, address, caller, self._answers.put)

    # --- the caller ---------------------------------------------------------------------------------------------------

    def write(self, message: Any) -> None:
        """Raises Failed."""
        if self._answers.ended is not None:
            raise self._failure(self._answers.ended)
        self.up.send(message)

    def half_close(self) -> None:
        self.up.send(_End())

    async def read(self) -> Any:
        """The next message; None: that was all. Raises Failed."""
        try:
            return await self._answers.get()
        except _End:
            return None
        except Failed as failed:
            raise self._failure(failed) from None

    def cancel(self) -> None:
        """Nobody wants an answer any more; the server hears of it."""
        if not self._over:
            self._over = True
            self._network.ended(self)
            self.up.send(Failed(grpc.StatusCode.CANCELLED, "cancelled by its caller"))

    # --- the network --------------------------------------------------------------------------------------------------

    def break_off(self, why: str) -> None:
        """Both ends hear it, each in its time; what is under way is gone."""
        self._over = True
        self._network.ended(self)
        for pipe in (self.up, self.down):
            pipe.lose()
        for pipe in (
            Pipe(self._network, self.address, self.caller, self._answers.break_off),
            Pipe(self._network, self.caller, self.address, self._at_server),
        ):
            pipe.send(Failed(UNAVAILABLE, why))

    # --- the server ---------------------------------------------------------------------------------------------------

    def _at_server(self, message: Any) -> None:
        server = self._network.listening(self.address)
        if not self._opened:
            self._opened = True
            if isinstance(message, Failed):
                return
            if server is None:
                self._network.ended(self)
                self.down.send(Failed(UNAVAILABLE, "connection refused"))
                return
            self._handling = asyncio.get_running_loop().create_task(
                self._handle(server), name=f"{self.method} of {self.caller}", context=server.cpu.context()
            )
        self._requests.put(message)
        if isinstance(message, Failed) and self._handling is not None:
            self._handling.cancel()

    async def _handle(self, server: Server) -> None:
        end: Exception = _End()
        try:
            async with aclosing(server.handle(self.method, self._stream(), ServerContext(self.caller))) as messages:
                async for message in messages:
                    await server.leaving(self.method, message)
                    self.down.send(message)
                    await server.left(self.method, message)
        except Failed as failed:
            end = failed
        except Exception as bug:  # noqa: BLE001 (the run tells of it; the caller hears what gRPC would say)
            self._network.bugs.append(bug)
            end = Failed(grpc.StatusCode.UNKNOWN, "the server has failed")
        await server.leaving(self.method, end)
        self.down.send(end)
        self._over = True
        self._network.ended(self)

    async def _stream(self) -> AsyncIterator[Any]:
        try:
            while True:
                yield await self._requests.get()
        except (_End, Failed):
            return

    @staticmethod
    def _failure(end: Exception) -> Failed:
        if isinstance(end, Failed):
            return Failed(end.code, end.details, end.detail)
        return Failed(UNAVAILABLE, "the server has ended the call")


class Network:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._servers: dict[str, Server] = {}
        self._calls: dict[Call, None] = {}
        self._refusing: set[str] = set()
        self._apart: dict[tuple[str, str], list[Callable[[], None]]] = {}
        self._slow: dict[tuple[str, str], float] = {}
        self._seed = rng.random()
        self._delays: dict[tuple[str, str], random.Random] = {}
        self.bugs: list[Exception] = []
        """What a server raised and should not have."""
        self.messages = 0

    # --- processes ----------------------------------------------------------------------------------------------------

    def listen(self, address: str, server: Server) -> None:
        self._servers[address] = server

    def listening(self, address: str) -> Server | None:
        return self._servers.get(address)

    def died(self, address: str) -> None:
        """Its kernel closes what the process had open."""
        self._servers.pop(address, None)
        self.break_calls(lambda call: address in (call.caller, call.address), "connection reset")

    def call(self, caller: str, address: str, method: str) -> Call:
        call = Call(self, caller, address, method)
        self._calls[call] = None
        return call

    async def refuses(self, caller: str, address: str) -> bool:
        """Nobody listens there, and that machine says so itself."""
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        def back(refused: bool) -> None:
            if not answer.done():
                answer.set_result(refused)

        there = Pipe(
            self, caller, address, lambda _: here.send(not self._servers.get(address) or address in self._refusing)
        )
        here = Pipe(self, address, caller, back)
        there.send("SYN")
        try:
            async with asyncio.timeout(1.0):
                return bool(await answer)
        except TimeoutError:
            return False

    def ended(self, call: Call) -> None:
        self._calls.pop(call, None)

    # --- what happens to it -------------------------------------------------------------------------------------------

    def part(self, one: str, other: str) -> None:
        """What `one` sends does not come to `other`, until `join`."""
        self._apart.setdefault((one, other), [])

    def join(self) -> None:
        """Everything that was held arrives."""
        apart, self._apart = self._apart, {}
        for held in apart.values():
            for go_on in held:
                go_on()

    def refuse(self, address: str, refuses: bool = True) -> None:
        """Who knocks there is told that nobody listens, though somebody does."""
        if refuses:
            self._refusing.add(address)
        else:
            self._refusing.discard(address)

    def slow_down(self, one: str, other: str, mean_s: float) -> None:
        self._slow[one, other] = mean_s

    def speed_up(self) -> None:
        self._slow.clear()

    def break_calls(self, which: Callable[[Call], bool], why: str) -> None:
        for call in list(self._calls):
            if which(call):
                call.break_off(why)

    def hold(self, way: tuple[str, str], go_on: Callable[[], None]) -> bool:
        """Whether it has to wait."""
        held = self._apart.get(way)
        if held is None:
            return False
        held.append(go_on)
        return True

    def delay_s(self, way: tuple[str, str]) -> float:
        self.messages += 1
        rng = self._delays.get(way)
        if rng is None:
            rng = self._delays[way] = random.Random(f"{self._seed}/{way}")
        mean_s = self._slow.get(way)
        return rng.uniform(0.0002, 0.002) if mean_s is None else rng.expovariate(1 / mean_s)
