"""Times as people type them: RFC 3339 (`2026-03-01T09:00:00+09:00`) or from now on (`+3s`, `+1h30m`). Pure."""

import re
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
_RELATIVE = re.compile(r"\+(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(text: str, now: datetime) -> datetime:
    """The instant that `text` means; `now` is aware. Finer than microseconds is cut off.

    Raises:
        ValueError: neither form, or no such date.
    """
    if text.startswith("+"):
        found = _RELATIVE.fullmatch(text)
        if found is None or not any(found.groups()):
            raise ValueError(f"{text!r} is not a relative time like +3s, +500ms, +1h30m")
        days, hours, minutes, seconds, milliseconds = (float(group or 0) for group in found.groups())
        return now + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"{text!r} is neither RFC 3339 (2026-03-01T09:00:00+09:00) nor relative (+3s)")
    return datetime.fromisoformat(text.upper())


def to_us(time: datetime) -> int:
    """Microseconds since 1970 (UTC)."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_us(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)
