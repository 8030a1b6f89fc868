"""Which shards this node should claim, pull, open or leave. Pure: the topology in, actions out.

It decides who *should* write. Nothing here is needed for safety: an action on an outdated view fails at etcd, by the
mod_revision in it, and two nodes that both believe to own a shard are told apart by the journal.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from cluster.placement import preference
from cluster.records import NodeRecord, NodeState
from cluster.topology import Owner, Topology
from cluster.types import Incarnation, NodeId, Revision, ShardId


@dataclass(frozen=True, slots=True)
class Corpse:
    """A node that is gone though its lease may still run: whoever takes its shards deletes its registration too, so
    that nobody hands shards back to it."""

    node_id: NodeId
    revision: Revision
    """mod_revision of its registration; 0: deleted already."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Put an owner record that names this node, if the owner key still has the mod_revision `seen` (0: none)."""

    shard: ShardId
    seen: Revision
    corpse: Corpse | None


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask the living owner to hand the shard over."""

    shard: ShardId
    owner: Owner


@dataclass(frozen=True, slots=True)
class Open:
    """The owner record names this incarnation: open the journal with its mod_revision as the epoch."""

    shard: ShardId
    revision: Revision


@dataclass(frozen=True, slots=True)
class Leave:
    """Somebody else owns it now, or nobody does: stop at once."""

    shard: ShardId


Action = Claim | Pull | Open | Leave


@dataclass(frozen=True, slots=True)
class Local:
    """What this incarnation has in hand."""

    held: Mapping[ShardId, Revision]
    """Shards that are opening, serving or stopped for corruption, with the revision of their epoch."""
    spent: Mapping[ShardId, Revision]
    """The revision of a shard's last epoch here that has ended: it can never be opened again."""
    busy: Set[ShardId]
    """Shards with a claim or a pull under way, or that rest after one that failed."""
    warm: Set[ShardId]
    """Shards that are followed and would not be taken over faster if they were followed longer."""
    dead: Set[Incarnation]
    """Whose process is certainly gone."""
    draining: bool


@dataclass(frozen=True, slots=True)
class Plan:
    actions: tuple[Action, ...]
    follow: Set[ShardId]
    """Shards that this node would own next."""
    wake_s: float | None
    """When to plan again though nothing has changed; None: no need."""


class Ownership:
    """One incarnation's planner. Remembers only since when it plans, and since when a shard has had no living owner."""

    def __init__(self, shards: int, me: Incarnation, *, claim_delay_s: float, settle_s: float) -> None:
        """
        Args:
            claim_delay_s: how long each node waits for the one that is before it in the order of preference.
            settle_s: how long after its first plan a node begins to pull from owners that do not drain.
        """
        self._shards = shards
        self._me = me
        self._claim_delay_s = claim_delay_s
        self._settle_s = settle_s
        self._settled_s: float | None = None
        self._orphaned_s: dict[ShardId, float] = {}
        self._preferences: dict[ShardId, list[NodeId]] = {}
        self._preferred_among: frozenset[NodeId] = frozenset()

    def plan(self, topology: Topology, local: Local, now_s: float) -> Plan:
        self._prefer(topology, local)
        if self._settled_s is None:
            self._settled_s = now_s + self._settle_s
        actions: list[Action] = []
        follow: set[ShardId] = set()
        wakes_s: list[float] = []
        for number in range(self._shards):
            shard = ShardId(number)
            owner = topology.owners.get(shard)
            if not local.draining and self._is_next(shard, owner):
                follow.add(shard)
            if owner is not None and owner.record.incarnation == self._me:
                self._orphaned_s.pop(shard, None)
                actions += self._keep(shard, owner.revision, local)
            elif shard in local.held:
                actions.append(Leave(shard))
            elif not local.draining and shard not in local.busy:
                actions += self._acquire(shard, owner, topology, local, now_s, wakes_s)
        return Plan(tuple(actions), follow, min(wakes_s, default=None))

    def _is_next(self, shard: ShardId, owner: Owner | None) -> bool:
        """This node is the first choice among those that do not own it."""
        owner_id = owner.record.incarnation.node_id if owner is not None else None
        following = (node_id for node_id in self._preferences[shard] if node_id != owner_id)
        return next(following, None) == self._me.node_id

    def _keep(self, shard: ShardId, revision: Revision, local: Local) -> list[Action]:
        """The record names this incarnation."""
        if local.held.get(shard) == revision:
            return []
        if shard in local.held:
            return [Leave(shard)]
        if local.spent.get(shard) == revision:
            # An epoch opens once. Put the record again for a new one; a draining node waits to be pulled.
            return [] if shard in local.busy or local.draining else [Claim(shard, revision, None)]
        return [Open(shard, revision)]

    def _acquire(
        self,
        shard: ShardId,
        owner: Owner | None,
        topology: Topology,
        local: Local,
        now_s: float,
        wakes_s: list[float],
    ) -> list[Action]:
        """The record names somebody else, or there is none."""
        order = self._preferences[shard]
        if self._me.node_id not in order:
            return []
        rank = order.index(self._me.node_id)
        if owner is not None and lives(owner.record.incarnation, topology, local.dead):
            self._orphaned_s.pop(shard, None)
            if rank != 0 or shard not in local.warm:
                return []
            assert self._settled_s is not None
            if now_s < self._settled_s and not _drains(owner, topology):
                wakes_s.append(self._settled_s)
                return []
            return [Pull(shard, owner)]
        due_s = self._orphaned_s.setdefault(shard, now_s) + rank * self._claim_delay_s
        if now_s < due_s:
            wakes_s.append(due_s)
            return []
        return [Claim(shard, owner.revision if owner else Revision(0), _corpse(owner, topology))]

    def _prefer(self, topology: Topology, local: Local) -> None:
        """Each shard's order of preference among the nodes that may own: worked out again when they change."""
        among = frozenset(node_id for node_id, node in topology.nodes.items() if _may_own(node.record, local))
        if among != self._preferred_among or not self._preferences:
            self._preferred_among = among
            self._preferences = {ShardId(s): preference(ShardId(s), among) for s in range(self._shards)}


def _may_own(node: NodeRecord, local: Local) -> bool:
    return node.state is NodeState.ACTIVE and node.incarnation not in local.dead


def lives(incarnation: Incarnation, topology: Topology, dead: Set[Incarnation]) -> bool:
    """It is registered, and its process is not known to be gone."""
    node = topology.nodes.get(incarnation.node_id)
    return node is not None and node.record.incarnation == incarnation and incarnation not in dead


def _drains(owner: Owner, topology: Topology) -> bool:
    return topology.nodes[owner.record.incarnation.node_id].record.state is NodeState.DRAINING


def _corpse(owner: Owner | None, topology: Topology) -> Corpse | None:
    """What is left of the dead owner. If its id is registered by a later incarnation, nothing is left."""
    if owner is None:
        return None
    node = topology.nodes.get(owner.record.incarnation.node_id)
    if node is None:
        return Corpse(owner.record.incarnation.node_id, Revision(0))
    if node.record.incarnation == owner.record.incarnation:
        return Corpse(owner.record.incarnation.node_id, node.revision)
    return None
