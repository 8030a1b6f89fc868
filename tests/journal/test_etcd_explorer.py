"""Short random schedules against the journal's rules; and the same with bugs planted, to see them caught."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import structlog

from cluster.kv import Guard, KeyValue, ModRevisionIs
from cluster.types import Epoch, Revision
from node.journal import etcd as journal_etcd
from node.journal.base import AppendRefused
from node.journal.etcd import EtcdJournal, EtcdShardJournal
from node.journal.etcd_reader import Cursor, EntryReader
from tests.fakes.etcd_store import Store
from tests.journal.etcd_explorer import Schedule

Kvs = tuple[KeyValue, ...]


@contextmanager
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def first_violation(schedules: Iterable[Schedule]) -> tuple[Schedule, list[str]] | None:
    with quiet():
        for schedule in schedules:
            found = schedule.run()
            if found:
                return schedule, found
    return None


@pytest.mark.parametrize(("restores", "seeds"), [(False, 60), (True, 200)])
def test_no_schedule_with_followers_breaks_a_rule(restores: bool, seeds: int) -> None:
    """What a follower has handed on when it has advanced is a prefix of the journal, and all that was acknowledged
    before; and the rules below, for owners that have read along before, some of them before etcd was restored."""
    schedules = [Schedule(seed, owners=4, follows=True, restores=restores) for seed in range(seeds)]
    assert first_violation(schedules) is None
    histories = [schedule.history for schedule in schedules]
    assert sum(history.warm for history in histories) > seeds // 2
    assert sum(len(history.taken) for history in histories) > 3 * seeds
    assert (sum(history.lost for history in histories) > seeds // 4) == restores


@pytest.mark.parametrize(("restores", "seeds"), [(False, 500), (True, 300)])
def test_no_schedule_breaks_a_rule(restores: bool, seeds: int) -> None:
    """Acknowledged entries stay where they are, each position is written once and none is left out, nothing of a lower
    epoch lands after the open of a higher one, no open and no barrier shows less than somebody knew."""
    assert first_violation(Schedule(seed, restores=restores) for seed in range(seeds)) is None


def test_one_seed_is_one_schedule() -> None:
    """A seed gives the same history every time, so that a failing one can be replayed."""
    with quiet():
        one, two = Schedule(5), Schedule(5)
        one.run()
        two.run()
    assert one.history == two.history
    assert one.journal() == two.journal()
    assert len(one.history.acknowledged) > 3


def test_schedules_reach_what_they_are_for() -> None:
    """Over a hundred seeds there are handovers, acknowledged entries and acknowledged attempts that were sent again."""
    with structlog.testing.capture_logs() as logs:
        schedules = [Schedule(seed) for seed in range(100)]
        for schedule in schedules:
            schedule.run()
    assert sum(len(schedule.history.acknowledged) for schedule in schedules) > 400
    assert sum(len(schedule.history.opens) for schedule in schedules) > 200
    assert sum(log["event"] == "append_sent_again" for log in logs) > 10


def catches(monkeypatch: pytest.MonkeyPatch, *, first_seed: int = 0, **kind: Any) -> None:
    """The bug planted with `monkeypatch` shows in a schedule, and the same schedule is clean without it.

    `first_seed`: near the first that shows it, where that is late, to save time.
    """
    caught = first_violation(Schedule(seed, **kind) for seed in range(first_seed, 2_000))
    assert caught is not None, "the planted bug was not caught"
    schedule, found = caught
    print(f"caught with seed {schedule.seed}: {found[0]}")  # noqa: T201 (shown by pytest -s)
    monkeypatch.undo()
    with quiet():
        again = Schedule(
            schedule.seed,
            owners=schedule.owners,
            follows=schedule.follows,
            restores=schedule.restores,
            raises_late=schedule.raises_late,
        )
        assert again.run() == []


def without(guard_of: type[EtcdShardJournal], index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = guard_of._guards

    def guards(self: EtcdShardJournal) -> tuple[Guard, ...]:
        return whole(self)[:index] + whole(self)[index + 1 :]

    monkeypatch.setattr(guard_of, "_guards", guards)


def test_planted_no_epoch_in_the_txn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard on the owner key a fenced owner's entry lands."""
    without(EtcdShardJournal, 1, monkeypatch)
    catches(monkeypatch)


def test_planted_position_may_be_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard on the position a late attempt overwrites what was acknowledged, or writes it twice."""
    without(EtcdShardJournal, 2, monkeypatch)
    catches(monkeypatch, first_seed=450)


def test_planted_no_guard_on_the_entry_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a late entry of an owner from before a restore leaves a hole."""
    without(EtcdShardJournal, 3, monkeypatch)
    catches(monkeypatch, restores=True, raises_late=True)


def test_planted_no_incarnation_in_the_txn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard on the incarnation an owner from before a restore writes in the new incarnation."""
    without(EtcdShardJournal, 0, monkeypatch)
    catches(monkeypatch, restores=True)


def test_planted_presence_taken_for_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry at the position may be another's."""

    def judge(self: EtcdShardJournal, entry: bytes, found: Kvs, owner: Kvs, incarnation: Kvs) -> Revision | None:
        return found[0].mod_revision if found else whole(self, entry, found, owner, incarnation)

    whole = EtcdShardJournal._judge
    monkeypatch.setattr(EtcdShardJournal, "_judge", judge)
    catches(monkeypatch)


def test_planted_absence_taken_for_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Txn that a read-back has not found may land later."""

    async def read_back(self: EtcdShardJournal, entry: bytes) -> Revision | None:
        landed = await whole(self, entry)
        if landed is None:
            raise AppendRefused("not there")
        return landed

    whole = EtcdShardJournal._read_back
    monkeypatch.setattr(EtcdShardJournal, "_read_back", read_back)
    catches(monkeypatch, first_seed=190)


def test_planted_replay_without_the_epoch_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay whose epoch is gone shows what its owner has no right to show."""
    monkeypatch.setattr(EtcdJournal, "_stands", lambda *args: True)
    catches(monkeypatch)


def test_planted_barrier_without_the_epoch_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier that passes for a fenced owner lets it answer from a memory that lacks what others know."""

    async def barrier(self: EtcdShardJournal) -> None:
        return None

    monkeypatch.setattr(EtcdShardJournal, "barrier", barrier)
    catches(monkeypatch)


def test_planted_last_entry_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that goes on by position alone joins what it has read of two lives of etcd."""
    monkeypatch.setattr(EntryReader, "_require_last", lambda *args: None)
    catches(monkeypatch, owners=4, follows=True, restores=True)


def test_planted_last_entry_compared_by_revision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored etcd gives the same revisions again."""
    monkeypatch.setattr(Cursor, "stands_behind", lambda self, kv: kv.mod_revision == self.last_revision)
    catches(monkeypatch, first_seed=190, owners=4, follows=True, restores=True)


class CreateRevisionIs(ModRevisionIs):
    """A guard that etcd has and this system must not use."""


def test_planted_epoch_from_create_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner key's create_revision stays when the shard is handed over: two owners would share an epoch."""

    def holds(self: Store, guard: Guard) -> bool:
        if isinstance(guard, CreateRevisionIs):
            kv = self._kv(guard.key)
            return kv is not None and kv.create_revision == guard.revision
        return whole_holds(self, guard)

    def guards(self: EtcdShardJournal) -> tuple[Guard, ...]:
        incarnation, owner, *others = whole_guards(self)
        assert isinstance(owner, ModRevisionIs)
        return (incarnation, CreateRevisionIs(owner.key, owner.revision), *others)

    def stands(epoch: Epoch, owner: Kvs, incarnation: Kvs) -> bool:
        return bool(owner) and owner[0].create_revision == epoch.revision

    whole_holds, whole_guards = Store._holds, EtcdShardJournal._guards
    monkeypatch.setattr(Store, "_holds", holds)
    monkeypatch.setattr(EtcdShardJournal, "_guards", guards)
    monkeypatch.setattr(journal_etcd, "_epoch_stands", stands)
    catches(monkeypatch, epoch_of=lambda owner: owner.create_revision)
