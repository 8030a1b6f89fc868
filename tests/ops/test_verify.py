"""The second opinion as a whole: its independence, and its verdict on journals in both homes."""

import ast
from pathlib import Path

import pytest

import ops
from cluster.codes import fingerprint
from cluster.config import ClusterConfig, JournalKind
from cluster.kv import Put, Txn
from cluster.records import Keyspace
from cluster.types import ShardId
from ops.audit import Kind
from ops.verify import NothingToVerify, Report, Source, verify
from tests.fakes import virtual_time
from tests.fakes.etcd import FakeEtcd
from tests.ops.entries import KEY, SHARDS, Writer, good
from tests.ops.test_reread_file import FIRST, segment

KEYS = Keyspace()


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, at the top or inside a function, types included."""
    found: set[str] = set()
    for part in ast.walk(ast.parse(path.read_text())):
        if isinstance(part, ast.Import):
            found |= {alias.name for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            assert part.level == 0, f"{path} has a relative import"
            found |= {f"{part.module}.{alias.name}" for alias in part.names} | {part.module or ""}
    return found


def _closure(module: str, seen: set[str]) -> set[str]:
    """The project's modules that `module` reaches."""
    root = Path(ops.__file__).parents[1]
    path = root / (module.replace(".", "/") + ".py")
    if module in seen or not path.is_file():
        return seen
    seen.add(module)
    for imported in _imports(path):
        _closure(imported, seen)
    return seen


def test_the_second_reader_shares_nothing_with_node_and_router() -> None:
    """Neither `ops.verify` nor anything of the project that it reaches imports node or router."""
    reached = _closure("ops.verify", set())
    assert {"ops.audit", "ops.reread_file", "ops.reread_etcd", "cluster.codes"} <= reached
    assert not [module for module in reached if module.split(".")[0] in ("node", "router")]


def cluster_config(journal: JournalKind) -> list[Put]:
    config = ClusterConfig("test", SHARDS, 1, journal, fingerprint(KEY))
    return [
        Put(KEYS.config, config.encode()),
        Put(KEYS.incarnation, b"1"),
        Put(KEYS.format, b"1"),
        Put(KEYS.code_key(0), KEY.hex().encode()),
    ]


def judge(puts: list[Put], monkeypatch: pytest.MonkeyPatch, journal_dir: Path | None = None) -> Report:
    """The report on an etcd that holds `puts`."""
    etcd = FakeEtcd()
    monkeypatch.setattr("ops.etcd_client.GrpcEtcd", etcd.connect)

    async def main() -> Report:
        connection = etcd.connect("etcd:1")
        for put in puts:
            await connection.txn(Txn((), (put,)))
        return await verify(Source(("etcd:1",), journal_dir=journal_dir))

    return virtual_time.run(main())


def entries_of(writer: Writer) -> list[Put]:
    return [Put(KEYS.entry(ShardId(writer.shard), e.position), e.SerializeToString()) for e in writer.entries]


def filler() -> list[Put]:
    """Moves etcd's revision past those that the entries name."""
    return [Put("elsewhere", str(n).encode()) for n in range(10)]


def test_a_good_journal_in_etcd_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards of four hold something; every campaign is in the report, and it says ok."""
    report = judge(cluster_config("etcd") + filler() + entries_of(good(0)) + entries_of(good(2)), monkeypatch)
    document = report.as_json()
    assert document["ok"] is True
    assert document["violations"] == []
    assert [(c["shard"], c["issued"], c["state"]) for c in document["campaigns"]] == [
        (0, 4, "COMPLETED"),
        (2, 4, "COMPLETED"),
    ]
    assert (report.entries, report.coupons) == (16, 8)


def test_a_bad_shard_does_not_hide_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that cannot be read is a violation; the violations of the others are found as well."""
    unreadable, over = entries_of(good(0)), good(2)
    del unreadable[2]
    over.grant("eve")
    report = judge(cluster_config("etcd") + filler() + unreadable + entries_of(over), monkeypatch)
    assert {violation.kind for violation in report.violations} == {Kind.UNREADABLE, Kind.OVER_ISSUED}
    assert report.as_json()["ok"] is False


def test_keys_of_shards_that_do_not_exist_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of shard 4 in a cluster of shards 0 to 3."""
    report = judge([*cluster_config("etcd"), Put(KEYS.entry(ShardId(SHARDS), 0), b"x")], monkeypatch)
    assert [violation.kind for violation in report.violations] == [Kind.UNREADABLE]


def test_a_journal_in_files_is_judged_by_the_same_rules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Clean as it is; with an over-issue, or a directory of a shard that does not exist, not."""
    writer = good(2)
    directory = tmp_path / "shard-0002"
    directory.mkdir()
    path = directory / f"{FIRST[0]:016x}-{FIRST[1]:016x}.segment"
    path.write_bytes(segment(FIRST, [entry.SerializeToString() for entry in writer.entries]))
    assert judge(cluster_config("file"), monkeypatch, tmp_path).ok
    writer.grant("eve")
    path.write_bytes(segment(FIRST, [entry.SerializeToString() for entry in writer.entries]))
    (tmp_path / "shard-0004").mkdir()
    report = judge(cluster_config("file"), monkeypatch, tmp_path)
    assert {violation.kind for violation in report.violations} == {Kind.UNREADABLE, Kind.OVER_ISSUED}


def test_files_have_to_be_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file journal that nobody named the root of is an error, not an empty and clean journal."""
    with pytest.raises(NothingToVerify):
        judge(cluster_config("file"), monkeypatch)
