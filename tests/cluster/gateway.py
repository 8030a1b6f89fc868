"""The gateway of docker-compose.yml on this machine: haproxy, with the product's configuration."""

import asyncio
import csv
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.child import ChildSpec
from tests.ops.deployment import ROOT

HAPROXY = shutil.which("haproxy")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt-get install haproxy")


@dataclass(frozen=True)
class Router:
    address: str
    metrics: str


def gateway_spec(directory: Path, bind: str, routers: Mapping[str, Router]) -> ChildSpec:
    """What is a container's own is put in its place: the routers' addresses instead of what Docker's DNS would say, and
    each one's metrics port; where it listens, and its socket."""
    text = (ROOT / "ops/haproxy/haproxy.cfg").read_text()
    # Each has its own metrics port here: where the file says which is asked, it stands beside the address.
    asks_there = " check port " in text
    servers = [
        f"server {name} {router.address}" + (f" port {router.metrics.rpartition(':')[2]}" if asks_there else "")
        for name, router in routers.items()
    ]
    text, templates = re.subn(r"server-template .*", "\n    ".join(servers), text)
    text, binds = re.subn(r"bind :(\d+)", f"bind {bind}", text)
    assert (templates, binds) == (1, 1)
    path = directory / "haproxy.cfg"
    path.write_text(text.replace("/tmp/haproxy.sock", str(directory / "haproxy.sock")))
    return ChildSpec("gateway", (str(HAPROXY), "-f", str(path)), directory / "gateway.log", says_ready=False)


async def server_states(directory: Path) -> dict[str, dict[str, str]]:
    """What haproxy says of each router, by the names of its own columns."""
    reader, writer = await asyncio.open_unix_connection(directory / "haproxy.sock")
    writer.write(b"show stat\n")
    said = (await reader.read()).decode().removeprefix("# ")
    writer.close()
    rows = csv.DictReader(said.splitlines())
    return {row["svname"]: row for row in rows if row["pxname"] == "routers" and row["svname"] != "BACKEND"}
