"""Owners of one shard on one disk, stepped through every order of their disk operations, with power cuts anywhere.

The coroutines are the real journal's, driven by hand and not by an event loop: each runs up to its next disk operation,
and which one goes on is chosen here. States that were seen before are not followed again.
"""

import copy
import itertools
from collections.abc import Callable, Coroutine, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.types import Epoch, Revision, ShardId
from node.journal.base import AppendRefused, CorruptJournal, Fenced, FollowerLost, OutcomeUnknown
from node.journal.file import FileJournal
from node.journal.segments import NoLongerThere
from tests.fakes.disk import BASE, Fault, Image, MemoryDisk, Operation, Tear, torn_in_half

SHARD = ShardId(7)
ROOT = BASE / "journal"

Faults = Callable[[Operation], Fault | None]


def epoch_of(number: int) -> Epoch:
    return Epoch(1, Revision(number))


def no_faults(operation: Operation) -> None:
    return None


class Violation(AssertionError):
    """The journal has broken its word. Says how it came to that."""


@dataclass(frozen=True, slots=True)
class Owner:
    epoch: int
    appends: int
    """Appends that many entries; after each comes a question that needs a barrier."""
    reads: int = 0
    """Reads along so often before it opens."""
    opens: bool = True
    """Otherwise it only reads along."""

    @property
    def name(self) -> str:
        return f"owner {self.epoch}"


@dataclass(slots=True)
class Told:
    """What the owners have told their callers; and whether it holds."""

    acknowledged: list[bytes] = field(default_factory=list)
    epoch: int = 0
    """The highest that has opened."""
    memory: list[bytes] = field(default_factory=list)
    """What the owner of that epoch answers from."""
    taken: dict[str, list[bytes]] = field(default_factory=dict)
    """What those hold who read along."""

    def opened(self, owner: Owner, entries: list[bytes]) -> None:
        self.taken.pop(owner.name, None)
        if owner.epoch < self.epoch:
            raise Violation(f"FENCING: {owner.name} opened after owner {self.epoch}")
        if entries[: len(self.memory)] != self.memory:
            raise Violation(
                f"DIVERGENCE: {owner.name} replayed {entries}, owner {self.epoch} answers from {self.memory}"
            )
        self.epoch, self.memory = owner.epoch, list(entries)

    def appended(self, owner: Owner, entry: bytes) -> None:
        self.acknowledged.append(entry)
        if owner.epoch == self.epoch:
            self.memory.append(entry)

    def judge(self, found: tuple[bytes, ...] | CorruptJournal, when: str) -> None:
        """Whether this is what an owner may find that opens now."""
        if isinstance(found, CorruptJournal):
            raise Violation(f"LOUD STOP {when}: {found}")
        if lost := [entry for entry in self.acknowledged if entry not in found]:
            raise Violation(f"LOST {when}: {lost} were acknowledged, {list(found)} found")
        if list(found[: len(self.memory)]) != self.memory:
            raise Violation(f"DIVERGENCE {when}: {list(found)} found, owner {self.epoch} answers from {self.memory}")
        if joined := [entry for entry in found[len(self.memory) :] if int(entry.split(b".")[0]) < self.epoch]:
            raise Violation(f"FENCING {when}: {joined} joined after owner {self.epoch} had opened")
        if len(set(found)) != len(found):
            raise Violation(f"DOUBLED {when}: {list(found)}")
        for name, taken in self.taken.items():
            if list(found[: len(taken)]) != taken:
                raise Violation(f"TAKEN {when}: {name} has read {taken}, {list(found)} found")

    def state(self) -> Hashable:
        taken = tuple((name, tuple(entries)) for name, entries in sorted(self.taken.items()))
        return tuple(self.acknowledged), self.epoch, tuple(self.memory), taken


class _Step:
    """Awaited in front of each operation: hands control to the World."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def __await__(self) -> Generator[Operation, None, None]:
        yield self._operation


class World:
    """One run. Owners go on, one operation at a time, when `step` is called."""

    def __init__(self, owners: Sequence[Owner], disk: MemoryDisk, told: Told, faults: Faults) -> None:
        self.disk = disk
        self.told = told
        self._faults = faults
        self._directory_is_durable = disk.is_durable(ROOT / "shard-0007")
        disk.intercept = self._intercept
        self._running: dict[str, Coroutine[Operation | None, None, None]] = {o.name: self._own(o) for o in owners}
        self.next: dict[str, Operation] = {}
        """Of each owner that has not ended, the operation that it is about to do."""
        for owner in owners:
            self._advance(owner.name)

    def step(self, name: str) -> None:
        del self.next[name]
        self._advance(name)

    def state(self) -> Hashable:
        """Equal for worlds that go on in the same way: what an owner will do follows from what it has learnt."""
        learnt: dict[str, list[object]] = {}
        for operation, result in self.disk.history:
            learnt.setdefault(operation.process, []).append(result)
        return (
            self.disk.state(),
            self.told.state(),
            tuple((name, tuple(results)) for name, results in sorted(learnt.items())),
        )

    def close(self) -> None:
        for coroutine in self._running.values():
            coroutine.close()

    def _advance(self, name: str) -> None:
        try:
            # None is asyncio.sleep(0): others get their turn anyway.
            while (operation := self._running[name].send(None)) is None or self._quiet(operation):
                pass
        except StopIteration:
            return
        self.next[name] = operation

    def _quiet(self, operation: Operation) -> bool:
        """Whether it makes no difference when it is done, so that nobody needs to be asked."""
        above = self._directory_is_durable and (
            operation.kind == "make_directory"
            or (operation.kind == "sync_directory" and operation.path in (BASE, ROOT))
        )
        return above or operation.kind == "open"

    async def _intercept(self, operation: Operation) -> Fault | None:
        await _Step(operation)
        return self._faults(operation)

    async def _question(self, owner: Owner) -> list[bytes]:
        """Somebody asks, at any time later: what had been acknowledged by then."""
        asked = Operation(owner.name, "question", ROOT)
        await _Step(asked)
        before = list(self.told.acknowledged)
        self.disk.history.append((asked, tuple(before)))
        return before

    async def _own(self, owner: Owner) -> None:
        memory: list[bytes] = []
        try:
            follower = FileJournal(ROOT, self.disk.seen_by(owner.name)).follow(SHARD, memory.append)
            for _ in range(owner.reads):
                self.told.taken[owner.name] = memory
                await follower.advance()
            if not owner.opens:
                return
            # Until it has opened, nobody relies on what the opening itself hands on.
            self.told.taken[owner.name] = list(memory)
            shard_journal = await follower.open(epoch_of(owner.epoch))
            self.told.opened(owner, memory)
            for number in range(owner.appends):
                entry = f"{owner.epoch}.{number}".encode()
                await shard_journal.append(entry)
                memory.append(entry)
                self.told.appended(owner, entry)
                before = await self._question(owner)
                await shard_journal.barrier()
                if stale := [entry for entry in before if entry not in memory]:
                    raise Violation(f"STALE READ: {stale} were acknowledged before {owner.name} asked")
        except CorruptJournal as error:
            raise Violation(f"LOUD STOP of {owner.name}: {error}") from error
        except FollowerLost as error:
            raise Violation(f"LOST FOLLOWER {owner.name}: {error}") from error
        except (Fenced, OutcomeUnknown, AppendRefused) as error:
            if isinstance(error.__cause__, NoLongerThere):
                raise Violation(f"LOST FOLLOWER {owner.name} that opens: {error}") from error


def find(disk: MemoryDisk) -> tuple[bytes, ...] | CorruptJournal:
    """What an owner with a new epoch, alone with this disk, replays."""
    found: list[bytes] = []
    coroutine: Coroutine[Any, None, Any] = FileJournal(ROOT, disk.seen_by("finder")).open(
        SHARD, epoch_of(1_000), found.append
    )
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        return tuple(found)
    except CorruptJournal as error:
        return error


@lru_cache(maxsize=100_000)
def find_in_image(image: Image) -> tuple[bytes, ...] | CorruptJournal:
    return find(MemoryDisk.of_image(image))


@dataclass(slots=True)
class Explored:
    states: int = 0
    images: int = 0
    after_power_cuts: dict[tuple[Image, Hashable], Told] = field(default_factory=dict, repr=False)
    """Each outcome of a power cut with what had been told before it."""


def explore(
    owners: Sequence[Owner],
    *,
    start: Callable[[], MemoryDisk] = MemoryDisk,
    after: Told | None = None,
    faults: Faults = no_faults,
    tear: Tear = torn_in_half,
    switches_max: int | None = None,
) -> Explored:
    """Run the owners in every order of their operations; in each state look at what would be found now, and after every
    outcome of a power cut now.

    Args:
        after: what was told before.
        switches_max: only orders that leave an owner that could go on at most so often; None: all.

    Raises:
        Violation: with the operations that led to it.
    """
    explored = Explored()
    seen: set[Hashable] = set()
    found_now: dict[Hashable, tuple[bytes, ...] | CorruptJournal] = {}

    def judge(world: World) -> None:
        explored.states += 1
        state = world.disk.state()
        assert isinstance(state, Hashable)
        if state not in found_now:
            found_now[state] = find(world.disk.copy())
        world.told.judge(found_now[state], "now")
        for image in world.disk.crash_images(tear):
            explored.images += 1
            explored.after_power_cuts.setdefault((image, world.told.state()), copy.deepcopy(world.told))
            world.told.judge(find_in_image(image), "after a power cut")

    schedules: list[tuple[str, ...]] = [()]
    while schedules:
        schedule = schedules.pop()
        world = World(owners, start(), copy.deepcopy(after) if after is not None else Told(), faults)
        try:
            for name in schedule:
                world.step(name)
            # From here on go down one way, and leave the others for later.
            while True:
                last = schedule[-1] if schedule else None
                switches = sum(1 for a, b in itertools.pairwise(schedule) if a != b)
                state = (world.state(), last, switches) if switches_max is not None else world.state()
                if state in seen:
                    break
                seen.add(state)
                judge(world)
                choices = sorted(world.next, key=lambda name: name != last)
                if switches_max is not None and last in world.next and switches >= switches_max:
                    choices = [name for name in choices if name == last]
                if not choices:
                    break
                schedules += [(*schedule, name) for name in choices[1:]]
                schedule = (*schedule, choices[0])
                world.step(choices[0])
        except Violation as violation:
            steps = [
                f"    {operation.process}: {operation.kind} {operation.path.name}"
                for operation, _ in world.disk.history
            ]
            raise Violation("\n".join([str(violation), *steps])) from violation
        finally:
            world.close()
    return explored


def with_directory() -> MemoryDisk:
    """A disk on which the shard's directory is there for good, so that the owners' first steps are few."""
    return MemoryDisk.of_image(((str(BASE), None), (str(ROOT), None), (str(ROOT / "shard-0007"), None)))


def is_own(operation: Operation) -> bool:
    """Whether the operation is on the segment of the owner that does it."""
    return operation.path.name == segment_name(int(operation.process.split(" ")[1]))


def segment_name(number: int) -> str:
    return f"{1:016x}-{number:016x}.segment"


def segment_path(number: int) -> Path:
    return ROOT / "shard-0007" / segment_name(number)
