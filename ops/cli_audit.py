"""The audit log of commands: who typed what, on record before it is done, and what came of it."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ops.cli_common import fail

AuditOption = Annotated[
    Path | None, typer.Option(envvar="SEONCHAK_AUDIT_LOG", help="A file that says who did it. Default: stderr.")
]


@contextmanager
def audited(path: Path | None, what: str, *, as_json: bool, **details: str) -> Iterator[dict[str, str]]:
    """Around what is done, which is on record before; more details, and another answer than OK, go into the dict."""
    from cluster.audit_log import AuditLog, audit_log

    with ExitStack() as stack:
        try:
            audit = stack.enter_context(audit_log(path))
            # A command's own log shows warnings only.
            act = (audit if path is not None else AuditLog(_to_stderr)).begin(who=_user(), what=what, **details)
        except OSError as error:
            fail(f"the audit log cannot be written, and nothing was done: {error}", as_json=as_json)
        entry = {"answer": "UNKNOWN"}
        try:
            yield entry
            entry["answer"] = "OK"
        except typer.Exit:
            if entry["answer"] == "UNKNOWN":
                entry["answer"] = "FAILED"
            raise
        finally:
            act.end(**entry)


def _to_stderr(line: bytes) -> int:
    sys.stderr.write(line.decode())
    sys.stderr.flush()
    return len(line)


def _user() -> str:
    """A container's user has no name as a rule."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
