"""Token buckets, against a model that counts tokens."""

from hypothesis import given
from hypothesis import strategies as st

from router.limits import Buckets, Rate

NAMES = st.sampled_from("abc")


def test_a_burst_then_the_rate() -> None:
    """So many at once, then one for every token that has come; who is told to wait so long gets it then."""
    buckets = Buckets(Rate(2.0, 3), 10)
    assert [buckets.take("a", 100.0) for _ in range(3)] == [0, 0, 0]
    wait_s = buckets.take("a", 100.0)
    assert wait_s == 0.5
    assert buckets.take("a", 100.0 + wait_s / 2) > 0
    assert buckets.take("a", 100.0 + wait_s) == 0
    assert buckets.take("a", 100.0 + wait_s) > 0
    assert buckets.take("b", 100.0) == 0


def test_the_size_of_a_bucket() -> None:
    """Without a burst it is a second's worth, and never less than one."""
    assert [Rate(2.5).size, Rate(0.1).size, Rate(10, 1).size] == [3, 1, 1]


@given(st.lists(st.tuples(NAMES, st.floats(0, 3)), max_size=60), st.floats(0.2, 20), st.integers(1, 5))
def test_as_if_tokens_were_counted(calls: list[tuple[str, float]], per_s: float, burst: int) -> None:
    """Every answer is what a bucket with counted tokens says, give or take what floats lose."""
    buckets = Buckets(Rate(per_s, burst), 10)
    tokens = dict.fromkeys("abc", (float(burst), 0.0))
    now = 0.0
    for name, pause_s in calls:
        now += pause_s
        count, before = tokens[name]
        count = min(burst, count + (now - before) * per_s)
        wait_s = buckets.take(name, now)
        if abs(count - 1) > 1e-6:
            assert (wait_s == 0) == (count > 1)
        if wait_s == 0:
            count -= 1
        else:
            assert abs(wait_s - (1 - count) / per_s) < 1e-6
        tokens[name] = count, now


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 0.5)), max_size=200))
def test_memory_is_bounded(calls: list[tuple[int, float]]) -> None:
    """Never more buckets than were allowed, and none that is full for long."""
    buckets = Buckets(Rate(1.0, 2), 8)
    now = 0.0
    for name, pause_s in calls:
        now += pause_s
        buckets.take(str(name), now)
        assert len(buckets) <= 8
    for step in range(20):
        buckets.take(f"later {step}", now + 100 + step * 10)
    assert len(buckets) <= 2
