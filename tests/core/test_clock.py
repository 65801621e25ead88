from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from core.clock import now, rfc3339


def test_now_is_aware_and_in_utc() -> None:
    assert now().utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 11, 23, 10, 0, 0, 123_999, tzinfo=UTC), "2026-11-23T10:00:00.123Z"),
        (datetime(2026, 11, 23, 10, tzinfo=UTC), "2026-11-23T10:00:00.000Z"),
        (datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2025-12-31T20:00:00.000Z"),
    ],
)
def test_rfc3339(instant: datetime, text: str) -> None:
    assert rfc3339(instant) == text


def test_rfc3339_refuses_an_instant_without_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        rfc3339(datetime(2026, 11, 23, 10))
