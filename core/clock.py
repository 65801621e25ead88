"""Time in one place: UTC instants for records, RFC 3339 for the wire."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, timezone-aware, in UTC."""
    return datetime.now(UTC)


def rfc3339(instant: datetime) -> str:
    """`instant` as RFC 3339 in UTC with milliseconds, for example `2026-11-23T10:00:00.123Z`.

    Raises:
        ValueError: `instant` has no time zone.
    """
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
