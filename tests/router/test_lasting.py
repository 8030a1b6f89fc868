"""When what lasts is over: as soon as the router has heard of it, and without a timer for each. On virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from cluster.audit_log import AuditLog
from cluster.keys import KeyRole, ShownKey, make_key
from cluster.kv import prefix_end
from proto import coupon_pb2 as pb
from router.access import Access, Permit
from router.errors import ApiError
from tests.fakes.virtual_time import run
from tests.router.rig import KEYS, FedWatches

WATCH = "/coupon.v1.CouponService/WatchCampaign"


class FedEtcd(FedWatches):
    """Has answered until it is told to be silent."""

    silent_since_s: float | None = None

    @property
    def proved_s(self) -> float:
        return self.silent_since_s if self.silent_since_s is not None else now_s()


@dataclass
class Place:
    etcd: FedEtcd
    access: Access
    ended: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By key id: why its stream is over, and when."""

    def put(self, *roles: KeyRole) -> ShownKey:
        key, record = make_key(frozenset(roles), "")
        self.etcd.put({KEYS.api_key(key.id): record.encode()})
        return key

    def permit(self, key: ShownKey) -> Permit:
        permit = self.access.permit(WATCH, b"Bearer " + key.token().encode(), "")
        assert permit is not None
        return permit

    async def open(self, key: ShownKey) -> "asyncio.Task[None]":
        """A stream on which nothing ever happens."""
        opened = asyncio.create_task(self._wait_for_ever(self.permit(key)))
        await turns()
        return opened

    async def _wait_for_ever(self, permit: Permit) -> None:
        try:
            async with permit.lasting():
                await asyncio.get_running_loop().create_future()
        except ApiError as error:
            self.ended[permit.key_id] = (error.reason, now_s())


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def turns() -> None:
    """All that is ready has run, and what comes of it; no timer."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def place(age_s_max: float = 5.0) -> AsyncIterator[Place]:
    etcd = FedEtcd((KEYS.api_keys, prefix_end(KEYS.api_keys)))
    access = Access(etcd, KEYS, age_s_max=age_s_max, clock=asyncio.get_running_loop().time, audit=AuditLog())
    following = asyncio.create_task(access.run())
    await access.ready.wait()
    yield Place(etcd, access)
    following.cancel()
    await asyncio.wait([following])
    assert following.cancelled()


def test_a_revocation_needs_no_timer() -> None:
    """A thousand streams that hear nothing: those of the key end in the very moment of the clock in which the router
    hears of it, the others stay, and nothing is left of those that ended."""

    async def test() -> None:
        async with place() as here:
            key, other = here.put(KeyRole.READ), here.put(KeyRole.READ)
            await turns()
            mine = [await here.open(key) for _ in range(1_000)]
            others = [await here.open(other) for _ in range(10)]
            await asyncio.sleep(3_600)
            heard_s = now_s()
            here.etcd.delete(KEYS.api_key(key.id))
            await turns()
            assert all(stream.done() for stream in mine)
            assert here.ended == {key.id: (pb.KEY_INVALID, heard_s)}
            assert not [stream for stream in others if stream.done()]
            assert len(here.access._lasting) == len(others)
            here.etcd.snapshot({})
            await turns()
            assert here.ended[other.id] == (pb.KEY_INVALID, heard_s)
            assert not here.access._lasting

    run(test())


@pytest.mark.parametrize("age_s", [0.5, 5.0, 30.0])
def test_an_etcd_that_is_silent(age_s: float) -> None:
    """Streams stay for hours while it answers, and for as long as calls are let in when it does not; then they end
    within a second. When it is heard again, and silent once more, so do the next ones."""

    async def test() -> None:
        async with place(age_s) as here:
            key = here.put(KeyRole.READ)
            await turns()
            for hours in (1, 2):
                stream = await here.open(key)
                await asyncio.sleep(3_600 * hours)
                assert not stream.done()
                here.etcd.silent_since_s = silent_s = now_s()
                async with asyncio.timeout(age_s + 10.0):
                    await stream
                reason, ended_s = here.ended.pop(key.id)
                assert reason == pb.KEYS_UNKNOWN
                assert silent_s + age_s < ended_s <= silent_s + age_s + 1.0
                here.etcd.silent_since_s = None

    run(test())


def test_a_stream_whose_key_goes_before_it_begins() -> None:
    """Between its admission and its first step the router hears of the revocation: it never begins."""

    async def test() -> None:
        async with place() as here:
            key = here.put(KeyRole.READ)
            await turns()
            permit = here.permit(key)
            assert permit.admit() is None
            here.etcd.delete(KEYS.api_key(key.id))
            await turns()
            with pytest.raises(ApiError) as refusal:
                async with permit.lasting():
                    pytest.fail("it began")
            assert refusal.value.reason == pb.KEY_INVALID

    run(test())


def test_a_router_that_hears_again_at_once() -> None:
    """Streams that were told to end by then do, and the reason is one that lets them come again."""

    async def test() -> None:
        async with place() as here:
            key = here.put(KeyRole.READ)
            await turns()
            stream = await here.open(key)
            here.etcd.silent_since_s = now_s() - 60.0
            here.put(KeyRole.READ)
            while not here.access._lasting or here.access.generation < 3:
                await asyncio.sleep(0)
            here.etcd.silent_since_s = None
            await stream
            assert here.ended[key.id][0] == pb.KEYS_UNKNOWN

    run(test())


@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled"])
def test_what_is_over_by_itself_leaves_nothing_behind(how: str) -> None:
    """Neither a refusal nor an entry in the list of those that are to be ended."""

    async def test() -> None:
        async with place() as here:
            key = here.put(KeyRole.READ)
            await turns()

            async def work() -> None:
                async with here.permit(key).lasting():
                    if how == "is cancelled":
                        await asyncio.get_running_loop().create_future()
                    assert how == "returns", "a bug"

            working = asyncio.create_task(work())
            await turns()
            working.cancel()
            (outcome,) = await asyncio.gather(working, return_exceptions=True)
            expected = {"returns": type(None), "fails": AssertionError, "is cancelled": asyncio.CancelledError}
            assert isinstance(outcome, expected[how])
            assert not here.access._lasting

    run(test())
