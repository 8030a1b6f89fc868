"""What a process counts and how long things take, handed out as Prometheus metric families. Knows no process.

A process has one thread, so recording is a few operations on plain ints, without a lock. Everything costs something
only when somebody scrapes: a `Source` makes its families then, from what was recorded and from what is.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

PREFIX = "seonchak_"

now_s = time.perf_counter
"""What durations are taken from. The event loop's time is that of its turn's beginning, and uvloop's has whole
milliseconds only."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds for what a caller waits for."""
CALLS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
"""Upper bounds for how many calls share a round."""

CAMPAIGNS_MAX = 100
"""So many campaigns, the last ones that were created or that granted a coupon, have series of their own."""
CAMPAIGN_S = 3_600.0
"""For so long after that."""

Labels = TypeVar("Labels", bound=tuple[str, ...])
"""A series' values of the labels that its family has."""


class Source(Protocol):
    """What a process has to say when it is asked."""

    def families(self) -> Iterable[Metric]: ...


class Histogram:
    """How often values came, by upper bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        assert list(bounds) == sorted(set(bounds)), "bounds rise"
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """A value on a bound counts below it."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def observe_all(self, values: list[float]) -> None:
        """Many at a time, for less than each of them would cost. Sorts them."""
        values.sort()
        done, left = 0, len(values)
        for index, bound in enumerate(self.bounds):
            if done == left:
                break
            upto = bisect_right(values, bound, done)
            self.counts[index] += upto - done
            done = upto
        self.counts[-1] += left - done
        self.sum += sum(values)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def buckets(self) -> Iterator[tuple[str, int]]:
        """As Prometheus has them: each counts all below its bound."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            yield "+Inf" if bound == float("inf") else str(bound), total


Key = TypeVar("Key")


class Lately(dict[Key, float]):
    """Keys and when each was last seen, longest ago first; so many at most."""

    def __init__(self, at_most: int) -> None:
        super().__init__()
        self._at_most = at_most

    def see(self, key: Key, now_s: float) -> Key | None:
        """Returns the key that had to make room, if one had to."""
        self.pop(key, None)
        self[key] = now_s
        if len(self) <= self._at_most:
            return None
        oldest = next(iter(self))
        del self[oldest]
        return oldest

    def learn(self, seen_s: Mapping[Key, float]) -> None:
        """What was seen elsewhere, and when: maybe before what is known. The latest of all stay."""
        latest = dict(self)
        for key, at_s in seen_s.items():
            latest[key] = max(at_s, latest.get(key, at_s))
        self.clear()
        self.update(sorted(latest.items(), key=lambda item: item[1])[-self._at_most :])

    def since(self, then_s: float) -> list[Key]:
        return [key for key, seen_s in self.items() if seen_s >= then_s]


# --- families --------------------------------------------------------------------------------------------------------


def counter(
    name: str, documentation: str, labels: Sequence[str] = (), values: Mapping[Labels, float] | float = 0
) -> Metric:
    """`name` without its `_total`. `values`: by the values of the labels, or the one value that there is."""
    family = CounterMetricFamily(PREFIX + name, documentation, labels=labels)
    for key, value in _by_labels(values):
        family.add_metric(key, value)
    return family


def gauge(
    name: str, documentation: str, labels: Sequence[str] = (), values: Mapping[Labels, float] | float = 0
) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, documentation, labels=labels)
    for key, value in _by_labels(values):
        family.add_metric(key, value)
    return family


def histogram(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[Labels, Histogram] | Histogram
) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, documentation, labels=labels)
    series: Iterable[tuple[tuple[str, ...], Histogram]]
    series = [((), values)] if isinstance(values, Histogram) else values.items()
    for key, value in series:
        family.add_metric(key, list(value.buckets()), value.sum)
    return family


def info(name: str, documentation: str, *facts: Mapping[str, str]) -> Metric:
    """`name` without its `_info`. `facts`: the labels of each series, the same names in all."""
    family = InfoMetricFamily(PREFIX + name, documentation)
    for labels in facts:
        family.add_metric((), dict(labels))
    return family


def _by_labels(values: Mapping[Labels, float] | float) -> Iterable[tuple[tuple[str, ...], float]]:
    return values.items() if isinstance(values, Mapping) else [((), values)]


# --- what every process has ------------------------------------------------------------------------------------------


class EtcdTimes:
    """Implements cluster.endpoints.Observer and Source. How long etcd takes to answer, and how often it does not."""

    def __init__(self) -> None:
        self._durations = {(outcome,): Histogram() for outcome in ("answered", "refused", "unanswered")}

    def now(self) -> float:
        return now_s()

    def asked(self, outcome: str, took_s: float) -> None:
        self._durations[(outcome,)].observe(took_s)

    def families(self) -> Iterator[Metric]:
        yield histogram(
            "etcd_request_duration_seconds",
            "From a question to etcd to its answer, or to the end of waiting for it; without watches and keepalives.",
            ("outcome",),
            self._durations,
        )


@dataclass(frozen=True, slots=True)
class Process:
    """Who this process is."""

    role: str
    name: str
    cluster_id: str
    shards: int
    journal: str
    version: str = field(default_factory=lambda: version("seonchak"))
    """Looked up once: it means reading the package's metadata."""

    def families(self) -> Iterator[Metric]:
        yield info(
            "build",
            "The version of Seonchak that runs.",
            {"version": self.version, "role": self.role, "name": self.name},
        )
        yield info("cluster", "The cluster.", {"cluster_id": self.cluster_id, "journal": self.journal})
        yield gauge("cluster_shards", "How many shards the cluster has, for ever.", values=self.shards)


class _Adapter(Collector):
    def __init__(self, source: Callable[[], Iterable[Metric]]) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return self._source()


def registry_of(*sources: Source) -> CollectorRegistry:
    """A process's own: never the global one, so that two can live side by side in a test."""
    registry = CollectorRegistry()
    for source in sources:
        registry.register(_Adapter(source.families))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
