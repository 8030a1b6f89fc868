"""What the clients of a run do: a few campaigns of every kind, users who want coupons, and who runs the campaigns.

Who did not hear what became of a call repeats it with the same request_id, mostly through another router; who was told
that nothing was done sometimes leaves it at that, which is what makes a lie about it show.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chaos.history import NOT_DONE, Call, Operation, Outcome
from tests.sim.clients import Client, Recorder
from tests.sim.processes import NOW_US

if TYPE_CHECKING:
    from tests.sim.world import World

CLIENTS = 5
USERS = 14
GIVES_UP_SHARE = 0.3
"""Of those who were told that nothing was done."""
PAGE_SIZE = 5_000


@dataclass(slots=True)
class Offer:
    campaign_id: str
    total: int
    per_user_limit: int = 1
    starts_in_s: float | None = None
    ends_in_s: float | None = None
    raises: bool = True
    pauses: bool = False
    cancelled: bool = False
    created: bool = False


class Workload:
    def __init__(self, world: "World", recorder: Recorder) -> None:
        self.recorder = recorder
        self._world = world
        self._rng = rng = random.Random(f"{world.seed}/workload")
        self._clients = [
            Client(world, f"client-{number}", recorder, random.Random(f"{world.seed}/client-{number}"))
            for number in range(CLIENTS)
        ]
        self.offers = [
            Offer("rush-1", rng.randrange(3, 9)),
            Offer("rush-2", rng.randrange(3, 9)),
            Offer("twice", rng.randrange(6, 14), per_user_limit=2),
            Offer("pausing", 12, pauses=True),
            Offer("timed", 10, starts_in_s=rng.uniform(0.5, 2.5), ends_in_s=rng.uniform(3.0, 8.0)),
        ]
        self._stopped = False
        self._requests = 0
        self._turns = 0

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until `stop`, and until everybody has heard or given up."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._create_all())
            for client in self._clients:
                tasks.create_task(self._calls(client))
            tasks.create_task(self._watches(self._clients[0]))

    def stop(self) -> None:
        self._stopped = True

    async def serve_all(self) -> list[Call]:
        """Every campaign grants or refuses a coupon, and is read to its end. The reads."""
        client = self._clients[0]
        reads = []
        offers = [offer for offer in self.offers if offer.created]
        for offer in offers:
            request = self._new_request()
            await self._until_known(
                lambda o=offer, r=request: client.issue(o.campaign_id, "last", r),  # type: ignore[misc]
                gives_up=False,
            )
        for offer in offers:
            token = ""
            while True:
                call, after = await client.read(offer.campaign_id, PAGE_SIZE, token)
                if call.ok:
                    reads.append(call)
                    token = after
                    if not token:
                        break
        return reads

    # --- users --------------------------------------------------------------------------------------------------------

    async def _calls(self, client: Client) -> None:
        rng = self._rng
        while not self._stopped:
            await asyncio.sleep(rng.uniform(0.01, 0.25))
            offer = rng.choice(self.offers)
            dice = rng.random()
            if not offer.created and dice < 0.9:
                continue
            if dice < 0.55:
                await self._user(client, offer)
            elif dice < 0.61:
                await self._crowd(client)
            elif dice < 0.66:
                await self._again(client)
            elif dice < 0.75:
                await client.read(offer.campaign_id, rng.choice([1, 3, 100]))
            elif dice < 0.83:
                await self._look_up(client, offer)
            else:
                await self._administer(client, offer)

    async def _user(self, client: Client, offer: Offer) -> None:
        user_id, request_id = f"user-{self._rng.randrange(USERS)}", self._new_request()
        if self._rng.random() < 0.2:  # an impatient one: twice at a time
            async with asyncio.TaskGroup() as tasks:
                for _ in range(2):
                    tasks.create_task(client.issue(offer.campaign_id, user_id, request_id))
        await self._until_known(lambda: client.issue(offer.campaign_id, user_id, request_id))

    async def _again(self, client: Client) -> None:
        """Somebody repeats what was answered long ago."""
        granted = [call for call in self.recorder.calls if call.is_grant]
        if granted:
            call = self._rng.choice(granted)
            await client.issue(call.campaign_id, call.user_id, call.request_id)

    async def _crowd(self, client: Client) -> None:
        rng = self._rng
        asked = [
            (rng.choice(self.offers).campaign_id, f"user-{rng.randrange(USERS)}", self._new_request())
            for _ in range(rng.randrange(2, 7))
        ]
        for one, call in zip(asked, await client.issue_many(asked), strict=True):
            if call.outcome is Outcome.UNKNOWN and rng.random() < 0.7:
                await self._until_known(lambda one=one: client.issue(*one))  # type: ignore[misc]  # mypy cannot infer it

    async def _look_up(self, client: Client, offer: Offer) -> None:
        calls = self.recorder.calls
        known = [coupon for call in calls[-30:] for coupon in call.coupons]
        if known and self._rng.random() < 0.6:
            await client.get_coupon(self._rng.choice(known).code)
        else:
            await client.get_coupons_of(offer.campaign_id, f"user-{self._rng.randrange(USERS)}")

    async def _until_known(self, send: Callable[[], Awaitable[Call]], *, gives_up: bool = True) -> Call:
        """Repeat a call until somebody has decided it; the last of its calls."""
        pause_s, repeats = 0.02, 0
        while True:
            call = await send()
            if call.outcome is not Outcome.UNKNOWN and call.reason not in NOT_DONE:
                if repeats:
                    self._world.totals["unknown outcomes resolved"] += 1
                return call
            told_no = call.outcome is not Outcome.UNKNOWN and not repeats
            if gives_up and told_no and self._rng.random() < GIVES_UP_SHARE:
                self._world.totals["gave up"] += 1
                return call
            repeats += call.outcome is Outcome.UNKNOWN
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 0.3)

    def _new_request(self) -> str:
        self._requests += 1
        return f"r{self._requests}"

    # --- who runs the campaigns ---------------------------------------------------------------------------------------

    async def _create_all(self) -> None:
        for offer in self.offers:
            client = self._rng.choice(self._clients)
            call = await self._until_known(lambda o=offer, c=client: self._create(c, o), gives_up=False)  # type: ignore[misc]
            offer.created = call.ok  # not, if its end had passed by then

    async def _create(self, client: Client, offer: Offer) -> Call:
        start_us = None if offer.starts_in_s is None else NOW_US + int(offer.starts_in_s * 1e6)
        end_us = None if offer.ends_in_s is None else NOW_US + int(offer.ends_in_s * 1e6)
        return await client.create(offer.campaign_id, offer.total, offer.per_user_limit, start_us, end_us)

    async def _administer(self, client: Client, offer: Offer) -> None:
        rng, request_id = self._rng, self._new_request()
        if offer.pauses:
            self._turns += 1
            operation = Operation.PAUSE if self._turns % 2 else Operation.RESUME
            if self._turns > 6 and rng.random() < 0.1:
                operation = Operation.CANCEL
            await self._until_known(lambda: client.administer(operation, offer.campaign_id, request_id))
        elif offer.raises:
            offer.total += rng.randrange(1, 4)
            total = offer.total
            await self._until_known(lambda: client.raise_total(offer.campaign_id, total, request_id))

    async def _watches(self, client: Client) -> None:
        while not self._stopped:
            await asyncio.sleep(0.3)
            if self.offers[0].created:
                await client.watch(self.offers[0].campaign_id, 2.0)
