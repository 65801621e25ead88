from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api import windows
from api.windows import STORE_AWAY, MemoryWindows, Policy, RedisWindows, Standing
from tests.redis_server import redis_server

FIVE = Policy("writes", 5)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 6000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryWindows:
    return MemoryWindows(clock)


@pytest.fixture
async def redis(short_folder: Path) -> AsyncIterator[RedisWindows]:
    with redis_server(short_folder) as (_, url):
        made = RedisWindows(url)
        yield made
        await made.close()


async def taken(windows: MemoryWindows | RedisWindows, times: int, who: str = "a") -> list[bool]:
    return [(await windows.take(FIVE, who)).admitted for _ in range(times)]


async def test_a_quota_is_admitted_and_no_more(memory: MemoryWindows) -> None:
    assert await taken(memory, 7) == [True] * 5 + [False] * 2


async def test_everybody_and_every_policy_has_a_quota_of_its_own(memory: MemoryWindows) -> None:
    await taken(memory, 5)
    assert await taken(memory, 1, "b") == [True]
    assert (await memory.take(Policy("reads", 5), "a")).admitted


async def test_a_look_counts_nothing(memory: MemoryWindows) -> None:
    await taken(memory, 2)
    for _ in range(10):
        standing = await memory.take(FIVE, "a", 0)
        assert (standing.admitted, standing.remaining) == (True, 3)


async def test_refused_requests_do_not_count(memory: MemoryWindows, clock: Clock) -> None:
    await taken(memory, 100)
    clock.now += 60 + 30
    assert (await memory.take(FIVE, "a", 0)).remaining == 3


async def test_the_minute_before_counts_by_the_part_still_inside(memory: MemoryWindows, clock: Clock) -> None:
    await taken(memory, 5)
    clock.now += 59.9
    assert await taken(memory, 1) == [False]
    clock.now += 0.1
    assert await taken(memory, 1) == [False]
    clock.now += 12
    assert await taken(memory, 2) == [True, False]
    clock.now += 120
    assert await taken(memory, 6) == [True] * 5 + [False]


async def test_no_minute_has_more_than_the_quota_at_an_even_pace(memory: MemoryWindows, clock: Clock) -> None:
    admitted: list[float] = []
    for _ in range(600):
        clock.now += 0.5
        if (await memory.take(FIVE, "a")).admitted:
            admitted.append(clock.now)
    assert max(sum(start <= at < start + 60 for at in admitted) for start in admitted) <= FIVE.quota + 1


@pytest.mark.parametrize("quota", [1, 2, 5, 30, 120, 1200])
@pytest.mark.parametrize("pause", [0.0, 7.3, 31.0, 59.9, 61.0, 75.5, 119.0])
async def test_who_waits_as_long_as_told_is_admitted_and_no_sooner(
    memory: MemoryWindows, clock: Clock, quota: int, pause: float
) -> None:
    policy = Policy("writes", quota)
    for _ in range(quota):
        await memory.take(policy, "a")
    clock.now += pause
    refused = await memory.take(policy, "a")
    while refused.admitted:
        refused = await memory.take(policy, "a")
    assert refused.remaining == 0
    assert refused.wait >= 1
    told = clock.now + refused.wait
    clock.now = told - 1.01
    assert not (await memory.take(policy, "a", 0)).admitted
    clock.now = told
    assert (await memory.take(policy, "a")).admitted


@pytest.mark.parametrize(
    ("standing", "rate_limit"),
    [
        (Standing(FIVE, True, 0, 1, 30.0), '"writes";r=4;t=30'),
        (Standing(FIVE, True, 0, 1, 0.0), '"writes";r=4;t=60'),
        (Standing(FIVE, True, 4, 1, 30.0), '"writes";r=2;t=30'),
        (Standing(FIVE, True, 1, 1, 30.0), '"writes";r=4;t=30'),
        (Standing(FIVE, True, 0, 5, 20.0), '"writes";r=0;t=41'),
        (Standing(FIVE, False, 5, 4, 30.0), '"writes";r=0;t=19'),
        (Standing(FIVE, False, 0, 20, 20.0), '"writes";r=0;t=86'),
    ],
)
def test_the_headers_say_what_is_left_and_when_more_comes(standing: Standing, rate_limit: str) -> None:
    assert standing.headers() == {"ratelimit": rate_limit, "ratelimit-policy": '"writes";q=5;w=60'}


async def test_made_up_senders_cannot_fill_the_memory(memory: MemoryWindows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MOST_KNOWN", 3)
    for who in "abc":
        await taken(memory, 1, who)
    assert [await taken(memory, 1, f"new {number}") for number in range(6)] == [[True]] * 5 + [[False]]
    assert await taken(memory, 1, "a") == [True]
    assert len(memory._policies["writes"].current) == 4


async def test_old_minutes_are_forgotten(memory: MemoryWindows, clock: Clock) -> None:
    for number in range(100):
        await taken(memory, 1, str(number))
    clock.now += 121
    await taken(memory, 1)
    counts = memory._policies["writes"]
    assert (len(counts.previous), len(counts.current)) == (0, 1)


async def test_processes_count_together_in_redis(redis: RedisWindows, short_folder: Path) -> None:
    other = RedisWindows(f"unix://{short_folder / 'redis.sock'}")
    answers = await asyncio.gather(*(each.take(FIVE, "together") for each in (redis, other) * 20))
    assert sum(answer.admitted for answer in answers) == 5
    assert (await other.take(FIVE, "together", 0)).remaining == 0
    assert (await other.take(FIVE, "somebody else")).remaining == 4
    await other.close()


async def test_many_callers_at_once_are_all_counted(redis: RedisWindows) -> None:
    answers = await asyncio.gather(*(redis.take(Policy("reads", 400), "crowd") for _ in range(500)))
    assert sum(answer.admitted for answer in answers) == 400


async def test_redis_says_what_memory_says(redis: RedisWindows, memory: MemoryWindows, clock: Clock) -> None:
    for times in range(1, 8):
        ours, theirs = await memory.take(FIVE, "same"), await redis.take(FIVE, "same")
        assert (theirs.admitted, theirs.remaining) == (ours.admitted, ours.remaining) == (times <= 5, max(0, 5 - times))
    look = await redis.take(FIVE, "never seen", 0)
    assert (look.previous, look.current, look.admitted) == (0, 0, True)


async def test_redis_weighs_the_minute_before(redis: RedisWindows) -> None:
    now = (await redis._redis.time())[0]
    key = "killatamata:rate:writes:old"
    await redis._redis.hset(key, mapping={"window": now // 60 - 1, "previous": 9, "current": 5})
    standing = await redis.take(FIVE, "old", 0)
    assert (standing.previous, standing.current) == (5, 0)
    await redis._redis.hset(key, mapping={"window": now // 60 - 2, "previous": 9, "current": 5})
    assert (await redis.take(FIVE, "old", 0)).previous == 0


async def test_redis_forgets_after_two_minutes(redis: RedisWindows) -> None:
    await redis.take(FIVE, "gone")
    assert 60 < await redis._redis.ttl("killatamata:rate:writes:gone") <= 120


async def test_a_redis_that_is_away_or_hangs_raises_what_is_promised(short_folder: Path) -> None:
    with redis_server(short_folder) as (process, url):
        windows = RedisWindows(url)
        assert (await windows.take(FIVE, "a")).admitted
        process.send_signal(signal.SIGSTOP)
        answers = await asyncio.gather(*(windows.take(FIVE, "a") for _ in range(40)), return_exceptions=True)
        assert all(isinstance(answer, STORE_AWAY) for answer in answers)
        process.send_signal(signal.SIGCONT)
        again = await asyncio.gather(*(windows.take(FIVE, str(who)) for who in range(40)))
        assert [answer.current for answer in again] == [1] * 40
    with pytest.raises(STORE_AWAY):
        await windows.take(FIVE, "a")
    await windows.close()
