"""How full etcd's database is, and whether there is room for another campaign in it.

A full etcd takes no write at all: no grant, no lease, no owner. So what brings many writes later is refused long
before, while the coupons of campaigns that exist are granted on. Changes nothing, and decides on no call.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

import structlog
from prometheus_client.metrics_core import Metric

from cluster.kv import StoreSize
from cluster.metrics import gauge
from cluster.session import EtcdClient

log = structlog.get_logger()

LOW_FROM = 0.5
"""Of the quota: from here on an operator should know."""
SCARCE_ABOVE = 0.7
"""And above this no campaign is begun."""


class Level(Enum):
    AMPLE = "ample"
    LOW = "low"
    SCARCE = "scarce"


@dataclass(frozen=True, slots=True)
class Fill:
    """Of the fullest member: the first that is full stops all of them."""

    db_bytes: int
    in_use_bytes: int
    quota_bytes: int

    @property
    def used(self) -> float:
        """Of the quota: 1.0 is full."""
        return self.db_bytes / self.quota_bytes

    @property
    def level(self) -> Level:
        if self.used > SCARCE_ABOVE:
            return Level.SCARCE
        return Level.LOW if self.used >= LOW_FROM else Level.AMPLE


def fullest(sizes: Sequence[StoreSize], quota_bytes: int) -> Fill | None:
    """`quota_bytes`: of members that do not say theirs. None: nobody has answered."""
    fills = [Fill(size.db_bytes, size.in_use_bytes, size.quota_bytes or quota_bytes) for size in sizes]
    return max(fills, key=lambda fill: fill.used, default=None)


class EtcdSpace:
    """What was last heard. Nothing heard yet counts as ample: a full etcd says so itself."""

    def __init__(self, etcd: EtcdClient, *, quota_bytes: int, check_s: float) -> None:
        self._etcd = etcd
        self._quota_bytes = quota_bytes
        self._check_s = check_s
        self.fill: Fill | None = None

    def families(self) -> Iterator[Metric]:
        """Implements cluster.metrics.Source. Nothing before etcd has said it: 0 bytes would be a lie."""
        if self.fill is not None:
            yield gauge(
                "etcd_database_bytes",
                "Of the fullest member of etcd that this node hears, as its quota counts.",
                values=self.fill.db_bytes,
            )
            yield gauge("etcd_database_in_use_bytes", "The same without free pages.", values=self.fill.in_use_bytes)
            yield gauge("etcd_quota_bytes", "Of that member, or etcd_quota_bytes.", values=self.fill.quota_bytes)

    def has_room(self) -> bool:
        """For another campaign."""
        return self.fill is None or self.fill.level is not Level.SCARCE

    async def watch(self) -> NoReturn:
        """Ask again and again; say it once whenever the level changes."""
        level = Level.AMPLE
        while True:
            fill = fullest(await self._etcd.sizes(), self._quota_bytes)
            if fill is not None:
                self.fill = fill
                if fill.level is not level:
                    level = fill.level
                    _tell(fill)
            await asyncio.sleep(self._check_s)


def _tell(fill: Fill) -> None:
    tell = {Level.AMPLE: log.info, Level.LOW: log.warning, Level.SCARCE: log.error}[fill.level]
    tell(
        f"etcd_space_{fill.level.value}",
        used_percent=round(100 * fill.used),
        db_bytes=fill.db_bytes,
        in_use_bytes=fill.in_use_bytes,
        quota_bytes=fill.quota_bytes,
        campaigns_refused=fill.level is Level.SCARCE,
    )
