"""`seonchak key`: what it says of itself. tests/cluster/test_security.py has what it does."""

import json
import os

import pytest
from typer.testing import CliRunner

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
    said, audited = result.stderr.splitlines()
    assert said.startswith("error: etcd does not answer")
    entry = json.loads(audited)
    assert (entry["who"], entry["what"], entry["answer"]) == ("uid 3999999999", "RevokeKey", "FAILED")
