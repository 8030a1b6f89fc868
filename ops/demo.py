"""`make demo`: the main job, on a real cluster on this machine, and a verdict that trusts nobody.

50 coupons, 1,000 users who cannot wait, 3 nodes, 1 router, a real etcd. Exit code 0 only if exactly 50 coupons were
issued, all codes differ and keep the rules, and the clients' answers, GetCampaign and the journal agree.
"""

import asyncio
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.rule import Rule
from rich.table import Table

from ops.audit import AuditedCoupon
from ops.cli_cluster import JournalChoice
from ops.cli_common import console, show_time
from ops.cli_load import show_progress
from ops.cli_process import configure_logging
from ops.load import LoadSpec, run_load
from ops.load_stats import ISSUED, Grant, LoadResult, Tally
from ops.local import LocalCluster, LocalSpec
from ops.verify import Report, verify_data_dir
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

NAME = "테스트캠페인"
TOTAL, REQUESTS, WORKERS = 50, 1_000, 100
START_IN = timedelta(seconds=3)
KNOCK_S = 0.1
"""100 workers that knock so often find the door open within a millisecond or two."""


@dataclass(frozen=True, slots=True)
class Rush:
    """What the clients and the router's callers saw."""

    start_time: datetime
    result: LoadResult
    """Rates count from the start instant."""
    grants: tuple[Grant, ...]
    whole_s: float
    """From the first knock to the last answer."""
    campaign: coupon_pb2.Campaign
    coupons: tuple[coupon_pb2.Coupon, ...]

    @property
    def first_grant_ms(self) -> float:
        """After the start instant, by the owner's clock."""
        first_us = min((grant.issue_time_us for grant in self.grants), default=0)
        return (first_us - self.start_time.timestamp() * 1e6) / 1e3


@dataclass(frozen=True, slots=True)
class Check:
    rule: str
    holds: bool


def main(
    journal: Annotated[JournalChoice, typer.Option(help="Where entries become durable.")] = JournalChoice.ETCD,
) -> None:
    """50 coupons, 1,000 users, a real cluster."""
    configure_logging(as_json=False, level=logging.WARNING)
    data_dir = Path(tempfile.mkdtemp(prefix="seonchak-demo-"))
    good = asyncio.run(_demo(data_dir, journal))
    if good:
        shutil.rmtree(data_dir)
    else:
        console().print(f"logs and data are kept in {data_dir}")
    raise typer.Exit(0 if good else 1)


async def _demo(data_dir: Path, journal: JournalChoice) -> bool:
    out = console()
    out.print(Rule("[bold]Seonchak[/]: first come, first served"))
    spec = LocalSpec(data_dir, nodes=3, routers=1, etcd_members=1, journal=journal.kind)
    cluster = LocalCluster(spec)
    if cluster.binary.warning:
        out.print(f"[yellow]{cluster.binary.warning}[/]")
    began_s = time.monotonic()
    async with cluster:
        took_s = time.monotonic() - began_s
        out.print(f"etcd {cluster.binary.version}, 3 nodes, 1 router, journal {journal}: up in {took_s:.1f} s")
        rush = await _rush(cluster.router)
    # The nodes are gone; what is left is what is durable.
    report = await verify_data_dir(data_dir, collect={rush.campaign.campaign_id})
    _show(rush, report)
    checks = judge(rush, report)
    for check in checks:
        out.print(f"  {'[green]yes[/]' if check.holds else '[bold red]NO [/]'}  {check.rule}")
    good = all(check.holds for check in checks)
    out.print(Rule("[bold green]everything agrees[/]" if good else "[bold red]something is wrong[/]"))
    return good


async def _rush(router: str) -> Rush:
    async with grpc.aio.insecure_channel(router) as channel:
        stub = CouponServiceStub(channel)
        start_time = datetime.now(UTC) + START_IN
        request = coupon_pb2.CreateCampaignRequest(
            campaign_id=f"demo-{secrets.token_hex(4)}",
            campaign=coupon_pb2.Campaign(name=NAME, total=TOTAL, start_time=start_time),
        )
        campaign = await stub.CreateCampaign(request, timeout=10)
        console().print(
            f"campaign [bold]{NAME}[/] ({campaign.campaign_id}): {TOTAL} coupons from "
            f"{show_time(campaign.start_time)} on; {WORKERS} workers are knocking already"
        )
        start_s = time.monotonic() + (start_time - datetime.now(UTC)).total_seconds()
        tally = Tally(time.monotonic())
        progress = asyncio.create_task(show_progress(tally, REQUESTS))
        spec = LoadSpec(router, campaign.campaign_id, REQUESTS, concurrency=WORKERS, knock_s=KNOCK_S)
        try:
            await run_load(spec, tally)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)
        page = await stub.GetCampaign(
            coupon_pb2.GetCampaignRequest(campaign_id=campaign.campaign_id, page_size=1_000), timeout=10
        )
    return Rush(
        start_time,
        tally.result(since_s=start_s),
        tuple(tally.grants),
        tally.last_answer_s - tally.began_s,
        page.campaign,
        tuple(page.coupons),
    )


def judge(rush: Rush, report: Report) -> list[Check]:
    """Every condition of the demo's success."""
    audited = report.campaign(rush.campaign.campaign_id)
    journal = audited.coupons if audited is not None else []
    outcomes = rush.result.outcomes
    start_us = round(rush.start_time.timestamp() * 1e6)
    return [
        Check(
            f"exactly {TOTAL} of {REQUESTS:,} requests got a coupon", len(rush.grants) == outcomes.get(ISSUED) == TOTAL
        ),
        Check(
            f"the other {REQUESTS - TOTAL} were told SOLD_OUT, and all were answered",
            outcomes.get("SOLD_OUT") == REQUESTS - TOTAL and rush.result.requests == REQUESTS,
        ),
        Check("all codes differ", len({grant.code for grant in rush.grants}) == TOTAL),
        Check(
            "numbers are 1 to 50 without a gap, one coupon a user",
            sorted(grant.sequence for grant in rush.grants) == list(range(1, TOTAL + 1))
            and len({grant.user_id for grant in rush.grants}) == TOTAL,
        ),
        Check("nothing was granted before the start", all(grant.issue_time_us >= start_us for grant in rush.grants)),
        Check(
            "clients and GetCampaign agree, coupon for coupon",
            _sorted(rush.grants) == _sorted(_of_api(rush.coupons)) and rush.campaign.issued == TOTAL,
        ),
        Check(
            "clients and the journal agree, coupon for coupon", _sorted(rush.grants) == _sorted(_of_journal(journal))
        ),
        Check("the campaign is COMPLETED", rush.campaign.state == coupon_pb2.Campaign.COMPLETED),
        Check("the journal, read again without the nodes, is clean; its codes keep the rules", report.ok),
    ]


def _sorted(grants: Sequence[Grant]) -> list[Grant]:
    return sorted(grants, key=lambda grant: grant.sequence)


def _of_api(coupons: Sequence[coupon_pb2.Coupon]) -> list[Grant]:
    return [Grant(c.code, c.user_id, c.sequence, c.issue_time.ToMicroseconds()) for c in coupons]


def _of_journal(coupons: Sequence[AuditedCoupon]) -> list[Grant]:
    return [Grant(*coupon) for coupon in coupons]


def _show(rush: Rush, report: Report) -> None:
    result, latency = rush.result, rush.result.latency
    refused = {reason: count for reason, count in result.outcomes.items() if reason != ISSUED}
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = {
        "elapsed": f"{result.elapsed_s:.3f} s from the start to the last answer ({rush.whole_s:.1f} s with the wait)",
        "issued": f"{len(rush.grants)} of {TOTAL}",
        "refused": ", ".join(f"{reason} {count:,}" for reason, count in refused.items()) or "none",
        "too early": f"NOT_STARTED {result.knocks:,} times before the start; each knocked again with the same request",
        "requests": f"{result.requests_per_s:,.0f}/s",
        "latency": f"p50 {latency.p50_ms:.1f} ms, p99 {latency.p99_ms:.1f} ms, max {latency.max_ms:.1f} ms",
        "first grant": f"{rush.first_grant_ms:.1f} ms after the start",
        "codes": "  ".join(grant.code for grant in _sorted(rush.grants)[:5]),
        "status": coupon_pb2.Campaign.State.Name(rush.campaign.state),
        "journal": f"{report.entries} entries, {report.coupons} coupons, {len(report.violations)} violations",
    }
    for label, text in rows.items():
        table.add_row(f"[dim]{label}[/]", text)
    console().print(table)


if __name__ == "__main__":
    typer.run(main)
