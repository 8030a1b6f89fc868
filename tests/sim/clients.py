"""Who calls the routers, and writes down what was asked, heard and when: the history that the judge gets.

One method is one call, sent once. Repeating is the workload's matter. Times are the simulation's own.
"""

import asyncio
import random
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
from google.rpc import error_details_pb2

from chaos.history import Call, CampaignView, Coupon, Operation, Outcome, outcome_of_error
from proto import coupon_pb2
from router.errors import ApiError, reason_name
from tests.sim.network import Failed
from tests.sim.processes import Request

if TYPE_CHECKING:
    from tests.sim.world import World

PATIENCE_S = 0.2
"""How long a client waits beyond the deadline that it sent."""


class Recorder:
    """Every call of every client."""

    def __init__(self, world: "World") -> None:
        self.calls: list[Call] = []
        """In the order in which they were answered or given up."""
        self.open = 0
        self._world = world
        self._ids = count(1)

    def next_id(self) -> int:
        self.open += 1
        return next(self._ids)

    def add(self, call: Call) -> None:
        self.open -= 1
        self.calls.append(call)
        self._world.note("call", said=call, by=call.client)


class Client:
    def __init__(self, world: "World", name: str, recorder: Recorder, rng: random.Random) -> None:
        self.name = name
        self.recorder = recorder
        self._world = world
        self._rng = rng

    async def create(
        self, campaign_id: str, total: int, per_user_limit: int, start_us: int | None, end_us: int | None
    ) -> Call:
        campaign = coupon_pb2.Campaign(name="봄날행사", total=total, per_user_limit=per_user_limit)
        if start_us is not None:
            campaign.start_time.FromMicroseconds(start_us)
        if end_us is not None:
            campaign.end_time.FromMicroseconds(end_us)
        return await self._unary(
            Operation.CREATE,
            "create_campaign",
            coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign),
            _campaign_answer,
            campaign_id=campaign_id,
            total=total,
            per_user_limit=per_user_limit,
            start_us=start_us,
            end_us=end_us,
        )

    async def issue(self, campaign_id: str, user_id: str, request_id: str) -> Call:
        return await self._unary(
            Operation.ISSUE,
            "issue_coupon",
            coupon_pb2.IssueCouponRequest(campaign_id=campaign_id, user_id=user_id, request_id=request_id),
            lambda answer: _issued(coupon_pb2.IssueCouponResponse.FromString(answer)),
            campaign_id=campaign_id,
            user_id=user_id,
            request_id=request_id,
        )

    async def issue_many(self, asked: list[tuple[str, str, str]]) -> list[Call]:
        """One stream, an item each: campaign, user, request id."""
        loop = self._world.loop
        router, timeout_s = self._router(), self._timeout_s()
        invoked_s = loop.time()
        calls = {index: self.recorder.next_id() for index in range(len(asked))}
        heard: dict[int, dict[str, Any]] = {}
        call = self._world.network.call(self.name, router, "issue_coupons")
        try:
            async with asyncio.timeout(timeout_s + PATIENCE_S):
                call.write(Request(None, timeout_s))
                message = coupon_pb2.IssueCouponsRequest()
                for index, (campaign_id, user_id, request_id) in enumerate(asked):
                    item = message.items.add(index=index)
                    item.request.campaign_id = campaign_id
                    item.request.user_id = user_id
                    item.request.request_id = request_id
                call.write(message)
                call.half_close()
                while (answer := await call.read()) is not None:
                    for result in answer.results:
                        assert result.index not in heard, "an item is answered once"
                        heard[result.index] = {"answered_s": loop.time(), **_item(result)}
        except (Failed, TimeoutError):
            pass  # what was not heard stays unknown
        finally:
            call.cancel()
        unknown = {"outcome": Outcome.UNKNOWN, "answered_s": loop.time(), "reason": "stream over"}
        recorded = []
        for index, (campaign_id, user_id, request_id) in enumerate(asked):
            recorded.append(
                Call(
                    calls[index],
                    Operation.ISSUE,
                    campaign_id,
                    invoked_s,
                    client=f"{self.name} {router}",
                    user_id=user_id,
                    request_id=request_id,
                    **heard.get(index, unknown),
                )
            )
            self.recorder.add(recorded[-1])
        return recorded

    async def read(self, campaign_id: str, page_size: int, page_token: str = "") -> tuple[Call, str]:
        """One page of GetCampaign, and the token of the next."""
        token = ""

        def answer_of(page: coupon_pb2.GetCampaignResponse) -> dict[str, Any]:
            nonlocal token
            token = page.next_page_token
            return {"campaign": _view(page.campaign), "coupons": tuple(map(_coupon, page.coupons))}

        call = await self._unary(
            Operation.READ,
            "get_campaign",
            coupon_pb2.GetCampaignRequest(campaign_id=campaign_id, page_size=page_size, page_token=page_token),
            answer_of,
            campaign_id=campaign_id,
        )
        return call, token

    async def get_coupon(self, code: str) -> Call:
        return await self._unary(
            Operation.GET_COUPON,
            "get_coupon",
            coupon_pb2.GetCouponRequest(code=code),
            _coupons,
            campaign_id="",
            code=code,
        )

    async def get_coupons_of(self, campaign_id: str, user_id: str) -> Call:
        request = coupon_pb2.GetCouponRequest()
        request.campaign_user.campaign_id = campaign_id
        request.campaign_user.user_id = user_id
        return await self._unary(
            Operation.GET_COUPON, "get_coupon", request, _coupons, campaign_id=campaign_id, user_id=user_id
        )

    async def raise_total(self, campaign_id: str, total: int, request_id: str) -> Call:
        request = coupon_pb2.UpdateCampaignRequest(
            campaign=coupon_pb2.Campaign(campaign_id=campaign_id, total=total), request_id=request_id
        )
        request.update_mask.paths.append("total")
        return await self._unary(
            Operation.UPDATE,
            "update_campaign",
            request,
            _campaign_answer,
            campaign_id=campaign_id,
            total=total,
            request_id=request_id,
        )

    async def administer(self, operation: Operation, campaign_id: str, request_id: str) -> Call:
        """Pause, resume or cancel."""
        method, kind = {
            Operation.PAUSE: ("pause_campaign", coupon_pb2.PauseCampaignRequest),
            Operation.RESUME: ("resume_campaign", coupon_pb2.ResumeCampaignRequest),
            Operation.CANCEL: ("cancel_campaign", coupon_pb2.CancelCampaignRequest),
        }[operation]
        return await self._unary(
            operation,
            method,
            kind(campaign_id=campaign_id, request_id=request_id),
            _campaign_answer,
            campaign_id=campaign_id,
            request_id=request_id,
        )

    async def watch(self, campaign_id: str, seconds: float) -> None:
        """Every state that is told counts as a read since the watch began. Ends when it breaks, too."""
        loop = self._world.loop
        router = self._router()
        invoked_s = loop.time()
        call = self._world.network.call(self.name, router, "watch_campaign")
        try:
            async with asyncio.timeout(seconds):
                call.write(Request(coupon_pb2.WatchCampaignRequest(campaign_id=campaign_id), 3.0))
                while (answer := await call.read()) is not None:
                    self._world.totals["watched"] += 1
                    self.recorder.add(
                        Call(
                            self.recorder.next_id(),
                            Operation.READ,
                            campaign_id,
                            invoked_s,
                            Outcome.OK,
                            loop.time(),
                            client=f"{self.name} {router}",
                            campaign=_view(answer.campaign),
                        )
                    )
        except Failed as failed:
            self._world.note("watch_over", why=failed.details)
        except TimeoutError:
            pass
        finally:
            call.cancel()

    # --- one call -----------------------------------------------------------------------------------------------------

    def _router(self) -> str:
        """The address of one, which may be nobody's at present."""
        name = self._rng.choice(self._world.router_names)
        present = self._world.present(name)
        return present.address if present else f"{name}:0"

    def _timeout_s(self) -> float:
        return self._rng.choice([0.15, 0.5, 1.5, 3.0])

    async def _unary(
        self,
        operation: Operation,
        method: str,
        message: Any,
        answer_of: Callable[[Any], dict[str, Any]],
        **asked: Any,
    ) -> Call:
        loop = self._world.loop
        router, timeout_s = self._router(), self._timeout_s()
        call_id, invoked_s = self.recorder.next_id(), loop.time()
        outcome, heard = Outcome.UNKNOWN, dict[str, Any]()
        call = self._world.network.call(self.name, router, method)
        try:
            async with asyncio.timeout(timeout_s + PATIENCE_S):
                call.write(Request(message, timeout_s))
                answer = await call.read()
        except TimeoutError:
            heard = {"reason": "no answer"}
        except Failed as failed:
            reason = reason_of(failed)
            outcome, heard = outcome_of_error(reason), {"reason": reason}
        else:
            outcome, heard = Outcome.OK, answer_of(answer)
        finally:
            call.cancel()
        recorded = Call(
            call_id,
            operation,
            invoked_s=invoked_s,
            outcome=outcome,
            answered_s=loop.time(),
            client=f"{self.name} {router}",
            **asked,
            **heard,
        )
        self.recorder.add(recorded)
        return recorded


def reason_of(failed: Failed) -> str:
    """ErrorInfo's; a broken call has none."""
    if isinstance(failed.detail, ApiError):
        return reason_name(failed.detail.reason)
    assert failed.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), failed.code
    return f"status {failed.code.name}"


def _campaign_answer(campaign: coupon_pb2.Campaign) -> dict[str, Any]:
    return {"campaign": _view(campaign)}


def _issued(answer: coupon_pb2.IssueCouponResponse) -> dict[str, Any]:
    return {"coupons": (_coupon(answer.coupon),), "already_issued": answer.already_issued}


def _coupons(answer: coupon_pb2.GetCouponResponse) -> dict[str, Any]:
    return {"coupons": tuple(map(_coupon, answer.coupons))}


def _item(result: coupon_pb2.IssueCouponsResponse.Result) -> dict[str, Any]:
    if result.HasField("response"):
        return {"outcome": Outcome.OK, **_issued(result.response)}
    reason = _reason_of_status(result.status)
    return {"outcome": outcome_of_error(reason), "reason": reason}


def _reason_of_status(status: Any) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return f"status {status.code}"


def _view(campaign: coupon_pb2.Campaign) -> CampaignView:
    return CampaignView(campaign.total, campaign.issued, coupon_pb2.Campaign.State.Name(campaign.state))


def _coupon(coupon: coupon_pb2.Coupon) -> Coupon:
    return Coupon(coupon.code, coupon.campaign_id, coupon.user_id, coupon.sequence, coupon.issue_time.ToMicroseconds())
