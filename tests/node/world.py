"""A whole cluster of nodes in one process and on virtual time: real `Member`s over a fake etcd and a fake disk.

Everything of a node is the real code but what is behind the seams. Also the callers, who do as routers do, and remember
what they were told; and the reading of the journal behind everybody's back, which says whether that was true.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

from cluster.config import JournalKind
from cluster.kv import Delete, Get, Put, Txn, prefix_end
from cluster.placement import preference
from cluster.records import NodeRecord, OwnerRecord
from cluster.session import EtcdClient
from cluster.types import Epoch, Incarnation, LeaseId, NodeId, Revision, ShardId
from node.calls import Call, Outcome, Overloaded
from node.commands import (
    Answer,
    CampaignAnswer,
    CampaignPage,
    Command,
    CreateCampaign,
    GetCampaign,
    IssueCoupon,
    Issued,
    Reason,
    Refused,
)
from node.entries import decode
from node.events import CouponsGranted
from node.journal.base import Journal
from node.journal.etcd import EtcdJournal
from node.journal.file import FileJournal
from node.ledger import Ledger
from node.replay import Replayer
from tests.fakes.disk import BASE, MemoryDisk
from tests.fakes.etcd import FakeEtcd
from tests.fakes.etcd_faults import Call as EtcdCall
from tests.fakes.etcd_faults import Fate, Faults, Leg, Script
from tests.fakes.virtual_time import run as run_virtually
from tests.node.process import CODEC, KEYS, Process, Sent

LATENCY_S = 0.005
NO_LEASE = LeaseId(0)
RUN_S_MAX = 100.0
"""Virtual seconds. A call that nobody ever answers fails a test, instead of holding it for ever."""


class Net(Script):
    """Every message takes LATENCY_S, but those for which the test says otherwise."""

    def fate(self, call: EtcdCall) -> Fate:
        fate = super().fate(call)
        return Fate(request=Leg(LATENCY_S), answer=Leg(LATENCY_S)) if fate == Fate() else fate


@dataclass(frozen=True, slots=True)
class Acknowledged:
    campaign_id: str
    user_id: str
    code: str


class World:
    """The cluster, and everything that callers were told."""

    def __init__(
        self, kind: JournalKind = "file", *, shards: int = 12, seed: int = 0, faults: Faults | None = None
    ) -> None:
        self.kind: JournalKind = kind
        self.shards = shards
        self.seed = seed
        self.rng = random.Random(seed)
        self.script = Net()
        self.etcd = FakeEtcd(faults or self.script)
        self.disk = MemoryDisk()
        self.standby_coupons_max = 1_000
        """Of processes that start from now on."""
        self.processes: dict[str, Process] = {}
        """By address; those that have ended too."""
        self.apart: set[frozenset[str]] = set()
        """Pairs of addresses that cannot reach each other, and are not told so."""
        self.acknowledged: list[Acknowledged] = []
        self.sold_out: set[str] = set()
        self.created: list[str] = []
        self.unknown = 0
        """How often a caller was told that its outcome is unknown."""
        self.corrupted: set[int] = set()
        self.logs: list[MutableMapping[str, Any]] = []
        self.set_cluster_incarnation(1)

    # --- nodes --------------------------------------------------------------------------------------------------------

    def journal(self, client: str, etcd: EtcdClient, rng: random.Random) -> Journal:
        if self.kind == "etcd":
            return EtcdJournal(etcd, KEYS, rng=rng)
        return FileJournal(BASE / "journal", self.disk.seen_by(client))

    def start(self, name: str) -> Process:
        """Another process of this node id."""
        number = sum(process.name == name for process in self.processes.values())
        process = Process(self, name, f"{name}{number or ''}")
        self.processes[process.address] = process
        return process

    async def started(self, *names: str) -> list[Process]:
        processes = [self.start(name) for name in names]
        await self.healthy()
        return processes

    def living(self) -> list[Process]:
        return [process for process in self.processes.values() if process.runs]

    def is_apart(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.apart

    # --- what etcd holds ----------------------------------------------------------------------------------------------

    def set_cluster_incarnation(self, number: int) -> None:
        self.put(KEYS.incarnation, str(number).encode())

    def put(self, key: str, value: bytes, lease_id: LeaseId = NO_LEASE) -> None:
        """As if by an operator, at once."""
        assert self.etcd.store.txn(Txn((), (Put(key, value, lease_id),))).succeeded

    def delete(self, key: str) -> None:
        self.etcd.store.txn(Txn((), (Delete(key),)))

    def owners(self) -> dict[ShardId, tuple[Incarnation, Revision]]:
        found = self.etcd.store.get(Get(KEYS.shards, prefix_end(KEYS.shards))).kvs
        return {
            KEYS.shard_of_owner(kv.key): (OwnerRecord.decode(kv.value).incarnation, kv.mod_revision) for kv in found
        }

    def owner(self, shard: int) -> Process:
        """Who serves a shard, by its record."""
        incarnation, _ = self.owners()[ShardId(shard)]
        (process,) = [p for p in self.living() if p.member.life is not None and p.member.life.me == incarnation]
        return process

    def epochs(self) -> dict[ShardId, Revision]:
        return {shard: revision for shard, (_, revision) in self.owners().items()}

    def registered(self) -> dict[NodeId, Incarnation]:
        found = self.etcd.store.get(Get(KEYS.nodes, prefix_end(KEYS.nodes))).kvs
        return {KEYS.node_of(kv.key): NodeRecord.decode(kv.value).incarnation for kv in found}

    # --- health -------------------------------------------------------------------------------------------------------

    def ailment(self, among: list[Process] | None = None) -> str:
        """Why the cluster is not as it should be; "" if each shard is served, once, by the node that placement says."""
        living = [process for process in self.living() if not process.draining] if among is None else among
        dumb = [process.client for process in living if process.member.life is None]
        if dumb:
            return f"{dumb} have no life"
        names = [NodeId(process.name) for process in living]
        if not names:
            return "nobody lives"
        owners = self.owners()
        for number in range(self.shards):
            shard = ShardId(number)
            if shard not in owners:
                return f"nobody owns {shard}"
            serving = [process.name for process in living if process.serves(shard)]
            first = preference(shard, names)[0]
            if serving != [first] or owners[shard][0].node_id != first:
                return f"{owners[shard][0]} owns {shard}, {serving} serve it and {first} should"
        return ""

    async def healthy(self, within_s: float = 10.0, among: list[Process] | None = None) -> float:
        """How long it takes until nothing ails the cluster, in virtual seconds."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while ailment := self.ailment(among):
            self.raise_bugs()
            assert loop.time() < began_s + within_s, f"after {within_s} s: {ailment}"
            await asyncio.sleep(0.01)
        return loop.time() - began_s

    def logged(self, event: str) -> list[MutableMapping[str, Any]]:
        return [entry for entry in self.logs if entry["event"] == event]

    def raise_bugs(self) -> None:
        """What ended a process that nobody killed and nobody drained."""
        for process in self.processes.values():
            ended = process.running.done() and not process.running.cancelled()
            bug = process.running.exception() if ended else None
            if bug is not None and not isinstance(bug, process.may_end_with):
                raise bug

    async def until(self, condition: Callable[[], bool], within_s: float = 10.0) -> float:
        """How long it takes, in virtual seconds."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while not condition():
            self.raise_bugs()
            assert loop.time() < began_s + within_s, f"not within {within_s} s"
            await asyncio.sleep(0.002)
        return loop.time() - began_s

    # --- callers ------------------------------------------------------------------------------------------------------

    def campaign(self, shard: int, number: int = 0) -> str:
        return f"campaign-{shard}-{number}"

    def shard_of(self, campaign_id: str) -> ShardId:
        return ShardId(int(campaign_id.split("-")[1]))

    def send(self, process: Process, command: Command, campaign_id: str, timeout_s: float = 5.0) -> Sent:
        """What the node's server does with a call."""
        sent = Sent(process)
        loop = asyncio.get_running_loop()
        if process.member.life is None:
            sent.heard(Outcome.NOT_OWNER)
            return sent
        try:
            process.member.life.keeper.submit(
                self.shard_of(campaign_id), Call(command, loop.time(), loop.time() + timeout_s, sent.heard)
            )
        except Overloaded:
            sent.heard(Outcome.NOT_OWNER)
        return sent

    async def call(self, command: Command, campaign_id: str, timeout_s: float = 60.0) -> Answer:
        """As a router: ask the owner, and the next one when it is not, or does not know. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                self.raise_bugs()
                process = self._route(campaign_id)
                if process is not None:
                    said = await self.send(process, command, campaign_id).said
                    self.unknown += said is Outcome.UNKNOWN
                    if not isinstance(said, Outcome):
                        return said
                await asyncio.sleep(self.rng.uniform(0.01, 0.03))

    def _route(self, campaign_id: str) -> Process | None:
        """Mostly the owner by its record; now and then whoever believes that it serves, as a router that is behind."""
        shard = self.shard_of(campaign_id)
        believers = [process for process in self.living() if process.serves(shard)]
        if believers and self.rng.random() < 0.3:
            return self.rng.choice(believers)
        record = self.owners().get(shard)
        for process in self.living():
            if record is not None and process.member.life is not None and process.member.life.me == record[0]:
                return process
        return None

    async def create(self, campaign_id: str, total: int, per_user_limit: int = 1) -> None:
        answer = await self.call(CreateCampaign(campaign_id, "봄", total, per_user_limit, None, None), campaign_id)
        exists = isinstance(answer, Refused) and answer.reason is Reason.CAMPAIGN_EXISTS
        assert isinstance(answer, CampaignAnswer) or exists, answer
        self.created.append(campaign_id)

    async def issue(self, campaign_id: str, user_id: str, timeout_s: float = 60.0) -> None:
        answer = await self.call(IssueCoupon(campaign_id, user_id, "r"), campaign_id, timeout_s)
        if isinstance(answer, Issued):
            self.acknowledged.append(Acknowledged(campaign_id, user_id, answer.coupon.code))
        else:
            assert isinstance(answer, Refused), answer
            assert answer.reason is Reason.SOLD_OUT, answer
            self.sold_out.add(campaign_id)

    async def read(self, campaign_id: str) -> None:
        """A read shows at least what was acknowledged before it was asked."""
        before = len({a.code for a in self.acknowledged if a.campaign_id == campaign_id})
        answer = await self.call(GetCampaign(campaign_id, 0, 0), campaign_id)
        assert isinstance(answer, CampaignPage), answer
        assert answer.campaign.issued >= before, f"{answer.campaign.issued} issued, {before} were acknowledged"

    async def serve_all(self) -> None:
        """Every shard grants a coupon to somebody new."""
        for shard in range(self.shards):
            campaign_id = self.campaign(shard)
            if campaign_id not in self.created:
                await self.create(campaign_id, 1_000)
            await self.issue(campaign_id, f"user-{len(self.acknowledged)}")

    # --- the truth ----------------------------------------------------------------------------------------------------

    async def entries(self, shard: int) -> list[bytes]:
        """A shard's journal, read behind everybody's back."""
        if self.kind == "etcd":
            prefix = KEYS.journal(ShardId(shard))
            return [kv.value for kv in self.etcd.store.get(Get(prefix, prefix_end(prefix))).kvs]
        entries: list[bytes] = []
        journal = FileJournal(BASE / "journal", self.disk.copy().seen_by("auditor"))
        await journal.open(ShardId(shard), Epoch(1_000, Revision(1)), entries.append)
        return entries

    async def corrupt(self, shard: int) -> None:
        """What no node wrote, in a shard's journal."""
        self.corrupted.add(shard)
        if self.kind == "etcd":
            self.put(KEYS.entry(ShardId(shard), len(await self.entries(shard))), b"no entry")
            return
        path = max(path for path in self.disk.files() if path.parent.name == f"shard-{shard:04}")
        intact = self.disk.read_file(path)
        self.disk.write_file(path, intact[:12] + bytes([intact[12] ^ 1]) + intact[13:]).sync()

    async def check(self) -> None:
        """What was acknowledged is in the journal; nothing is there twice, and nothing too many."""
        granted: dict[tuple[str, str], str] = {}
        issued: dict[str, int] = {}
        total: dict[str, int] = {}
        for shard in set(range(self.shards)) - self.corrupted:
            ledger = Ledger(ShardId(shard), CODEC)
            replayer = Replayer(ledger)
            for entry in await self.entries(shard):
                replayer.feed(entry)
                for event in decode(entry).events:
                    if isinstance(event, CouponsGranted):
                        for user_id, code in zip(event.user_ids, event.codes, strict=True):
                            assert (event.campaign_id, user_id) not in granted, f"{user_id} has two coupons"
                            granted[event.campaign_id, user_id] = code
                            issued[event.campaign_id] = issued.get(event.campaign_id, 0) + 1
            for campaign_id in self.created:
                if (campaign := ledger.campaign(campaign_id)) is not None:
                    total[campaign_id] = campaign.total
        assert len(set(granted.values())) == len(granted), "a code exists twice"
        for told in self.acknowledged:
            if self.shard_of(told.campaign_id) in self.corrupted:
                continue
            found = granted.get((told.campaign_id, told.user_id))
            assert found == told.code, f"{told} was acknowledged, the journal has {found}"
        for campaign_id in self.created:
            if self.shard_of(campaign_id) in self.corrupted:
                continue
            assert campaign_id in total, f"{campaign_id} was acknowledged and is not there"
            assert issued.get(campaign_id, 0) <= total[campaign_id], f"{campaign_id}: over-issue"
            if campaign_id in self.sold_out:
                assert issued[campaign_id] == total[campaign_id], f"{campaign_id} was called sold out"

    def check_answered(self) -> None:
        """Nobody waits for an answer that never comes. Call when nothing is under way."""
        waiting = {process.client: len(process.pending) for process in self.processes.values() if process.pending}
        assert not waiting, f"never answered: {waiting}"

    async def stop(self) -> None:
        for process in self.living():
            process.crash()
        await asyncio.gather(*(process.running for process in self.processes.values()), return_exceptions=True)


class Load:
    """For each shard somebody who issues one coupon after the other, until told to stop."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stopped = False
        self._gaps_s: list[float] = []
        self._callers = [asyncio.create_task(self._call(shard)) for shard in range(world.shards)]

    async def stop(self) -> None:
        """Every call has been answered; none was lost."""
        self._stopped = True
        await asyncio.gather(*self._callers)

    @property
    def gap_s(self) -> float:
        """The longest that a call took."""
        return max(self._gaps_s)

    async def _call(self, shard: int) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopped:
            began_s = loop.time()
            await self._world.issue(self._world.campaign(shard), f"user-{shard}-{began_s}")
            self._gaps_s.append(loop.time() - began_s)
            await asyncio.sleep(0.05)


async def with_load(world: World, *names: str) -> tuple[list[Process], Load]:
    processes = await world.started(*names)
    await world.serve_all()
    return processes, Load(world)


def run(main: Callable[[World], Coroutine[Any, Any, None]], make: Callable[[], World] = World) -> None:
    """A test on virtual time, in a world of its own; at its end the journal is held against what callers were told."""

    async def checked() -> None:
        world = make()
        world.logs = logs
        unheard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        try:
            async with asyncio.timeout(RUN_S_MAX):
                await main(world)
            world.raise_bugs()
            world.check_answered()
            await world.check()
            assert not unheard, f"nobody heard of {unheard}"
        finally:
            await world.stop()

    with structlog.testing.capture_logs() as logs:
        run_virtually(checked())
