"""A node's lives: it registers, is lost or believed lost, drains, and comes back; callers are told nothing false."""

import asyncio
from collections.abc import Callable

import pytest

from cluster.config import JournalKind
from node.member import NodeIdInUse
from tests.fakes.etcd_faults import Fate, Leg, Loss
from tests.node.process import Process
from tests.node.world import Load, World, run, with_load

both_journals = pytest.mark.parametrize("kind", ["file", "etcd"])


def test_a_drain_before_the_registration_ends() -> None:
    """A process that is told to end while it begins never owns anything."""

    async def main(world: World) -> None:
        a = world.start("a")
        a.cut()
        await asyncio.sleep(0.5)
        a.drain()
        await world.until(lambda: not a.runs, within_s=1.5)
        assert a.lives == 0

    run(main)


def test_a_drain_between_two_lives_ends() -> None:
    """A process that is told to end in its hold-down does not live again."""

    async def main(world: World) -> None:
        a, b = await world.started("a", "b")
        b.peers.suspect(a.life.me)
        await world.until(lambda: a.member.life is None)
        a.drain()
        await world.until(lambda: not a.runs, within_s=1.5)
        assert a.lives == 1

    run(main)


@both_journals
def test_a_crash_that_peers_notice(kind: JournalKind) -> None:
    """The shards of a process that is gone are served long before its lease ends; its registration is deleted."""

    async def main(world: World) -> None:
        (a, *_), load = await with_load(world, "a", "b", "c")
        assert len([owner for owner, _ in world.owners().values() if owner.node_id == "a"]) > 2
        a.crash()
        took_s = await world.healthy()
        assert "a" not in world.registered()
        await load.stop()
        assert took_s < 0.05

    run(main, lambda: World(kind, shards=16))


def test_a_process_that_starts_again_at_once_gets_its_shards_back() -> None:
    """kill -9 and a restart: the new process waits for nobody, since the dead one's registration is deleted."""

    async def main(world: World) -> None:
        (a, *_), load = await with_load(world, "a", "b")
        a.crash()
        await asyncio.sleep(0.1)
        world.start("a")
        assert await world.healthy() < 0.5
        await load.stop()

    run(main)


def test_a_lonely_process_that_starts_again_waits_for_its_lease() -> None:
    """With nobody to notice, the dead process's lease has to end first; that is no second process with its id."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        await world.serve_all()
        a.crash()
        world.start("a")
        assert await world.healthy() < 4.0
        await world.serve_all()

    run(main)


@both_journals
def test_a_false_suspicion_costs_a_handover(kind: JournalKind) -> None:
    """Who was believed dead and lives loses its registration, notices, and comes back as another incarnation."""

    async def main(world: World) -> None:
        (a, b, _), load = await with_load(world, "a", "b", "c")
        me = a.life.me
        b.peers.suspect(me)
        await world.until(lambda: a.member.life is None, within_s=0.1)
        assert "a" not in world.registered()
        back_s = await world.until(lambda: a.member.life is not None)
        assert 1.9 < back_s < 2.5, "the hold-down"
        await world.healthy(1.0)
        assert a.life.me != me
        await load.stop()

    run(main, lambda: World(kind))


CUTS: list[Callable[[Process], None]] = [Process.cut, Process.cut_answers, Process.cut_requests]


@both_journals
def test_a_lease_that_etcd_renews_and_its_node_does_not_hear_of_is_given_back(kind: JournalKind) -> None:
    """Otherwise its shards would have no owner for up to twice its time."""

    async def main(world: World) -> None:
        (a, b, c), load = await with_load(world, "a", "b", "c")
        a.cut_answers()
        await world.healthy(4.0, [b, c])
        a.heal()
        await world.healthy()
        await load.stop()

    run(main, lambda: World(kind))


@pytest.mark.parametrize("cut", CUTS)
@both_journals
def test_a_node_that_is_cut_off_from_etcd(kind: JournalKind, cut: Callable[[Process], None]) -> None:
    """It stops answering by its lease's deadline, successors serve, and it comes back with a new lease."""

    async def main(world: World) -> None:
        (a, b, c), load = await with_load(world, "a", "b", "c")
        mine = [shard for shard, (owner, _) in world.owners().items() if owner.node_id == "a"]
        lease_id = a.life.me.lease_id
        cut(a)
        await world.until(lambda: a.member.life is None, within_s=3.0)
        assert lease_id in world.etcd.store.leases, "it has to stop before its lease is over"
        assert not any(a.serves(shard) for shard in range(world.shards))
        await world.healthy(4.0, [b, c])
        await asyncio.sleep(3.0)
        a.heal()
        await world.healthy()
        assert a.life.me.lease_id != lease_id
        assert mine == [shard for shard, (owner, _) in world.owners().items() if owner == a.life.me]
        await load.stop()

    run(main, lambda: World(kind))


@pytest.mark.parametrize("away_s", [1.0, 2.4, 5.0, 20.0])
@both_journals
def test_an_etcd_that_is_gone_for_a_while(kind: JournalKind, away_s: float) -> None:
    """Calls wait or are routed again; whatever the nodes' leases have become, everything is served soon after."""

    async def main(world: World) -> None:
        processes, load = await with_load(world, "a", "b", "c")
        for process in processes:
            process.cut()
        await asyncio.sleep(away_s)
        for process in processes:
            process.heal()
        await world.healthy(6.0)
        await load.stop()

    run(main, lambda: World(kind))


@pytest.mark.parametrize("fate", [Fate(request=Leg(loss=Loss.SILENT)), Fate(answer=Leg(loss=Loss.SILENT))])
def test_a_registration_whose_answer_is_lost(fate: Fate) -> None:
    """It is read back, and written again if it is not there."""

    async def main(world: World) -> None:
        world.script.next("txn", fate, client="a")
        (a,) = await world.started("a")
        assert a.lives == 1
        await world.serve_all()

    run(main)


@pytest.mark.parametrize("reason", ["etcdserver: too many requests", "etcdserver: requested lease not found"])
def test_a_registration_that_is_refused(reason: str) -> None:
    """An etcd that is busy, or does not know the lease any more, costs a new attempt and not the process."""

    async def main(world: World) -> None:
        world.script.next("txn", Fate(refusal=reason), client="a")
        await world.started("a")
        await world.serve_all()

    run(main)


def test_a_second_process_with_a_living_nodes_id() -> None:
    """The second ends with NodeIdInUse, the first goes on as if nothing had been."""

    async def main(world: World) -> None:
        (a,), load = await with_load(world, "a")
        me, epochs = a.life.me, world.epochs()
        second = world.start("a")
        second.may_end_with = NodeIdInUse
        await asyncio.sleep(8.0)
        with pytest.raises(NodeIdInUse):
            second.running.result()
        assert a.life.me == me
        assert world.epochs() == epochs
        await load.stop()

    run(main)


@pytest.mark.parametrize("step_us", [600_000, -600_000])
@both_journals
def test_a_wall_clock_that_steps(kind: JournalKind, step_us: int) -> None:
    """The node gives its shards up at once, and serves again in a new life with the new time."""

    async def main(world: World) -> None:
        (a, b), load = await with_load(world, "a", "b")
        a.clock.step_us = step_us
        await world.until(lambda: a.member.life is None, within_s=0.3)
        await world.healthy(0.5, [b])
        await world.until(lambda: a.member.life is not None)
        await world.healthy(0.5)
        await load.stop()
        assert a.lives == 2

    run(main, lambda: World(kind))


def test_a_process_that_starts_again_while_etcds_leader_changes() -> None:
    """All leases begin anew then, the dead process's too: that is no second process with its id either."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        a.crash()
        await asyncio.sleep(2.0)
        world.start("a")
        await asyncio.sleep(0.5)
        world.etcd.change_leader()
        await asyncio.sleep(2.0)
        world.etcd.change_leader()
        await world.healthy(4.0)

    run(main)


@pytest.mark.parametrize("turns", range(8))
def test_a_member_that_is_cancelled_when_its_life_ends(turns: int) -> None:
    """Its end is no reason to begin another life."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        a.clock.step_us += 1_000_000
        await world.until(lambda: bool(world.logged("clock_stepped")))
        for _ in range(turns):
            await asyncio.sleep(0)
        a.running.cancel()
        await asyncio.wait([a.running], timeout=5.0)
        assert a.running.cancelled()

    run(main)


def test_a_clock_that_drifts_is_no_step() -> None:
    """Drift of a few per cent is slewed away; the node lives on."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        for _ in range(100):
            a.clock.step_us += 4_000
            await asyncio.sleep(0.1)
        assert a.lives == 1

    run(main)


@pytest.mark.parametrize("under_load", [False, True])
@both_journals
def test_an_etcd_that_was_restored_from_a_snapshot(kind: JournalKind, under_load: bool) -> None:
    """With the cluster incarnation raised every node begins a new life, the old epochs are fenced, and all is served.
    (What etcd's journal held after the snapshot is lost with it: there the callers pause meanwhile.)"""

    async def main(world: World) -> None:
        processes, load = await with_load(world, "a", "b", "c")
        await asyncio.sleep(1.0)
        if kind == "etcd" or not under_load:
            await load.stop()
        lives = {process.life.me for process in processes}
        snapshot = world.etcd.snapshot()
        for number in range(50):
            world.put("elsewhere", str(number).encode())
        await asyncio.sleep(1.0)
        world.etcd.restore(snapshot)
        world.set_cluster_incarnation(2)
        if under_load and kind == "etcd":
            load = Load(world)
        await asyncio.sleep(1.6)
        assert not any(process.member.life and process.member.life.me in lives for process in processes)
        await world.healthy()
        for process in processes:
            assert {held.epoch.incarnation for held in process.life.keeper.status()} <= {2}
        await world.serve_all()
        await load.stop()

    run(main, lambda: World(kind))


def test_a_drain_while_a_restored_etcd_is_away_again() -> None:
    """SIGTERM ends a process also when etcd, found to be restored, does not answer any more."""

    async def main(world: World) -> None:
        (a,) = await world.started("a")
        snapshot = world.etcd.snapshot()
        for number in range(9):
            world.put("elsewhere", str(number).encode())
        await asyncio.sleep(1.0)
        a.cut()
        await world.until(lambda: a.member.life is None)
        a.heal()
        world.etcd.restore(snapshot)
        world.script.calls.clear()
        await world.until(lambda: any(call.method == "lease_revoke" for call in world.script.calls))
        a.cut()
        await asyncio.sleep(5.0)
        a.drain()
        await world.until(lambda: not a.runs, within_s=2.0)

    run(main)


@both_journals
def test_a_cluster_incarnation_that_is_raised(kind: JournalKind) -> None:
    """Without a restore too it ends all epochs of the old one, as soon as anybody claims or, in etcd, appends."""

    async def main(world: World) -> None:
        processes, load = await with_load(world, "a", "b")
        world.set_cluster_incarnation(2)
        await asyncio.sleep(0.5)
        world.start("c")
        await asyncio.sleep(4.0)
        await world.healthy()
        await load.stop()
        if kind == "etcd":
            assert [process.lives for process in processes] == [2, 2]
        await world.serve_all()

    run(main, lambda: World(kind))
