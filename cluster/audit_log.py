"""The audit log: who did what, when, and what the answer was, for every administrative act. Never a secret.

A JSON line each: in a file that is only appended to, or as the event `audit` among the process's other events. An act
has two: BEGUN before it has any effect, and its answer afterwards, both with the same `act`. If the first cannot be
written, there is no act. If the second cannot, the answer is given all the same, since what was done is done: then
the line goes to the process's own log, as an error. What was refused at the door has one line.

A line is one write without a buffer: when the process dies, the kernel has it. Nothing is synced: when the machine
dies, the lines of its last seconds may be gone.
"""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

log = structlog.get_logger()

BEGUN = "BEGUN"
"""The answer of what has none yet."""
_ACT_BYTES = 8

Write = Callable[[bytes], int]
"""Of a file without a buffer: how many of the bytes it took. Raises OSError."""


class AuditLog:
    def __init__(self, write: Write | None = None) -> None:
        """`write`: None: the process's own log."""
        self.failures = 0
        """Lines that could not be written."""
        self._write = write
        self._mend = b""
        """What has to come before the next line: the one before was cut off."""

    def begin(self, *, who: str, what: str, **details: str) -> "Act":
        """To be called before anything is done, and `end` of what it returns afterwards.

        Args:
            who: the id of an API key, or the address or user that stands for one.
            what: the method, or the command.

        Raises:
            OSError: it cannot be written: nothing may be done.
        """
        entry = {"who": who, "what": what, "act": secrets.token_hex(_ACT_BYTES)} | details
        try:
            self._record(entry | {"answer": BEGUN})
        except OSError as error:
            self._failed(entry | {"answer": BEGUN}, error)
            raise
        return Act(self, entry)

    def refused(self, *, who: str, what: str, answer: str, **details: str) -> None:
        """It has no effect, so that it needs no more than to be written down if possible.

        Args:
            answer: a reason.
        """
        self.record_or_say({"who": who, "what": what, "answer": answer} | details)

    def record_or_say(self, entry: dict[str, str]) -> None:
        """One line; where it cannot be written, the process's own log has it."""
        try:
            self._record(entry)
        except OSError as error:
            self._failed(entry, error)

    def _record(self, entry: dict[str, str]) -> None:
        known = {name: value for name, value in entry.items() if value != ""}
        if self._write is None:
            log.info("audit", **known)
            return
        when = datetime.now(UTC).isoformat()
        # One write a line: those of several processes do not mix.
        line = json.dumps({"event": "audit", "timestamp": when} | known, ensure_ascii=False)
        data = self._mend + line.encode() + b"\n"
        written = 0
        try:
            while written < len(data):
                written += self._write(data[written:])
        except OSError:
            if written:
                self._mend = b"\n"
            raise
        self._mend = b""

    def _failed(self, entry: dict[str, str], error: OSError) -> None:
        self.failures += 1
        # If that cannot be written either, there is no place left to say it: it is counted.
        with suppress(OSError):
            log.error("audit_unwritable", error=str(error), **entry)


class Act:
    """Something that is on record as begun."""

    def __init__(self, audit: AuditLog, entry: dict[str, str]) -> None:
        self._audit = audit
        self._entry = entry

    def end(self, answer: str, **details: str) -> None:
        """
        Args:
            answer: a status or reason.
            details: what was not known when it began.
        """
        self._audit.record_or_say(self._entry | details | {"answer": answer})


@contextmanager
def audit_log(path: Path | None) -> Iterator[AuditLog]:
    """
    Args:
        path: a file, which several processes may share; None: the process's own log.

    Raises:
        OSError: it cannot be opened.
    """
    if path is None:
        yield AuditLog()
        return
    with path.open("ab", buffering=0) as file:
        yield AuditLog(file.write)
