"""An owner that was replaced and does not know it: it can neither commit nor be heard."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from cluster.config import JournalKind
from cluster.identity import identity_of
from cluster.kv import Delete, Txn
from node.calls import End, Outcome
from node.commands import (
    CampaignPage,
    Command,
    CreateCampaign,
    GetCampaign,
    IssueCoupon,
    Issued,
    UpdateCampaign,
)
from proto import coupon_pb2, node_pb2, node_pb2_grpc
from tests.cluster.stale import SHARD, world
from tests.cluster.support import Cluster, run, running

JOURNALS: list[JournalKind] = ["file", "etcd"]


# --- a loop that never hears of its successor, over the real journals -------------------------------------------------

STALE_CALLS: list[tuple[Command, Outcome]] = [
    (IssueCoupon("stocked", "late", ""), Outcome.UNKNOWN),
    (IssueCoupon("launch", "late", ""), Outcome.NOT_OWNER),
    (GetCampaign("launch", 0, 10), Outcome.NOT_OWNER),
]


@pytest.mark.parametrize("kind", JOURNALS)
@pytest.mark.parametrize(("command", "heard"), STALE_CALLS, ids=["commit", "refusal", "read"])
def test_a_replaced_owner_is_fenced_by_the_journal(
    tmp_path: Path, kind: JournalKind, command: Command, heard: Outcome
) -> None:
    """With nothing but the journal against it (its lease stands, no watch tells it) a stale owner can neither commit,
    nor say SOLD_OUT, nor answer a read, once a successor has opened the shard and raised the total."""

    async def main() -> None:
        async with world(kind, tmp_path) as w:
            stale = await w.own("stale")
            await stale.call(CreateCampaign("launch", "런칭", 1, 1, None, None))
            await stale.call(CreateCampaign("stocked", "재고", 100, 1, None, None))
            first = await stale.call(IssueCoupon("launch", "u1", ""))
            assert isinstance(first, Issued)
            successor = await w.own("successor")
            await successor.call(UpdateCampaign("launch", "raise", None, 2, None, False))
            assert await stale.call(command) is heard
            assert await stale.running is End.FENCED
            # The successor is not disturbed, and what the stale one tried is not there.
            page = await successor.call(GetCampaign("stocked", 0, 10))
            assert isinstance(page, CampaignPage)
            assert page.coupons == ()
            granted = await successor.call(IssueCoupon("launch", "late", ""))
            assert isinstance(granted, Issued)
            assert granted.coupon.sequence == 2
            assert not granted.already_issued
            successor.shard.drain()
            await successor.running

    run(main)


def test_an_owner_whose_key_is_gone_answers_nothing(tmp_path: Path) -> None:
    """Without an owner key nobody owns: what hung on a lease that ended can neither grant nor refuse (etcd)."""

    async def main() -> None:
        async with world("etcd", tmp_path) as w:
            owner = await w.own("owner")
            await owner.call(CreateCampaign("launch", "런칭", 1, 1, None, None))
            await w.etcd.txn(Txn((), (Delete(w.keys.owner(SHARD)),)))
            assert await owner.call(IssueCoupon("launch", "u1", "")) is Outcome.UNKNOWN
            assert await owner.running is End.FENCED

    run(main)


# --- a process that sleeps past its lease -----------------------------------------------------------------------------


class DirectStream:
    """A router's stream to one node, without a router: it waits for the sleeper as long as it takes."""

    def __init__(self, cluster: Cluster, node: int, campaign_id: str) -> None:
        self._address = cluster.processes.layout.nodes[node].address
        self._identity = identity_of(cluster.processes.config)
        self._shard = cluster.shard(campaign_id)
        self._frames: asyncio.Queue[node_pb2.RouterFrame] = asyncio.Queue()
        self.replies: dict[int, node_pb2.Reply] = {}

    def send(self, call_id: int, method: node_pb2.Method, request: bytes) -> None:
        call = node_pb2.Call(call_id=call_id, shard=self._shard, method=method, timeout_ms=60_000, request=request)
        self._frames.put_nowait(node_pb2.RouterFrame(calls=node_pb2.Calls(calls=[call])))

    async def _outgoing(self) -> AsyncIterator[node_pb2.RouterFrame]:
        yield node_pb2.RouterFrame(hello=node_pb2.Hello(identity=self._identity, router_id="test"))
        while True:
            try:
                async with asyncio.timeout(0.1):
                    yield await self._frames.get()
            except TimeoutError:
                yield node_pb2.RouterFrame(ping=node_pb2.Ping())

    async def collect(self, welcomed: asyncio.Event) -> None:
        """Note replies until the node ends the stream."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stream = node_pb2_grpc.NodeServiceStub(channel).Exchange(self._outgoing())
            try:
                async for frame in stream:
                    if frame.WhichOneof("kind") == "welcome":
                        welcomed.set()
                    self.replies |= {reply.call_id: reply for reply in frame.replies.replies}
            except grpc.aio.AioRpcError:
                pass  # the sleeper resets streams on which it heard nothing for so long: that is unheard, too


@pytest.mark.cluster
@pytest.mark.parametrize("journal", JOURNALS)
def test_a_sleeper_past_its_lease_is_unheard(tmp_path: Path, journal: JournalKind) -> None:
    """SIGSTOP past the lease, a successor serves and raises the total, SIGCONT: the sleeper finds a call that it would
    refuse and a read in its socket, and answers neither. The campaign is exact."""

    async def main() -> None:
        async with running(tmp_path, journal) as cluster:
            await cluster.create("launch", 10)
            for number in range(10):
                await cluster.issue("launch", f"early-{number}")
            before = await cluster.owner("launch")
            stream = DirectStream(cluster, before.node, "launch")
            welcomed = asyncio.Event()
            collecting = asyncio.create_task(stream.collect(welcomed))
            await welcomed.wait()
            cluster.processes.freeze_node(before.node)
            issue = coupon_pb2.IssueCouponRequest(campaign_id="launch", user_id="late").SerializeToString()
            stream.send(1, node_pb2.ISSUE_COUPON, issue)
            stream.send(
                2,
                node_pb2.GET_CAMPAIGN,
                coupon_pb2.GetCampaignRequest(campaign_id="launch", page_size=100).SerializeToString(),
            )
            await cluster.next_owner("launch", before)
            assert (await cluster.raise_total("launch", 20)).total == 20
            cluster.processes.thaw_node(before.node)
            assert (await cluster.issue("launch", "late")).coupon.sequence == 11
            async with asyncio.timeout(20):
                while not cluster.logged(before.node, "life_over"):
                    await asyncio.sleep(0.05)
            heard = {reply.WhichOneof("outcome") for reply in stream.replies.values()}
            assert heard <= {"not_owner", "unknown", "expired"}, "a stale answer reached a caller"
            for number in range(9):
                await cluster.issue("launch", f"after-{number}")
            await cluster.check_exact("launch", 20)
            collecting.cancel()

    run(main)
