"""The simulated cluster: etcd, the disk, the network, routers and nodes; and the log of all that happens in it."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from chaos.history import Call
from cluster.codes import CodeCodec, fingerprint
from cluster.config import HASH_VERSION, ClusterConfig, JournalKind
from cluster.kv import Event, Get, KeyValue, Put, Txn
from cluster.records import OwnerRecord
from cluster.types import LeaseId, Revision
from node.life import Timing
from proto.journal_pb2 import Entry
from tests.fakes.disk import MemoryDisk
from tests.fakes.etcd import FakeEtcd
from tests.fakes.etcd_faults import Faults
from tests.sim.journals import Journals
from tests.sim.loop import Cpu, SimLoop, current_cpu
from tests.sim.network import Network
from tests.sim.processes import KEYS, MachineClock, NodeProcess, Process, RouterProcess, Trap
from tests.sim.weather import Weather

CODE_KEY = b"simulated code key of 32 bytes.."
CODEC = CodeCodec({0: CODE_KEY})


@dataclass(frozen=True, slots=True)
class Shape:
    """What a seed's cluster is like."""

    kind: JournalKind
    shards: int
    nodes: int
    routers: int
    lease_ttl_s: int
    standby_coupons_max: int
    fixed_addresses: bool
    """A process that takes another's place listens where that one did."""


class SimEtcd(FakeEtcd):
    """Tells of every lease that ends."""

    def __init__(self, faults: Faults, on_lease_end: Callable[[LeaseId], None]) -> None:
        super().__init__(faults)
        self._on_lease_end = on_lease_end

    def revoke(self, lease_id: LeaseId) -> None:
        super().revoke(lease_id)
        self._on_lease_end(lease_id)


class World:
    def __init__(self, loop: SimLoop, seed: str, shape: Shape) -> None:
        self.loop = loop
        self.seed = seed
        self.shape = shape
        self.rng = random.Random(f"{seed}/world")
        self.events: list[tuple[float, str, dict[str, object]]] = []
        self.totals: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        """How often something happened at each point."""
        self.violations: list[str] = []
        self.network = Network(random.Random(f"{seed}/network"))
        self.weather = Weather(self, random.Random(f"{seed}/weather"))
        self.etcd = SimEtcd(self.weather, self._lease_ended)
        self.disk = MemoryDisk()
        self.disk.intercept = self.weather.of_disk
        self.journals = Journals(self.note)
        self.timing = Timing(
            lease_ttl_s=shape.lease_ttl_s,
            keepalive_s=0.5,
            claim_delay_s=0.3,
            hold_down_s=1.0,
            drain_s_max=10.0,
            settle_s=self.rng.choice([0.0, 0.5]),
        )
        self.page_entries = self.rng.choice([3, 28])
        self.processes: dict[str, Process] = {}
        """By its client name; those that have ended too."""
        self.clocks = {
            self._node_name(number): MachineClock(self.rng.randrange(-200_000, 200_000))
            for number in range(shape.nodes + 1)
        }
        self._open: set[tuple[Cpu | None, int, int]] = set()
        """Shards that a process serves: its cpu, the shard, the epoch's revision."""
        self._numbers: Counter[str] = Counter()
        self._make_cluster()
        publish = self.etcd.store.on_revision

        def on_revision(events: tuple[Event, ...]) -> None:
            self._watch_etcd(events)
            publish(events)

        self.etcd.store.on_revision = on_revision

    def _make_cluster(self) -> None:
        shape = self.shape
        config = ClusterConfig("simulated", shape.shards, HASH_VERSION, shape.kind, fingerprint(CODE_KEY))
        for key, value in (
            (KEYS.config, config.encode()),
            (KEYS.incarnation, b"1"),
            (KEYS.format, b"1"),
            (KEYS.code_key(0), CODE_KEY.hex().encode()),
        ):
            self.put(key, value)

    # --- processes ----------------------------------------------------------------------------------------------------

    @property
    def node_names(self) -> list[str]:
        return [self._node_name(number) for number in range(self.shape.nodes)]

    @property
    def router_names(self) -> list[str]:
        return [f"router-{number}" for number in range(self.shape.routers)]

    def start(self, name: str) -> Process:
        """Another process in the place `name`, which must be free."""
        assert self.present(name) is None, f"{name} runs"
        self._numbers[name] += 1
        number = self._numbers[name]
        address = f"{name}:7000" if self.shape.fixed_addresses else f"{name}:{7000 + number}"
        process: Process
        if name.startswith("router"):
            process = RouterProcess(self, name, number, address)
        else:
            process = NodeProcess(self, name, number, address, self.clocks[name])
        self.processes[process.client] = process
        self.note("started", process=process.client, address=address)
        return process

    def present(self, name: str) -> Process | None:
        """The process in this place, if one runs or stands still."""
        return next((p for p in reversed(self.processes.values()) if p.name == name and p.runs), None)

    def nodes(self) -> list[NodeProcess]:
        return [p for p in self.processes.values() if isinstance(p, NodeProcess) and p.runs]

    def routers(self) -> list[RouterProcess]:
        return [p for p in self.processes.values() if isinstance(p, RouterProcess) and p.runs]

    def sprung(self, process: Process, trap: Trap) -> None:
        self.points[f"{trap.what} at {trap.point}"] += 1
        self.note("at_point", process=process.client, point=trap.point, what=trap.what)
        trap.spring()

    def cut_power(self) -> None:
        """Of the machine with all nodes and the disk. etcd and routers run on others."""
        self.note("power_cut")
        for process in self.nodes():
            process.kill()
        self.disk.power_cut(self.rng)

    @staticmethod
    def _node_name(number: int) -> str:
        return "abcdefgh"[number]

    # --- etcd ---------------------------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes) -> None:
        """As if by an operator, at once."""
        assert self.etcd.store.txn(Txn((), (Put(key, value, LeaseId(0)),))).succeeded

    def value(self, key: str) -> KeyValue | None:
        found = self.etcd.store.get(Get(key)).kvs
        return found[0] if found else None

    @property
    def cluster_incarnation(self) -> int:
        found = self.value(KEYS.incarnation)
        assert found is not None, "nobody deletes it"
        return int(found.value)

    def _watch_etcd(self, events: tuple[Event, ...]) -> None:
        """What etcd holds is looked at whenever it changes."""
        for event in events:
            key = event.kv.key
            if key.startswith(KEYS.journal(0)[:-5]):  # type: ignore[arg-type]  # of any shard
                self._entry_landed(event)

    def _lease_ended(self, lease_id: LeaseId) -> None:
        """A node never believes in its lease for longer than etcd does."""
        for node in self.nodes():
            life = node.member.life if node.member is not None else None
            if life is not None and life.me.lease_id == lease_id and life.keeper._lease_stands():
                self.violated(f"{node.client} believes in its lease {lease_id:x}, which has ended")

    def _entry_landed(self, event: Event) -> None:
        kv = event.kv
        if event.deleted or kv.create_revision != kv.mod_revision:
            self.violated(f"{kv.key} was changed after it had been written")
            return
        entry = Entry.FromString(kv.value)
        if kv.key != KEYS.entry(entry.shard, entry.position):  # type: ignore[arg-type]  # plain numbers
            self.violated(f"{kv.key} holds position {entry.position} of shard {entry.shard}")
        if entry.position and self.value(KEYS.entry(entry.shard, entry.position - 1)) is None:  # type: ignore[arg-type]
            self.violated(f"{kv.key} stands behind a hole")
        owner = self.value(KEYS.owner(entry.shard))  # type: ignore[arg-type]
        revision = owner.mod_revision if owner else Revision(0)
        if revision != entry.revision or self.cluster_incarnation != entry.cluster_incarnation:
            epoch = (entry.cluster_incarnation, entry.revision)
            self.violated(f"{kv.key} of {epoch} landed in {(self.cluster_incarnation, revision)}")
        elif owner and str(OwnerRecord.decode(owner.value).incarnation) != entry.writer:
            self.violated(f"{kv.key} was written by {entry.writer}, who does not own the shard")

    # --- the log ------------------------------------------------------------------------------------------------------

    def note(self, event: str, **fields: object) -> None:
        """One line of the log."""
        self.events.append((self.loop.time(), event, fields))

    def log(self) -> Iterator[str]:
        """All that happened, in order, a line each."""
        for at_s, event, fields in self.events:
            told = " ".join(
                f"{name}={value.describe() if isinstance(value, Call) else value}" for name, value in fields.items()
            )
            yield f"{at_s:9.6f} {event} {told}"

    def violated(self, what: str) -> None:
        self.note("violation", what=what)
        self.violations.append(what)

    def hear(self, entry: MutableMapping[str, Any]) -> None:
        """What production code logs."""
        event = str(entry.pop("event"))
        cpu = current_cpu()
        self.totals[f"log {event}"] += 1
        match event:
            case "shard_opened":
                self._open.add((cpu, entry["shard"], entry["epoch"]))
            case "shard_closed":
                self._open.discard((cpu, entry["shard"], entry["epoch"]))
                self.totals[f"shard closed: {entry['end']}"] += 1
            case "shard_handed_over" if (cpu, entry["shard"], entry["epoch"]) in self._open:
                self.violated(f"shard {entry['shard']} was given away before it had finished")
            case "life_over":
                for why in str(entry["why"]).split("; "):
                    self.totals[f"life over: {''.join(c for c in why.split(':')[0] if not c.isdigit())}"] += 1
        if cpu is not None:
            entry["process"] = cpu.name
        self.note(event, **entry)

    async def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Whether it came."""
        give_up_s = self.loop.time() + within_s
        while not condition():
            if self.loop.time() >= give_up_s:
                return False
            await asyncio.sleep(0.02)
        return True
