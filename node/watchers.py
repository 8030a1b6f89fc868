"""Who wants to hear of a shard's campaigns. A slow watcher misses states, never the latest one."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from node.commands import Campaign


class Subscription:
    """The latest durable state of one campaign, for one watcher."""

    def __init__(self) -> None:
        self._latest: Campaign | None = None
        self._ended = False
        self._news = asyncio.Event()

    def publish(self, campaign: Campaign) -> None:
        self._latest = campaign
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def next(self) -> Campaign | None:
        """The campaign, as soon as it has changed since the last call; None when the shard is served elsewhere."""
        await self._news.wait()
        if self._ended:
            return None
        self._news.clear()
        return self._latest


class Watchers:
    """The subscriptions of one shard."""

    def __init__(self) -> None:
        self._by_campaign: defaultdict[str, set[Subscription]] = defaultdict(set)

    @contextmanager
    def subscribe(self, campaign_id: str) -> Iterator[Subscription]:
        subscription = Subscription()
        self._by_campaign[campaign_id].add(subscription)
        try:
            yield subscription
        finally:
            self._by_campaign[campaign_id].discard(subscription)
            if not self._by_campaign[campaign_id]:
                del self._by_campaign[campaign_id]

    def watched(self, campaign_id: str) -> bool:
        return campaign_id in self._by_campaign

    def publish(self, campaign: Campaign) -> None:
        """Call with durable state only."""
        for subscription in self._by_campaign.get(campaign.campaign_id, ()):
            subscription.publish(campaign)

    def end(self) -> None:
        for subscriptions in self._by_campaign.values():
            for subscription in subscriptions:
                subscription.end()
