"""What can be done to a cluster, one method a fault, and the record of what was done.

A method returns when its fault is healed: what it stopped runs again. It waits neither for shards to come home nor for
service to be back: that is the cluster's part, and judged.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from chaos.cluster import ChaosCluster
from chaos.control import DiskState
from chaos.history import Epochs, Fault, Overload, Trace
from chaos.proxies import Link
from chaos.restored import Restore

LEASE_TTL_S = 3.0
"""node.config's default, which the nodes of a chaos run have."""
PAST_LEASE_S = LEASE_TTL_S + 1.2
"""A node that is silent for so long has lost its shards."""
PAST_TWO_LEASES_S = 2 * LEASE_TTL_S + 1.5
"""A node that etcd hears, and that does not hear etcd, has lost its shards after so long: it asks on until its own
deadline, and each question renews its lease."""
TWIN_ENDS_S_MAX = 15.0
CLOCK_AHEAD_S_MAX = 5.0
_STEP_S_MIN = 1.0
"""A step that nobody can take for drift."""


@dataclass(slots=True)
class _Open:
    """A fault whose traces are not gathered yet."""

    what: str
    from_s: float
    required: tuple[Trace, ...]
    campaign_ids: tuple[str, ...]
    forbidden: tuple[Trace, ...]
    epochs_before: Epochs
    counted_before: Mapping[Trace, int]
    to_s: float
    epochs_after: Epochs = field(default_factory=dict)
    seen: set[Trace] = field(default_factory=set)
    """Traces that the fault itself looked for and found."""


class Faults:
    """The faults of one run, on one cluster, from one seed."""

    def __init__(
        self,
        cluster: ChaosCluster,
        rng: random.Random,
        campaign_ids: Sequence[str],
        now_s: Callable[[], float],
        until_s: float,
        quiet_campaign_ids: Sequence[str] = (),
    ) -> None:
        """
        Args:
            campaign_ids: the campaigns whose owners are worth hitting.
            now_s: the history's clock.
            until_s: no new round begins after it.
            quiet_campaign_ids: all others.
        """
        self.cluster = cluster
        self.rng = rng
        self._campaign_ids = campaign_ids
        self._now_s = now_s
        self._until_s = until_s
        self.all_campaign_ids = (*campaign_ids, *quiet_campaign_ids)
        self._open: list[_Open] = []
        self._rounds = 0
        self.overloads: list[Overload] = []
        """What a scenario has measured."""
        self.restore: Restore | None = None
        """What a scenario has taken back."""

    # --- for scenarios ------------------------------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        return self._now_s()

    @property
    def left_s(self) -> float:
        """Until no new round begins."""
        return max(0.0, self._until_s - self._now_s())

    def again(self) -> bool:
        """Whether to begin another round; the first one always."""
        self._rounds += 1
        return self._rounds == 1 or self._now_s() < self._until_s

    async def pause(self, at_least_s: float, at_most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(at_least_s, at_most_s))

    async def some_owner(self) -> str:
        """A node that owns a campaign in which something happens."""
        return await self.cluster.owner(self.rng.choice(self._campaign_ids))

    def some_node(self) -> str:
        return self.rng.choice(self.cluster.nodes)

    def some_clock_s(self, node: str) -> float:
        """How far the node's clock could be ahead that it would be a step."""
        ahead_s = self.cluster.control(node).clock_ahead_us / 1e6
        while True:
            then_s = self.rng.uniform(-CLOCK_AHEAD_S_MAX, CLOCK_AHEAD_S_MAX)
            if abs(then_s - ahead_s) >= _STEP_S_MIN:
                return then_s

    async def settled(self) -> None:
        """Wait until every shard is where it belongs. Raises NotSettled."""
        await self.cluster.settled()
        for fault in self._open:
            fault.epochs_after = fault.epochs_after or self.cluster.epochs()

    def records(self) -> list[Fault]:
        """Everything that was done, with its traces so far. What the logs tell is counted from a fault's beginning to
        now: an owner that slept is fenced when it wakes, and whose fault it was its log does not say."""
        counted = self.cluster.logs.counted()
        return [
            Fault(
                fault.what,
                fault.from_s,
                fault.to_s,
                fault.required,
                fault.epochs_before,
                fault.epochs_after or self.cluster.epochs(),
                {trace: count - fault.counted_before.get(trace, 0) for trace, count in counted.items()}
                | dict.fromkeys(fault.seen, 1),
                fault.campaign_ids,
                fault.forbidden,
            )
            for fault in self._open
        ]

    # --- processes ----------------------------------------------------------------------------------------------------

    async def kill_node(self, node: str, away_s: float) -> None:
        """kill -9; started again after `away_s`. It needs no healing: service has to be back without it."""
        async with self.fault(f"kill -9 {node}", [node], (Trace.EPOCH_CHANGED,), heals=False):
            await self.cluster.kill(node)
        await asyncio.sleep(away_s)
        await self.cluster.start(node)

    async def freeze_node(self, node: str, for_s: float, required: tuple[Trace, ...] = (Trace.EPOCH_CHANGED,)) -> None:
        """SIGSTOP, then SIGCONT."""
        async with self.fault(f"freeze {node} for {for_s:.1f} s", [node], required):
            self.cluster.freeze(node)
            try:
                await asyncio.sleep(for_s)
            finally:
                self.cluster.thaw(node)

    async def restart_node(self, node: str) -> None:
        """SIGTERM, wait for its end, start it."""
        async with self.fault(f"restart {node}", [node], (Trace.EPOCH_CHANGED,)):
            if (returncode := await self.cluster.stop(node)) != 0:
                raise RuntimeError(f"{node} was told to stop and ended with {returncode}")
            await self.cluster.start(node)

    async def kill_router(self, router: str, away_s: float) -> None:
        async with self.fault(f"kill -9 {router}", [], heals=False):
            await self.cluster.kill(router)
        await asyncio.sleep(away_s)
        await self.cluster.start(router)

    async def restart_router(self, router: str) -> None:
        async with self.fault(f"restart {router}", []):
            await self.cluster.stop(router)
            await self.cluster.start(router)

    async def add_node(self, node: str) -> None:
        async with self.fault(f"start {node}", [], (Trace.EPOCH_CHANGED,)):
            await self.cluster.start(node)

    async def remove_node(self, node: str) -> None:
        async with self.fault(f"stop {node}", [node], (Trace.EPOCH_CHANGED,)):
            await self.cluster.stop(node)

    async def power_cut(self, dark_s: float) -> None:
        """kill -9 of everything at once."""
        cluster = self.cluster
        names = [*cluster.etcds, *cluster.nodes, *cluster.routers]
        async with self.fault("kill -9 everything", cluster.nodes, (Trace.EPOCH_CHANGED,)):
            for name in names:
                cluster.signal_kill(name)
            for name in names:
                await cluster.kill(name)
            await asyncio.sleep(dark_s)
            for kind in (cluster.etcds, cluster.nodes, cluster.routers):
                async with asyncio.TaskGroup() as starting:
                    for name in kind:
                        starting.create_task(cluster.start(name))

    async def kill_etcd(self, members: Sequence[str], away_s: float) -> None:
        async with self.fault(f"kill -9 {', '.join(members)}", []):
            for member in members:
                await self.cluster.kill(member)
            await asyncio.sleep(away_s)
            async with asyncio.TaskGroup() as starting:
                for member in members:
                    starting.create_task(self.cluster.start(member))

    async def freeze_etcd(self, member: str, for_s: float, *, left_by: str = "") -> None:
        """SIGSTOP, then SIGCONT. `left_by`: a node that asks this member. It has to ask another and to go on with what
        it owns, long before this one wakes."""
        nodes, required = ([left_by], (Trace.MEMBER_LEFT,)) if left_by else ([], ())
        forbidden = (Trace.EPOCH_CHANGED,) if left_by else ()
        what = f"freeze {member}{f', which {left_by} asks,' if left_by else ''} for {for_s:.1f} s"
        async with self.fault(what, nodes, required, heals=not left_by, forbidden=forbidden):
            self.cluster.freeze(member)
            try:
                await asyncio.sleep(for_s)
            finally:
                self.cluster.thaw(member)

    async def twin_of_living(self, node: str) -> None:
        """A second process with the id of a node that lives: it has to give up by itself."""
        async with (
            self.fault(f"second process as {node}, which lives", []),
            self.cluster.twin(node) as twin,
            asyncio.timeout(TWIN_ENDS_S_MAX),
        ):
            if await twin.wait() == 0 or "belongs to the living" not in twin.log_tail():
                raise RuntimeError(f"a second process with a living node's id did not end for that:\n{twin.log_tail()}")

    async def twin_of_frozen(self, node: str) -> None:
        """A second process with the id of a node that sleeps past its lease and then wakes."""
        async with self.fault(f"second process as {node}, which is frozen", [node], (Trace.EPOCH_CHANGED,)):
            self.cluster.freeze(node)
            try:
                async with self.cluster.twin(node) as twin:
                    await asyncio.sleep(PAST_LEASE_S)
                    await twin.ready(TWIN_ENDS_S_MAX)
                    await self.pause(1.0, 2.0)
                    self.cluster.thaw(node)
                    await self.pause(1.0, 2.0)
            finally:
                self.cluster.thaw(node)
            await self.cluster.kill(node)  # the twin has its id: it is about to end, or would be
            await self.cluster.start(node)

    async def suspect(self, node: str, late_s: float) -> None:
        """Its shards are given to another node while it lives, serves and holds its lease, as after a wrong suspicion.
        What etcd tells it and the routers comes late by `late_s`: until then it goes on with an epoch that is over."""
        cluster = self.cluster
        late = cluster.network.links([node, *cluster.routers], cluster.etcds)
        # A round in etcd's journal hears of its end and of the new owner by one connection, in either order.
        fenced = (Trace.FENCED,) if cluster.has_file_journal else ()
        async with self.fault(f"suspect {node}", [node], (Trace.EPOCH_CHANGED, *fenced)):
            try:
                for link in late:
                    link.down.delay_s = late_s
                successor = self.rng.choice([other for other in cluster.nodes if other != node])
                await cluster.usurp(node, successor)
                await asyncio.sleep(2 * late_s)
            finally:
                for link in late:
                    link.heal()

    # --- machines -----------------------------------------------------------------------------------------------------

    async def restart_with_clock(self, node: str, ahead_s: float) -> None:
        """SIGTERM, and start with a clock that is wrong all the time."""
        async with self.fault(f"restart {node} with its clock at {ahead_s:+.1f} s", [node], (Trace.EPOCH_CHANGED,)):
            await self.cluster.stop(node)
            self.cluster.control(node).clock_ahead_us = round(ahead_s * 1e6)
            await self.cluster.start(node)

    async def step_clock(self, node: str, ahead_s: float) -> None:
        """Its clock jumps while it serves: it has to notice, to give its shards up and to begin anew."""
        control = self.cluster.control(node)
        step_s = ahead_s - control.clock_ahead_us / 1e6
        required = (Trace.CLOCK_STEPPED, Trace.EPOCH_CHANGED)
        async with self.fault(f"step the clock of {node} by {step_s:+.1f} s", [node], required, heals=False):
            control.clock_ahead_us = round(ahead_s * 1e6)

    async def fail_disk(self, nodes: Sequence[str], state: DiskState, for_s: float) -> None:
        """Every write, or every sync, of these nodes fails."""
        what = "disk full" if state is DiskState.FULL else "fsync fails"
        required = (Trace.DISK_FAILED, Trace.EPOCH_CHANGED)
        async with self.fault(f"{what} on {', '.join(nodes)} for {for_s:.1f} s", nodes, required):
            for node in nodes:
                self.cluster.control(node).disk = state
            try:
                await asyncio.sleep(for_s)
            finally:
                for node in nodes:
                    self.cluster.control(node).disk = DiskState.WELL

    # --- links --------------------------------------------------------------------------------------------------------

    async def cut(self, links: Sequence[Link], for_s: float, *, moves: Sequence[str] = ()) -> None:
        """Silence both ways. `moves`: nodes that lose their shards by it."""
        async with self._links(f"cut {_names(links)}", links, moves):
            for link in links:
                link.cut()
            await asyncio.sleep(for_s)

    async def cut_etcd(self, some: Sequence[str], others: Sequence[str], for_s: float) -> None:
        """Members that do not hear each other. If the leader is left alone, another one has to lead."""
        links = self.cluster.network.between(some, others)
        leader = await self.cluster.etcd_leader()
        deposed = [leader] == list(some) and len(others) > 1
        required = (Trace.LEADER_CHANGED,) if deposed else ()
        async with self.fault(f"cut {', '.join(some)} from {', '.join(others)}", [], required) as fault:
            try:
                for link in links:
                    link.cut()
                await asyncio.sleep(for_s)
                if deposed and await self.cluster.etcd_leader() != leader:
                    fault.seen.add(Trace.LEADER_CHANGED)
            finally:
                for link in links:
                    link.heal()

    async def cut_one_way(self, links: Sequence[Link], for_s: float, *, up: bool, moves: Sequence[str] = ()) -> None:
        """Silence towards the servers (`up`), or from them."""
        async with self._links(f"cut {_names(links)}, {'requests' if up else 'replies'} only", links, moves):
            for link in links:
                (link.up if up else link.down).stop()
            await asyncio.sleep(for_s)

    async def slow(self, links: Sequence[Link], delay_s: float, for_s: float) -> None:
        """Each way takes so much longer."""
        async with self._links(f"slow {_names(links)} by {delay_s * 1e3:.0f} ms", links, ()):
            for link in links:
                link.slow(delay_s)
            await asyncio.sleep(for_s)

    @asynccontextmanager
    async def _links(self, what: str, links: Iterable[Link], moves: Sequence[str]) -> AsyncIterator[None]:
        required = (Trace.EPOCH_CHANGED,) if moves else ()
        async with self.fault(what, moves, required):
            try:
                yield
            finally:
                for link in links:
                    link.heal()

    # --- the record ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def fault(
        self,
        what: str,
        nodes: Sequence[str],
        required: tuple[Trace, ...] = (),
        *,
        heals: bool = True,
        forbidden: tuple[Trace, ...] = (),
    ) -> AsyncIterator[_Open]:
        """The body injects and, if it `heals`, undoes.

        Args:
            nodes: those that it hits: the campaigns that they own have to be served again afterwards.
        """
        hit = [c for c in self._campaign_ids if self.cluster.owner_now(c) in nodes]
        if nodes and not hit:
            required = ()  # it owned nothing, and so nothing has to move
        from_s = self._now_s()
        epochs, counted = self.cluster.epochs(), self.cluster.logs.counted()
        fault = _Open(what, from_s, required, tuple(hit), forbidden, epochs, counted, from_s)
        self._open.append(fault)
        yield fault
        if heals:
            fault.to_s = self._now_s()


def _names(links: Sequence[Link]) -> str:
    clients, servers = sorted({link.client for link in links}), sorted({link.server for link in links})
    return f"{', '.join(clients)} to {', '.join(servers)}"
