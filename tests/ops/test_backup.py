"""Backups: what is taken, what is believed, and where it may be put. Fake etcd, real files."""

import asyncio
import json
import stat
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.keys import KeyRole
from cluster.kv import Get, Put, Txn, prefix_end
from cluster.records import Keyspace
from cluster.types import ShardId
from ops.audit import Kind
from ops.backup import BadJournal, audited, take_backup
from ops.backup_format import Backup, BackupDamaged, BackupExists
from ops.command import app
from ops.etcd_client import etcd_client
from ops.keys import create_key
from ops.reread_file import file_entries
from ops.restore import NoGenerationLeft, NotEmpty, RestoreFailed, restore
from ops.verify import Source
from tests.fakes import virtual_time
from tests.fakes.etcd import FakeConnection, FakeEtcd
from tests.fakes.etcd_faults import Call, Fate, Leg, Loss, NoFaults
from tests.ops.entries import KEY, SHARDS, good
from tests.ops.test_reread_file import FIRST, segment
from tests.ops.test_verify import cluster_config, entries_of, filler

KEYS = Keyspace()
SOURCE = Source(("etcd:1",))


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeEtcd], FakeConnection]:
    """Makes an etcd the one that commands reach."""

    def use(etcd: FakeEtcd) -> FakeConnection:
        monkeypatch.setattr("ops.etcd_client.GrpcEtcd", etcd.connect)
        return etcd.connect("etcd:1")

    return use


Dial = Callable[[FakeEtcd], FakeConnection]


async def fill(connection: FakeConnection, puts: list[Put]) -> None:
    for put in puts:
        await connection.txn(Txn((), (put,)))


def cluster_in_etcd() -> list[Put]:
    return [*cluster_config("etcd"), *filler(), *entries_of(good(0)), *entries_of(good(2))]


async def backup_of_etcd(dial: Dial, target: Path, puts: list[Put] | None = None) -> Backup:
    await fill(dial(FakeEtcd()), cluster_in_etcd() if puts is None else puts)
    await take_backup(SOURCE, target, audit=True)
    return Backup(target)


def journal_files(root: Path) -> Path:
    directory = root / "journal" / "shard-0002"
    directory.mkdir(parents=True)
    path = directory / f"{FIRST[0]:016x}-{FIRST[1]:016x}.segment"
    path.write_bytes(segment(FIRST, [entry.SerializeToString() for entry in good(2).entries]) + b"torn")
    return root / "journal"


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await main()

    virtual_time.run(bounded())


def test_a_journal_in_etcd_comes_back(dial: Dial, tmp_path: Path) -> None:
    """Every entry byte for byte, the configuration as it was, a raised incarnation, and a code key of its own for the
    next generation. Nodes, owners and whatever hangs on a lease stay behind."""

    async def main() -> None:
        lease = "seonchak/api/keys/under-lease"
        connection = dial(FakeEtcd())
        await fill(connection, cluster_in_etcd())
        granted = await connection.lease_grant(60)
        await fill(
            connection,
            [
                Put("seonchak/api/keys/1", b"\xff hash"),
                Put(lease, b"", granted.lease_id),
                Put(KEYS.owner(ShardId(2)), b"{}", granted.lease_id),
            ],
        )
        before = (await connection.get(Get("seonchak/", "seonchak0"))).kvs
        manifest = await take_backup(SOURCE, tmp_path / "backup", audit=True)
        assert (manifest.counts.campaigns, manifest.counts.coupons) == (2, 8)

        connection = dial(FakeEtcd())
        restored = await restore(Backup(tmp_path / "backup"), SOURCE)
        after = {kv.key: kv.value for kv in (await connection.get(Get("seonchak/", "seonchak0"))).kvs}
        expected = {kv.key: kv.value for kv in before if not kv.lease_id}
        fresh = after.pop(KEYS.code_key(1))
        assert (
            after.pop(KEYS.incarnation) == str(restored.cluster_incarnation).encode() != expected.pop(KEYS.incarnation)
        )
        assert after == expected
        assert len(bytes.fromhex(fresh.decode())) == len(KEY)
        assert fresh.decode() != KEY.hex()
        assert (restored.code_generation, restored.report.ok, restored.report.coupons) == (1, True, 8)

    run(main)


def test_api_keys_come_back_only_if_they_are_asked_for(
    dial: Dial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup cannot know who was revoked after it. The command says what it did, key by key, and no secret."""
    monkeypatch.setattr("asyncio.run", virtual_time.run)

    async def take() -> tuple[str, str, bytes]:
        connection = dial(FakeEtcd())
        await fill(connection, cluster_in_etcd())
        async with etcd_client(SOURCE.etcd_endpoints) as etcd:
            key_id, token = await create_key(etcd, KEYS, frozenset({KeyRole.ISSUE}), "shop")
            record = (await etcd.get(Get(KEYS.api_key(key_id)))).kvs[0].value
        await take_backup(SOURCE, tmp_path / "backup", audit=True)
        return key_id, token, record

    def restored(*flags: str) -> tuple[dict[str, bytes], str]:
        etcd = FakeEtcd()
        dial(etcd)
        ended = CliRunner().invoke(app, ["restore", str(tmp_path / "backup"), "--etcd", "etcd:1", *flags])
        assert ended.exit_code == 0, ended.output
        there = etcd.store.get(Get(KEYS.api_keys, prefix_end(KEYS.api_keys))).kvs
        return {kv.key: kv.value for kv in there}, ended.stdout

    key_id, token, record = virtual_time.run(take())
    there, said = restored()
    assert there == {}
    assert "1 API keys were left out" in said
    assert f"  {key_id}  issue  " in said
    there, said = restored("--with-keys")
    assert there == {KEYS.api_key(key_id): record}
    assert "1 API keys are valid again" in said
    assert f"  {key_id}  issue  " in said
    assert "  shop\n" in said
    assert token.rpartition("_")[2] not in said
    there, said = restored("--with-keys", "--json")
    answer = json.loads(said)
    assert (answer["api_keys"], answer["api_keys_restored"]) == ([key_id], True)


def test_a_journal_in_files_comes_back(dial: Dial, tmp_path: Path) -> None:
    """The same entries; a torn frame stays behind."""

    async def main() -> None:
        root = journal_files(tmp_path)
        await fill(dial(FakeEtcd()), cluster_config("file"))
        await take_backup(Source(("etcd:1",), journal_dir=root), tmp_path / "backup", audit=True)
        dial(FakeEtcd())
        target = tmp_path / "restored"
        await restore(Backup(tmp_path / "backup"), Source(("etcd:1",), journal_dir=target))
        assert [p.entry for p in file_entries(target, 2)] == [p.entry for p in file_entries(root, 2)]
        segment = next((root / "shard-0002").iterdir())
        assert (target / "shard-0002" / segment.name).read_bytes() + b"torn" == segment.read_bytes()

    run(main)


def test_a_backup_of_etcd_is_of_one_revision(dial: Dial, tmp_path: Path) -> None:
    """What is appended while a backup is being taken, to a shard that it has not come to yet, is not in it: nothing of
    a later moment stands beside something of an earlier one."""

    async def main() -> None:
        etcd = FakeEtcd()
        connection = dial(etcd)
        late = good(2)
        late.happens("cancelled", request_id="late")
        await fill(connection, cluster_in_etcd())

        class WhileReading(NoFaults):
            def fate(self, call: Call) -> Fate:
                if isinstance(call.request, Get) and call.request.key == KEYS.journal(ShardId(1)):
                    etcd.store.txn(Txn((), (entries_of(late)[-1],)))
                return super().fate(call)

        etcd.faults = WhileReading()
        manifest = await take_backup(SOURCE, tmp_path / "backup", audit=False)
        assert manifest.counts.entries == 2 * len(good(2).entries)
        assert len(list(Backup(tmp_path / "backup").entries(2))) == len(good(2).entries)

    run(main)


def test_everything_is_for_its_owner_alone(dial: Dial, tmp_path: Path) -> None:
    """The code key and users' ids are in it: files 0600, directories 0700."""

    async def main() -> None:
        await backup_of_etcd(dial, tmp_path / "backup")
        for path in [tmp_path / "backup", *(tmp_path / "backup").rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    run(main)


def nothing_in(path: Path) -> bool:
    return not any(path.iterdir())


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)


def test_each_flipped_bit_is_found_in_its_file(dial: Dial, tmp_path: Path) -> None:
    """In whatever file, manifest and its checksum too: refused by name, and nothing is written."""

    async def main() -> None:
        root = tmp_path / "backup"
        await backup_of_etcd(dial, root)
        connection = dial(FakeEtcd())
        for path in files_of(root):
            good_bytes = path.read_bytes()
            for offset in (0, len(good_bytes) // 2, len(good_bytes) - 1):
                data = bytearray(good_bytes)
                data[offset] ^= 0x10
                path.write_bytes(data)
                with pytest.raises(BackupDamaged) as refused:
                    await restore(Backup(root), SOURCE)
                named = "manifest.json" if path.name == "manifest.json.sha256" else path.name
                assert refused.value.file.name == named
            path.write_bytes(good_bytes)
        assert not (await connection.get(Get("seonchak/", "seonchak0"))).kvs
        Backup(root).check()

    run(main)


def test_truncated_missing_and_foreign_files_are_refused(dial: Dial, tmp_path: Path) -> None:
    """By name. A backup that was not finished has no manifest, and is none."""

    async def main() -> None:
        root = tmp_path / "backup"
        await backup_of_etcd(dial, root)
        for path in files_of(root):
            good_bytes = path.read_bytes()
            path.write_bytes(good_bytes[:-1])
            with pytest.raises(BackupDamaged, match=path.name.removesuffix(".sha256")):
                Backup(root).check()
            path.unlink()
            with pytest.raises(BackupDamaged, match=path.name):
                Backup(root).check()
            path.write_bytes(good_bytes)
        (root / "journal" / "shard-0009.entries").write_bytes(b"")
        with pytest.raises(BackupDamaged, match=r"shard-0009\.entries: is not in the manifest"):
            Backup(root).check()

    run(main)


def test_a_later_format_is_refused(dial: Dial, tmp_path: Path) -> None:
    """With a word of which version it is, before anything else of it is looked at."""

    async def main() -> None:
        root = tmp_path / "backup"
        await backup_of_etcd(dial, root)
        text = (root / "manifest.json").read_text().replace('"format_version": 1', '"format_version": 2, "new": {}')
        rewrite_manifest(root, text)
        with pytest.raises(BackupDamaged, match="format version 2; this program knows 1"):
            Backup(root)

    run(main)


def rewrite_manifest(root: Path, text: str) -> None:
    (root / "manifest.json").write_text(text)
    digest = sha256(text.encode()).hexdigest()
    (root / "manifest.json.sha256").write_text(f"{digest}  manifest.json\n")


def test_a_bad_journal_makes_no_backup(dial: Dial, tmp_path: Path) -> None:
    """With `audit` the rules are checked on what was written; nothing is left of it."""

    async def main() -> None:
        over = good(2)
        over.grant("eve")
        with pytest.raises(BadJournal) as bad:
            await backup_of_etcd(dial, tmp_path / "backup", [*cluster_config("etcd"), *filler(), *entries_of(over)])
        assert bad.value.violations[0].kind is Kind.OVER_ISSUED
        assert nothing_in(tmp_path)

    run(main)


def test_nothing_is_overwritten(dial: Dial, tmp_path: Path) -> None:
    """Neither an earlier backup, nor an etcd or a journal directory with anything in it."""

    async def main() -> None:
        root = tmp_path / "backup"
        kept = await backup_of_etcd(dial, root)
        with pytest.raises(BackupExists):
            await take_backup(SOURCE, root, audit=False)
        with pytest.raises(NotEmpty, match="cluster/code-keys/0"):
            await restore(kept, SOURCE)
        connection = dial(FakeEtcd())
        await fill(connection, [Put(KEYS.nodes + "old", b"{}")])
        with pytest.raises(NotEmpty, match="nodes/old"):
            await restore(kept, SOURCE)

        await fill(dial(FakeEtcd()), cluster_config("file"))
        await take_backup(Source(("etcd:1",), journal_dir=journal_files(tmp_path)), tmp_path / "files", audit=True)
        dial(FakeEtcd())
        with pytest.raises(NotEmpty):
            await restore(Backup(tmp_path / "files"), Source(("etcd:1",), journal_dir=tmp_path / "journal"))

    run(main)


def test_no_cluster_is_there_before_all_of_it_is(dial: Dial, tmp_path: Path) -> None:
    """Whenever a restore is looked at, either there is no cluster that a process could join, or it is whole and its
    incarnation is raised."""

    async def main() -> None:
        kept = await backup_of_etcd(dial, tmp_path / "backup")
        etcd = FakeEtcd()
        dial(etcd)
        seen: list[tuple[bool, int]] = []

        def look(*_: object) -> None:
            config = etcd.store.get(Get(KEYS.config)).kvs
            incarnation = etcd.store.get(Get(KEYS.incarnation)).kvs
            assert bool(config) == bool(incarnation)
            assert not incarnation or int(incarnation[0].value) > kept.manifest.cluster_incarnation
            entries = etcd.store.get(Get(KEYS.journals, prefix_end(KEYS.journals), keys_only=True)).kvs
            seen.append((bool(config), len(entries)))

        etcd.store.on_revision = look
        await restore(kept, SOURCE)
        assert [whole for whole, _ in seen] == [False] * (len(seen) - 1) + [True]
        assert seen[-1][1] == kept.manifest.counts.entries

    run(main)


def test_a_lost_answer_is_asked_for_again(dial: Dial, tmp_path: Path) -> None:
    """A Txn that was carried out and not answered is found done; the restore is whole."""

    async def main() -> None:
        kept = await backup_of_etcd(dial, tmp_path / "backup")

        class LoseSome(NoFaults):
            sent = 0

            def fate(self, call: Call) -> Fate:
                if call.method == "txn":
                    self.sent += 1
                    if self.sent % 2:
                        return Fate(answer=Leg(loss=Loss.BROKEN))
                return super().fate(call)

        dial(FakeEtcd(LoseSome()))
        restored = await restore(kept, SOURCE)
        assert restored.report.ok

    run(main)


def test_whoever_writes_there_meanwhile_ends_a_restore(dial: Dial, tmp_path: Path) -> None:
    """A cluster that is made in the same etcd during a restore is not overwritten."""

    async def main() -> None:
        kept = await backup_of_etcd(dial, tmp_path / "backup")
        etcd = FakeEtcd()
        dial(etcd)

        def intrude(*_: object) -> None:
            etcd.store.on_revision = lambda _: None
            etcd.store.txn(Txn((), (Put(KEYS.config, b"another's"),)))

        etcd.store.on_revision = intrude
        with pytest.raises(RestoreFailed):
            await restore(kept, SOURCE)
        assert etcd.store.get(Get(KEYS.config)).kvs[0].value == b"another's"

    run(main)


def test_a_generation_is_used_once(dial: Dial, tmp_path: Path) -> None:
    """Whoever restores one backup twice names the next generation; one that the backup knows is refused, and so is one
    that a code has no digit for."""

    async def main() -> None:
        kept = await backup_of_etcd(dial, tmp_path / "backup")
        dial(FakeEtcd())
        for bad in (0, 10):
            with pytest.raises(NoGenerationLeft):
                await restore(kept, SOURCE, generation=bad)
        assert (await restore(kept, SOURCE, generation=2)).code_generation == 2

    run(main)


def test_a_kept_backup_is_judged_by_the_same_rules(dial: Dial, tmp_path: Path) -> None:
    """`verify --backup`: clean, with all its coupons; one whose journal breaks a rule is not."""

    async def main() -> None:
        audit = audited(await backup_of_etcd(dial, tmp_path / "good"))
        assert (audit.violations, audit.coupons, audit.shards) == ([], 8, SHARDS)
        over = good(2)
        over.grant("eve")
        await fill(dial(FakeEtcd()), [*cluster_config("etcd"), *filler(), *entries_of(over)])
        await take_backup(SOURCE, tmp_path / "bad", audit=False)
        found = audited(Backup(tmp_path / "bad")).violations
        assert [violation.kind for violation in found] == [Kind.OVER_ISSUED]

    run(main)


def test_an_etcd_that_is_away_is_no_backup(dial: Dial, tmp_path: Path) -> None:
    """TimeoutError, and nothing is left."""

    async def main() -> None:
        etcd = FakeEtcd()
        dial(etcd)
        etcd.link("etcd:1", "").cut()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(take_backup(SOURCE, tmp_path / "backup", audit=False), 60)
        assert nothing_in(tmp_path)

    run(main)
