"""What is counted, and how it is handed out."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from cluster.clock import SystemClock
from cluster.metrics import CALLS, EtcdTimes, Histogram, Lately, Process, counter, histogram, info, registry_of
from node.metrics import NodeMetrics
from tests.metrics.reading import said


def test_a_value_on_a_bound_counts_below_it() -> None:
    """Prometheus' bounds are upper and inclusive, and every bucket counts all below it."""
    found = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        found.observe(value)
    found.observe(1.5, times=2)
    assert list(found.buckets()) == [("1.0", 2), ("2.0", 6), ("+Inf", 7)]
    assert (found.count, found.sum) == (7, 10.5)


@given(st.lists(st.floats(min_value=0, max_value=1_000)))
def test_buckets_hold_every_value_once(values: list[float]) -> None:
    """The last bucket is the number of values, whatever they are; buckets never fall."""
    found = Histogram(CALLS)
    for value in values:
        found.observe(value)
    counts = [count for _, count in found.buckets()]
    assert counts == sorted(counts)
    assert counts[-1] == found.count == len(values)
    assert counts[:-1] == [sum(value <= bound for value in values) for bound in CALLS]
    together = Histogram(CALLS)
    together.observe_all(values)
    assert together.counts == found.counts
    assert together.sum == pytest.approx(found.sum)


def test_who_was_not_seen_for_longest_makes_room() -> None:
    """At most so many keys, and the one that goes is named."""
    seen = Lately[str](2)
    assert [seen.see(key, at_s) for at_s, key in enumerate("abac")] == [None, None, None, "b"]
    assert list(seen) == ["a", "c"]
    assert seen.since(3) == ["c"]


def test_what_was_seen_elsewhere_takes_its_place() -> None:
    """By its time, before what is known or after it; the latest stay, and nothing becomes older than it was."""
    seen = Lately[str](3)
    for at_s, key in ((10, "a"), (20, "b")):
        seen.see(key, at_s)
    seen.learn({"b": 5, "c": 15, "d": 1})
    assert list(seen.items()) == [("a", 10), ("c", 15), ("b", 20)]
    assert seen.see("e", 30) == "a"


class Samples:
    def families(self) -> Iterator[Metric]:
        yield counter("things", "Things.", ("kind",), {('new\n"',): 3})
        yield histogram("thing_seconds", "Of a thing.", (), Histogram())
        yield info("thing", "It.", {"name": "봄"})


def test_openmetrics_can_be_read_back() -> None:
    """Types, labels that have to be escaped, and the end of the text, by the library's own parser."""
    text = generate_openmetrics(registry_of(Samples(), EtcdTimes(), NodeMetrics(SystemClock().wall_us))).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["seonchak_things"].type == "counter"
    (sample,) = families["seonchak_things"].samples
    assert (sample.name, sample.labels, sample.value) == ("seonchak_things_total", {"kind": 'new\n"'}, 3)
    assert families["seonchak_thing_seconds"].type == "histogram"
    (fact,) = families["seonchak_thing"].samples
    assert (fact.name, fact.labels) == ("seonchak_thing_info", {"name": "봄"})
    assert text.endswith("# EOF\n")


def test_a_process_tells_its_version_and_itself() -> None:
    """Build, cluster, and what the library knows of the process, from a registry of its own."""
    text = generate_latest(registry_of(Process("node", "node-1", "c0ffee", 64, "etcd"))).decode()
    assert re.search(r'^seonchak_build_info\{name="node-1",role="node",version="\d[^"]*"\} 1\.0$', text, re.MULTILINE)
    for name in ("seonchak_cluster_shards 64.0", "process_cpu_seconds_total", "python_info", "python_gc_collections"):
        assert name in text


def test_a_scrape_reads_no_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is what it was when the process began."""
    process = Process("node", "node-1", "c0ffee", 64, "etcd")

    def version(name: str) -> str:
        raise AssertionError(f"the metadata of {name} was read again")

    monkeypatch.setattr("cluster.metrics.version", version)
    assert [fact for fact in said(process) if fact[0] == "build_info"]


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (1.0, 1.0)])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError):
        Histogram(bounds)
