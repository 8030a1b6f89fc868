"""More than a cluster can carry: crowds in processes of their own, one for each router.

How much it can carry is measured right before and right after, by as many callers as keep it busy. Between the two
three times as many ask, whether they are answered or not.
"""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import count

import grpc.aio

from chaos.commands import output_of
from chaos.crowd import GRANTED
from chaos.faults import Faults
from chaos.history import Overload
from chaos.processors import apart
from proto import coupon_pb2
from proto.coupon_pb2_grpc import CouponServiceStub

TIMES = 3.0
"""As much as it can carry."""
CALLERS = 256
"""For each router: so many at a time keep it busy."""
WARM_UP_S, PEAK_S = 3.0, 6.0
SECONDS_PER_FAULT_SECOND = 4.5
"""An overload of a minute in a run of 30 s."""
TOTAL = 100_000_000
_END_S_MAX = 60.0
"""How long a crowd may take to start and to end."""


@dataclass(frozen=True, slots=True)
class _Result:
    """Of all crowds together."""

    asked_per_s: float
    granted_per_s: float
    outcomes: Counter[str]


async def overload(faults: Faults) -> None:
    """Once, for as long as the run allows."""
    cluster, seconds = faults.cluster, faults.left_s * SECONDS_PER_FAULT_SECOND
    campaigns = await _campaigns(faults)
    with apart(cluster.pids()):
        warm = await _crowds(campaigns, "warm", WARM_UP_S)
        peak = await _crowds(campaigns, "peak", PEAK_S)
        rate = TIMES * peak.granted_per_s / len(campaigns)
        before, lost_before = cluster.epochs(), cluster.logs.leases_lost()
        async with faults.fault("overload", cluster.nodes):
            from_s = faults.now_s
            flood = await _crowds(campaigns, "flood", seconds, rate)
            to_s = faults.now_s
        after, lost_after = cluster.epochs(), cluster.logs.leases_lost()
        again = await _crowds(campaigns, "again", PEAK_S)
    faults.overloads.append(
        Overload(
            from_s,
            to_s,
            peak.granted_per_s,
            again.granted_per_s,
            flood.asked_per_s,
            flood.granted_per_s,
            before,
            after,
            lost_after - lost_before,
            dict(flood.outcomes.most_common()),
            tuple(campaigns.values()),
            sum(result.outcomes[GRANTED] for result in (warm, peak, flood, again)),
        )
    )


async def _campaigns(faults: Faults) -> dict[str, str]:
    """One for each router, by its address: each with an owner of its own."""
    found: dict[str, str] = {}
    numbers = count()
    for router in faults.cluster.layout.router_addresses:
        while True:
            campaign_id = f"flood-{next(numbers)}"
            owners = [faults.cluster.owner_now(other) for other in found.values()]
            if faults.cluster.owner_now(campaign_id) not in owners:
                break
        found[router] = campaign_id
        async with grpc.aio.insecure_channel(router) as channel:
            campaign = coupon_pb2.Campaign(name="쇄도", total=TOTAL)
            request = coupon_pb2.CreateCampaignRequest(campaign_id=campaign_id, campaign=campaign)
            await CouponServiceStub(channel).CreateCampaign(request, timeout=10)
    return found


async def _crowds(campaigns: dict[str, str], name: str, seconds: float, rate: float | None = None) -> _Result:
    """One process a router, at the same time; `rate` (None: as fast as CALLERS are answered) of each."""
    command = [sys.executable, "-P", "-m", "chaos.crowd", "--seconds", str(seconds), "--user-prefix", f"{name}-"]
    command += ["--callers", str(CALLERS)] if rate is None else ["--rate", str(rate)]
    outputs = await asyncio.gather(
        *(output_of([*command, router, campaign_id], seconds + _END_S_MAX) for router, campaign_id in campaigns.items())
    )
    results = [json.loads(output) for output in outputs]
    outcomes = sum((Counter(result["outcomes"]) for result in results), Counter[str]())
    return _Result(sum(result["asked"] for result in results) / seconds, outcomes[GRANTED] / seconds, outcomes)
