"""What a node says of its present state when it is scraped: what it holds, and how that is. Costs nothing before."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from cluster.metrics import CAMPAIGN_S, gauge, info
from cluster.types import ShardId
from node.commands import Campaign
from node.keeper import State
from node.life import Life
from node.member import Member
from node.metrics import NodeMetrics


class NodeView:
    """Implements cluster.metrics.Source."""

    def __init__(self, member: Member, metrics: NodeMetrics, *, lease_ttl_s: float, shard_calls_max: int) -> None:
        self._member = member
        self._metrics = metrics
        self._lease_ttl_s = lease_ttl_s
        self._shard_calls_max = shard_calls_max
        self._over_issued: dict[ShardId, set[str]] = defaultdict(set)
        """Campaigns that were found so, and are looked at again each time."""

    def families(self) -> Iterator[Metric]:
        life = self._member.life
        left_s = 0.0 if life is None else max(0.0, life.lease.left_s())
        yield gauge("node_registered", "Whether this node lives, for the cluster.", values=life is not None)
        yield gauge("lease_left_seconds", "Until the lease ends; 0: it has none.", values=left_s)
        yield gauge("lease_ttl_seconds", "For how long a lease is granted.", values=self._lease_ttl_s)
        yield gauge("queue_calls_max", "How many calls may be in one shard's line.", values=self._shard_calls_max)
        if life is not None:
            yield gauge(
                "over_issued_coupons",
                "Coupons that campaigns hold beyond their totals, in all shards served here, by the rows: always 0.",
                values=self._look_for_over_issue(life),
            )
            yield from self._shards(life)
            yield from self._standbys(life)
            yield from self._campaigns(life)

    def _look_for_over_issue(self, life: Life) -> int:
        """Only at what can have changed: there may be 100,000 campaigns, and this takes the time of callers."""
        found = 0
        granted = self._metrics.granted()
        for shard in granted.keys() | self._over_issued.keys():
            before = self._over_issued.pop(shard, set())
            serving = life.keeper.serving(shard)
            if serving is None:
                continue  # whoever serves it next looks at all of it
            since = granted.get(shard, set())
            over_issued = serving.ledger.over_issued(None if since is None else before | since)
            if over_issued:
                self._over_issued[shard] = set(over_issued)
            found += sum(over_issued.values())
        return found

    def _shards(self, life: Life) -> Iterator[Metric]:
        held = list(life.keeper.status())
        states = Counter(shard.state for shard in held)
        yield gauge(
            "shards",
            "Shards that this node has in hand, by state.",
            ("state",),
            {(state.name.lower(),): states[state] for state in State},
        )
        yield gauge(
            "shards_without_owner",
            "Shards that nobody owns, as far as this node has heard.",
            values=life.shards - len(life.topology.owners),
        )
        yield gauge(
            "shard_epoch",
            "The owner key's revision in the epoch of a shard that this node has in hand: it rises with each takeover"
            " and handover, until a restore raises the cluster's incarnation, the epoch's first part.",
            ("shard",),
            {(str(shard.id),): shard.epoch.revision for shard in held},
        )
        serving = [(shard.id, shard.shard) for shard in held if shard.shard is not None]
        yield gauge(
            "shard_entries",
            "Entries in the journal of a shard that this node serves.",
            ("shard",),
            {(str(number),): shard.journal.position for number, shard in serving},
        )
        queued = [len(shard.waiting) if shard.shard is None else shard.shard.queued for shard in held]
        yield gauge("queue_calls", "Calls in line, of all shards.", values=sum(queued))
        yield gauge("queue_calls_highest", "Calls in the longest line.", values=max(queued, default=0))
        yield gauge("coupons", "In the shards served here.", values=sum(shard.ledger.coupons for _, shard in serving))
        yield gauge(
            "campaigns", "In the shards served here.", values=sum(shard.ledger.campaigns for _, shard in serving)
        )

    def _standbys(self, life: Life) -> Iterator[Metric]:
        copies = list(life.standby.status())
        yield gauge("standby_shards", "Shards whose journals are read along here.", values=len(copies))
        yield gauge(
            "standby_shards_without_replica",
            "Shards that should be read along here and are not, by why.",
            ("why",),
            {(lack.value,): count for lack, count in life.standby.lacking().items()},
        )
        yield gauge("standby_coupons", "Kept of them.", values=sum(replica.ledger.coupons for _, replica in copies))
        yield gauge(
            "standby_entries",
            "Entries read of a shard's journal by its standby; the owner's shard_entries is how many there are.",
            ("shard",),
            {(str(copy.shard),): replica.position for copy, replica in copies},
        )

    def _campaigns(self, life: Life) -> Iterator[Metric]:
        """As decided: that may be one round ahead of the journal."""
        recent = self._metrics.campaigns.since(self._metrics.now() - CAMPAIGN_S)
        campaigns = [campaign for key in recent if (campaign := _campaign(life, *key)) is not None]
        yield info(
            "campaign",
            "Campaigns of the last hour.",
            *(
                {"campaign": campaign.campaign_id, "name": campaign.name, "state": campaign.state.name}
                for campaign in campaigns
            ),
        )
        yield gauge(
            "campaign_coupons",
            "How many coupons a campaign has, issued or not.",
            ("campaign",),
            {(campaign.campaign_id,): campaign.total for campaign in campaigns},
        )
        yield gauge(
            "campaign_issued_coupons",
            "Of them, those that are issued, by the owner's ledger.",
            ("campaign",),
            {(campaign.campaign_id,): campaign.issued for campaign in campaigns},
        )
        yield gauge(
            "campaign_remaining_coupons",
            "Of them, those that are left.",
            ("campaign",),
            {(campaign.campaign_id,): campaign.total - campaign.issued for campaign in campaigns},
        )


def _campaign(life: Life, shard: ShardId, campaign_id: str) -> Campaign | None:
    """None: the shard is not served here any more."""
    serving = life.keeper.serving(shard)
    return None if serving is None else serving.ledger.campaign(campaign_id)
