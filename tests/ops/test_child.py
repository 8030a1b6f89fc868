"""Children: ready, stopped, dead with their parent. Real processes, small ones."""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ops.child import Child, ChildFailed, ChildSpec

POLITE = (
    "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
    "print('ready x', flush=True); signal.sigwait({signal.SIGTERM}); sys.exit(7)"
)
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"


def child(tmp_path: Path, script: str) -> Child:
    return Child(ChildSpec("x", (sys.executable, "-c", script), tmp_path / "x.log"))


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


def test_a_child_says_ready_and_stops_when_told(tmp_path: Path) -> None:
    """SIGTERM, its own return code, and a second life afterwards; a frozen child hears it too."""

    async def main() -> None:
        process = child(tmp_path, POLITE)
        for frozen in (False, True):
            await process.start()
            assert await process.ready(20) == "ready x"
            if frozen:
                process.freeze()
            assert process.running
            assert await process.stop(20) == 7
            assert not process.running

    run(main())


def test_a_signal_after_the_end_takes_nothing_away(tmp_path: Path) -> None:
    """Between a child's end and the moment at which we hear of it a signal is no error and changes nothing."""

    async def main() -> None:
        process = child(tmp_path, POLITE)
        await process.start()
        await process.ready(20)
        process.send(signal.SIGTERM)
        # The event loop must not run meanwhile: it would hear of the end. A thread of asyncio's takes the return code.
        with suppress(ProcessLookupError):
            while True:
                os.kill(process.pid, 0)
        assert process.running
        process.send(signal.SIGKILL)
        assert await process.wait() == 7
        with pytest.raises(ProcessLookupError):
            process.send(signal.SIGKILL)

    run(main())


def test_a_deaf_child_is_killed(tmp_path: Path) -> None:
    """SIGTERM ignored for longer than it may: SIGKILL."""

    async def main() -> None:
        process = child(tmp_path, DEAF)
        await process.start()
        await process.ready(20)
        assert await process.stop(0.05) == -signal.SIGKILL

    run(main())


def test_a_child_that_dies_early_shows_its_log(tmp_path: Path) -> None:
    """ChildFailed carries the return code and the end of what it wrote on stderr."""

    async def main() -> None:
        process = child(tmp_path, "import sys; sys.exit('the disk is gone')")
        await process.start()
        with pytest.raises(ChildFailed, match=r"ended with 1(.|\n)*the disk is gone"):
            await process.ready(20)

    run(main())


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent ends the child, without anybody's help."""
    parent = f"""
import asyncio, sys
from pathlib import Path
from ops.child import Child, ChildSpec
async def main():
    child = Child(ChildSpec("x", (sys.executable, "-c", {DEAF!r}), Path({str(tmp_path / "x.log")!r})))
    await child.start()
    await child.ready(20)
    print("ready", child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

    async def main() -> None:
        process = child(tmp_path, parent)
        await process.start()
        grandchild = int((await process.ready(20)).split()[1])
        # A pidfd becomes readable when its process has ended: no polling, no other process taken for it.
        descriptor = os.pidfd_open(grandchild)
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, gone.set)
        try:
            await process.kill()
            await gone.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    run(main())
