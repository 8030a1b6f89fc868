"""Debian's Prometheus and promtool, for tests: where they are, and a server of a test's own."""

import asyncio
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ops.ports import ReservedPorts

CONFIG = Path(__file__).parents[2] / "ops" / "prometheus"
START_S_MAX = 60.0


def binary(name: str) -> str:
    """`prometheus` or `promtool`. Skips the test where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return path


@dataclass(frozen=True)
class Prometheus:
    address: str

    async def query(self, expr: str) -> list[Any]:
        """The samples of an instant query: {"metric": labels, "value": [time, text]} each."""
        answer = await self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expr}))
        result: list[Any] = answer["data"]["result"]
        return result

    async def rules(self) -> list[dict[str, Any]]:
        answer = await self._get("/api/v1/rules")
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    async def _get(self, path: str) -> Any:
        def get() -> Any:
            try:
                with urllib.request.urlopen(f"http://{self.address}{path}", timeout=20) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                raise AssertionError(f"{path}: {error.read().decode()}") from error

        return await asyncio.to_thread(get)

    async def serves(self) -> bool:
        def get() -> bool:
            try:
                with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=20):
                    return True
            except OSError:
                return False  # nobody listens, or it says 503: not yet

        return await asyncio.to_thread(get)


def _configure(config: str, targets: Path, directory: Path) -> None:
    directory.mkdir()
    (directory / "targets").symlink_to(targets)
    for path in CONFIG.glob("*.yml"):
        text = path.read_text()
        if path.name == config:
            text, count = re.subn(r"(scrape_interval|scrape_timeout|evaluation_interval): \ds", r"\1: 1s", text)
            assert count == 3
        (directory / path.name).write_text(text)


@asynccontextmanager
async def running_prometheus(targets: Path, directory: Path, *, tls: bool) -> AsyncIterator[Prometheus]:
    """With the product's own configuration, but that it scrapes every second.

    Args:
        tls: the one for a cluster with TLS.
        targets: a folder as `seonchak up` writes it.
        directory: a new one, for its files.
    """
    config = "prometheus-tls.yml" if tls else "prometheus.yml"
    _configure(config, targets, directory)
    with ReservedPorts() as ports, (directory / "log").open("wb") as log:
        server = Prometheus(f"127.0.0.1:{ports.take()}")
        process = await asyncio.create_subprocess_exec(
            binary("prometheus"),
            f"--config.file={directory / config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={server.address}",
            stdout=log,
            stderr=log,
        )
        try:
            async with asyncio.timeout(START_S_MAX):
                while not await server.serves():
                    assert process.returncode is None, (directory / "log").read_text()
                    await asyncio.sleep(0.1)
            yield server
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
