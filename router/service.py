"""The public API, method by method: form is checked, the shard found, the owner asked. Knows no transport.

Requests and responses are coupon.v1 messages; a failure is an ApiError. Streams come as an async iterator and go to a
`send` coroutine, because a stream has two things to do at a time and a generator only one.
"""

import asyncio
import string
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from cluster.codes import CodeCodec
from cluster.config import shard_of
from cluster.types import ShardId
from cluster.value import value
from proto import coupon_pb2, node_pb2
from router import bulk, errors, follow, validation
from router.access import Permit
from router.bulk import BulkIssue
from router.calls import Issue, Reply
from router.dispatch import Dispatcher
from router.errors import ApiError
from router.follow import Follower
from router.interrupt import Interrupt
from router.limits import Buckets, Rate
from router.listing import list_page
from router.observer import UNOBSERVED, Observer
from router.tokens import ListPosition, coupons_token

_CAMPAIGN_ID_ALPHABET = string.ascii_lowercase + string.digits
_CAMPAIGN_ID_CHARACTERS = 24
_HOMES_MAX = 1_024
_USERS_MAX = 200_000


@value
class CallContext:
    """What a transport knows of a call besides its request."""

    deadline: float | None
    """loop.time() by which an answer has to be ready to be of use; None: the client set no deadline."""
    permit: Permit | None = None
    """Of the caller's API key; None: keys are not asked for."""
    peer: str = ""
    """The caller's address."""

    def require_permit(self) -> None:
        """Of a call that lasts: its key may be revoked meanwhile. Raises ApiError."""
        if self.permit is not None and (refusal := self.permit.refusal()) is not None:
            raise refusal.with_traceback(None)  # it may be shared

    def permitted(self) -> AbstractAsyncContextManager[None]:
        """Around what lasts, though nothing may happen in it: left as soon as the key is refused. Raises ApiError."""
        return nullcontext() if self.permit is None else self.permit.lasting()


Begin = Callable[[CallContext, Reply], None]
"""Begins a call: the reply is called once, mostly later."""


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    default_timeout_s: float = 10.0
    """For a call without a deadline, and for one item of a stream."""
    stream_items_max: int = 1_000
    """Items of one IssueCoupons stream between being read and having their result sent."""


class _Home(NamedTuple):
    """Where a campaign lives."""

    campaign_id: str
    shard: ShardId


class CouponService:
    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        shards: int,
        codec: CodeCodec,
        settings: ServiceSettings,
        rng: Random,
        observer: Observer = UNOBSERVED,
        user_rate: Rate | None = None,
    ) -> None:
        """
        Args:
            rng: also makes the ids of campaigns that come without one: let it be a good one.
            user_rate: of IssueCoupon, items of IssueCoupons included, for one user; None: no limit.
        """
        self._dispatcher = dispatcher
        self._shards = shards
        self._codec = codec
        self._settings = settings
        self._rng = rng
        self.observer = observer
        self._homes: dict[bytes, _Home] = {}
        """Of the few campaigns that everybody asks for, by the field with which requests for them begin."""
        self._users = Buckets(user_rate, _USERS_MAX) if user_rate is not None else None
        self._stop = Interrupt()
        self._stopping = self._streams_end = False

    def end_streams(self) -> None:
        """From now on no stream is begun, and those that are open end when what they have read is answered."""
        self._streams_end = True
        self._stop.fire()

    def refuse(self) -> None:
        """From now on every new call is refused."""
        self._stopping = True

    # --- coupons -----------------------------------------------------------------------------------------------------

    def admit_issue_coupon(self, data: bytes) -> Begin | ApiError:
        """IssueCoupon, in bytes and without a task for each call: the node's response passes unparsed.

        Returns what begins the call, to be called at once; or why it is refused.
        """
        admitted = self._admit(data)
        if isinstance(admitted, ApiError):
            self.observer.refused(Issue.UNARY, admitted)
        return admitted

    def _admit(self, data: bytes) -> Begin | ApiError:
        if self._stopping:
            return errors.stopping()
        # Before all else: when too many come, most are refused, and those must cost little.
        home = self._homes.get(data[: data[1] + 2]) if len(data) > 1 else None
        if home is not None and (crowded := self._dispatcher.crowded(home.shard)) is not None:
            return crowded
        try:
            request = validation.parse(coupon_pb2.IssueCouponRequest, data)
            validation.check_issue_coupon(request)
            if self._users is not None and (limited := self._limited(request)) is not None:
                return limited
        except ApiError as error:
            return error
        if home is None or home.campaign_id != request.campaign_id:
            home = self._learn_home(request.campaign_id)
        return partial(self._issue_coupon, home, data)

    def _issue_coupon(self, home: _Home, data: bytes, call: CallContext, reply: Reply) -> None:
        deadline = self._deadline(call)
        try:
            self._dispatcher.submit(
                node_pb2.ISSUE_COUPON, home.shard, data, deadline, reply, Issue.UNARY, home.campaign_id
            )
        except ApiError as error:
            self.observer.refused(Issue.UNARY, error)
            reply(error.with_traceback(None))  # it may be shared

    async def issue_coupons(
        self, requests: AsyncIterator[coupon_pb2.IssueCouponsRequest], call: CallContext, send: bulk.Send
    ) -> None:
        """Returns after the client's half-close, when every item has its result."""
        self._require_streaming()
        stream = BulkIssue(
            self._dispatcher,
            shards=self._shards,
            deadline=call.deadline,
            item_timeout_s=self._settings.default_timeout_s,
            items_in_flight_max=self._settings.stream_items_max,
            stopping=self._stop,
            observer=self.observer,
            permitted=call.permitted,
            refusal=partial(self._item_refusal, call),
        )
        await stream.run(requests, send)

    def _item_refusal(self, call: CallContext, request: coupon_pb2.IssueCouponRequest) -> ApiError | None:
        """Why an item counts as one too many, of its caller or of its user."""
        if call.permit is not None and (refusal := call.permit.take()) is not None:
            return refusal
        return self._limited(request)

    def _limited(self, request: coupon_pb2.IssueCouponRequest) -> ApiError | None:
        if self._users is None:
            return None
        wait_s = self._users.take(request.user_id, asyncio.get_running_loop().time())
        return errors.rate_limited("user", wait_s) if wait_s else None

    async def get_coupon(self, request: coupon_pb2.GetCouponRequest, call: CallContext) -> coupon_pb2.GetCouponResponse:
        validation.check_get_coupon(request)
        if request.WhichOneof("key") == "campaign_user":
            shard = shard_of(request.campaign_user.campaign_id, self._shards)
        else:
            home = self._codec.decode(request.code)
            if home is None or home.shard >= self._shards:
                raise ApiError(coupon_pb2.COUPON_NOT_FOUND, "no coupon has this code")
            shard = home.shard
        response = await self._ask(node_pb2.GET_COUPON, shard, request.SerializeToString(), call)
        return coupon_pb2.GetCouponResponse.FromString(response)

    # --- campaigns ---------------------------------------------------------------------------------------------------

    async def create_campaign(
        self, request: coupon_pb2.CreateCampaignRequest, call: CallContext
    ) -> coupon_pb2.Campaign:
        validation.check_create_campaign(request)
        if not request.campaign_id:
            request.campaign_id = "".join(self._rng.choices(_CAMPAIGN_ID_ALPHABET, k=_CAMPAIGN_ID_CHARACTERS))
        return await self._change(node_pb2.CREATE_CAMPAIGN, request.campaign_id, request.SerializeToString(), call)

    async def update_campaign(
        self, request: coupon_pb2.UpdateCampaignRequest, call: CallContext
    ) -> coupon_pb2.Campaign:
        validation.check_update_campaign(request)
        campaign_id = request.campaign.campaign_id
        return await self._change(node_pb2.UPDATE_CAMPAIGN, campaign_id, request.SerializeToString(), call)

    async def pause_campaign(self, request: coupon_pb2.PauseCampaignRequest, call: CallContext) -> coupon_pb2.Campaign:
        validation.check_administrative(request)
        return await self._change(node_pb2.PAUSE_CAMPAIGN, request.campaign_id, request.SerializeToString(), call)

    async def resume_campaign(
        self, request: coupon_pb2.ResumeCampaignRequest, call: CallContext
    ) -> coupon_pb2.Campaign:
        validation.check_administrative(request)
        return await self._change(node_pb2.RESUME_CAMPAIGN, request.campaign_id, request.SerializeToString(), call)

    async def cancel_campaign(
        self, request: coupon_pb2.CancelCampaignRequest, call: CallContext
    ) -> coupon_pb2.Campaign:
        validation.check_administrative(request)
        return await self._change(node_pb2.CANCEL_CAMPAIGN, request.campaign_id, request.SerializeToString(), call)

    async def get_campaign(
        self, request: coupon_pb2.GetCampaignRequest, call: CallContext
    ) -> coupon_pb2.GetCampaignResponse:
        after_sequence = validation.check_get_campaign(request)
        # Among ourselves the token is the sequence itself, in decimal.
        inner = coupon_pb2.GetCampaignRequest(
            campaign_id=request.campaign_id,
            page_size=request.page_size or validation.COUPONS_PAGE_DEFAULT,
            page_token=str(after_sequence) if after_sequence else "",
        )
        shard = shard_of(request.campaign_id, self._shards)
        data = await self._ask(node_pb2.GET_CAMPAIGN, shard, inner.SerializeToString(), call)
        response = coupon_pb2.GetCampaignResponse.FromString(data)
        if response.next_page_token:
            response.next_page_token = coupons_token(request.campaign_id, int(response.next_page_token))
        return response

    async def list_campaigns(
        self, request: coupon_pb2.ListCampaignsRequest, call: CallContext
    ) -> coupon_pb2.ListCampaignsResponse:
        position = validation.check_list_campaigns(request, self._shards)
        self._require_running()
        return await list_page(
            self._dispatcher,
            self._shards,
            position or ListPosition(ShardId(0), ""),
            request.page_size or validation.CAMPAIGNS_PAGE_DEFAULT,
            self._deadline(call),
        )

    async def watch_campaign(
        self, request: coupon_pb2.WatchCampaignRequest, call: CallContext, send: follow.Send
    ) -> None:
        """Ends only by an error, or with the caller's task."""
        validation.check_watch_campaign(request)
        self._require_streaming()
        follower = Follower(
            self._dispatcher,
            shard_of(request.campaign_id, self._shards),
            request.campaign_id,
            patience_s=min(self._deadline(call) - asyncio.get_running_loop().time(), self._settings.default_timeout_s),
            stopping=self._stop,
            rng=self._rng,
        )
        await follower.run(send)

    def _learn_home(self, campaign_id: str) -> _Home:
        if len(self._homes) == _HOMES_MAX:
            self._homes.clear()
        home = _Home(campaign_id, shard_of(campaign_id, self._shards))
        self._homes[coupon_pb2.IssueCouponRequest(campaign_id=campaign_id).SerializeToString()] = home
        return home

    # --- common ------------------------------------------------------------------------------------------------------

    async def _change(
        self, method: node_pb2.Method, campaign_id: str, request: bytes, call: CallContext
    ) -> coupon_pb2.Campaign:
        return coupon_pb2.Campaign.FromString(
            await self._ask(method, shard_of(campaign_id, self._shards), request, call)
        )

    async def _ask(self, method: node_pb2.Method, shard: ShardId, request: bytes, call: CallContext) -> bytes:
        self._require_running()
        return await self._dispatcher.call(method, shard, request, self._deadline(call))

    def _deadline(self, call: CallContext) -> float:
        if call.deadline is not None:
            return call.deadline
        return asyncio.get_running_loop().time() + self._settings.default_timeout_s

    def _require_streaming(self) -> None:
        if self._streams_end:
            raise errors.stopping()

    def _require_running(self) -> None:
        if self._stopping:
            raise errors.stopping()
