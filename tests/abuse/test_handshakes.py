"""Crowds that have shaken hands and then do nothing: what each costs, and that others are served.

A handshake takes some milliseconds of both sides' processors, so that 1,000 come, unless SEONCHAK_HANDSHAKES says how
many. The test's report has the figures.
"""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.operator_port import Limits
from tests.abuse.arena import Arena, Record, Variant, arena
from tests.abuse.raw import Crowd, Target, dial
from tests.router.http2.talk import HELLO
from tests.support.memory import memory_mib

pytestmark = pytest.mark.cluster

COUNT = int(os.environ.get("SEONCHAK_HANDSHAKES", "1000"))
AT_ONCE = 1_000
"""So many within what one attack may take."""
FIXED_MIB, EACH_KIB = 40, 100
"""By so much a process may grow."""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("variant", [Variant("http2", True), Variant("grpcio", True)], ids=str)
def test_crowds_that_have_shaken_hands(tmp_path: Path, record_property: Record, variant: Variant) -> None:
    """At a router, at a node with a router's certificate, and at an operator's port, which keeps so many alone."""
    with arena(tmp_path / "data", variant, record_property) as here:
        assert crowd(here, "router-0", here.public, HELLO) == COUNT
        if variant.server == "http2":
            assert crowd(here, "node-0", here.node, HELLO) == COUNT
            kept = min(COUNT, Limits().connections_max)
            port = replace(here.operators[0], address=here.cluster.layout.nodes[1].metrics_address)
            stay = crowd(here, "node-1", port, HEALTH, what="operator's port")
            assert kept - 1 <= stay <= kept, "who comes last may make one go"


def crowd(here: Arena, name: str, target: Target, hello: bytes, *, what: str = "port") -> int:
    """How many stay. Each has been answered once."""
    idle = Crowd()
    (pid,) = (child.pid for child in here.processes if child.name == name)
    before = memory_mib(pid, "VmRSS")
    title = f"{name}'s {what}: {COUNT:,} finished handshakes"
    with here.attack(title, more_mib=FIXED_MIB + COUNT * EACH_KIB // 1_024):
        began_s = time.monotonic()
        for left in range(COUNT, 0, -AT_ONCE):
            here.run(idle.speak(target, min(left, AT_ONCE), hello))
        took_s = time.monotonic() - began_s
        here.run(serves(target, hello))
        here.run(here.served(10))
        stay = idle.staying()
        each = 1_024 * (memory_mib(pid, "VmHWM") - before) / COUNT
        here.note(f"{title}, in all", f"{took_s:.0f} s, {each:.0f} KiB more memory for each that came; {stay:,} stay")
        idle.leave()
    return stay


async def serves(target: Target, hello: bytes) -> None:
    """Who comes after them."""
    late = await dial(target, hello)
    assert await late.reader.read(1), "is not served"
    late.cut()
