"""What happens to the cluster of a run, drawn from its seed: kills, pauses, partitions, bad disks, operators' doings.

A seed picks a few kinds of trouble, so that some runs see much of one thing. Everything is healed at the end.
"""

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.fakes.etcd_faults import Gate, Link
from tests.sim.points import DISK_POINTS, ETCD_JOURNAL_POINTS, ETCD_POINTS, NODE_POINTS, ROUTER_POINTS
from tests.sim.processes import ETCD_ENDPOINTS, KEYS, NodeProcess, Process, Trap

if TYPE_CHECKING:
    from tests.sim.world import World

Event = Callable[[], object]

PAUSES_S = (0.1, 0.5, 0.8, 1.2, 1.6, 4.5)
"""Most are long enough for others to take over, and shorter than a lease."""

STARTING_POINTS = tuple(point for point in ETCD_POINTS if point.startswith(("register", "claim")))
LEAVING_POINTS = (*(point for point in ETCD_POINTS if point.startswith("handover")), "given.before")
"""A node comes by these rarely, but when it begins or ends."""

TRAPS = ("kill at point", "stop at point")


@dataclass(frozen=True, slots=True)
class Focus:
    """What of all that may happen a run is about."""

    kinds: tuple[str, ...] = ()
    """Of trouble; none: the seed picks."""
    points: tuple[str, ...] = ()
    """At which nodes are killed or stopped; none: the seed picks."""


class Trouble:
    def __init__(self, world: "World", focus: Focus | None = None) -> None:
        """Args: focus: None: the seed picks."""
        self._world = world
        self._focus = focus or Focus()
        self._rng = random.Random(f"{world.seed}/trouble")
        self._snapshot = world.etcd.snapshot()
        self._through_restore: set[str] = set()
        """Processes, by client name."""
        self._leader_changes = 0
        self._over = False
        self._closed = False
        kinds = self._kinds()
        some = self._rng.sample(sorted(kinds.keys() - set(TRAPS)), self._rng.randrange(2, 6))
        # What a plant is about is not there with every journal.
        self._events = [kind for kind in self._focus.kinds if kind in kinds] or [*some, *TRAPS]
        self._kinds_by_name = kinds

    def _kinds(self) -> dict[str, Event]:
        kinds: dict[str, Event] = {
            "kill": self._kill,
            "kill at point": self._kill_at_point,
            "stop": self._stop,
            "stop at point": self._stop_at_point,
            "kill router": self._kill_router,
            "drain": self._drain,
            "part": self._part,
            "break calls": self._break_calls,
            "slow network": self._slow_network,
            "cut from etcd": self._cut_from_etcd,
            "storm": self._storm,
            "usurp": self._usurp,
            "step clock": self._step_clock,
            "change leader": self._change_leader,
            "raise incarnation": self._raise_incarnation,
            "late answers": self._late_answers,
            "late news": self._late_news,
        }
        if self._world.shape.kind == "file":
            kinds |= {
                "cut power": self._cut_power,
                "bad disk": self._bad_disk,
                "slow disk": self._slow_disk,
                # A journal in etcd would go back with it: what was acknowledged since is lost, and that is known.
                "restore": self._restore,
            }
        return kinds

    async def run(self, seconds: float) -> None:
        world, rng = self._world, self._rng
        end_s = world.loop.time() + seconds
        world.note("trouble", kinds=self._events)
        while world.loop.time() < end_s:
            await asyncio.sleep(rng.choice([0.02, 0.1, 0.3, 0.6]) * rng.uniform(0.5, 1.5))
            name = rng.choice(self._events if rng.random() < 0.6 else self._events[-len(TRAPS) :])
            world.note("event", name=name)
            world.totals[f"event {name}"] += 1
            self._kinds_by_name[name]()

    def heal(self) -> None:
        """Everything is as it should be, and every place is taken."""
        world = self._world
        self._over = True
        world.note("healed")
        world.weather.clear_up()
        world.network.join()
        world.network.speed_up()
        for process in list(world.processes.values()):
            process.trap = None
            process.go_on()
            if process.client in self._through_restore:
                # Who asked nothing until the restored etcd had passed the revision that he knew believes in a history
                # that never was, and nothing tells him: after a restore an operator starts everything again.
                process.kill()
            for link in self._links(process):
                link.thaw()
                if not process.dead:
                    link.heal()
        self._keep_up()

    def close(self) -> None:
        """The run is over: nothing is started any more."""
        self._closed = True

    def _keep_up(self) -> None:
        """As a supervisor: what was asked to end before the healing ends some time after it."""
        if self._closed:
            return
        for name in (*self._world.node_names, *self._world.router_names):
            if self._world.present(name) is None:
                self._world.start(name)
        self._world.loop.call_later(0.1, self._keep_up, context=Context())

    # --- picking ------------------------------------------------------------------------------------------------------

    def _node(self) -> NodeProcess | None:
        nodes = [node for node in self._world.nodes() if not node.stopping]
        return self._rng.choice(nodes) if nodes else None

    def _process(self) -> Process | None:
        if self._rng.random() < 0.8:
            return self._node()
        routers = self._world.routers()
        return self._rng.choice(routers) if routers else None

    def _links(self, process: Process) -> list[Link]:
        return [self._world.etcd.link(endpoint, process.client) for endpoint in ETCD_ENDPOINTS]

    def _later(self, seconds: float, event: Event) -> None:
        """Unless everything was healed by then. A process that stands still does not hold it up."""
        self._world.loop.call_later(seconds, lambda: None if self._over else event(), context=Context())

    def _start_again(self, name: str, after_s: float) -> None:
        def start() -> None:
            if self._world.present(name) is None:
                process = self._world.start(name)
                if isinstance(process, NodeProcess) and self._rng.random() < 0.5:
                    self._lay_trap(process, self._rng.choice(STARTING_POINTS))

        self._later(after_s, start)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        if node := self._node():
            self._end(node)

    def _kill_router(self) -> None:
        if routers := self._world.routers():
            self._end(self._rng.choice(routers))

    def _end(self, process: Process) -> None:
        process.kill()
        self._start_again(process.name, self._rng.choice([0.05, 0.5, 2.0]))

    def _drain(self) -> None:
        if node := self._node():
            node.drain()
            name = node.name
            if self._rng.random() < 0.7:
                self._lay_trap(node, self._rng.choice(LEAVING_POINTS))

            def start_once_ended() -> None:
                if self._world.present(name) is None:
                    self._world.start(name)
                else:
                    self._later(0.3, start_once_ended)

            self._later(0.5, start_once_ended)

    def _stop(self) -> None:
        if process := self._process():
            self._freeze(process)

    def _freeze(self, process: Process) -> None:
        process.stop()
        self._later(self._rng.choice(PAUSES_S), process.go_on)

    def _point(self, process: Process) -> str:
        if not isinstance(process, NodeProcess):
            return self._rng.choice(ROUTER_POINTS)
        if self._focus.points:
            return self._rng.choice(self._focus.points)
        etcd = self._world.shape.kind == "etcd"
        journal = self._rng.choice(ETCD_JOURNAL_POINTS if etcd else DISK_POINTS)
        return self._rng.choice([journal, journal, self._rng.choice(NODE_POINTS), self._rng.choice(ETCD_POINTS)])

    def _kill_at_point(self) -> None:
        if process := self._process():
            point = self._point(process)
            if self._world.shape.kind == "file" and isinstance(process, NodeProcess) and self._rng.random() < 0.3:
                self._lay(process, point, "power cut", self._cut_power)
            else:
                self._lay(process, point, "kill", lambda: self._end(process))

    def _stop_at_point(self) -> None:
        if process := self._process():
            taken, deaf = self._rng.random() < 0.6, self._rng.random() < 0.5

            def stop() -> None:
                self._freeze(process)
                if taken:
                    self._later(0.05, lambda: self._suspect(process))
                if deaf:
                    self._deafen(process, 5.0)

            self._lay(process, self._point(process), "stop", stop)

    def _lay_trap(self, process: Process, point: str) -> None:
        if self._rng.random() < 0.6:
            self._lay(process, point, "kill", lambda: self._end(process))
        else:
            self._lay(process, point, "stop", lambda: self._freeze(process))

    def _lay(self, process: Process, point: str, what: str, spring: Event) -> None:
        process.trap = Trap(point, self._rng.choice([1, 1, 1, 2, 4]), what, spring)

    # --- network ------------------------------------------------------------------------------------------------------

    def _pair(self) -> tuple[Process, Process] | None:
        node, other = self._node(), self._process()
        return (node, other) if node and other and node is not other else None

    def _part(self) -> None:
        if pair := self._pair():
            one, other = self._rng.sample(pair, 2)
            self._world.network.part(one.address, other.address)
            if self._rng.random() < 0.6:
                self._world.network.part(other.address, one.address)
            self._later(self._rng.choice([0.3, 1.5, 3.0]), self._world.network.join)

    def _break_calls(self) -> None:
        if pair := self._pair():
            addresses = {process.address for process in pair}
            self._world.network.break_calls(lambda call: {call.caller, call.address} == addresses, "connection reset")
        elif node := self._node():
            self._world.network.break_calls(lambda call: call.address == node.address, "connection reset")

    def _slow_network(self) -> None:
        if pair := self._pair():
            one, other = self._rng.sample(pair, 2)
            self._world.network.slow_down(one.address, other.address, self._rng.choice([0.02, 0.1, 0.4]))
            self._later(self._rng.choice([0.5, 2.0]), self._world.network.speed_up)

    def _usurp(self) -> None:
        """An owner that others take for dead, and that cannot hear of it for a while."""
        if node := self._node():
            for link in self._links(node):
                self._cut(link)
            self._later(self._rng.choice([0.4, 1.2, 4.0]), lambda: self._mend(node))
            self._suspect(node)

    def _suspect(self, process: Process) -> None:
        """As if its port had refused, though it lives: its peers hear that for a moment."""
        if isinstance(process, NodeProcess) and process.runs:
            network, address = self._world.network, process.address
            network.refuse(address)
            network.break_calls(lambda call: call.method == "Presence" and call.address == address, "connection reset")
            self._later(0.2, lambda: network.refuse(address, False))

    # --- etcd ---------------------------------------------------------------------------------------------------------

    def _cut(self, link: Link) -> None:
        what = self._rng.choice(["requests", "answers", "both", "broken"])
        if what == "broken":
            link.cut()
            return
        if what in ("requests", "both"):
            link.requests = link.requests or Gate()
        if what in ("answers", "both"):
            link.answers = link.answers or Gate()

    def _mend(self, process: Process) -> None:
        for link in self._links(process):
            link.thaw()
            if not process.dead:
                link.heal()

    def _cut_from_etcd(self) -> None:
        if process := self._process():
            links = self._links(process)
            for link in links if self._rng.random() < 0.7 else links[:1]:
                self._cut(link)
            self._later(self._rng.choice([0.3, 1.0, 4.0]), lambda: self._mend(process))

    def _storm(self) -> None:
        self._world.weather.storm = self._rng.choice([0.02, 0.08, 0.2])
        self._later(self._rng.choice([0.5, 2.0]), self._calm)

    def _calm(self) -> None:
        self._world.weather.storm = 0.0

    def _late_answers(self) -> None:
        """Of one node's appends many answers do not come, though the entries land; or the entries land late."""
        if node := self._node():
            self._world.weather.late[node.client] = self._rng.choice([0.3, 0.7])
            self._later(self._rng.choice([0.5, 2.0]), self._world.weather.late.clear)

    def _late_news(self) -> None:
        if node := self._node():
            self._deafen(node, 2.0)

    def _deafen(self, process: Process, seconds: float) -> None:
        """It is the last to hear who owns what."""
        self._world.weather.late_news[process.client] = self._rng.choice([0.3, 1.5])
        self._later(seconds, lambda: self._world.weather.late_news.pop(process.client, None))

    def _change_leader(self) -> None:
        self._leader_changes += 1
        if self._leader_changes <= 2:  # with more a dead process's lease may last until its id counts as in use
            self._world.etcd.change_leader()
        self._snapshot = self._world.etcd.snapshot()

    def _raise_incarnation(self) -> None:
        world = self._world
        world.put(KEYS.incarnation, str(world.cluster_incarnation + 1).encode())

    def _restore(self) -> None:
        world = self._world
        incarnation = world.cluster_incarnation
        world.etcd.restore(self._snapshot)
        world.put(KEYS.incarnation, str(incarnation + 1).encode())
        world.totals["restores"] += 1
        self._through_restore = {process.client for process in world.processes.values() if process.runs}

    # --- machine ------------------------------------------------------------------------------------------------------

    def _cut_power(self) -> None:
        nodes = self._world.nodes()
        self._world.cut_power()
        for node in nodes:
            self._start_again(node.name, self._rng.uniform(0.2, 0.6))

    def _bad_disk(self) -> None:
        if node := self._node():
            self._world.weather.bad_disks[node.client] = self._rng.choice([0.05, 0.3])
            self._later(self._rng.choice([0.3, 1.5]), self._world.weather.bad_disks.clear)

    def _slow_disk(self) -> None:
        if node := self._node():
            self._world.weather.slow_sync[node.client] = self._rng.choice([0.05, 0.3])
            self._later(self._rng.choice([0.5, 2.0]), self._world.weather.slow_sync.clear)

    def _step_clock(self) -> None:
        if node := self._node():
            node.clock.skew_us += self._rng.choice([-600_000, 600_000, 300_000, -300_000])
