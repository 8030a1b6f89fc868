"""Times as people type them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ops.times import from_us, parse_time, to_us

NOW = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "later"),
    [
        ("+3s", timedelta(seconds=3)),
        ("+0.25s", timedelta(milliseconds=250)),
        ("+500ms", timedelta(milliseconds=500)),
        ("+5m", timedelta(minutes=5)),
        ("+1h30m", timedelta(hours=1, minutes=30)),
        ("+2d", timedelta(days=2)),
    ],
)
def test_relative_times_count_from_now(text: str, later: timedelta) -> None:
    """+ and a number of days, hours, minutes, seconds or milliseconds, combined from large to small."""
    assert parse_time(text, NOW) == NOW + later


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-03-01T09:00:00Z", NOW),
        ("2026-03-01t09:00:00.123456789z", NOW + timedelta(microseconds=123456)),
        ("2026-03-01T18:00:00+09:00", NOW.astimezone(timezone(timedelta(hours=9)))),
    ],
)
def test_rfc3339_times_carry_their_zone(text: str, time: datetime) -> None:
    """Any offset is taken; what is finer than a microsecond is cut off."""
    assert parse_time(text, NOW) == time


@pytest.mark.parametrize(
    "text", ["", "+", "+3", "3s", "-3s", "+3s5m", "2026-03-01", "2026-03-01T09:00:00", "2026-13-01T09:00:00Z", "now"]
)
def test_anything_else_is_refused(text: str) -> None:
    """A time without a zone, a bare number, a date that does not exist: never guessed at."""
    with pytest.raises(ValueError, match=r".+"):
        parse_time(text, NOW)


def test_microseconds_survive_the_round_trip() -> None:
    """to_us and from_us are inverse to the last microsecond."""
    assert from_us(to_us(NOW + timedelta(microseconds=1))) == NOW + timedelta(microseconds=1)
