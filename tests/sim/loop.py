"""The event loop of the simulation: time jumps to the next timer, and every callback belongs to a process.

A process that is paused or dead gets no turn: its callbacks wait, in order, while the rest of the world goes on. So
`kill -9` runs no `finally`, and SIGSTOP stops between any two steps. Does no I/O, and does everything in the same
order every time.
"""

import asyncio
import contextvars
import heapq
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, Never, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_MAX = 1_000_000
"""A run with more steps goes round in circles."""

TURN_S = 1e-6
"""What each turn takes. On a clock that stood still, a wait for a moment that rounding puts behind its timer would
never end."""


class Stuck(Exception):
    """Nothing will ever happen again, or everything for ever."""


class Cpu:
    """What lets the callbacks of one process run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        self.held: deque[Callback] = deque()
        """What came while it was not running, oldest first."""

    def context(self) -> contextvars.Context:
        """Whatever is begun in it, and whatever that begins, belongs to this process."""
        context = contextvars.Context()
        context.run(_CPU.set, self)
        return context


_CPU: contextvars.ContextVar[Cpu] = contextvars.ContextVar("cpu")


def current_cpu() -> Cpu | None:
    """Whose turn it is; None: the world's."""
    return _CPU.get(None)


class Callback(asyncio.TimerHandle):
    """Of `call_soon` and of `call_at`."""

    __slots__ = ("cpu", "due_s", "gone", "what")

    def __init__(
        self, what: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None, due_s: float
    ) -> None:
        context = context if context is not None else contextvars.copy_context()
        self.what: tuple[Any, ...] = (context.run, what, *args)
        self.cpu = context.get(_CPU)
        self.due_s = due_s
        self.gone = False

    def cancel(self) -> None:
        self.gone = True
        self.what = ()

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self.due_s

    def __repr__(self) -> str:
        return f"<Callback {self.what[1:]}>"


class SimTask(asyncio.Task[Any]):
    """Its hash is its number: sets of tasks have the same order in every run."""

    def __init__(
        self,
        coro: Coroutine[Any, Any, Any],
        loop: "SimLoop",
        number: int,
        name: object,
        context: contextvars.Context | None,
    ) -> None:
        self.number = number
        super().__init__(coro, loop=loop, name=str(name or f"task-{number}"), context=context)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[Any]):
    """As SimTask."""

    def __init__(self, loop: "SimLoop", number: int) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.AbstractEventLoop):
    def __init__(self) -> None:
        self.unheard: list[dict[str, Any]] = []
        """Errors that nobody waited for: bugs."""
        self._now_s = 0.0
        self._ready: deque[Callback] = deque()
        self._timers: list[tuple[float, int, Callback]] = []
        self._numbers = 0
        self._steps = 0
        self._closed = False

    # --- what asyncio asks of a loop ----------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Callback:
        handle = Callback(callback, args, context, self._now_s)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Callback:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Callback:
        handle = Callback(callback, args, context, when)
        heapq.heappush(self._timers, (when, self._number(), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(self, self._number())

    def create_task(
        self, coro: Any, *, name: object = None, context: contextvars.Context | None = None, **kwargs: Any
    ) -> asyncio.Task[Any]:
        return SimTask(coro, self, self._number(), name, context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unheard.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Until `main` has ended. Callable again.

        Raises:
            Stuck: it never will.
        """
        asyncio._set_running_loop(self)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_generator)
        try:
            task = self.create_task(main, name="main", context=contextvars.Context())
            while not task.done():
                self._turn()
            result: T = task.result()
            return result
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio._set_running_loop(None)

    def close(self) -> None:
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def resume(self, cpu: Cpu) -> None:
        """It goes on where it stood."""
        cpu.running = True
        self._ready.extend(cpu.held)
        cpu.held.clear()

    def unfinished(self) -> list[asyncio.Task[Any]]:
        """In order of their creation."""
        return sorted(asyncio.all_tasks(self), key=hash)

    def _turn(self) -> None:
        """All that is ready; if nothing is, all that is due next."""
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2].gone:
                heapq.heappop(timers)
            if not timers:
                raise Stuck("nothing is ready and no timer is set")
            self._now_s = max(self._now_s, timers[0][0])
        self._now_s += TURN_S
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready)):
            self._step(ready.popleft())

    def _step(self, handle: Callback) -> None:
        if handle.gone:
            return
        if handle.cpu is not None and not handle.cpu.running:
            handle.cpu.held.append(handle)
            return
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise Stuck(f"more than {STEPS_MAX:,} steps at {self._now_s:.3f} s")
        run, what, *args = handle.what
        try:
            run(what, *args)
        except Exception as error:  # noqa: BLE001 (as every loop: the error of a callback is nobody else's)
            self.call_exception_handler({"message": f"in {what}", "exception": error})

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        self.create_task(generator.aclose())


async def never() -> Never:
    """Returns as little as a process that has died."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a future that nobody sets")
