"""Which processors a process may use. Linux only."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def apart(servers: Iterable[int]) -> Iterator[None]:
    """The servers (pids) on one half of the processors, this process, with what it starts, on the other: as if the load
    came from other machines."""
    before = sorted(os.sched_getaffinity(0))
    assert len(before) >= 2, "nothing to divide"
    half = len(before) // 2
    servers = tuple(servers)
    try:
        for pid in servers:
            _confine(pid, before[:half])
        _confine(os.getpid(), before[half:])
        yield
    finally:
        for pid in (*servers, os.getpid()):
            _confine(pid, before)


def _confine(pid: int, processors: Iterable[int]) -> None:
    """All threads of a process; those to come inherit it."""
    processors = tuple(processors)
    with suppress(FileNotFoundError):  # the process has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):  # the thread has
                os.sched_setaffinity(int(task.name), processors)
