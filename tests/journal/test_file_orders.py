"""The file journal keeps its word in every order of its disk operations, whatever a power cut leaves, and would not if
it forgot a single sync or look."""

import functools
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

import node.journal.file
from node.journal.disk import Disk
from node.journal.frames import SealedSegment, SegmentId
from node.journal.segment_reader import SegmentReader
from node.journal.segments import EntryReader, ShardDirectory
from tests.fakes.disk import BASE, Fail, Fault, MemoryDisk, Operation, Skip, torn_every_way
from tests.journal.owners import ROOT, Owner, Violation, explore, find_in_image, is_own, with_directory

EIO = 5


def test_one_owner_and_every_image_of_a_power_cut() -> None:
    """From an empty disk on, a power cut at any moment leaves what was acknowledged, however writes are torn."""
    explored = explore([Owner(1, 3)], tear=torn_every_way)
    assert explored.images > 60


def test_two_owners_in_every_order() -> None:
    """Two owners that open and append at the same time, from an empty disk on, in every order, a power cut anywhere."""
    explored = explore([Owner(1, 2), Owner(2, 1)], tear=torn_every_way)
    assert explored.states > 400


def test_owners_after_a_power_cut() -> None:
    """Whatever the power cut left, the next owners continue from it, with another power cut anywhere."""
    before = explore([Owner(1, 1), Owner(2, 1)], start=with_directory)
    assert len(before.after_power_cuts) > 50
    for (image, _), told in before.after_power_cuts.items():
        start = functools.partial(MemoryDisk.of_image, image)
        explore([Owner(3, 1), Owner(4, 0)], start=start, after=told, switches_max=1)


def test_three_owners_in_every_order() -> None:
    """Three owners that open at the same time, the lowest one appending, in every order, with a power cut anywhere."""
    explored = explore([Owner(1, 1), Owner(2, 0), Owner(3, 0)], start=with_directory)
    assert explored.states > 5_000


def test_three_owners_that_append() -> None:
    """Three owners that open and append, in every order that leaves an owner which could go on at most twice."""
    explored = explore([Owner(1, 1), Owner(2, 1), Owner(3, 1)], start=with_directory, switches_max=2)
    assert explored.states > 2_000


# --- faults ----------------------------------------------------------------------------------------------------------


def first_append_is_not_synced(operation: Operation) -> Fault | None:
    """The sync of owner 1's first entry fails: its bytes are in the cache, as clean pages, and not on the disk."""
    if operation.process == "owner 1" and operation.kind == "sync" and is_own(operation) and operation.nth == 1:
        return Fail(EIO)
    return None


def first_seal_is_not_synced(operation: Operation) -> Fault | None:
    if operation.process == "owner 1" and operation.kind == "sync" and is_own(operation):
        return Fail(EIO)
    return None


@pytest.mark.parametrize("faults", [first_append_is_not_synced, first_seal_is_not_synced])
def test_a_failed_sync(faults: Callable[[Operation], Fault | None]) -> None:
    """After a sync that failed, what the cache shows is not believed by the owners that follow, in every order."""
    explore([Owner(1, 1), Owner(2, 1)], start=with_directory, faults=faults)


# --- planted bugs: the tests above can fail ---------------------------------------------------------------------------

Forgotten = Callable[[Operation], bool]

FORGOTTEN_SYNCS: dict[str, Forgotten] = {
    "root's name": lambda o: o.kind == "sync_directory" and o.path == BASE,
    "shard directory's name": lambda o: o.kind == "sync_directory" and o.path == ROOT,
    "segment's name": lambda o: o.kind == "sync_directory" and o.path == ROOT / "shard-0007",
    "earlier segment": lambda o: o.kind == "sync" and not is_own(o),
    "seal": lambda o: o.kind == "sync" and is_own(o) and o.nth == 0,
    "entry": lambda o: o.kind == "sync" and is_own(o) and o.nth > 0,
}


NEEDED_SYNCS = [
    (process, sync)
    for process in ("owner 1", "owner 2")
    for sync in FORGOTTEN_SYNCS
    if (process, sync) != ("owner 1", "earlier segment")  # It finds no earlier entries.
]


@pytest.mark.parametrize(("process", "sync"), NEEDED_SYNCS)
def test_every_sync_is_needed(process: str, sync: str) -> None:
    """If one of two owners leaves out any one of the syncs, something that was said does not hold after a power cut."""

    def faults(operation: Operation) -> Fault | None:
        return Skip() if operation.process == process and FORGOTTEN_SYNCS[sync](operation) else None

    with pytest.raises(Violation, match="after a power cut"):
        explore([Owner(1, 1), Owner(2, 1)], faults=faults)


def test_dropping_the_cache_is_needed() -> None:
    """Without dropping the pages an owner answers from an entry whose sync failed, and a power cut takes it."""

    def faults(operation: Operation) -> Fault | None:
        return Skip() if operation.kind == "drop_cache" else first_append_is_not_synced(operation)

    with pytest.raises(Violation, match="after a power cut"):
        explore([Owner(1, 1), Owner(2, 1)], start=with_directory, faults=faults)


Look = Callable[[ShardDirectory, SegmentId, Iterable[str]], None]


def forgetting_looks(forgotten: Callable[[int], bool]) -> Look:
    """`require_highest` that leaves out some of each owner's looks, by number: 0 before reading, 1 after the seal, then
    in turns after an entry and in a barrier."""
    looks: WeakKeyDictionary[Disk, int] = WeakKeyDictionary()
    real = node.journal.file.require_highest

    def look(directory: ShardDirectory, segment: SegmentId, names: Iterable[str]) -> None:
        nth = looks.get(directory.disk, 0)
        looks[directory.disk] = nth + 1
        if not forgotten(nth):
            real(directory, segment, names)

    return look


FORGOTTEN_LOOKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "after the seal": (lambda nth: nth == 1, "DIVERGENCE|FENCING"),
    "after an entry": (lambda nth: nth >= 2 and nth % 2 == 0, "LOST"),
    "in a barrier": (lambda nth: nth >= 2 and nth % 2 == 1, "STALE READ"),
}


@pytest.mark.parametrize(("forgotten", "what"), FORGOTTEN_LOOKS.values(), ids=FORGOTTEN_LOOKS.keys())
def test_every_look_is_needed(forgotten: Callable[[int], bool], what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one of the looks for a higher epoch, some order of two owners breaks a promise."""
    monkeypatch.setattr(node.journal.file, "require_highest", forgetting_looks(forgotten))
    with pytest.raises(Violation, match=what):
        explore([Owner(1, 1), Owner(2, 1)], start=with_directory)


def test_obeying_the_seal_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that read a sealed segment to its end would take in what a fenced owner wrote later."""

    async def take_to_the_end(self: EntryReader, reader: SegmentReader, path: Path, sealed: SealedSegment) -> None:
        segment = SegmentId(self.directory.shard, sealed.epoch)
        with closing(await self.directory.disk.open(path)) as file:
            without_limit = SegmentReader(file, path, segment)
            await without_limit.one()
            last = await self._take_all_but_last(without_limit)
            if last is not None and await without_limit.make_last_durable(last):
                self._take(sealed.epoch, without_limit.end, last)

    monkeypatch.setattr(EntryReader, "_take_one_sealed", take_to_the_end)
    find_in_image.cache_clear()
    try:
        with pytest.raises(Violation, match=r"DIVERGENCE|FENCING"):
            explore([Owner(1, 2), Owner(2, 1)], start=with_directory)
    finally:
        find_in_image.cache_clear()
