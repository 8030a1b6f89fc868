"""What the operator's commands leave in the audit log. tests/cluster/test_security.py has what keys do."""

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


COMMANDS = {
    "key revoke id": "RevokeKey",
    "key create --role read": "CreateKey",
    "init": "Init",
    "drain node-0": "Drain",
    "backup new": "Backup",
    "restore old": "Restore",
}
"""What changes a cluster, or takes a copy of it away, and its name in the audit log."""


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_typed_is_on_record(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is done, and what came of it; also of what fails."""
    monkeypatch.setenv("SEONCHAK_AUDIT_LOG", str(tmp_path / "audit"))
    monkeypatch.setattr("ops.etcd_client.GrpcEtcd", unreachable)
    words = [str(tmp_path / word) if word in ("new", "old") else word for word in command.split()]
    result = CliRunner().invoke(app, [*words, "--etcd", "127.0.0.1:1"])
    entries = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [entry["what"] for entry in entries] == [COMMANDS[command]] * 2
    # No backup is there, and it is said so; what stands in for etcd breaks otherwise.
    answers = ["BEGUN", "FAILED" if words[0] == "restore" else "UNKNOWN"]
    assert [entry["answer"] for entry in entries] == answers
    assert entries[0]["act"] == entries[1]["act"]
    assert entries[0]["who"]
    assert result.exit_code == 1


def unreachable(*_: object) -> None:
    raise AssertionError("etcd is not asked in this test")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_audit_log_that_cannot_be_written(command: str) -> None:
    """Nothing is asked of etcd, and the command says why."""
    for path in ("/dev/full", "/nowhere/at/all"):
        words = [*command.split(), "--etcd", "127.0.0.1:1", "--audit-log", path]
        result = CliRunner().invoke(app, words)
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
