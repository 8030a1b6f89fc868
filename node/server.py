"""The node's NodeService on grpc.aio: frames in, frames out. Decides nothing: calls go to the shard's loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

import grpc
import grpc.aio
import structlog

from cluster.audit_log import AuditLog
from cluster.identity import mismatch
from cluster.roles import uri_in
from cluster.types import Incarnation, Revision, ShardId
from node.calls import Call, Outcome, Overloaded
from node.commands import Answer, CampaignPage, GetCampaign, Reason, Refused
from node.keeper import NotHandedOver
from node.life import Life
from node.member import Member
from node.outbox import Outbox
from node.wire import MalformedCall, campaign_of, command_of, reply_of
from proto import coupon_pb2, node_pb2, node_pb2_grpc

log = structlog.get_logger()

SILENCE_S_MAX = 1.0
"""A router from which nothing was heard for so long, or that took none of its replies, is heard no more."""
MESSAGE_BYTES_MAX = 16 << 20
WATCH_GAP_S = 0.05
"""Least time between two states that a watcher is sent."""

_WATCH_CODES = {
    Reason.CAMPAIGN_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.CORRUPT_JOURNAL: grpc.StatusCode.DATA_LOSS,
}

Context = grpc.aio.ServicerContext[object, object]


class NodeServer(node_pb2_grpc.NodeServiceServicer):
    """One instance for all of a node's lives; between two of them every call is NOT_OWNER."""

    def __init__(self, member: Member, identity: node_pb2.ClusterIdentity) -> None:
        self._member = member
        self._identity = identity
        self._audit = AuditLog()

    # --- calls --------------------------------------------------------------------------------------------------------

    async def Exchange(  # noqa: N802  # gRPC's name
        self, frames: AsyncIterator[node_pb2.RouterFrame], context: Context
    ) -> AsyncIterator[node_pb2.NodeFrame]:
        hello = await anext(frames, None)
        if hello is None or hello.WhichOneof("kind") != "hello":
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the first frame has to be a hello")
        await self._check(hello.hello.identity, context)
        life = self._member.life
        yield node_pb2.NodeFrame(
            welcome=node_pb2.Welcome(identity=self._identity, incarnation=str(life.me) if life else "")
        )
        outbox = Outbox()
        reader = asyncio.create_task(self._read(frames, outbox), name="exchange-reader")
        try:
            async for frame in outbox.frames():
                yield frame
        finally:
            outbox.close()
            reader.cancel()
            await asyncio.wait([reader])
        if not reader.cancelled() and (bug := reader.exception()) is not None:
            raise bug

    async def _read(self, frames: AsyncIterator[node_pb2.RouterFrame], outbox: Outbox) -> None:
        try:
            while True:
                async with asyncio.timeout(SILENCE_S_MAX):
                    await outbox.room()
                    frame = await anext(frames, None)
                if frame is None:
                    return
                if frame.WhichOneof("kind") == "calls":
                    now_s, arrived_s = asyncio.get_running_loop().time(), self._member.observer.now()
                    for call in frame.calls.calls:
                        self._submit(call, arrived_s, now_s, outbox)
        except TimeoutError:
            log.info("exchange_silent")
        finally:
            outbox.close()

    def _submit(self, call: node_pb2.Call, arrived_s: float, now_s: float, outbox: Outbox) -> None:
        life = self._member.life
        if life is None:
            outbox.put(node_pb2.Reply(call_id=call.call_id, not_owner=node_pb2.NotOwner()))
            return
        try:
            command = command_of(call.method, call.request)
        except MalformedCall as malformed:
            log.warning("malformed_call", error=str(malformed))
            outbox.put(_invalid(call.call_id, str(malformed)))
            return
        pending = Call(command, arrived_s, now_s + call.timeout_ms / 1_000, _replier(call.call_id, outbox))
        try:
            life.keeper.submit(ShardId(call.shard), pending)
        except Overloaded as overloaded:
            self._member.observer.overloaded()
            retry_after_ms = max(1, round(overloaded.retry_after_s * 1_000))
            outbox.put(
                node_pb2.Reply(call_id=call.call_id, overloaded=node_pb2.Overloaded(retry_after_ms=retry_after_ms))
            )

    # --- watching a campaign ------------------------------------------------------------------------------------------

    async def Watch(  # noqa: N802
        self, request: node_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[coupon_pb2.Campaign]:
        await self._check(request.identity, context)
        life = await self._life(context)
        shard = life.keeper.serving(ShardId(request.shard))
        if shard is None:
            first = await self._read_campaign(life, request)
            code = _WATCH_CODES.get(first.reason) if isinstance(first, Refused) else None
            await _abort(context, code or grpc.StatusCode.UNAVAILABLE, "the shard is not served here")
        with shard.watchers.subscribe(request.campaign_id) as subscription:
            first = await self._read_campaign(life, request)
            if isinstance(first, Refused):
                await _abort(context, _WATCH_CODES[first.reason], first.message)
            if not isinstance(first, CampaignPage):
                await _abort(context, grpc.StatusCode.UNAVAILABLE, "no longer the owner of the shard")
            yield campaign_of(first.campaign)
            while (campaign := await subscription.next()) is not None:
                yield campaign_of(campaign)
                await asyncio.sleep(WATCH_GAP_S)
        await _abort(context, grpc.StatusCode.UNAVAILABLE, "no longer the owner of the shard")

    async def _read_campaign(self, life: Life, request: node_pb2.WatchRequest) -> Answer | Outcome:
        """The campaign as it is, by the shard's loop and behind its barrier, like every read."""
        loop = asyncio.get_running_loop()
        arrived_s = self._member.observer.now()
        answer: asyncio.Future[Answer | Outcome] = loop.create_future()

        def reply(said: Answer | Outcome) -> None:
            if not answer.done():  # the watcher may have gone
                answer.set_result(said)

        try:
            life.keeper.submit(
                ShardId(request.shard),
                Call(GetCampaign(request.campaign_id, 0, 0), arrived_s, loop.time() + 5.0, reply),
            )
        except Overloaded:
            return Outcome.NOT_OWNER
        return await answer

    # --- between nodes ------------------------------------------------------------------------------------------------

    async def Handover(  # noqa: N802
        self, request: node_pb2.HandoverRequest, context: Context
    ) -> node_pb2.HandoverResponse:
        await self._check(request.identity, context)
        life = await self._life(context)
        try:
            successor = Incarnation.parse(request.incarnation)
            revision = await life.hand_over(ShardId(request.shard), Revision(request.revision), successor)
        except (NotHandedOver, ValueError) as error:
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, str(error))
        return node_pb2.HandoverResponse(revision=revision)

    async def Presence(  # noqa: N802
        self, request: node_pb2.PresenceRequest, context: Context
    ) -> AsyncIterator[node_pb2.PresenceResponse]:
        await self._check(request.identity, context)
        life = await self._life(context)
        yield node_pb2.PresenceResponse(incarnation=str(life.me))
        await life.ended.wait()

    async def Drain(  # noqa: N802
        self, request: node_pb2.DrainRequest, context: Context
    ) -> node_pb2.DrainResponse:
        await self._check(request.identity, context)
        life = await self._life(context)
        if request.incarnation != str(life.me):
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"this is {life.me}")
        who = uri_in(context.auth_context()) or context.peer()
        try:
            act = self._audit.begin(who=who, what="Drain", peer=context.peer(), node=str(life.me))
        except OSError as error:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, f"the audit log cannot be written: {error}")
        self._member.drain()
        act.end("OK")
        return node_pb2.DrainResponse()

    async def GetStatus(  # noqa: N802
        self, request: node_pb2.GetStatusRequest, context: Context
    ) -> node_pb2.GetStatusResponse:
        life = await self._life(context)
        response = node_pb2.GetStatusResponse(incarnation=str(life.me))
        for held in life.keeper.status():
            shard = held.shard
            response.shards.add(
                shard=held.id,
                state=held.state.value,
                cluster_incarnation=held.epoch.incarnation,
                revision=held.epoch.revision,
                position=shard.journal.position if shard else 0,
                campaigns=shard.ledger.campaigns if shard else 0,
                coupons=shard.ledger.coupons if shard else 0,
                queued=shard.queued if shard else len(held.waiting),
                error=held.error,
            )
        for copy, replica in life.standby.status():
            response.standbys.add(
                shard=copy.shard, warm=copy.warm, position=replica.position, coupons=replica.ledger.coupons
            )
        return response

    # --- common -------------------------------------------------------------------------------------------------------

    async def _check(self, theirs: node_pb2.ClusterIdentity, context: Context) -> None:
        different = mismatch(self._identity, theirs)
        if different:
            log.error("handshake_refused", peer=context.peer(), why=different)
            await _abort(context, grpc.StatusCode.FAILED_PRECONDITION, different)

    async def _life(self, context: Context) -> Life:
        life = self._member.life
        if life is None:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, "not registered")
        return life


def _replier(call_id: int, outbox: Outbox) -> Callable[[Answer | Outcome], None]:
    def reply(said: Answer | Outcome) -> None:
        match said:
            case Outcome.NOT_OWNER:
                message = node_pb2.Reply(call_id=call_id, not_owner=node_pb2.NotOwner())
            case Outcome.UNKNOWN:
                message = node_pb2.Reply(call_id=call_id, unknown=node_pb2.Unknown())
            case Outcome.EXPIRED:
                message = node_pb2.Reply(call_id=call_id, expired=node_pb2.Expired())
            case _:
                message = reply_of(call_id, said)
        outbox.put(message)

    return reply


def _invalid(call_id: int, message: str) -> node_pb2.Reply:
    return node_pb2.Reply(
        call_id=call_id, refusal=node_pb2.Refusal(reason=coupon_pb2.INVALID_FIELD, message=message, field="request")
    )


async def _abort(context: Context, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details)
    raise AssertionError("abort raises")
