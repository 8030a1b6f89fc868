"""A client of the routers that writes every call down, with what became of it.

One method is one call, sent once. Repeating, and what to call when, is the workload's matter.
"""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import count
from types import TracebackType
from typing import Any, Self

import grpc.aio

from chaos.history import Call, CampaignView, Coupon, Operation, Outcome, outcome_of_error
from chaos.history_file import HistoryWriter
from ops import errors
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

DEADLINE_S = 3.0
PAGE_SIZE = 5_000
AVOIDED_S = 0.3
"""A router that left a call without an answer is not asked for so long, if there is another."""

_CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    # A router that was started again is found again soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]


class RecordingClient:
    """Many users behind one process. A context manager; every method returns the call as it was recorded, whatever it
    came to: none raises for a call that failed."""

    def __init__(self, routers: Sequence[str], writer: HistoryWriter, rng: random.Random, began_s: float) -> None:
        """
        Args:
            routers: HOST:PORT each; a call goes to any of them.
            began_s: time.monotonic() that is 0 in the history.
        """
        self._routers = routers
        self._writer = writer
        self._rng = rng
        self._began_s = began_s
        self._ids = count(1)
        self._stack = AsyncExitStack()
        self._stubs: list[CouponServiceStub] = []
        self._avoided_until_s = [0.0] * len(routers)
        """By router, on the history's clock."""
        self.calls: list[Call] = []
        """All that were answered or given up, in that order."""
        self.grants = 0

    async def __aenter__(self) -> Self:
        for router in self._routers:
            channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(router, options=_CHANNEL_OPTIONS))
            self._stubs.append(CouponServiceStub(channel))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def now_s(self) -> float:
        """On the history's clock."""
        return time.monotonic() - self._began_s

    # --- calls --------------------------------------------------------------------------------------------------------

    async def create(
        self, campaign_id: str, total: int, per_user_limit: int, start_us: int | None, end_us: int | None
    ) -> Call:
        campaign = coupon_pb2.Campaign(name="혼돈의행사", total=total, per_user_limit=per_user_limit)
        if start_us is not None:
            campaign.start_time.FromMicroseconds(start_us)
        if end_us is not None:
            campaign.end_time.FromMicroseconds(end_us)
        request = coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
        return await self._call(
            Operation.CREATE,
            lambda stub, wait: stub.CreateCampaign(request, timeout=DEADLINE_S, wait_for_ready=wait),
            _campaign_answer,
            campaign_id=campaign_id,
            total=total,
            per_user_limit=per_user_limit,
            start_us=start_us,
            end_us=end_us,
        )

    async def issue(self, campaign_id: str, user_id: str, request_id: str) -> Call:
        request = coupon_pb2.IssueCouponRequest(campaign_id=campaign_id, user_id=user_id, request_id=request_id)
        return await self._call(
            Operation.ISSUE,
            lambda stub, wait: stub.IssueCoupon(request, timeout=DEADLINE_S, wait_for_ready=wait),
            lambda answer: {"coupons": (_coupon(answer.coupon),), "already_issued": answer.already_issued},
            campaign_id=campaign_id,
            user_id=user_id,
            request_id=request_id,
        )

    async def read(self, campaign_id: str, page_size: int, page_token: str = "") -> tuple[Call, str]:
        """One page of GetCampaign, and the token of the next."""
        request = coupon_pb2.GetCampaignRequest(campaign_id=campaign_id, page_size=page_size, page_token=page_token)
        token = ""

        def answer_of(page: coupon_pb2.GetCampaignResponse) -> dict[str, Any]:
            nonlocal token
            token = page.next_page_token
            return {"campaign": _view(page.campaign), "coupons": tuple(map(_coupon, page.coupons))}

        call = await self._call(
            Operation.READ,
            lambda stub, wait: stub.GetCampaign(request, timeout=DEADLINE_S, wait_for_ready=wait),
            answer_of,
            campaign_id=campaign_id,
        )
        return call, token

    async def get_coupon(self, code: str) -> Call:
        request = coupon_pb2.GetCouponRequest(code=code)
        return await self._call(
            Operation.GET_COUPON,
            lambda stub, wait: stub.GetCoupon(request, timeout=DEADLINE_S, wait_for_ready=wait),
            lambda answer: {"coupons": tuple(map(_coupon, answer.coupons))},
            campaign_id="",
            code=code,
        )

    async def raise_total(self, campaign_id: str, total: int, request_id: str) -> Call:
        request = coupon_pb2.UpdateCampaignRequest(
            campaign=coupon_pb2.Campaign(campaign_id=campaign_id, total=total), request_id=request_id
        )
        request.update_mask.paths.append("total")
        return await self._call(
            Operation.UPDATE,
            lambda stub, wait: stub.UpdateCampaign(request, timeout=DEADLINE_S, wait_for_ready=wait),
            _campaign_answer,
            campaign_id=campaign_id,
            total=total,
            request_id=request_id,
        )

    async def pause(self, campaign_id: str, request_id: str) -> Call:
        request = coupon_pb2.PauseCampaignRequest(campaign_id=campaign_id, request_id=request_id)
        return await self._call(
            Operation.PAUSE,
            lambda stub, wait: stub.PauseCampaign(request, timeout=DEADLINE_S, wait_for_ready=wait),
            _campaign_answer,
            campaign_id=campaign_id,
            request_id=request_id,
        )

    async def resume(self, campaign_id: str, request_id: str) -> Call:
        request = coupon_pb2.ResumeCampaignRequest(campaign_id=campaign_id, request_id=request_id)
        return await self._call(
            Operation.RESUME,
            lambda stub, wait: stub.ResumeCampaign(request, timeout=DEADLINE_S, wait_for_ready=wait),
            _campaign_answer,
            campaign_id=campaign_id,
            request_id=request_id,
        )

    # --- routers ------------------------------------------------------------------------------------------------------

    def _some_router(self) -> tuple[int, bool]:
        """A router, and whether it answered lately. With none that did, a call had better wait for its connection: to
        fail at once, and to be repeated, by everybody, would keep the harness itself from working."""
        now_s = self.now_s()
        well = [number for number, until_s in enumerate(self._avoided_until_s) if until_s <= now_s]
        return self._rng.choice(well or range(len(self._stubs))), bool(well)

    def _avoid(self, number: int, outcome: Outcome) -> None:
        """As a load balancer does with a server that does not answer."""
        if outcome is Outcome.UNKNOWN:
            self._avoided_until_s[number] = self.now_s() + AVOIDED_S

    # --- the record ---------------------------------------------------------------------------------------------------

    async def _call(
        self,
        operation: Operation,
        send: Callable[[CouponServiceStub, bool], Awaitable[Any]],
        answer_of: Callable[[Any], dict[str, Any]],
        **asked: Any,
    ) -> Call:
        call_id = next(self._ids)
        number, answers = self._some_router()
        asked["client"] = f"router-{number}"
        # Cancelled, it is on record as never answered: it may still take effect.
        outcome, answered_s, heard = Outcome.UNKNOWN, None, dict[str, Any]()
        invoked_s = self.now_s()
        try:
            answer = await send(self._stubs[number], not answers)
        except grpc.aio.AioRpcError as error:
            reason = _reason(errors.of_call(error))
            outcome, answered_s, heard = outcome_of_error(reason), self.now_s(), {"reason": reason}
            self._avoid(number, outcome)
        else:
            outcome, answered_s, heard = Outcome.OK, self.now_s(), answer_of(answer)
        finally:
            call = Call(
                call_id, operation, invoked_s=invoked_s, outcome=outcome, answered_s=answered_s, **asked, **heard
            )
            self.calls.append(call)
            self.grants += call.is_grant
            self._writer.call(call)
        return call


def _reason(error: errors.ApiError) -> str:
    """ErrorInfo's; without one the status, told apart: gRPC calls a call CANCELLED, and Seonchak a campaign."""
    return error.reason if error.reason != error.status else f"status {error.status}"


def _campaign_answer(campaign: coupon_pb2.Campaign) -> dict[str, Any]:
    return {"campaign": _view(campaign)}


def _view(campaign: coupon_pb2.Campaign) -> CampaignView:
    return CampaignView(campaign.total, campaign.issued, coupon_pb2.Campaign.State.Name(campaign.state))


def _coupon(coupon: coupon_pb2.Coupon) -> Coupon:
    return Coupon(coupon.code, coupon.campaign_id, coupon.user_id, coupon.sequence, coupon.issue_time.ToMicroseconds())
