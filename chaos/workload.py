"""What the clients of a chaos run do all the time: an open loop of users in several campaigns, and a few who run them.

Users repeat a call whose outcome they did not hear, with the same request_id, until they hear it. Some come again later
for what they already have. The shop raises totals so that campaigns sell out again and again, pauses and resumes one,
reads, and looks coupons up. All of it from one seed; what it comes to depends on the cluster.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.client import PAGE_SIZE, RecordingClient
from chaos.history import NOT_DONE, Call, Outcome
from cluster.types import ShardId

RUSH_RATE = 40.0
"""Users a second and campaign."""
RUSHES = 6
SIDE_RATE = 12.0
IN_FLIGHT_MAX = 800
"""Users who wait for an answer; beyond it new ones stay away, as a shop that is down for long loses its customers."""
COMES_AGAIN_SHARE = 0.04
SETTLE_S_MAX = 20.0
"""How long users go on asking once no new ones come."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A campaign of the workload."""

    campaign_id: str
    rate: float
    """Users a second."""
    rushes: bool = False
    """Something happens in it all the time."""
    per_user_limit: int = 1
    users: int | None = None
    """Come in turn; None: each is another."""
    pauses: bool = False
    starts_in_s: float | None = None
    ends_in_s: float | None = None


class Workload:
    """`create`, then `run` as a task, then `stop`, then `read_all`."""

    def __init__(self, client: RecordingClient, rng: random.Random, offers: list[Offer]) -> None:
        self._client = client
        self._rng = rng
        self.offers = offers
        self._totals: dict[str, int] = {}
        """Of each campaign, as it was created."""
        self._stopping = asyncio.Event()
        self._give_up_s = float("inf")
        self._waiting = 0
        self.turned_away = 0
        """Users that found IN_FLIGHT_MAX waiting."""

    @property
    def campaign_ids(self) -> list[str]:
        return [offer.campaign_id for offer in self.offers]

    @property
    def rushes(self) -> list[str]:
        """Campaigns in which something happens all the time."""
        return [offer.campaign_id for offer in self.offers if offer.rushes]

    @property
    def quiet(self) -> list[str]:
        """All others."""
        return [offer.campaign_id for offer in self.offers if not offer.rushes]

    async def create(self) -> None:
        """Every campaign exists afterwards."""
        now_us = time.time_ns() // 1_000
        for offer in self.offers:
            total = self._totals[offer.campaign_id] = int(offer.rate * 2)
            start_us = None if offer.starts_in_s is None else now_us + int(offer.starts_in_s * 1e6)
            end_us = None if offer.ends_in_s is None else now_us + int(offer.ends_in_s * 1e6)

            async def create(
                offer: Offer = offer, total: int = total, window: tuple[int | None, ...] = (start_us, end_us)
            ) -> Call:
                return await self._client.create(offer.campaign_id, total, offer.per_user_limit, *window)

            await self._until_known(create)

    async def run(self) -> None:
        """Until `stop`, and until everybody has heard, or given up."""
        async with asyncio.TaskGroup() as tasks:
            for offer in self.offers:
                tasks.create_task(self._users(offer, tasks))
                tasks.create_task(self._raises(offer))
                if offer.pauses:
                    tasks.create_task(self._pauses(offer))
            tasks.create_task(self._reads())
            tasks.create_task(self._look_ups())

    def stop(self) -> None:
        self._give_up_s = time.monotonic() + SETTLE_S_MAX
        self._stopping.set()

    async def read_all(self) -> None:
        """All pages of every campaign, as GetCampaign shows them in the end."""
        for campaign_id in self.campaign_ids:
            token = ""
            while True:
                call, token = await self._client.read(campaign_id, PAGE_SIZE, token)
                if not call.ok:
                    raise RuntimeError(f"the last read of {campaign_id} failed: {call.reason}")
                if not token:
                    break

    # --- users --------------------------------------------------------------------------------------------------------

    async def _users(self, offer: Offer, tasks: asyncio.TaskGroup) -> None:
        """Open loop: they come when they come, whatever the answers do."""
        due_s, number = time.monotonic(), 0
        while not await self._stopped_within(due_s - time.monotonic()):
            due_s += self._rng.expovariate(offer.rate)
            number += 1
            if self._waiting >= IN_FLIGHT_MAX:
                self.turned_away += 1
                continue
            user_id = f"user-{number if offer.users is None else self._rng.randrange(offer.users)}"
            tasks.create_task(self._user(offer.campaign_id, user_id, f"{user_id}-{number}"))

    async def _user(self, campaign_id: str, user_id: str, request_id: str) -> None:
        self._waiting += 1
        try:
            call = await self._until_known(lambda: self._client.issue(campaign_id, user_id, request_id))
        finally:
            self._waiting -= 1
        if call.ok and self._rng.random() < COMES_AGAIN_SHARE:
            await self._stopped_within(self._rng.uniform(0.0, 5.0))
            await self._until_known(lambda: self._client.issue(campaign_id, user_id, request_id))

    async def _until_known(self, send: Callable[[], Awaitable[Call]]) -> Call:
        """Repeat a call until somebody has decided it; the last of its calls."""
        pause_s = 0.1
        while True:
            call = await send()
            decided = call.outcome is not Outcome.UNKNOWN and call.reason not in NOT_DONE
            if decided or time.monotonic() > self._give_up_s:
                return call
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 1.0)

    # --- who runs the campaigns ---------------------------------------------------------------------------------------

    async def _raises(self, offer: Offer) -> None:
        """To about as many coupons as users have come, so that it sells out now and then, and for a moment."""
        began_s, first = time.monotonic(), self._totals[offer.campaign_id]
        while not await self._stopped_within(self._rng.uniform(0.8, 2.0)):
            total = first + int(offer.rate * (time.monotonic() - began_s))

            async def raise_total(total: int = total) -> Call:
                return await self._client.raise_total(offer.campaign_id, total, f"raise-{total}")

            await self._until_known(raise_total)

    async def _pauses(self, offer: Offer) -> None:
        number = 0
        while not await self._stopped_within(self._rng.uniform(0.5, 2.0)):
            number += 1
            request_id = f"turn-{number}"
            turn = self._client.pause if number % 2 else self._client.resume

            async def one(request_id: str = request_id, turn: Callable[[str, str], Awaitable[Call]] = turn) -> Call:
                return await turn(offer.campaign_id, request_id)

            await self._until_known(one)

    async def _reads(self) -> None:
        while not await self._stopped_within(self._rng.uniform(0.1, 0.4)):
            await self._client.read(self._rng.choice(self.campaign_ids), self._rng.choice([1, 20, 100]))

    async def _look_ups(self) -> None:
        while not await self._stopped_within(self._rng.uniform(0.1, 0.4)):
            calls = self._client.calls
            if calls and (coupons := calls[self._rng.randrange(len(calls))].coupons):
                await self._client.get_coupon(self._rng.choice(coupons).code)

    async def _stopped_within(self, seconds: float) -> bool:
        """Wait so long; whether it is over."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True


def offers_for(shard_of: Callable[[str], ShardId], seconds: float, share: float = 1.0) -> list[Offer]:
    """The usual campaigns: six that rush, each in a shard of its own, and one of every other kind.

    Args:
        share: of the usual number of users.
    """
    rushes: dict[ShardId, str] = {}
    number = 0
    while len(rushes) < RUSHES:
        rushes.setdefault(shard_of(f"rush-{number}"), f"rush-{number}")
        number += 1
    side_rate = SIDE_RATE * share
    return [
        *(Offer(campaign_id, RUSH_RATE * share, rushes=True) for campaign_id in rushes.values()),
        Offer("thrice", side_rate, per_user_limit=3, users=150),
        Offer("pausing", side_rate, pauses=True),
        Offer("starting", side_rate, starts_in_s=seconds / 2),
        Offer("ending", side_rate, ends_in_s=seconds / 2),
    ]
