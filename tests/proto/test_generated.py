"""The generated code, and the numbers that plain Python repeats from the contracts."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.rpc import status_pb2

from node import commands, keeper
from proto import coupon_pb2, journal_pb2, node_pb2

ROOT = Path(__file__).parents[2]


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    """What is checked in is what protoc makes of the contracts now. If not: `make proto`."""
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").glob("*.proto"))
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    googleapis = Path(status_pb2.__file__).parents[2]
    includes = ["-I", ".", "-I", str(googleapis)]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *includes, *out, *sources], cwd=ROOT, check=True, timeout=60
    )
    checked_in = {path.name: path.read_text() for path in (ROOT / "proto").glob("*_pb2*")}
    made = {path.name: path.read_text() for path in (tmp_path / "proto").glob("*_pb2*")}
    made.pop("journal_pb2_grpc.py")  # the journal has no service
    assert made.keys() == checked_in.keys()
    assert [name for name in made if made[name] != checked_in[name]] == []


@pytest.mark.parametrize("state", commands.State)
def test_states_have_the_contract_s_numbers(state: commands.State) -> None:
    """node.wire hands the numbers through."""
    assert coupon_pb2.Campaign.State.Name(state.value) == state.name


@pytest.mark.parametrize("reason", commands.Reason)
def test_reasons_have_the_contract_s_numbers(reason: commands.Reason) -> None:
    """node.wire hands the numbers through."""
    assert coupon_pb2.ErrorReason.Name(reason.value) == reason.name


@pytest.mark.parametrize("state", keeper.State)
def test_shard_states_have_the_contract_s_numbers(state: keeper.State) -> None:
    """node.server hands the numbers through."""
    assert node_pb2.ShardStatus.State.Name(state.value) == state.name


def test_reserved_numbers_are_free() -> None:
    """Numbers that are kept for later kinds of events are not used by accident."""
    used = {field.number for field in journal_pb2.Event.DESCRIPTOR.fields}
    assert not used & {10, 11, 12, 13, 14, 15, 20, 21}
