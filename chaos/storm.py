"""A seeded mix of all faults that leave the cluster what it is: one after another, whether the one before has been got
over or not."""

from collections.abc import Awaitable, Callable

from chaos.control import DiskState
from chaos.faults import PAST_LEASE_S, Faults
from chaos.history import Trace

Kind = Callable[[], Awaitable[None]]


async def storm(faults: Faults) -> None:
    """Every kind in turn, shuffled, so that a long run has had them all."""
    kinds: list[Kind] = []
    while faults.again():
        if not kinds:
            kinds = [*_of_nodes(faults), *_of_links(faults), *_of_machines(faults), *_of_etcd(faults)]
            faults.rng.shuffle(kinds)
        await kinds.pop()()
        await faults.pause(0.0, 1.0)


def _of_nodes(faults: Faults) -> list[Kind]:
    cluster, rng = faults.cluster, faults.rng

    async def kill() -> None:
        await faults.kill_node(faults.some_node(), away_s=rng.uniform(0.0, 2.0))

    async def freeze() -> None:
        for_s = rng.choice([0.5, 1.5, PAST_LEASE_S])
        required = (Trace.EPOCH_CHANGED,) if for_s == PAST_LEASE_S else ()
        await faults.freeze_node(faults.some_node(), for_s, required)

    async def restart() -> None:
        await faults.restart_node(faults.some_node())

    async def lose_router() -> None:
        await faults.kill_router(rng.choice(cluster.routers), away_s=rng.uniform(0.0, 1.0))

    async def come_and_go() -> None:
        spare = cluster.spare
        await faults.add_node(spare)
        await faults.settled()  # else it might leave before it has got anything
        await faults.remove_node(spare)

    async def suspect() -> None:
        await faults.settled()  # whom nobody knows nobody can give shards to
        await faults.suspect(await faults.some_owner(), late_s=rng.uniform(0.2, 0.5))

    async def twin() -> None:
        await faults.settled()  # between two lives its id would be anybody's
        await faults.twin_of_frozen(faults.some_node())

    return [kill, freeze, restart, lose_router, come_and_go, suspect, twin]


def _of_links(faults: Faults) -> list[Kind]:
    cluster, rng, network = faults.cluster, faults.rng, faults.cluster.network

    async def from_etcd() -> None:
        await faults.cut(network.links([faults.some_node()], cluster.etcds), rng.choice([0.5, 1.5, PAST_LEASE_S]))

    async def from_routers() -> None:
        routers = rng.sample(cluster.routers, rng.randint(1, len(cluster.routers)))
        await faults.cut(network.links(routers, [faults.some_node()]), rng.uniform(0.2, 2.0))

    async def from_peers() -> None:
        await faults.cut(network.links(cluster.nodes, [faults.some_node()]), rng.uniform(0.2, 2.0))

    async def one_way() -> None:
        clients = [*cluster.nodes, *cluster.routers]
        links = network.links(rng.sample(clients, 2), [*cluster.nodes, *cluster.etcds])
        await faults.cut_one_way(links, rng.uniform(0.2, 2.0), up=rng.random() < 0.5)

    async def slow() -> None:
        links = network.links([*cluster.nodes, *cluster.routers], [*cluster.nodes, *cluster.etcds])
        await faults.slow(rng.sample(links, len(links) // 2), rng.uniform(0.01, 0.08), rng.uniform(1.0, 2.0))

    return [from_etcd, from_routers, from_peers, one_way, slow]


def _of_machines(faults: Faults) -> list[Kind]:
    cluster, rng = faults.cluster, faults.rng

    async def step_clock() -> None:
        node = faults.some_node()
        await faults.step_clock(node, faults.some_clock_s(node))

    def disk(state: DiskState) -> Kind:
        async def fail() -> None:
            nodes = rng.sample(cluster.nodes, rng.choice([1, len(cluster.nodes)]))
            await faults.fail_disk(nodes, state, rng.uniform(0.5, 2.0))

        return fail

    disks = [disk(DiskState.FULL), disk(DiskState.SYNC_FAILS)] if cluster.has_file_journal else []
    return [step_clock, *disks]


def _of_etcd(faults: Faults) -> list[Kind]:
    cluster, rng = faults.cluster, faults.rng

    async def freeze() -> None:
        await faults.freeze_etcd(rng.choice(cluster.etcds), rng.choice([0.5, 1.5, PAST_LEASE_S]))

    async def cut() -> None:
        some = rng.choice(cluster.etcds)
        others = [member for member in cluster.etcds if member != some]
        await faults.cut_etcd([some], others[: rng.randint(1, 2)], rng.uniform(2.5, PAST_LEASE_S))

    async def kill() -> None:
        await faults.kill_etcd(rng.sample(cluster.etcds, rng.randint(1, 2)), away_s=rng.uniform(0.0, 2.0))

    async def power_cut() -> None:
        await faults.power_cut(dark_s=rng.uniform(0.0, 1.0))

    return [freeze, cut, kill, power_cut] if cluster.etcd_may_die else [freeze, cut]
