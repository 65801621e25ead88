from __future__ import annotations

from webhooks.schedule import DELAYS_SECONDS, Schedule

DAY = 86_400


def test_ten_tries_fit_a_day_whatever_is_drawn() -> None:
    schedule = Schedule()
    assert schedule.tries == 10
    assert sum(DELAYS_SECONDS) + schedule.tries * schedule.timeout < DAY
    assert sum(DELAYS_SECONDS) * (1 - schedule.jitter) > DAY / 2
    assert list(DELAYS_SECONDS) == sorted(DELAYS_SECONDS)


def test_a_pause_is_drawn_below_its_delay_and_the_last_try_has_none() -> None:
    schedule = Schedule(delays=(10.0, 100.0))
    for number, delay in ((1, 10.0), (2, 100.0)):
        drawn = [schedule.pause(number) for _ in range(100)]
        assert all(pause is not None and 0.8 * delay <= pause <= delay for pause in drawn)
        assert len(set(drawn)) > 1
    assert schedule.pause(3) is None


def test_a_try_ends_before_its_lease_does() -> None:
    assert Schedule().timeout < Schedule().lease
