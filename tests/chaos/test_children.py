"""What a chaos run starts otherwise than `seonchak up`."""

import ast
import signal
from pathlib import Path

from chaos.children import on_machine, with_own_member, with_peers_behind
from ops.child import ChildSpec
from ops.etcd import EtcdBinary, EtcdMember, member_spec

ROOT = Path(__file__).parents[2]
MEMBERS = [EtcdMember("etcd-0", 1_000, 2_000), EtcdMember("etcd-1", 1_001, 2_001)]


def node(endpoints: str) -> ChildSpec:
    env = {"SEONCHAK_ETCD_ENDPOINTS": endpoints, "SEONCHAK_NODE_ID": "node-1"}
    return ChildSpec("node-1", ("python", "-m", "ops", "node"), Path("log"), env)


def test_members_are_told_of_what_is_in_front_of_their_peers() -> None:
    """They listen where they did, advertise their proxy, and know the others by theirs."""
    spec = member_spec(EtcdBinary(Path("etcd"), "3.6.0", from_wheel=False), MEMBERS[1], MEMBERS, Path("data"))
    changed = with_peers_behind(spec, {"127.0.0.1:2000": "127.0.0.1:3000", "127.0.0.1:2001": "127.0.0.1:3001"})
    different = {flag for flag in changed.argv if flag not in spec.argv}
    assert different == {
        "--initial-advertise-peer-urls=http://127.0.0.1:3001",
        "--initial-cluster=etcd-0=http://127.0.0.1:3000,etcd-1=http://127.0.0.1:3001",
    }
    assert "--listen-peer-urls=http://127.0.0.1:2001" in changed.argv
    assert with_peers_behind(spec, {}) == spec
    assert changed.orphan_signal is signal.SIGTERM


def test_every_node_asks_another_member_first() -> None:
    """All endpoints, in a row that begins with its own."""
    rows = [with_own_member(node("a:1,b:2,c:3"), index).env["SEONCHAK_ETCD_ENDPOINTS"] for index in range(4)]
    assert rows == ["a:1,b:2,c:3", "b:2,c:3,a:1", "c:3,a:1,b:2", "a:1,b:2,c:3"]


def test_a_node_on_a_machine_in_hand(tmp_path: Path) -> None:
    """The same settings; another entry point, which is told of its control file."""
    spec = on_machine(node("a:1"), tmp_path / "control")
    assert spec.argv[-2:] == ("-m", "chaos.node")
    assert spec.env == {**node("a:1").env, "SEONCHAK_CHAOS_CONTROL": str(tmp_path / "control")}


def test_a_wrong_clock_reaches_all_that_reads_the_wall_clock() -> None:
    """In the processes of a cluster nothing but cluster/clock.py asks what time it is: who replaces it skews them. What
    is only written down for people, and never read again, may: when a key was made, and when somebody called."""
    paths = [path for package in ("cluster", "node", "router") for path in (ROOT / package).rglob("*.py")]
    readers = {
        path.relative_to(ROOT).as_posix() for path in paths if _reads_the_wall_clock(ast.parse(path.read_text()))
    }
    assert readers == {"cluster/clock.py", "cluster/keys.py", "cluster/audit_log.py"}


def _reads_the_wall_clock(module: ast.Module) -> bool:
    for node in ast.walk(module):
        match node:
            case ast.Attribute(ast.Name("time"), "time" | "time_ns" | "gmtime" | "localtime" | "CLOCK_REALTIME"):
                return True
            case ast.Attribute(_, "GetCurrentTime"):
                return True
            case ast.Attribute(
                ast.Name("datetime" | "date") | ast.Attribute(_, "datetime" | "date"), "now" | "utcnow" | "today"
            ):
                return True
            case ast.ImportFrom("time"):
                return True
    return False
