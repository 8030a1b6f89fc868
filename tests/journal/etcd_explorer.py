"""Short random schedules of owners that take a shard from each other, over a fake etcd that loses, delays and reorders.

Owners do what a node does: claim, open, append, pass barriers, give up, crash. What they hear is a `History`; whether a
journal may have led to it is decided by `violations`. One seed is one schedule: everything random comes from it.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from cluster.endpoints import RevisionWentBack
from cluster.kv import Delete, EtcdUnavailable, Get, KeyValue, ModRevisionIs, Put, Txn, prefix_end
from cluster.records import Keyspace, OwnerRecord
from cluster.session import EtcdClient
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision
from node.journal.base import (
    AppendRefused,
    CorruptJournal,
    Fenced,
    Follower,
    FollowerLost,
    OutcomeUnknown,
    ShardJournal,
)
from node.journal.etcd import EtcdJournal
from tests.fakes.etcd import FakeEtcd
from tests.fakes.etcd_faults import Call, Fate, Leg, Loss
from tests.fakes.virtual_time import run
from tests.journal.etcd_cluster import SHARD

KEYS = Keyspace()
FAULTY_S = 6.0
"""Faults and owners go on for so long; then the last late message has another LATE_S_MAX to arrive."""
LATE_S_MAX = 4.0


@dataclass(frozen=True, slots=True)
class Written:
    """What an entry says about itself; its bytes are its text."""

    epoch: Epoch
    position: int
    writer: str
    serial: int

    def encode(self) -> bytes:
        return f"{self.epoch.incarnation} {self.epoch.revision} {self.position} {self.writer} {self.serial}".encode()

    @classmethod
    def decode(cls, entry: bytes) -> "Written":
        incarnation, revision, position, writer, serial = entry.decode().split()
        return cls(Epoch(int(incarnation), Revision(int(revision))), int(position), writer, int(serial))


@dataclass(frozen=True, slots=True)
class OpenReturned:
    epoch: Epoch
    writer: str
    replayed: tuple[bytes, ...]
    acknowledged_before: int
    """Entries that anybody had acknowledged when the open was called."""
    stood_at_call: bool


@dataclass(slots=True)
class History:
    opens: list[OpenReturned] = field(default_factory=list)
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    refused: list[bytes] = field(default_factory=list)
    """AppendRefused: certainly not in the journal."""
    wrong: list[str] = field(default_factory=list)
    """What an owner itself has seen to be wrong."""
    known: int = 0
    """How many entries somebody has replayed or acknowledged."""
    raised: tuple[int, int] = (0, 0)
    """How many entries there were when the incarnation was raised, and to what."""
    restores: int = 0
    taken: list[tuple[bytes, ...]] = field(default_factory=list)
    """What followers had handed on when they had advanced."""
    lost: int = 0
    """Followers that could not go on."""
    warm: int = 0
    """Opens of followers that had read before."""

    def forget_after(self, snapshot: list[bytes]) -> None:
        """etcd was restored: what is not in the snapshot is lost, and nobody is blamed for it."""
        self.restores += 1
        self.opens.clear()
        self.taken.clear()
        self.acknowledged = {p: e for p, e in self.acknowledged.items() if p < len(snapshot) and snapshot[p] == e}
        self.known = len(self.acknowledged)


def violations(history: History, journal: list[KeyValue]) -> list[str]:
    """The rules of a journal, checked from outside."""
    found = list(history.wrong)
    keys = [kv.key for kv in journal]
    if keys != [KEYS.entry(SHARD, position) for position in range(len(keys))]:
        return [*found, f"HOLE: {[int(key[-16:], 16) for key in keys]}"]
    entries = [kv.value for kv in journal]
    written = [Written.decode(entry) for entry in entries]
    if len(set(entries)) < len(entries):
        found.append("DOUBLED: an entry has two positions")
    for position, entry in history.acknowledged.items():
        if position >= len(entries) or entries[position] != entry:
            found.append(f"LOST: {entry!r} was acknowledged at {position}")
    found += [f"NOT REFUSED: {entry!r} is in the journal" for entry in history.refused if entry in entries]
    for before, after in itertools.pairwise(written):
        if after.epoch < before.epoch:
            found.append(f"EPOCH FELL: {before}, then {after}")
    for taken in set(history.taken):
        if tuple(entries[: len(taken)]) != taken:
            found.append(f"TAKEN: a follower had {len(taken)} entries that are not the journal's beginning")
    count, incarnation = history.raised
    found += [f"OLD INCARNATION: {late}" for late in written[count:] if late.epoch.incarnation < incarnation]
    for opened in history.opens:
        count = len(opened.replayed)
        if tuple(entries[:count]) != opened.replayed:
            found.append(f"DIVERGED: open of {opened.writer} replayed what is not the journal's beginning")
        if count < opened.acknowledged_before:
            found.append(f"STALE OPEN: {opened.writer} at {opened.epoch}")
        if not opened.stood_at_call:
            found.append(f"OPEN OF A GONE EPOCH: {opened.writer} at {opened.epoch}")
        for late in written[count:]:
            if late.epoch < opened.epoch or (late.epoch == opened.epoch and late.writer != opened.writer):
                found.append(f"NOT FENCED: {late} after the open of {opened.writer} at {opened.epoch}")
    return found


class RandomFaults:
    """Most messages take some milliseconds, some are late by seconds, some are lost."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.on = True
        self._chance = rng.choice([0.05, 0.15, 0.3])

    def fate(self, call: Call) -> Fate:
        return Fate(request=self._leg(), answer=self._leg())

    def _leg(self) -> Leg:
        delay_s = self._rng.uniform(0.0001, 0.02)
        if not self.on or self._rng.random() >= self._chance:
            return Leg(delay_s)
        match self._rng.randrange(4):
            case 0:
                return Leg(delay_s, Loss.SILENT)
            case 1:
                return Leg(delay_s, Loss.BROKEN)
            case _:
                return Leg(self._rng.uniform(0.1, LATE_S_MAX))


class Following:
    """A follower of one process, and what it has handed on."""

    def __init__(self, journal: EtcdJournal) -> None:
        self.entries: list[bytes] = []
        self.follower: Follower = journal.follow(SHARD, self.entries.append)


@dataclass(slots=True)
class Schedule:
    """One run. `owners` processes, and if `restores` an operator who restores etcd from a snapshot once and raises the
    incarnation in the same breath; with `raises_late` only some time later, which the rules for a restore forbid. With
    `follows` the processes read along before they own, and do not begin anew when etcd is restored."""

    seed: int
    owners: int = 3
    follows: bool = False
    restores: bool = False
    raises_late: bool = False
    epoch_of: Callable[[KeyValue], Revision] = lambda owner: owner.mod_revision
    rng: random.Random = field(init=False)
    faults: RandomFaults = field(init=False)
    etcd: FakeEtcd = field(init=False)
    history: History = field(default_factory=History)
    _lives: int = 0
    _serial: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.faults = RandomFaults(self.rng)
        self.etcd = FakeEtcd(self.faults)

    def run(self) -> list[str]:
        """The violations found."""
        return run(self._main())

    def journal(self) -> list[KeyValue]:
        prefix = KEYS.journal(SHARD)
        return list(self.etcd.store.get(Get(prefix, prefix_end(prefix))).kvs)

    async def _main(self) -> list[str]:
        self._raise_incarnation(1)
        tasks = [asyncio.create_task(self._process()) for _ in range(self.owners)]
        tasks.append(asyncio.create_task(self._lease_ends()))
        if self.restores:
            await self._restore()
        else:
            await asyncio.sleep(FAULTY_S)
        self.faults.on = False
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        crashes = [repr(each) for each in ended if isinstance(each, Exception)]
        await asyncio.sleep(LATE_S_MAX + 1)
        return crashes + violations(self.history, self.journal())

    async def _process(self) -> None:
        """Lives one after the other, each with an incarnation, a client and a journal of its own."""
        while True:
            self._lives += 1
            incarnation = Incarnation(NodeId("n"), LeaseId(self._lives))
            client = EtcdClient(["a", "b"], partial(self.etcd.connect, client=str(incarnation)), rng=self.rng)
            journal = EtcdJournal(client, KEYS, rng=self.rng, page_entries=2)
            following = Following(journal) if self.follows else None
            try:
                while self.rng.random() < (0.95 if self.follows else 0.8):
                    await asyncio.sleep(self.rng.uniform(0, 1))
                    if following is not None and self.rng.random() < 0.8:
                        following = await self._follow(journal, following)
                        continue
                    epoch = await self._claim(client, incarnation)
                    if epoch is not None:
                        await self._own(following or Following(journal), epoch, incarnation)
                        following = Following(journal) if self.follows else None
            except RevisionWentBack:
                pass  # a process that hears this begins a new life

    async def _follow(self, journal: EtcdJournal, following: Following) -> Following:
        """Read along once; perhaps stop in the middle. Returns who goes on."""
        restores = self.history.restores
        known = len(self.history.acknowledged)
        try:
            async with asyncio.timeout(self.rng.choice([0.005, 0.02, 0.1, 10.0])):
                await following.follower.advance()
        except TimeoutError:
            return following
        except FollowerLost:
            self.history.lost += 1
            return Following(journal)
        except CorruptJournal as corrupt:
            self.history.wrong.append(f"CORRUPT for a follower: {corrupt}")
            return Following(journal)
        if self.history.restores == restores:
            self.history.taken.append(tuple(following.entries))
            if len(following.entries) < known:
                self.history.wrong.append(f"STALE FOLLOWER: {len(following.entries)} of {known} entries")
        return following

    async def _claim(self, client: EtcdClient, incarnation: Incarnation) -> Epoch | None:
        """Take the shard from whoever has it; None: somebody was quicker, or nobody knows."""
        key = KEYS.owner(SHARD)
        look = Txn((), (Get(key), Get(KEYS.incarnation)))
        owner, number = (await client.read(look)).ranges
        record = OwnerRecord(incarnation, "127.0.0.1:1").encode()
        guard = ModRevisionIs(key, owner[0].mod_revision if owner else Revision(0))
        try:
            await client.txn(Txn((guard,), (Put(key, record),)))
        except EtcdUnavailable:
            await asyncio.sleep(self.rng.uniform(0, 0.2))
        owner, number = (await client.read(look)).ranges
        if not owner or owner[0].value != record:
            return None
        return Epoch(int(number[0].value), self.epoch_of(owner[0]))

    async def _own(self, following: Following, epoch: Epoch, incarnation: Incarnation) -> None:
        if self.rng.random() < 0.3:
            await asyncio.sleep(self.rng.uniform(0, 1))  # paused: the epoch may be gone by now
        restores = self.history.restores
        acknowledged = len(self.history.acknowledged)
        stood = self._stands(epoch)
        memory = following.entries
        read_before = len(memory)
        try:
            writer = await following.follower.open(epoch)
        except (Fenced, OutcomeUnknown):
            return
        except CorruptJournal as corrupt:
            self.history.wrong.append(f"CORRUPT: {corrupt}")
            return
        if self.history.restores > restores:
            acknowledged, stood = 0, True  # what was true at the call was another etcd's
        opened = OpenReturned(epoch, str(incarnation), tuple(memory), acknowledged, stood)
        self.history.opens.append(opened)
        self.history.warm += read_before > 0
        self._know(len(memory))
        try:
            async with asyncio.timeout(self.rng.uniform(0.5, 10)):
                for _ in range(self.rng.randint(1, 8)):
                    if self.rng.random() < 0.3:
                        await self._barrier(writer, memory)
                    else:
                        await self._append(writer, memory, epoch, incarnation)
        except (Fenced, OutcomeUnknown, TimeoutError):
            pass  # as a node does: whoever waits hears "unknown", and this writer is let go

    async def _append(self, writer: ShardJournal, memory: list[bytes], epoch: Epoch, incarnation: Incarnation) -> None:
        self._serial += 1
        entry = Written(epoch, writer.position, str(incarnation), self._serial).encode()
        try:
            await writer.append(entry)
        except AppendRefused as refused:
            self.history.refused.append(entry)
            raise Fenced("the writer is finished") from refused
        memory.append(entry)
        if self.history.acknowledged.setdefault(len(memory) - 1, entry) != entry:
            self.history.wrong.append(f"TWO ACKNOWLEDGED: at {len(memory) - 1}")
        self._know(len(memory))

    async def _barrier(self, writer: ShardJournal, memory: list[bytes]) -> None:
        known = self.history.known
        await writer.barrier()
        if len(memory) < known:
            self.history.wrong.append(f"STALE READ: {len(memory)} entries in memory, {known} were known")

    def _know(self, count: int) -> None:
        self.history.known = max(self.history.known, count)

    def _stands(self, epoch: Epoch) -> bool:
        owner = self.etcd.store.get(Get(KEYS.owner(SHARD))).kvs
        number = self.etcd.store.get(Get(KEYS.incarnation)).kvs
        return bool(owner) and Epoch(int(number[0].value), self.epoch_of(owner[0])) == epoch

    async def _lease_ends(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 4))
            self.etcd.store.txn(Txn((), (Delete(KEYS.owner(SHARD)),)))

    def _raise_incarnation(self, number: int) -> None:
        self.history.raised = (len(self.journal()), number)
        self.etcd.store.txn(Txn((), (Put(KEYS.incarnation, b"%d" % number),)))

    async def _restore(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.5, 4))
        snapshot = self.etcd.snapshot()
        entries = [kv.value for kv in self.journal()]
        await asyncio.sleep(self.rng.uniform(0.05, 1.5))
        self.etcd.restore(snapshot)
        self.history.forget_after(entries)
        if self.raises_late:
            await asyncio.sleep(self.rng.uniform(0.0, 1))
        self._raise_incarnation(2)
        await asyncio.sleep(3)
