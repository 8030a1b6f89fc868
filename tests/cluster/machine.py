"""Containers of a deployment as processes of this machine: what each has of its own is put in its place.

Its addresses become free ports of loopback, its volumes directories of the test. What its command says otherwise is
left as it stands.
"""

import asyncio
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

from ops.child import Child, ChildSpec
from ops.ports import ReservedPorts


class Machine:
    """Where each container's addresses and directories are here."""

    def __init__(self, directory: Path, ports: ReservedPorts, names: str) -> None:
        """
        Args:
            names: a pattern for HOST in HOST:PORT, whose first group is the container's name.
        """
        self.directory = directory
        self._ports = ports
        self._names = re.compile(rf"{names}:(\d+)")
        self._at: dict[tuple[str, str], str] = {}

    def at(self, container: str, port: str) -> str:
        """HOST:PORT here of what is PORT of the container there."""
        return self._at.setdefault((container, port), f"127.0.0.1:{self._ports.take()}")

    def here(self, container: str, word: str, volumes: Mapping[str, Path] | None = None) -> str:
        """A word of its command, or a variable's value."""
        word = re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", lambda found: self.at(container, found[1]), word)
        word = self._names.sub(lambda found: self.at(found[1], found[2]), word)
        for path, directory in (volumes or {}).items():
            word = word.replace(path, str(directory))
        return word

    def child(
        self,
        container: str,
        argv: Iterable[str],
        env: Mapping[str, str],
        volumes: Mapping[str, Path] | None = None,
        *,
        says_ready: bool,
    ) -> Child:
        return Child(
            ChildSpec(
                container,
                tuple(self.here(container, word, volumes) for word in argv),
                self.directory / f"{container}.log",
                {name: self.here(container, value, volumes) for name, value in env.items()},
                says_ready=says_ready,
            )
        )


def seonchak(arguments: Iterable[str]) -> list[str]:
    """The image's entry point, with these arguments."""
    return [sys.executable, "-m", "ops", *arguments]


async def ends_well(argv: list[str], env: Mapping[str, str] | None = None) -> str:
    """Runs it; returns what it said on stdout."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, erred = await process.communicate()
    assert process.returncode == 0, (said + erred).decode()
    return said.decode()


async def get(address: str, path: str, tls: ssl.SSLContext | None = None) -> str:
    """Of what is served there, as soon as it is ready; the test's timeout bounds the waiting."""
    scheme = "http" if tls is None else "https"

    def once() -> str:
        try:
            with urllib.request.urlopen(f"{scheme}://{address}{path}", timeout=20, context=tls) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        except OSError:  # it does not listen yet
            pass
        return ""

    while not (body := await asyncio.to_thread(once)):
        await asyncio.sleep(0.1)
    return body
