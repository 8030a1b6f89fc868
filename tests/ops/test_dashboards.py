"""A real Prometheus watches a real cluster under load: every panel and every rule has something to show."""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ops.credentials import ANYBODY, Credentials
from ops.dashboards import CLUSTER, DIRECTORY, SYNCS, dashboards, text_of
from ops.layout import certs_dir
from ops.load import LoadSpec, run_load
from ops.local import LocalCluster, LocalSpec
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub
from tests.support.prometheus import Prometheus, binary, running_prometheus

DATA_S_MAX = 90.0
TEST_S_MAX = 240.0
SELECTOR = re.compile(r'(?<![\w:"])(up|(?:seonchak|etcd)_\w+|\w+:\w+(?::\w+)?)(\{[^}]*\})?(?![\w(])')
QUIET_IN_A_CALM = {
    "SeonchakOverIssue",
    "SeonchakJournalCorrupt",
    "SeonchakEtcdQuotaCritical",
    "SeonchakCertificateNearEnd",
    "SeonchakCertificateEndCritical",
    "SeonchakCertificateRefused",
}
"""Whatever is started and stopped meanwhile, these must not fire."""


def test_the_files_are_what_the_code_says() -> None:
    """Nobody has changed a dashboard by hand; no panel lies over another; `python -m ops.dashboards` writes them."""
    assert {path.name for path in DIRECTORY.glob("*.json")} == set(dashboards())
    for name, dashboard in dashboards().items():
        assert (DIRECTORY / name).read_text() == text_of(dashboard), f"{name}: run python -m ops.dashboards"
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_dashboards_are_provisioned() -> None:
    """The data source that the panels name is the one that is provisioned."""
    provisioning = DIRECTORY.parent / "provisioning"
    source = (provisioning / "datasources" / "prometheus.yml").read_text()
    assert re.search(r"^    uid: seonchak$", source, re.MULTILINE)
    assert "type: file" in (provisioning / "dashboards" / "seonchak.yml").read_text()
    for dashboard in dashboards().values():
        assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {"seonchak"}


@pytest.mark.cluster
def test_every_panel_and_every_rule_has_data(tmp_path: Path) -> None:
    """Under load, with TLS, with a node that went and came back; alerts have at least their inputs, and are quiet."""
    binary("prometheus")

    async def main() -> None:
        async with asyncio.timeout(TEST_S_MAX):
            spec = LocalSpec(tmp_path / "data", nodes=3, routers=2, shards=8, tls=True)
            async with (
                LocalCluster(spec) as cluster,
                running_prometheus(tmp_path / "data" / "prometheus", tmp_path / "prom", tls=True) as prometheus,
            ):
                loading = asyncio.create_task(load(cluster))
                await until_scraped(cluster, prometheus)
                await all_say_when_certificates_end(cluster, prometheus)
                assert await cluster.stop_node(1) == 0
                await cluster.start_node(1)
                for dashboard in dashboards().values():
                    for panel in dashboard["panels"]:
                        for target in panel["targets"]:
                            await has_data(prometheus, target["expr"], f"{dashboard['title']}, {panel['title']}")
                await check_rules(prometheus)
                loading.cancel()
                await asyncio.wait([loading])
                assert loading.cancelled(), loading.exception()

    asyncio.run(main())


@pytest.mark.cluster
def test_without_tls_everybody_is_scraped_and_files_have_their_panels(tmp_path: Path) -> None:
    """What is shown of a journal is shown of files as well, and of the disk's syncs what the nodes say."""
    binary("prometheus")

    async def main() -> None:
        spec = LocalSpec(tmp_path / "data", nodes=1, routers=1, shards=2, journal="file")
        async with (
            asyncio.timeout(TEST_S_MAX),
            LocalCluster(spec) as cluster,
            running_prometheus(tmp_path / "data" / "prometheus", tmp_path / "prom", tls=False) as prometheus,
        ):
            loading = asyncio.create_task(load(cluster))
            await until_scraped(cluster, prometheus)
            exprs = {query.expr for panel in CLUSTER for query in panel.queries if "journal" in query.expr}
            assert {expr for expr in exprs if SYNCS in expr}
            for expr in exprs:
                await has_data(prometheus, expr, "Cluster", job="node" if SYNCS in expr else "")
            loading.cancel()
            await asyncio.wait([loading])
            assert loading.cancelled(), loading.exception()

    asyncio.run(main())


async def load(cluster: LocalCluster) -> None:
    """Campaigns that sell out, one after the other: calls to the first router, streams to the last."""
    first, second = cluster.layout.router_addresses[0], cluster.layout.router_addresses[-1]
    ca = certs_dir(cluster.spec.data_dir) / "ca.crt"
    who = Credentials(ca.read_bytes()) if cluster.spec.tls else ANYBODY
    async with who.aio_channel(first) as channel:
        stub = CouponServiceStub(channel)
        number = 0
        while True:
            number += 1
            campaign_id = f"launch-{number}"
            campaign = coupon_pb2.Campaign(name="봄날", total=300)
            await stub.CreateCampaign(coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign))
            for spec in (
                LoadSpec(first, campaign_id, requests=400, rate=200, credentials=who),
                LoadSpec(second, campaign_id, requests=50, concurrency=50, stream=True, credentials=who),
            ):
                await run_load(spec)
            await stub.GetCampaign(coupon_pb2.GetCampaignRequest(campaign_id=campaign_id))


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(DATA_S_MAX):
            while not await condition():
                await asyncio.sleep(0.3)
    except TimeoutError:
        raise AssertionError(what) from None


async def until_scraped(cluster: LocalCluster, prometheus: Prometheus) -> None:
    """All that the cluster has written down, by the names that it has."""
    wanted = {(job, name) for job, places in cluster.layout.scraped().items() for name in places}

    async def all_up() -> bool:
        found = await prometheus.query("up == 1")
        return {(sample["metric"]["job"], sample["metric"]["instance"]) for sample in found} == wanted

    await until(all_up, f"not all of {wanted} are scraped")


async def all_say_when_certificates_end(cluster: LocalCluster, prometheus: Prometheus) -> None:
    """Each node and router, of its own and of the CA: what stands in the files."""
    found = await prometheus.query("seonchak_certificate_not_after_timestamp_seconds")
    said = {(s["metric"]["instance"], s["metric"]["certificate"]): float(s["value"][1]) for s in found}
    certs, wanted = certs_dir(cluster.spec.data_dir), {}
    for role, children in (("node", cluster.nodes), ("router", cluster.routers)):
        for child in children:
            for label, file in (("own", role), ("ca", "ca")):
                certificate = x509.load_pem_x509_certificate((certs / f"{file}.crt").read_bytes())
                wanted[child.name, label] = certificate.not_valid_after_utc.timestamp()
    assert said == wanted


async def has_data(prometheus: Prometheus, expr: str, where: str, job: str = "") -> None:
    """At least one sample that is a number; of that job, if one is named."""
    expr = expr.replace("$__rate_interval", "20s").replace("$campaign", ".*")

    async def found() -> bool:
        samples = await prometheus.query(expr)
        return any(
            not math.isnan(float(sample["value"][1])) and job in ("", sample["metric"].get("job")) for sample in samples
        )

    await until(found, f"{where}: no data for {expr}")


async def check_rules(prometheus: Prometheus) -> None:
    rules = await prometheus.rules()
    assert {rule["type"] for rule in rules} == {"recording", "alerting"}
    for rule in rules:
        assert rule["health"] == "ok", rule
        if rule["type"] == "recording":
            await has_data(prometheus, rule["name"], "rules.yml")
            continue
        for name, labels in SELECTOR.findall(rule["query"]):
            await has_data(prometheus, name + labels, rule["name"])
        firing = [alert for alert in rule["alerts"] if alert["state"] == "firing"]
        assert not firing or rule["name"] not in QUIET_IN_A_CALM, json.dumps(firing)


def test_selectors_are_found() -> None:
    """In rules as they are written: names with and without labels, no functions, no label names."""

    def found(expr: str) -> list[Any]:
        return ["".join(match) for match in SELECTOR.findall(expr)]

    assert found('increase(seonchak_x_total{a="b"}[5m]) > 0 or up == 0') == ['seonchak_x_total{a="b"}', "up"]
    assert found('label_replace(campaign:seonchak_y:ledger > 0, "source", "ledger", "", "")') == [
        "campaign:seonchak_y:ledger"
    ]
    assert found("max(seonchak_a) - (sum(seonchak_b) or vector(0))") == ["seonchak_a", "seonchak_b"]
