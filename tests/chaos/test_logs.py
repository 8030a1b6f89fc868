"""Traces are what the processes' logs tell."""

import json
from pathlib import Path

from chaos.history import Trace
from chaos.logs import Logs


def test_traces(tmp_path: Path) -> None:
    """Each event counts as its trace; what only mentions one does not, nor does a line that is no event."""
    events = [
        {"event": "shard_closed", "end": "fenced"},
        {"event": "shard_closed", "end": "drained"},
        {"event": "clock_stepped", "step_us": 1},
        {"event": "disk_failed", "what": "sync"},
        {"event": "disk_failed", "what": "full"},
        {"event": "lease_lost"},
        {"event": "shard_opened", "why": "clock_stepped"},
    ]
    (tmp_path / "node-0.log").write_text('Traceback "disk_failed"\n' + "\n".join(map(json.dumps, events)) + "\n{")
    (tmp_path / "router-0.log").write_text(json.dumps({"event": "etcd_revision_went_back"}) + "\n")
    (tmp_path / "etcd-0.log").write_text(json.dumps({"msg": "lease_lost"}) + "\n")
    logs = Logs(tmp_path)
    counts = {Trace.FENCED: 1, Trace.CLOCK_STEPPED: 1, Trace.DISK_FAILED: 2, Trace.WENT_BACK: 1}
    assert logs.counted() == counts
    assert logs.leases_lost() == 1
    assert [line["process"] for line in logs.lines("etcd_revision_went_back")] == ["router-0"]
