"""The Grafana dashboards as code: `python -m ops.dashboards` writes ops/grafana/dashboards/*.json.

Every panel is one line of what it shows and the queries that show it. A test runs each of them on a real Prometheus.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "grafana" / "dashboards"
WIDTH = 24
"""Of Grafana's grid."""
SOURCE = {"type": "prometheus", "uid": "seonchak"}
RATE = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    description: str = ""
    stacked: bool = False


def quantiles(metric: str, by: str = "", where: str = "") -> tuple[Query, ...]:
    """p50, p99 and, by nothing else, p99.9."""
    group = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    shares = ((0.5, "p50"), (0.99, "p99")) if by else ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))
    return tuple(
        Query(f"histogram_quantile({share}, sum by ({group}) (rate({metric}_bucket{where}[{RATE}])))", name + legend)
        for share, name in shares
    )


def means(metric: str) -> tuple[Query, ...]:
    """Of a histogram's observations, by instance."""
    total, count = (f"sum by (instance) (rate({metric}_{part}[{RATE}]))" for part in ("sum", "count"))
    return (Query(f"{total} / {count}", "{{instance}}"),)


SYNCS = "seonchak_journal_sync_duration_seconds_bucket|etcd_disk_wal_fsync_duration_seconds_bucket"

NAMED = "* on (instance) group_left (name) max by (instance, name) (seonchak_build_info)"
"""Behind a series: what its process is called, for a node its id. Where targets are discovered, `instance` is an
address."""

LAUNCH = (
    Panel(
        "Requests/s",
        (Query(f"sum(rate(seonchak_issue_outcomes_total[{RATE}]))"),),
        kind="stat",
        unit="reqps",
        width=4,
        height=4,
    ),
    Panel(
        "Coupons/s",
        (Query(f'sum(rate(seonchak_issue_outcomes_total{{outcome="ISSUED"}}[{RATE}]))'),),
        kind="stat",
        unit="reqps",
        width=4,
        height=4,
    ),
    Panel(
        "Issued",
        (Query('sum(max by (campaign) (seonchak_campaign_issued_coupons{campaign=~"$campaign"}))'),),
        kind="stat",
        width=4,
        height=4,
    ),
    Panel(
        "Remaining",
        (Query('sum(max by (campaign) (seonchak_campaign_remaining_coupons{campaign=~"$campaign"}))'),),
        kind="stat",
        width=4,
        height=4,
    ),
    Panel(
        "p99 of IssueCoupon",
        (Query('method:seonchak_call_duration_seconds:p99_1m{method="IssueCoupon"}'),),
        kind="stat",
        unit="s",
        width=4,
        height=4,
    ),
    Panel(
        "Too many",
        (
            Query(
                "max(clamp_min(campaign:seonchak_over_issued_coupons:ledger, 0)"
                " or clamp_min(campaign:seonchak_over_issued_coupons:routers, 0)"
                " or clamp_min(campaign:seonchak_unrecorded_coupons:difference, 0)"
                " or cluster:seonchak_over_issued_coupons:ledger)"
            ),
        ),
        kind="stat",
        width=4,
        height=4,
        description="Coupons beyond a campaign's total, or handed out and in no ledger: always 0.",
    ),
    Panel(
        "Campaigns of the last hour",
        (Query('seonchak_campaign_info{campaign=~"$campaign"}', "{{name}} ({{campaign}}): {{state}}"),),
        kind="table",
        width=12,
        height=6,
    ),
    Panel(
        "Issued of all, by campaign",
        (
            Query(
                'max by (campaign) (seonchak_campaign_issued_coupons{campaign=~"$campaign"})'
                ' / max by (campaign) (seonchak_campaign_coupons{campaign=~"$campaign"})',
                "{{campaign}}",
            ),
        ),
        kind="bargauge",
        unit="percentunit",
        width=12,
        height=6,
    ),
    Panel(
        "Requests by outcome",
        (Query("outcome:seonchak_issue_outcomes:rate1m", "{{outcome}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Refusals by reason",
        (Query('outcome:seonchak_issue_outcomes:rate1m{outcome!~"ISSUED|ALREADY_ISSUED"}', "{{outcome}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Coupons/s by campaign",
        (
            Query(
                f'sum by (campaign) (rate(seonchak_router_grants_total{{campaign=~"$campaign"}}[{RATE}]))',
                "{{campaign}}",
            ),
        ),
        unit="reqps",
    ),
    Panel(
        "Remaining",
        (
            Query(
                'max by (campaign) (seonchak_campaign_remaining_coupons{campaign=~"$campaign"})',
                "{{campaign}}",
            ),
        ),
    ),
    Panel(
        "Time to an answer",
        quantiles("seonchak_call_duration_seconds", where='{method="IssueCoupon"}'),
        unit="s",
        description="At the router, from a call's arrival to its answer.",
    ),
    Panel(
        "Time to a result on streams",
        quantiles("seonchak_item_duration_seconds"),
        unit="s",
        description="At the router, from the arrival of one request on a stream of IssueCoupons to its result.",
    ),
    Panel(
        "Where the time goes, p99",
        (
            Query('method:seonchak_call_duration_seconds:p99_1m{method="IssueCoupon"}', "all, at the router"),
            Query("max(instance:seonchak_node_call_duration_seconds:p99_1m)", "of it, on the node"),
            Query("max(instance:seonchak_queue_wait_seconds:p99_1m)", "in the shard's line"),
            Query("max(instance:seonchak_journal_append_duration_seconds:p99_1m)", "commit"),
        ),
        unit="s",
        description="What lies between the first and the second is the router's edge and the way to the node.",
    ),
    Panel(
        "Calls by status",
        (Query("method_code:seonchak_calls:rate1m", "{{method}} {{code}}"),),
        unit="reqps",
    ),
)

CLUSTER = (
    Panel(
        "Shards not served",
        (Query("cluster:seonchak_shards_not_served:count"),),
        kind="stat",
        width=4,
        height=4,
    ),
    Panel("Nodes", (Query("sum(seonchak_node_registered)"),), kind="stat", width=4, height=4),
    Panel("Routers", (Query('sum(up{job="router"})'),), kind="stat", width=4, height=4),
    Panel("Coupons", (Query("sum(seonchak_coupons)"),), kind="stat", width=4, height=4),
    Panel(
        "etcd's database",
        (Query("cluster:etcd_database:share"),),
        kind="stat",
        unit="percentunit",
        width=4,
        height=4,
        description="Of its quota.",
    ),
    Panel(
        "Versions",
        (Query("count by (version, role) (seonchak_build_info)", "{{role}} {{version}}"),),
        kind="stat",
        width=4,
        height=4,
    ),
    Panel(
        "Who owns which shard, since which revision",
        (Query(f"max by (name, shard) (seonchak_shard_epoch {NAMED})"),),
        kind="table",
        height=10,
    ),
    Panel(
        "Shards served, by node",
        (Query(f'sum by (name) (seonchak_shards{{state="serving"}} {NAMED})', "{{name}}"),),
        height=10,
        stacked=True,
    ),
    Panel(
        "Shards in other states",
        (Query('sum by (state) (seonchak_shards{state!="serving"})', "{{state}}"),),
    ),
    Panel(
        "Shards without owner, or not reached",
        (
            Query("max(seonchak_router_shards_without_owner)", "without owner"),
            Query("max by (instance) (seonchak_router_shards_unreached)", "not reached by {{instance}}"),
            Query("max by (instance) (seonchak_shards_without_owner)", "without owner, says {{instance}}"),
        ),
    ),
    Panel(
        "Takeovers",
        (Query("sum by (cause) (increase(seonchak_takeover_duration_seconds_count[5m]))", "{{cause}}"),),
        description="In 5 minutes, by what was the cause.",
    ),
    Panel(
        "Time of a takeover",
        tuple(
            Query(
                f"histogram_quantile({share},"
                " sum by (le, cause) (increase(seonchak_takeover_duration_seconds_bucket[5m])))",
                f"{name} {{{{cause}}}}",
            )
            for share, name in ((0.5, "p50"), (0.99, "p99"))
        ),
        unit="s",
        description="From the claim or pull to serving.",
    ),
    Panel(
        "Handovers",
        (
            Query(
                "sum by (outcome, cause) (increase(seonchak_handover_duration_seconds_count[5m]))",
                "{{outcome}}, for {{cause}}",
            ),
            Query("sum(increase(seonchak_lives_over_total[5m]))", "lives that ended"),
        ),
    ),
    Panel(
        "Time of a replay",
        (
            Query(
                "histogram_quantile(0.99, sum by (le) (increase(seonchak_replay_duration_seconds_bucket[5m])))", "p99"
            ),
        ),
        unit="s",
    ),
    Panel("Commit", quantiles("seonchak_journal_append_duration_seconds"), unit="s"),
    Panel(
        "Commit, p99 by node",
        (Query("instance:seonchak_journal_append_duration_seconds:p99_1m", "{{instance}}"),),
        unit="s",
    ),
    Panel("Barrier", quantiles("seonchak_journal_barrier_duration_seconds"), unit="s"),
    Panel(
        "Sync of the disk under the journal",
        (
            Query(
                f'histogram_quantile(0.99, sum by (job, le) (rate({{__name__=~"{SYNCS}"}}[{RATE}])))',
                "p99 of {{job}}",
            ),
        ),
        unit="s",
        description="Of the file journal's, on the nodes, and of etcd's log.",
    ),
    Panel("Calls a round", means("seonchak_round_calls")),
    Panel("Bytes an entry", means("seonchak_journal_entry_bytes"), unit="bytes"),
    Panel(
        "In line on the node",
        (
            Query("max by (instance) (seonchak_queue_calls_highest)", "longest line of {{instance}}"),
            Query("sum by (instance) (seonchak_queue_calls)", "all lines of {{instance}}"),
        ),
    ),
    Panel(
        "Wait in line, p99",
        (
            Query("instance:seonchak_queue_wait_seconds:p99_1m", "wait on {{instance}}"),
            Query("instance:seonchak_node_call_duration_seconds:p99_1m", "arrival to answer on {{instance}}"),
        ),
        unit="s",
    ),
    Panel(
        "Calls by what the node said",
        (
            Query(f"sum by (method, outcome) (rate(seonchak_node_calls_total[{RATE}]))", "{{method}} {{outcome}}"),
            Query(
                f"sum by (outcome) (rate(seonchak_node_calls_not_decided_total[{RATE}]))", "not decided: {{outcome}}"
            ),
        ),
        unit="reqps",
    ),
    Panel(
        "In flight at the routers",
        (Query("sum by (instance) (seonchak_router_calls_in_flight)", "{{instance}}"),),
    ),
    Panel(
        "Failed appends",
        (
            Query(
                "sum by (instance, outcome) (increase(seonchak_journal_append_failures_total[5m]))",
                "{{instance}} {{outcome}}",
            ),
            Query("sum by (end) (increase(seonchak_shard_failures_total[5m]))", "epochs ended: {{end}}"),
        ),
        description="Fenced: another owner had the journal already. Cancelled: the shard was given up meanwhile.",
    ),
    Panel(
        "Lease left",
        (
            Query("min by (instance) (seonchak_lease_left_seconds)", "{{instance}}"),
            Query("max(seonchak_lease_ttl_seconds)", "lease"),
        ),
        unit="s",
    ),
    Panel(
        "Entries a standby is behind",
        (Query("max(shard:seonchak_standby_lag_entries:max)", "at most"),),
    ),
    Panel(
        "Standbys",
        (
            Query("sum by (instance) (seonchak_standby_shards)", "shards of {{instance}}"),
            Query("sum by (why) (seonchak_standby_shards_without_replica)", "shards of nobody: {{why}}"),
            Query("sum by (instance) (seonchak_standby_coupons)", "coupons of {{instance}}"),
        ),
    ),
    Panel(
        "Answers of etcd",
        quantiles("seonchak_etcd_request_duration_seconds", by="outcome"),
        unit="s",
        description="As nodes and routers see them.",
    ),
    Panel(
        "etcd",
        (
            Query("min by (instance) (etcd_server_has_leader)", "{{instance}} has a leader"),
            Query("sum(increase(etcd_server_leader_changes_seen_total[5m]))", "changes of the leader"),
        ),
    ),
    Panel(
        "etcd's database by member",
        (
            Query("max by (instance) (etcd_mvcc_db_total_size_in_bytes)", "{{instance}}"),
            Query("max(etcd_server_quota_backend_bytes)", "quota"),
        ),
        unit="bytes",
    ),
    Panel(
        "Processor",
        (
            Query(
                f'sum by (job, instance) (rate(process_cpu_seconds_total{{job=~"node|router|etcd"}}[{RATE}]))',
                "{{instance}}",
            ),
        ),
        unit="percentunit",
    ),
    Panel(
        "Memory",
        (
            Query(
                'max by (job, instance) (process_resident_memory_bytes{job=~"node|router|etcd"})',
                "{{instance}}",
            ),
        ),
        unit="bytes",
    ),
    Panel(
        "Certificates end in",
        (
            Query(
                "min by (job, certificate) (seonchak_certificate_not_after_timestamp_seconds) - time()",
                "{{certificate}}, {{job}}",
            ),
        ),
        unit="s",
        description="Where there is TLS: what nodes and routers show, and the CA that they believe.",
    ),
    Panel(
        "Certificates not taken",
        (
            Query("sum by (instance) (seonchak_certificate_refused)", "{{instance}}"),
            Query("sum(increase(seonchak_certificate_reloads_refused_total[5m]))", "attempts"),
        ),
        description="Files that have changed and cannot be used.",
    ),
)

CAMPAIGN = {
    "name": "campaign",
    "label": "Campaign",
    "type": "query",
    "datasource": SOURCE,
    "query": {"query": "label_values(seonchak_campaign_info, campaign)", "refId": "campaign"},
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"text": ["All"], "value": ["$__all"]},
}


def dashboards() -> dict[str, dict[str, Any]]:
    """By file name."""
    return {
        "campaign-launch.json": _dashboard("seonchak-launch", "Campaign launch", LAUNCH, [CAMPAIGN], "now-15m"),
        "cluster.json": _dashboard("seonchak-cluster", "Cluster", CLUSTER, [], "now-1h"),
    }


def _dashboard(uid: str, title: str, panels: Sequence[Panel], variables: list[Any], since: str) -> dict[str, Any]:
    return {
        "uid": uid,
        "title": title,
        "tags": ["seonchak"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "5s",
        "time": {"from": since, "to": "now"},
        "templating": {"list": variables},
        "panels": list(_placed(panels)),
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """From left to right, in rows."""
    x = y = row_height = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, row_height = 0, y + row_height, 0
        yield _panel(number, panel) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height}}
        x += panel.width
        row_height = max(row_height, panel.height)


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    instant = panel.kind in ("table", "stat", "bargauge")
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if panel.stacked else {}
    return {
        "id": number,
        "title": panel.title,
        "description": panel.description,
        "type": panel.kind,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "instant": instant,
                "range": not instant,
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def text_of(dashboard: dict[str, Any]) -> str:
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, dashboard in dashboards().items():
        (DIRECTORY / name).write_text(text_of(dashboard))
