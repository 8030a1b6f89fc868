"""What can go wrong, by name. A scenario says what it needs, and drives faults, round after round, in its time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.faults import PAST_LEASE_S, PAST_TWO_LEASES_S, Faults


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


async def storm(faults: Faults) -> None:
    """One fault after another, whether the one before has been got over or not."""
    network, cluster, rng = faults.cluster.network, faults.cluster, faults.rng

    async def kill() -> None:
        await faults.kill_node(faults.some_node(), away_s=rng.uniform(0.0, 2.0))

    async def freeze() -> None:
        await faults.freeze_node(faults.some_node(), rng.choice([0.5, 1.5, PAST_LEASE_S]))

    async def cut_from_etcd() -> None:
        await faults.cut(network.links([faults.some_node()], cluster.etcds), rng.choice([0.5, 1.5, PAST_LEASE_S]))

    async def cut_from_routers() -> None:
        routers = rng.sample(cluster.routers, rng.randint(1, len(cluster.routers)))
        await faults.cut(network.links(routers, [faults.some_node()]), rng.uniform(0.2, 2.0))

    async def cut_peers() -> None:
        await faults.cut(network.links(cluster.nodes, [faults.some_node()]), rng.uniform(0.2, 2.0))

    async def one_way() -> None:
        clients = [*cluster.nodes, *cluster.routers]
        links = network.links(rng.sample(clients, 2), [*cluster.nodes, *cluster.etcds])
        await faults.cut_one_way(links, rng.uniform(0.2, 2.0), up=rng.random() < 0.5)

    async def slow() -> None:
        links = network.links([*cluster.nodes, *cluster.routers], [*cluster.nodes, *cluster.etcds])
        await faults.slow(rng.sample(links, len(links) // 2), rng.uniform(0.01, 0.1), rng.uniform(1.0, 2.0))

    async def lose_router() -> None:
        await faults.kill_router(rng.choice(cluster.routers), away_s=rng.uniform(0.0, 1.0))

    async def restart() -> None:
        await faults.restart_node(faults.some_node())

    kinds = [kill, freeze, cut_from_etcd, cut_from_routers, cut_peers, one_way, slow, lose_router, restart]
    while faults.again():
        await rng.choice(kinds)()
        await faults.pause(0.0, 1.0)


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
        Scenario("slow-links", "half of the links take up to 80 ms longer each way", slow_links, proxied=True),
        Scenario("storm", "a seeded mix of all that harms no etcd", storm, proxied=True),
    )
}
