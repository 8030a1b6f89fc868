"""A program that is run to its end and then read."""

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence


class CommandFailed(Exception):
    """It ended with another code than 0, or not in time. The message ends with what it said last."""


async def output_of(command: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None) -> str:
    """What it writes to stdout. It never outlives the call.

    Args:
        env: None: this process's.

    Raises:
        CommandFailed
    """
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=env)
    try:
        async with asyncio.timeout(timeout_s):
            output, error = await process.communicate()
    except TimeoutError:
        raise CommandFailed(f"{' '.join(command)} took more than {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}: {error.decode()[-500:]}")
    return output.decode()
