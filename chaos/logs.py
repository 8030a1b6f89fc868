"""What nodes and routers have written to their logs. Reads again whenever it is asked."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chaos.history import Trace

_TRACES = {
    "etcd_endpoint_silent": Trace.MEMBER_LEFT,
    "clock_stepped": Trace.CLOCK_STEPPED,
    "disk_failed": Trace.DISK_FAILED,
    "etcd_revision_went_back": Trace.WENT_BACK,
}
"""Events, by what they are traces of."""


class Logs:
    def __init__(self, directory: Path) -> None:
        """`directory`: of files NAME.log, a JSON object a line."""
        self._directory = directory

    def counted(self) -> Mapping[Trace, int]:
        """How often there is each trace so far."""
        counts: Counter[Trace] = Counter()
        for line in self.lines("shard_closed", *_TRACES):
            if line["event"] in _TRACES:
                counts[_TRACES[line["event"]]] += 1
            elif line["end"] == "fenced":
                counts[Trace.FENCED] += 1
        return counts

    def leases_lost(self) -> int:
        """By nodes, so far."""
        return sum(1 for _ in self.lines("lease_lost"))

    def lines(self, *events: str) -> Iterator[dict[str, Any]]:
        """Those of these events, each with its `process`: in order, process by process."""
        for path in sorted(self._directory.glob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                if line.startswith("{") and any(f'"{event}"' in line for event in events):
                    fields = json.loads(line)
                    if fields.get("event") in events:
                        yield fields | {"process": path.stem}
