"""`seonchak key`: what it says of itself. tests/cluster/test_security.py has what it does."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from cluster.audit_log import AuditLog
from ops.command import app
from ops.ports import ReservedPorts


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: the audit line has his number, and the command goes on."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    with ReservedPorts() as ports:
        command = ["key", "revoke", "id", "--etcd", f"127.0.0.1:{ports.take()}", "--timeout", "0.2"]
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    begun, said, ended = result.stderr.splitlines()
    assert said.startswith("error: etcd does not answer")
    entries = [json.loads(begun), json.loads(ended)]
    assert [(entry["who"], entry["what"], entry["answer"]) for entry in entries] == [
        ("uid 3999999999", "RevokeKey", "BEGUN"),
        ("uid 3999999999", "RevokeKey", "FAILED"),
    ]
    assert entries[0]["act"] == entries[1]["act"]


def test_an_audit_log_that_cannot_be_written() -> None:
    """Nothing is asked of etcd, and the command says why."""
    for path in ("/dev/full", "/nowhere/at/all"):
        command = ["key", "revoke", "id", "--etcd", "127.0.0.1:1", "--audit-log", path]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert "audit log cannot be written, and nothing was done" in result.stderr
        assert "etcd" not in result.stderr


def test_an_audit_log_that_is_full_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says what came of it, and its entry stands on stderr."""
    lines: list[bytes] = []

    def write(line: bytes) -> int:
        if lines:
            raise OSError(errno.ENOSPC, "no space")
        lines.append(line)
        return len(line)

    @contextmanager
    def filling(_: Path | None) -> Iterator[AuditLog]:
        yield AuditLog(write)

    monkeypatch.setattr("cluster.audit_log.audit_log", filling)
    with ReservedPorts() as ports, capture_logs() as said:
        etcd = f"127.0.0.1:{ports.take()}"
        command = ["key", "revoke", "id", "--etcd", etcd, "--timeout", "0.2", "--audit-log", "full"]
        result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: etcd does not answer")
    (entry,) = [one for one in said if one["event"] == "audit_unwritable"]
    assert (entry["what"], entry["answer"], entry["act"]) == ("RevokeKey", "FAILED", json.loads(lines[0])["act"])
