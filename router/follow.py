"""One WatchCampaign: subscribes at the shard's owner, and at the next one when that changes.

A client that reads slowly misses states, never the latest one; what it has seen is not sent again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from random import Random
from typing import NoReturn

from cluster.types import ShardId
from proto import coupon_pb2
from router import errors
from router.dispatch import Dispatcher
from router.errors import ApiError
from router.interrupt import Interrupt, Interrupted
from router.nodes import NodeRefused, NodeUnavailable

Send = Callable[[coupon_pb2.WatchCampaignResponse], Awaitable[None]]

_PAUSE_S = 0.05
"""Mean wait after a subscription that broke while the owner, as far as we know, is the same."""


class Follower:
    def __init__(
        self,
        dispatcher: Dispatcher,
        shard: ShardId,
        campaign_id: str,
        *,
        patience_s: float,
        stopping: Interrupt,
        rng: Random,
    ) -> None:
        """
        Args:
            patience_s: how long nobody may answer for the campaign before the watch fails.
            stopping: fires when this router stops.
        """
        self._dispatcher = dispatcher
        self._shard = shard
        self._campaign_id = campaign_id
        self._patience_s = patience_s
        self._stopping = stopping
        self._rng = rng
        self._latest: coupon_pb2.Campaign | None = None
        """Not sent yet."""
        self._version: tuple[str, int] | None = None
        """Of what was heard last."""
        self._news = asyncio.Event()

    async def run(self, send: Send) -> None:
        """Ends only by an error, or with the caller's task.

        Raises:
            ApiError: no such campaign; nobody answers for it; the router stops.
        """
        receiving = asyncio.create_task(self._receive())
        # The sender below sleeps on news: the receiver's end is news too.
        receiving.add_done_callback(lambda _: self._news.set())
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._latest is not None:
                    latest, self._latest = self._latest, None
                    await send(coupon_pb2.WatchCampaignResponse(campaign=latest))
                if receiving.done():
                    receiving.result()
        finally:
            receiving.cancel()
            await asyncio.wait([receiving])

    async def _receive(self) -> NoReturn:
        try:
            async with self._stopping.scope():
                try:
                    async with asyncio.timeout(self._patience_s) as patience:
                        while True:
                            await self._receive_from_owner(patience)
                except TimeoutError:
                    assert patience.expired()
        except Interrupted:
            raise errors.stopping() from None
        if self._dispatcher.link_of(self._shard) is None:
            raise errors.no_owner(self._rng.uniform(0.5, 1.5))
        raise errors.not_in_time()

    async def _receive_from_owner(self, patience: asyncio.Timeout) -> None:
        """Returns when it is time to subscribe again. `patience` runs while no owner is heard."""
        link = self._dispatcher.link_of(self._shard)
        loop = asyncio.get_running_loop()
        try:
            async with self._dispatcher.moves_of(self._shard).scope():
                if link is None:
                    await loop.create_future()
                else:
                    async with aclosing(link.watch(self._shard, self._campaign_id)) as campaigns:
                        async for campaign in campaigns:
                            patience.reschedule(None)
                            self._publish(campaign)
        except Interrupted:
            lost_because_moved = True
        except NodeUnavailable:
            lost_because_moved = False
        except NodeRefused as refusal:
            if refusal.reason:
                raise ApiError(refusal.reason, refusal.message) from refusal
            lost_because_moved = False
        if patience.when() is None:
            patience.reschedule(loop.time() + self._patience_s)
        if not lost_because_moved:
            await asyncio.sleep(_PAUSE_S * self._rng.uniform(0.5, 1.5))

    def _publish(self, campaign: coupon_pb2.Campaign) -> None:
        """A new subscription begins with what the one before may have told already."""
        version = (campaign.etag, campaign.issued)
        if version != self._version:
            self._version = version
            self._latest = campaign
            self._news.set()
