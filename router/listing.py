"""One page of ListCampaigns: walks the shards in order, several at a time, and names those that do not answer."""

import asyncio
from collections.abc import Sequence

from cluster.types import ShardId
from proto import coupon_pb2, node_pb2
from router.dispatch import Dispatcher
from router.errors import ApiError
from router.tokens import ListPosition, campaigns_token

SHARDS_AT_ONCE = 16
PATIENCE_MIN_S = 0.5
"""What a shard gets to answer at least, where the deadline allows."""


async def list_page(
    dispatcher: Dispatcher, shards: int, begin: ListPosition, page_size: int, deadline: float
) -> coupon_pb2.ListCampaignsResponse:
    """Up to `page_size` campaigns from `begin` on. Ends early, with a token, rather than late.

    Raises:
        ApiError: too many ask for pages (OVERLOADED).
    """
    loop = asyncio.get_running_loop()
    page = coupon_pb2.ListCampaignsResponse()
    position: ListPosition | None = begin
    while position is not None and len(page.campaigns) < page_size:
        windows = -(-(shards - position.shard) // SHARDS_AT_ONCE)
        left_s = deadline - loop.time()
        if position != begin and left_s < PATIENCE_MIN_S:
            break
        # Every window may have a silent shard: each gets its share, so that the whole page is in time.
        patience_s = max(left_s / (windows + 1), min(PATIENCE_MIN_S, left_s / 2))
        last = min(position.shard + SHARDS_AT_ONCE, shards)
        answers = await asyncio.gather(
            *(
                _ask(dispatcher, ListPosition(ShardId(shard), after), page_size, loop.time() + patience_s)
                for shard, after in _window(position, last)
            )
        )
        position = _append(page, page_size, position, answers)
        if position is not None and position.shard >= shards:
            position = None
    if position is not None:
        page.next_page_token = campaigns_token(position)
    return page


def _window(begin: ListPosition, last: int) -> list[tuple[int, str]]:
    return [(begin.shard, begin.after_campaign_id), *((shard, "") for shard in range(begin.shard + 1, last))]


async def _ask(
    dispatcher: Dispatcher, position: ListPosition, page_size: int, deadline: float
) -> coupon_pb2.ListCampaignsResponse | None:
    """None: the shard did not answer, or cannot. Raises ApiError: it would, but for others who ask."""
    request = coupon_pb2.ListCampaignsRequest(page_size=page_size, page_token=position.after_campaign_id)
    try:
        response = await dispatcher.call(node_pb2.LIST_CAMPAIGNS, position.shard, request.SerializeToString(), deadline)
    except ApiError as error:
        if error.reason == coupon_pb2.OVERLOADED:
            raise
        return None
    return coupon_pb2.ListCampaignsResponse.FromString(response)


def _append(
    page: coupon_pb2.ListCampaignsResponse,
    page_size: int,
    begin: ListPosition,
    answers: Sequence[coupon_pb2.ListCampaignsResponse | None],
) -> ListPosition:
    """Adds what fits of the answers of the shards from `begin` on. Returns where the next page begins."""
    for shard, answer in enumerate(answers, begin.shard):
        room = page_size - len(page.campaigns)
        if room == 0:
            return ListPosition(ShardId(shard), "")
        if answer is None:
            page.unreachable.append(f"shards/{shard}")
            continue
        page.campaigns.extend(answer.campaigns[:room])
        if len(answer.campaigns) > room or answer.next_page_token:
            return ListPosition(ShardId(shard), page.campaigns[-1].campaign_id)
    return ListPosition(ShardId(begin.shard + len(answers)), "")
