"""Who claims, pulls, opens and leaves what: the planner against a small world in which Txns succeed or fail."""

import random
from collections.abc import Set
from dataclasses import dataclass, field

import pytest

from cluster.placement import preference
from cluster.records import Keyspace, NodeRecord, NodeState, OwnerRecord
from cluster.topology import Node, Owner, Topology
from cluster.types import Incarnation, LeaseId, NodeId, Revision, ShardId
from node.ownership import Claim, Corpse, Leave, Local, Open, Ownership, Pull

SHARDS = 32
DELAY_S = 0.3


@dataclass
class World:
    """etcd's topology and every node's planner; actions take effect at once, in the order of the nodes."""

    topology: Topology = field(default_factory=lambda: Topology(Keyspace()))
    planners: dict[Incarnation, Ownership] = field(default_factory=dict)
    held: dict[Incarnation, dict[ShardId, Revision]] = field(default_factory=dict)
    spent: dict[Incarnation, dict[ShardId, Revision]] = field(default_factory=dict)
    dead: set[Incarnation] = field(default_factory=set)
    draining: set[Incarnation] = field(default_factory=set)
    revision: int = 0
    now_s: float = 100.0
    moves: list[tuple[ShardId, Incarnation | None, Incarnation]] = field(default_factory=list)
    warm: dict[Incarnation, Set[ShardId]] = field(default_factory=dict)
    """What each followed at its step before: a step is enough to get warm."""

    def join(self, name: str, lease: int = 1) -> Incarnation:
        me = Incarnation(NodeId(name), LeaseId(lease))
        self.planners[me] = Ownership(SHARDS, me, claim_delay_s=DELAY_S, settle_s=0.0)
        self.held[me], self.spent[me] = {}, {}
        self._register(me, NodeState.ACTIVE)
        return me

    def _register(self, me: Incarnation, state: NodeState) -> None:
        self.revision += 1
        self.topology.nodes[me.node_id] = Node(NodeRecord(me, f"{me.node_id}:1", state), Revision(self.revision))

    def drain(self, me: Incarnation) -> None:
        self.draining.add(me)
        self._register(me, NodeState.DRAINING)

    def crash(self, me: Incarnation) -> None:
        """The process is gone, its keys are still there, its peers have noticed."""
        del self.planners[me]
        self.dead.add(me)

    def expire(self, me: Incarnation) -> None:
        """etcd deleted what hung on its lease."""
        self.planners.pop(me, None)
        self.topology.nodes.pop(me.node_id, None)
        for shard in [s for s, o in self.topology.owners.items() if o.record.incarnation == me]:
            del self.topology.owners[shard]

    def step(self) -> None:
        for me, planner in list(self.planners.items()):
            warm = self.warm.get(me, frozenset())
            local = Local(self.held[me], self.spent[me], frozenset(), warm, self.dead, me in self.draining)
            plan = planner.plan(self.topology, local, self.now_s)
            for action in plan.actions:
                self._perform(me, action)
            self.warm[me] = plan.follow

    def settle(self) -> None:
        for _ in range(12):
            self.step()
            self.now_s += DELAY_S / 2

    def _perform(self, me: Incarnation, action: object) -> None:
        match action:
            case Open(shard, revision):
                assert shard not in self.held[me]
                assert self.spent[me].get(shard) != revision, "an epoch was opened twice"
                self.held[me][shard] = revision
            case Leave(shard):
                self.spent[me][shard] = self.held[me].pop(shard)
            case Claim(shard, seen, corpse):
                owner = self.topology.owners.get(shard)
                if (owner.revision if owner else 0) == seen:
                    if corpse is not None and corpse.revision:
                        self.topology.nodes.pop(corpse.node_id, None)
                    self._own(shard, me)
            case Pull(shard, owner):
                giver = owner.record.incarnation
                assert self.topology.owners[shard] == owner
                if shard in self.held.get(giver, {}):
                    self.spent[giver][shard] = self.held[giver].pop(shard)
                self._own(shard, me)

    def _own(self, shard: ShardId, me: Incarnation) -> None:
        before = self.topology.owners.get(shard)
        self.moves.append((shard, before.record.incarnation if before else None, me))
        self.revision += 1
        self.topology.owners[shard] = Owner(OwnerRecord(me, f"{me.node_id}:1"), Revision(self.revision))

    def owners(self) -> dict[ShardId, Incarnation]:
        return {shard: owner.record.incarnation for shard, owner in self.topology.owners.items()}

    def check_placed(self) -> None:
        """Every shard is owned and held by the first choice among the living, active nodes, and by nobody else."""
        active = {me.node_id: me for me in self.planners if me not in self.draining}
        for number in range(SHARDS):
            shard = ShardId(number)
            first = active[preference(shard, active)[0]]
            assert self.topology.owners[shard].record.incarnation == first
            holders = [me for me in self.planners if shard in self.held[me]]
            assert holders == [first]
            assert self.held[first][shard] == self.topology.owners[shard].revision


def test_one_node_owns_everything() -> None:
    """The first node of a cluster claims and opens every shard."""
    world = World()
    world.join("a")
    world.settle()
    world.check_placed()


def test_a_node_that_joins_moves_only_its_own_shards() -> None:
    """A join moves the shards that rendezvous hashing gives the newcomer, each once, from their living owners."""
    world = World()
    world.join("a")
    world.join("b")
    world.settle()
    before = world.owners()
    world.moves.clear()
    newcomer = world.join("c")
    world.settle()
    world.check_placed()
    assert world.moves
    assert all(new == newcomer and old == before[shard] for shard, old, new in world.moves)
    assert len(world.moves) == len({shard for shard, _, _ in world.moves})


@pytest.mark.parametrize("how", ["crash", "expire"])
def test_a_lost_node_loses_only_its_own_shards(how: str) -> None:
    """When a node is gone, its shards go to their next choice, each once, and no other shard moves."""
    world = World()
    lost = [world.join(name) for name in "abc"][1]
    world.settle()
    before = world.owners()
    world.moves.clear()
    world.crash(lost) if how == "crash" else world.expire(lost)
    world.settle()
    world.check_placed()
    assert {shard for shard, _, _ in world.moves} == {s for s, owner in before.items() if owner == lost}
    assert len(world.moves) == len({shard for shard, _, _ in world.moves})


def test_the_taker_of_a_corpse_buries_it() -> None:
    """The first Txn that takes a shard of a dead node deletes its registration, so that nobody hands back to it."""
    world = World()
    dead = world.join("a")
    world.join("b")
    world.settle()
    registration = world.topology.nodes[dead.node_id].revision
    world.crash(dead)
    survivor = next(iter(world.planners))
    local = Local(world.held[survivor], {}, frozenset(), frozenset(), world.dead, draining=False)
    claims = [a for a in world.planners[survivor].plan(world.topology, local, 0.0).actions if isinstance(a, Claim)]
    assert claims
    assert all(claim.corpse == Corpse(dead.node_id, registration) for claim in claims)
    world.settle()
    assert dead.node_id not in world.topology.nodes
    world.check_placed()


def test_a_substitute_waits_for_the_first_choice() -> None:
    """An orphaned shard is claimed at once by its first choice and by the next only after the delay."""
    world = World()
    a, b = world.join("a"), world.join("b")
    local = Local({}, {}, frozenset(), frozenset(), frozenset(), draining=False)
    names = [NodeId("a"), NodeId("b")]
    first_choice = {
        me: {ShardId(s) for s in range(SHARDS) if preference(ShardId(s), names)[0] == me.node_id} for me in (a, b)
    }
    for me in (a, b):
        plan = world.planners[me].plan(world.topology, local, 10.0)
        assert {action.shard for action in plan.actions} == first_choice[me]
        assert plan.wake_s == pytest.approx(10.0 + DELAY_S)
        later = world.planners[me].plan(world.topology, local, 10.0 + DELAY_S)
        assert {action.shard for action in later.actions} == set(map(ShardId, range(SHARDS)))


def test_a_draining_node_gives_everything_and_claims_nothing() -> None:
    """After SIGTERM every shard is pulled by its next choice, and orphans are left to others."""
    world = World()
    leaver = world.join("a")
    world.join("b")
    world.join("c")
    world.settle()
    world.drain(leaver)
    world.settle()
    world.check_placed()
    assert not world.held[leaver]


def test_a_shard_is_pulled_only_when_it_is_warm() -> None:
    """A newcomer follows what it should own before it asks for it: the owner serves on meanwhile."""
    world = World()
    world.join("a")
    world.settle()
    newcomer = world.join("b")
    nothing: frozenset[ShardId] = frozenset()
    planner = world.planners[newcomer]
    plan = planner.plan(world.topology, Local({}, {}, nothing, nothing, frozenset(), draining=False), 0.0)
    due = {ShardId(s) for s in range(SHARDS) if preference(ShardId(s), [NodeId("a"), NodeId("b")])[0] == "b"}
    assert due
    assert plan.actions == ()
    assert due < plan.follow
    warm = frozenset(sorted(due)[:2])
    plan = planner.plan(world.topology, Local({}, {}, nothing, warm, frozenset(), draining=False), 0.0)
    assert {action.shard for action in plan.actions if isinstance(action, Pull)} == warm


def test_a_node_that_comes_and_goes_moves_nothing() -> None:
    """It pulls from nobody before it has been there for settle_s, but from who leaves, and claims what has no owner."""
    world = World()
    a, b = world.join("a"), Incarnation(NodeId("b"), LeaseId(1))
    world.settle()
    world.planners[b] = planner = Ownership(SHARDS, b, claim_delay_s=DELAY_S, settle_s=2.0)
    world.topology.nodes[b.node_id] = Node(NodeRecord(b, "b:1", NodeState.ACTIVE), Revision(1_000))
    due = {ShardId(s) for s in range(SHARDS) if preference(ShardId(s), [NodeId("a"), NodeId("b")])[0] == "b"}
    orphan = min(due)
    del world.topology.owners[orphan]
    local = Local({}, {}, frozenset(), due, frozenset(), draining=False)
    plan = planner.plan(world.topology, local, 10.0)
    assert plan.actions == (Claim(orphan, Revision(0), None),)
    assert plan.wake_s == pytest.approx(12.0)
    later = planner.plan(world.topology, local, 12.0).actions
    assert {action.shard for action in later if isinstance(action, Pull)} == due - {orphan}
    young = Ownership(SHARDS, b, claim_delay_s=DELAY_S, settle_s=2.0)
    world.drain(a)
    pulls = [action for action in young.plan(world.topology, local, 10.0).actions if isinstance(action, Pull)]
    assert {action.shard for action in pulls} == due - {orphan}


def test_each_shard_is_followed_by_who_would_own_it_next() -> None:
    """One node for each shard, never its owner; when the owner is gone, that very node owns it."""
    world = World()
    nodes = [world.join(name) for name in "abc"]
    world.settle()
    followers = {shard: [me for me in nodes if shard in world.warm[me]] for shard in map(ShardId, range(SHARDS))}
    assert all(len(following) == 1 for following in followers.values())
    owners = world.owners()
    assert not any(owners[shard] in following for shard, following in followers.items())
    world.crash(nodes[0])
    world.settle()
    for shard, owner in owners.items():
        if owner == nodes[0]:
            assert world.owners()[shard] == followers[shard][0]


def test_a_draining_node_follows_nothing() -> None:
    """It would not own anything next."""
    world = World()
    leaver = world.join("a")
    world.join("b")
    world.settle()
    world.drain(leaver)
    world.settle()
    assert not world.warm[leaver]


def test_an_epoch_is_never_opened_twice() -> None:
    """When a shard's loop ended though the record still names this node, the record is put again for a new epoch."""
    world = World()
    me = world.join("a")
    world.settle()
    shard = ShardId(3)
    revision = world.held[me].pop(shard)
    world.spent[me][shard] = revision
    world.settle()  # World asserts that no spent epoch is opened
    assert world.held[me][shard] > revision


def test_a_record_that_names_another_life_of_this_node_is_not_adopted() -> None:
    """Incarnations count, not node ids: a restarted node does not open what its former life owned."""
    world = World()
    former = world.join("a", lease=1)
    world.settle()
    world.expire(former)
    again = Incarnation(NodeId("a"), LeaseId(2))
    world.topology.owners[ShardId(0)] = Owner(OwnerRecord(former, "a:1"), Revision(77))
    world.join("a", lease=2)
    local = Local({}, {}, frozenset(), frozenset(), frozenset(), draining=False)
    actions = [a for a in world.planners[again].plan(world.topology, local, 0.0).actions if a.shard == 0]
    assert actions == [Claim(ShardId(0), Revision(77), None)]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_placement_is_right_in_the_end(seed: int) -> None:
    """After any series of joins, drains, crashes and expired leases, the living own everything, each shard once."""
    rng = random.Random(seed)
    world = World()
    world.join("n0")
    for number in range(1, 12):
        living = [me for me in world.planners if me not in world.draining]
        match rng.choice(["join", "crash", "expire", "drain"]):
            case "join":
                world.join(f"n{number}")
            case "crash" if len(living) > 1:
                world.crash(rng.choice(living))
            case "expire" if len(living) > 1:
                world.expire(rng.choice(living))
            case "drain" if len(living) > 1:
                world.drain(rng.choice(living))
        for _ in range(rng.randrange(4)):
            world.step()
    world.settle()
    world.check_placed()
