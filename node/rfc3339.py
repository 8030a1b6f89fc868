"""Instants as people and JSON write them."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(time_us: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC: "2026-03-01T12:00:00.250000Z"; years 1 to 9999."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")
