"""A real cluster of processes for a test, and what a test asks of it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from cluster.config import JournalKind, shard_of
from cluster.records import Keyspace, OwnerRecord
from cluster.types import NodeId, Revision, ShardId
from cluster.watch import Snapshot
from ops.etcd_client import etcd_client
from ops.layout import certs_dir
from ops.load import LoadSpec, run_load
from ops.load_stats import ISSUED, Call, LoadResult
from ops.local import LocalCluster, LocalSpec
from ops.status import read_status
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

TEST_S_MAX = 90.0


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """asyncio.run with a bound, so that a hang is a failure that shows where."""

    async def bounded() -> None:
        async with asyncio.timeout(TEST_S_MAX):
            await main()

    asyncio.run(bounded())


@dataclass(frozen=True)
class Owned:
    node: int
    """Index of the owner in the cluster's nodes."""
    revision: Revision


class Cluster:
    """A LocalCluster and a client of its first router."""

    def __init__(self, processes: LocalCluster, stub: CouponServiceStub) -> None:
        self.processes = processes
        self.stub = stub
        self.calls: list[Call] = []
        """Every call of every load, in order of its answer."""
        self._answered = asyncio.Event()

    # --- calls --------------------------------------------------------------------------------------------------------

    async def create(self, campaign_id: str, total: int, *, in_s: float | None = None) -> coupon_pb2.Campaign:
        campaign = coupon_pb2.Campaign(name="테스트캠페인", total=total)
        if in_s is not None:
            start = Timestamp()
            start.GetCurrentTime()
            start.FromMicroseconds(start.ToMicroseconds() + int(in_s * 1e6))
            campaign.start_time.CopyFrom(start)
        request = coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
        created: coupon_pb2.Campaign = await self.stub.CreateCampaign(request, timeout=20)
        return created

    async def issue(self, campaign_id: str, user_id: str, timeout_s: float = 20.0) -> coupon_pb2.IssueCouponResponse:
        request = coupon_pb2.IssueCouponRequest(campaign_id=campaign_id, user_id=user_id)
        issued: coupon_pb2.IssueCouponResponse = await self.stub.IssueCoupon(request, timeout=timeout_s)
        return issued

    async def raise_total(self, campaign_id: str, total: int) -> coupon_pb2.Campaign:
        request = coupon_pb2.UpdateCampaignRequest(
            campaign=coupon_pb2.Campaign(campaign_id=campaign_id, total=total), request_id=f"raise-{total}"
        )
        request.update_mask.paths.append("total")
        raised: coupon_pb2.Campaign = await self.stub.UpdateCampaign(request, timeout=20)
        return raised

    async def read(self, campaign_id: str) -> tuple[coupon_pb2.Campaign, list[coupon_pb2.Coupon]]:
        """The campaign and all its coupons, page by page."""
        coupons: list[coupon_pb2.Coupon] = []
        request = coupon_pb2.GetCampaignRequest(campaign_id=campaign_id)
        while True:
            page = await self.stub.GetCampaign(request, timeout=20)
            coupons += page.coupons
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return page.campaign, coupons

    async def load(self, spec: LoadSpec) -> LoadResult:
        def on_call(call: Call) -> None:
            self.calls.append(call)
            self._answered.set()

        return await run_load(replace(spec, router=self.processes.router), on_call=on_call)

    async def granted(self, count: int) -> None:
        """Wait until loads have been answered so many grants."""
        while sum(call.reason == ISSUED for call in self.calls) < count:
            self._answered.clear()
            await self._answered.wait()

    # --- ownership ----------------------------------------------------------------------------------------------------

    def shard(self, campaign_id: str) -> ShardId:
        return shard_of(campaign_id, self.processes.config.shards)

    async def owner(self, campaign_id: str) -> Owned:
        """Who owns the campaign's shard, as etcd says; waits for an owner."""
        return await self._owner(campaign_id, lambda _: True)

    async def next_owner(self, campaign_id: str, before: Owned) -> Owned:
        """Wait until another node owns the shard."""
        return await self._owner(campaign_id, lambda now: now.node != before.node)

    async def _owner(self, campaign_id: str, wanted: Callable[[Owned], bool]) -> Owned:
        key = Keyspace().owner(self.shard(campaign_id))
        names = [child.name for child in self.processes.nodes]
        async with (
            etcd_client(self.processes.layout.etcd_endpoints) as etcd,
            aclosing(etcd.watch(key, key + "\0")) as seen,
        ):
            async for news in seen:
                kvs = news.kvs if isinstance(news, Snapshot) else [e.kv for e in news.events if not e.deleted]
                for kv in kvs:
                    node_id = OwnerRecord.decode(kv.value).incarnation.node_id
                    now = Owned(names.index(node_id), kv.mod_revision)
                    if wanted(now):
                        return now
        raise AssertionError("a watch does not end")

    async def standby(self, campaign_id: str, *, lag_max: int) -> int:
        """Wait until a node reads along the campaign's shard and is so close to its end; its index."""
        names = [child.name for child in self.processes.nodes]
        while True:
            found = await read_status(self.processes.layout.etcd_endpoints, Keyspace().prefix, 10)
            shard = found.shards[self.shard(campaign_id)]
            if shard.standby and shard.standby_lag <= lag_max:
                return names.index(NodeId(shard.standby))
            await asyncio.sleep(0.1)  # it tells nobody how far it has read; the test's timeout bounds this

    # --- the proof ----------------------------------------------------------------------------------------------------

    async def check_exact(self, campaign_id: str, total: int) -> None:
        """issued = total; every acknowledged coupon is in the journal as it was answered; no code and no user twice;
        journal, GetCampaign and the clients' answers agree. Nobody was told that it is sold out before it was."""
        campaign, coupons = await self.read(campaign_id)
        assert campaign.issued == total
        assert campaign.state == coupon_pb2.Campaign.COMPLETED
        assert [coupon.sequence for coupon in coupons] == list(range(1, total + 1))
        assert len({coupon.code for coupon in coupons}) == total
        assert len({coupon.user_id for coupon in coupons}) == total
        by_user = {coupon.user_id: coupon.code for coupon in coupons}
        told = {call.user_id: call.grant.code for call in self.calls if call.grant is not None}
        assert told.items() <= by_user.items(), "an acknowledged coupon is not there, or is another one"
        report = await self.verify()
        assert report["ok"], report["violations"]
        (journaled,) = [c for c in report["campaigns"] if c["campaign_id"] == campaign_id]
        assert journaled["issued"] == total

    async def verify(self) -> dict[str, Any]:
        """What an independent re-read of the journal says."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ops", "verify", "--json", "--data-dir", str(self.processes.spec.data_dir)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        assert stdout, stderr.decode()
        report: dict[str, Any] = json.loads(stdout)
        return report

    def logged(self, node: int, event: str) -> list[dict[str, Any]]:
        """A node's log lines of one event."""
        path = self.processes.nodes[node].spec.log_path
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]


@asynccontextmanager
async def running(
    data_dir: Path, journal: JournalKind, *, restart: bool = False, **spec: Any
) -> AsyncIterator[Cluster]:
    """A cluster that serves: 3 nodes, 1 router, 8 shards unless told otherwise. Dead children stay dead. A node takes
    what is its own at once: who owns a shard does not change while a test looks away."""
    defaults: dict[str, Any] = {"shards": 8, "node_env": {"SEONCHAK_SETTLE_S": "0"}}
    asked = LocalSpec(**(defaults | spec), data_dir=data_dir, journal=journal, restart=restart)
    async with LocalCluster(asked) as processes, _channel(processes) as channel:
        yield Cluster(processes, CouponServiceStub(channel))


def _channel(processes: LocalCluster) -> grpc.aio.Channel:
    if not processes.spec.tls:
        return grpc.aio.insecure_channel(processes.router)
    ca = (certs_dir(processes.spec.data_dir) / "ca.crt").read_bytes()
    return grpc.aio.secure_channel(processes.router, grpc.ssl_channel_credentials(ca))
