"""What can go wrong, by name. A scenario says what it needs, and drives faults, round after round, in its time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.control import DiskState
from chaos.faults import CLOCK_AHEAD_S_MAX, PAST_LEASE_S, PAST_TWO_LEASES_S, Faults
from chaos.flood import overload
from chaos.restore import restore_snapshot
from chaos.storm import storm
from cluster.config import JournalKind


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    about: str
    inject: Callable[[Faults], Awaitable[None]]
    proxied: bool = False
    """Cuts links."""
    etcd_members: int = 1
    harms_etcd: bool = False
    """Kills etcd under load: not with a version that can lose data then."""
    spare_nodes: int = 0
    bad_machines: bool = False
    """Nodes' clocks or disks fail."""
    journals: tuple[JournalKind, ...] = ("file", "etcd")
    """Those that it means something to."""
    restores: bool = False
    """Needs etcd's own tools beside etcd."""
    apart: bool = False
    """Load and cluster have to have processors of their own."""
    load_share: float = 1.0
    """Of the usual load."""


async def kill_owner(faults: Faults) -> None:
    while faults.again():
        await faults.kill_node(await faults.some_owner(), away_s=faults.rng.uniform(0.2, 2.0))
        await faults.settled()


async def kill_any(faults: Faults) -> None:
    """Whether the one before has been taken in or not."""
    while faults.again():
        await faults.kill_node(faults.some_node(), away_s=faults.rng.uniform(0.0, 0.5))
        await faults.pause(0.0, 1.0)


async def freeze_owner(faults: Faults) -> None:
    while faults.again():
        await faults.freeze_node(await faults.some_owner(), PAST_LEASE_S + faults.rng.uniform(0.0, 1.0))
        await faults.settled()


async def cut_node_etcd(faults: Faults) -> None:
    network, cluster = faults.cluster.network, faults.cluster
    while faults.again():
        owner = await faults.some_owner()
        links = network.links([owner], cluster.etcds)
        await faults.cut(links, PAST_LEASE_S + faults.rng.uniform(0.0, 1.0), moves=[owner])
        await faults.settled()


async def cut_router_node(faults: Faults) -> None:
    """In turn one router, whose calls the other one has to carry, and all: the owner keeps its shards all the same."""
    network, cluster = faults.cluster.network, faults.cluster
    everybody = False
    while faults.again():
        routers = cluster.routers if everybody else [faults.rng.choice(cluster.routers)]
        await faults.cut(network.links(routers, [await faults.some_owner()]), faults.rng.uniform(1.0, 3.0))
        await faults.pause(1.0, 2.0)
        everybody = not everybody


async def cut_one_way(faults: Faults) -> None:
    """Every kind of one-way silence around an owner, in an order of the seed's."""
    network, cluster = faults.cluster.network, faults.cluster
    kinds = [(etcd, up) for etcd in (True, False) for up in (True, False)]
    faults.rng.shuffle(kinds)
    while faults.again():
        kinds.append(kind := kinds.pop(0))
        to_etcd, up = kind
        owner = await faults.some_owner()
        if to_etcd:
            links = network.links([owner], cluster.etcds)
            await faults.cut_one_way(links, PAST_LEASE_S if up else PAST_TWO_LEASES_S, up=up, moves=[owner])
        else:
            links = network.links(cluster.routers, [owner])
            await faults.cut_one_way(links, faults.rng.uniform(1.0, 2.0), up=up)
        await faults.settled()


async def suspect_owner(faults: Faults) -> None:
    """Late news of at most half a second: etcd's silence of 0.7 s would be taken for its death."""
    while faults.again():
        await faults.suspect(await faults.some_owner(), late_s=faults.rng.uniform(0.2, 0.5))
        await faults.settled()


async def kill_router(faults: Faults) -> None:
    while faults.again():
        await faults.kill_router(faults.rng.choice(faults.cluster.routers), away_s=faults.rng.uniform(0.0, 1.5))
        await faults.pause(0.5, 1.5)


async def rolling_restart(faults: Faults) -> None:
    while faults.again():
        for node in faults.cluster.nodes:
            await faults.restart_node(node)
            await faults.settled()
        for router in faults.cluster.routers:
            await faults.restart_router(router)


async def scale(faults: Faults) -> None:
    spare = faults.cluster.spare
    while faults.again():
        await faults.add_node(spare)
        await faults.settled()
        await faults.pause(0.5, 1.5)
        await faults.remove_node(spare)
        await faults.settled()


async def power_cut(faults: Faults) -> None:
    while faults.again():
        await faults.power_cut(dark_s=faults.rng.uniform(0.0, 1.0))
        await faults.settled()
        await faults.pause(1.0, 2.0)


async def same_id(faults: Faults) -> None:
    await faults.twin_of_living(await faults.some_owner())
    await faults.settled()
    while faults.again():
        await faults.twin_of_frozen(await faults.some_owner())
        await faults.settled()


async def slow_links(faults: Faults) -> None:
    network, cluster = faults.cluster.network, faults.cluster
    while faults.again():
        delay_s = faults.rng.uniform(0.01, 0.08)
        servers = [*cluster.etcds, *cluster.nodes]
        links = network.links(cluster.nodes, servers) + network.links(cluster.routers, servers)
        faults.rng.shuffle(links)
        await faults.slow(links[: len(links) // 2], delay_s, faults.rng.uniform(2.0, 4.0))
        await faults.pause(0.5, 1.0)


async def kill_etcd_leader(faults: Faults) -> None:
    while faults.again():
        await faults.kill_etcd([await faults.cluster.etcd_leader()], away_s=faults.rng.uniform(1.0, 3.0))
        await faults.pause(1.0, 2.0)


async def freeze_etcd_leader(faults: Faults) -> None:
    """Longer than an election, and longer than a lease."""
    while faults.again():
        await faults.freeze_etcd(await faults.cluster.etcd_leader(), faults.rng.uniform(2.0, 5.0))
        await faults.pause(1.0, 2.0)


async def kill_etcd_majority(faults: Faults) -> None:
    """For a moment, or for longer than a lease."""
    while faults.again():
        members = faults.rng.sample(faults.cluster.etcds, 2)
        await faults.kill_etcd(members, away_s=faults.rng.choice([0.5, PAST_LEASE_S]))
        await faults.settled()
        await faults.pause(2.0, 3.0)


async def cut_etcd_peers(faults: Faults) -> None:
    """In turn the leader from both others, which elect another, and any two from each other."""
    cluster, leader = faults.cluster, True
    while faults.again():
        if leader:
            alone = await cluster.etcd_leader()
            some, others = [alone], [member for member in cluster.etcds if member != alone]
        else:
            members = faults.rng.sample(cluster.etcds, 2)
            some, others = members[:1], members[1:]
        await faults.cut_etcd(some, others, faults.rng.uniform(2.5, PAST_LEASE_S))
        await faults.pause(1.0, 2.0)
        leader = not leader


async def freeze_own_member(faults: Faults) -> None:
    """For so long that service is back before it wakes, or too late. It does not lead: one that did, and wakes, may
    have leases revoked that its successor has renewed (etcd-io/etcd issue 15247): no owner can help that."""
    while faults.again():
        owner = await faults.some_owner()
        member = faults.cluster.member_of(owner)
        await faults.cluster.let_another_lead(member)
        await faults.freeze_etcd(member, faults.rng.uniform(6.0, 7.0), left_by=owner)
        await faults.settled()


async def clock_skew(faults: Faults) -> None:
    """First every node has a wrong clock from its start, each another; then clocks step."""
    nodes = faults.rng.sample(faults.cluster.nodes, len(faults.cluster.nodes))
    for node, ahead_s in zip(nodes, (CLOCK_AHEAD_S_MAX, -CLOCK_AHEAD_S_MAX, 0.0), strict=False):
        await faults.restart_with_clock(node, ahead_s)
        await faults.settled()
    while faults.again():
        owner = await faults.some_owner()
        await faults.step_clock(owner, faults.some_clock_s(owner))
        await faults.pause(4.0, 5.0)
        await faults.settled()


async def full_disk(faults: Faults) -> None:
    """In turn one node's, as with a quota of its own, and that of all."""
    await _disks(faults, DiskState.FULL)


async def failing_fsync(faults: Faults) -> None:
    """In turn one node's, and all."""
    await _disks(faults, DiskState.SYNC_FAILS)


async def _disks(faults: Faults, state: DiskState) -> None:
    everybody = False
    while faults.again():
        nodes = faults.cluster.nodes if everybody else [await faults.some_owner()]
        await faults.fail_disk(nodes, state, faults.rng.uniform(0.5, 3.0))
        await faults.settled()
        await faults.pause(1.0, 2.0)
        everybody = not everybody


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("kill-owner", "kill -9 of the node that owns a busy campaign", kill_owner),
        Scenario("kill-any", "kill -9 of any node, again and again", kill_any),
        Scenario("freeze-owner", "SIGSTOP of an owner past its lease, then SIGCONT", freeze_owner),
        Scenario("cut-node-etcd", "an owner and etcd do not hear each other", cut_node_etcd, proxied=True),
        Scenario("cut-router-node", "routers and an owner do not hear each other", cut_router_node, proxied=True),
        Scenario("cut-one-way", "one way of an owner's links is silent", cut_one_way, proxied=True),
        Scenario(
            "suspect-owner", "an owner that serves loses its shards and hears of it late", suspect_owner, proxied=True
        ),
        Scenario("kill-router", "kill -9 of a router", kill_router),
        Scenario("rolling-restart", "SIGTERM and start of every node and router in turn", rolling_restart),
        Scenario("scale", "a node joins under load, and leaves", scale, spare_nodes=1),
        Scenario("power-cut", "kill -9 of everything at once, and start", power_cut, harms_etcd=True),
        Scenario("same-id", "a second process with the id of a node that lives, or sleeps", same_id),
        Scenario("kill-etcd-leader", "kill -9 of etcd's leader", kill_etcd_leader, etcd_members=3, harms_etcd=True),
        Scenario("freeze-etcd-leader", "SIGSTOP of etcd's leader, then SIGCONT", freeze_etcd_leader, etcd_members=3),
        Scenario(
            "kill-etcd-majority",
            "kill -9 of two etcd members of three",
            kill_etcd_majority,
            etcd_members=3,
            harms_etcd=True,
        ),
        Scenario("cut-etcd-peers", "etcd members do not hear each other", cut_etcd_peers, proxied=True, etcd_members=3),
        Scenario(
            "freeze-own-member",
            "SIGSTOP of the etcd follower that an owner asks",
            freeze_own_member,
            etcd_members=3,
        ),
        Scenario(
            "restore-snapshot",
            "etcd is restored from a snapshot, under the feet of who lives through it",
            restore_snapshot,
            proxied=True,
            harms_etcd=True,
            restores=True,
        ),
        Scenario("clock-skew", "wall clocks are up to 5 s wrong, and step", clock_skew, bad_machines=True),
        Scenario("full-disk", "no byte more can be written", full_disk, bad_machines=True, journals=("file",)),
        Scenario("failing-fsync", "no sync succeeds", failing_fsync, bad_machines=True, journals=("file",)),
        Scenario(
            "overload", "three times as much is asked for as can be carried", overload, apart=True, load_share=0.3
        ),
        Scenario("slow-links", "half of the links take up to 80 ms longer each way", slow_links, proxied=True),
        Scenario(
            "storm",
            "a seeded mix of all but overload and restore",
            storm,
            proxied=True,
            etcd_members=3,
            spare_nodes=1,
            bad_machines=True,
        ),
    )
}
