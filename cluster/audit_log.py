"""The audit log: who did what, when, and what the answer was, for every administrative act. Never a secret.

A JSON line each: in a file that is only appended to, or as the event `audit` among the process's other events.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import structlog

log = structlog.get_logger()


class AuditLog:
    def __init__(self, file: TextIO | None = None) -> None:
        """`file`: None: the process's own log."""
        self._file = file

    def record(self, *, who: str, what: str, answer: str, **details: str | int) -> None:
        """
        Args:
            who: the id of an API key, or the address or user that stands for one.
            what: the method, or the command.
            answer: a status or reason.
        """
        known = {name: value for name, value in details.items() if value != ""}
        if self._file is None:
            log.info("audit", who=who, what=what, answer=answer, **known)
            return
        when = datetime.now(UTC).isoformat()
        # One write a line: those of several processes do not mix.
        line = {"event": "audit", "timestamp": when, "who": who, "what": what, "answer": answer} | known
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def audit_log(path: Path | None) -> Iterator[AuditLog]:
    """
    Args:
        path: a file, which several processes may share; None: the process's own log.

    Raises:
        OSError: it cannot be written.
    """
    if path is None:
        yield AuditLog()
        return
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield AuditLog(file)
