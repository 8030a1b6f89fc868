"""Coupons beyond a total, planted: what nodes and routers say of them makes the alert fire, and nothing else does."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from cluster.metrics import Source
from cluster.types import ShardId
from node.calls import Outcome
from node.campaign import CampaignLedger
from node.commands import Answer, CreateCampaign, IssueCoupon
from node.ledger import Ledger
from node.view import NodeView
from node.wire import reply_of
from proto import node_pb2
from router.calls import Issue, PendingCall
from router.metrics import RouterMetrics
from tests.node.process import CODEC, Process
from tests.node.world import World, run
from tests.support.prometheus import CONFIG, binary

SHARD = ShardId(0)
TOTAL = 3


def samples(instance: str, *sources: Source) -> Iterator[tuple[str, float]]:
    """As Prometheus scrapes them."""
    for source in sources:
        for family in source.families():
            for sample in family.samples:
                labels = {"instance": instance} | sample.labels
                selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
                yield f"{sample.name}{{{selector}}}", sample.value


def scraped(process: Process, router: RouterMetrics) -> dict[str, float]:
    view = NodeView(process.member, process.metrics, lease_ttl_s=3, shard_calls_max=1_000)
    return dict(samples("node-0", process.metrics, view)) | dict(samples("router-0", router))


def check_alarm(said: Mapping[str, float], directory: Path, *sources: str) -> None:
    """After a minute of these samples SeonchakOverIssue fires by these sources, and by no other."""
    firing = 'group by (source) (ALERTS{alertname="SeonchakOverIssue", alertstate="firing"})'
    wanted = [{"labels": f'{{source="{source}"}}', "value": 1} for source in sources]
    case = {
        "interval": "5s",
        "input_series": [{"series": series, "values": f"{float(value)}x12"} for series, value in said.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": "1m", "exp_samples": wanted}],
    }
    rules = [str(CONFIG / name) for name in ("rules.yml", "alerts.yml")]
    document = {"rule_files": rules, "evaluation_interval": "5s", "tests": [case]}
    (directory / "test.yml").write_text(yaml.safe_dump(document))
    command = [binary("promtool"), "test", "rules", str(directory / "test.yml")]
    tested = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def hand_out(router: RouterMetrics, campaign: str, answer: Answer | Outcome) -> None:
    """What a node has answered passes the router."""
    assert not isinstance(answer, Outcome)
    call = PendingCall(1, SHARD, node_pb2.ISSUE_COUPON, b"", 0.0, lambda result: None)
    call.issue, call.campaign_id, call.result = Issue.UNARY, campaign, reply_of(1, answer).response
    router.ended([call])


@pytest.mark.parametrize(
    ("by_one", "by_other", "sources"),
    [(3, 0, ()), (1, 1, ("difference",)), (2, 2, ("difference", "routers")), (3, 3, ("difference", "routers"))],
)
def test_two_owners(tmp_path: Path, by_one: int, by_other: int, sources: tuple[str, ...]) -> None:
    """The other one's ledger is never heard of, and neither has more than there are. One alone is no alarm."""

    async def main(world: World) -> None:
        (process,) = await world.started("a")
        campaign, router = world.campaign(SHARD), RouterMetrics()
        await world.create(campaign, TOTAL)
        for number in range(by_one):
            hand_out(router, campaign, await world.call(IssueCoupon(campaign, f"u{number}", "r"), campaign))
        other = Ledger(SHARD, CODEC)
        now_us = process.clock.wall_us()
        other.handle(CreateCampaign(campaign, "봄", TOTAL, 1, None, None), now_us)
        for number in range(by_other):
            hand_out(router, campaign, other.handle(IssueCoupon(campaign, f"v{number}", "r"), now_us).answer)
        check_alarm(scraped(process, router), tmp_path, *sources)

    run(main, lambda: World(shards=1))


@pytest.mark.parametrize("listed", [True, False])
def test_a_ledger_that_grants_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    """One that neither refuses the last request nor looks at what it has done. The ledger's own count shows it, also
    of a campaign that is not among those with series of their own; the journal, which is read at the end, too."""
    decide = CampaignLedger.decide_issue
    monkeypatch.setattr("node.campaign.require", lambda *_: None)
    monkeypatch.setattr(
        CampaignLedger, "decide_issue", lambda *args: None if args[0]._total == TOTAL else decide(*args)
    )

    async def main(world: World) -> None:
        (process,) = await world.started("a")
        campaign, router = world.campaign(SHARD), RouterMetrics()
        await world.create(campaign, TOTAL)
        for number in range(TOTAL + 1):
            hand_out(router, campaign, await world.call(IssueCoupon(campaign, f"u{number}", "r"), campaign))
        if not listed:
            process.metrics.campaigns.clear()
        check_alarm(scraped(process, router), tmp_path, *(("ledger", "routers") if listed else ("ledger",)))

    with pytest.raises(AssertionError, match="over-issue"):
        run(main, lambda: World(shards=1))
