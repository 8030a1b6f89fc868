"""One child process of this one: started, watched, signalled by its own pid. Knows nothing of what runs in it.

A child has a session of its own (Ctrl-C in the terminal reaches the parent alone, which stops its children in order),
a log file that takes its stderr, and dies when its parent does. The thread that starts it counts as its parent: start
children from the main thread.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger()

_TETHER = Path(__file__).with_name("tether.py")


class ChildFailed(Exception):
    """A child ended, or said nothing in time, before it was ready. The message ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    name: str
    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment."""
    orphan_signal: signal.Signals = signal.SIGKILL
    """What it gets when its parent dies."""
    says_ready: bool = True
    """It prints one line that begins with "ready" on stdout when it serves, and nothing else."""


class Child:
    """A process that may be started again after it ended: one life at a time."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self._process: Process | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; returns at once. Its log is appended to."""
        assert not self.running, f"{self.name} is running"
        spec = self.spec
        tether = (sys.executable, "-I", "-S", str(_TETHER), str(int(spec.orphan_signal)), str(os.getpid()))
        with spec.log_path.open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *tether,
                *spec.argv,
                stdin=DEVNULL,
                stdout=PIPE if spec.says_ready else stderr,
                stderr=stderr,
                env=os.environ | dict(spec.env),
                start_new_session=True,
            )

    async def ready(self, timeout_s: float) -> str:
        """The line it prints when it serves, without its newline.

        Raises:
            ChildFailed: it ended, or did not print it in time.
        """
        assert self._process is not None, f"{self.name} was never started"
        assert self._process.stdout is not None, f"{self.name} does not say ready"
        try:
            async with asyncio.timeout(timeout_s):
                line = (await self._process.stdout.readline()).decode().rstrip("\n")
        except TimeoutError:
            raise ChildFailed(f"{self.name} was not ready after {timeout_s:g} s\n{self.log_tail()}") from None
        if not line.startswith("ready"):
            # An empty line is the end of its stdout: it is about to be gone.
            returncode = await self._process.wait() if not line else None
            raise ChildFailed(f"{self.name} ended with {returncode}, said {line!r}\n{self.log_tail()}")
        return line

    async def wait(self) -> int:
        """Its return code, once it has ended: negative for a signal."""
        assert self._process is not None, f"{self.name} was never started"
        return await self._process.wait()

    def send(self, signal_number: signal.Signals) -> None:
        """Raises ProcessLookupError if it has ended."""
        assert self._process is not None, f"{self.name} was never started"
        if self._process.returncode is not None:
            raise ProcessLookupError(f"{self.name} has ended")
        # Not Process.send_signal: that looks first whether the process has ended, and takes its return code away from
        # asyncio, which then says 255. If it has, and asyncio is about to tell us, there is nothing to be done.
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal_number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9, and wait for the end."""
        if self.running:
            self.send(signal.SIGKILL)
            await self.wait()

    async def stop(self, timeout_s: float) -> int:
        """SIGTERM, and wait for the end; SIGKILL when that takes longer than `timeout_s`. Returns its return code."""
        if self.running:
            self.send(signal.SIGTERM)
            self.send(signal.SIGCONT)  # a frozen process would not hear the first
        try:
            async with asyncio.timeout(timeout_s):
                return await self.wait()
        except TimeoutError:
            log.warning("child_killed", child=self.name, pid=self.pid, after_s=timeout_s)
            self.send(signal.SIGKILL)
            return await self.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, for an error message."""
        try:
            text = self.spec.log_path.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(f"  {self.name}| {line}" for line in text.splitlines()[-lines:])
