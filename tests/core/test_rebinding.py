"""The guard over a real name server that changes its mind between two questions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpcore
import pytest

from core import egress
from core.addresses import parse_allowed
from core.egress import AddressRefused, FetchFailed, Unreachable, fetch, post
from tests.core.name_server import naming
from tests.core.raw_server import always, answer, serving

OUTSIDE = parse_allowed("127.0.0.2")
"""127.0.0.2 stands for the public internet, the rest of loopback for what lies inside."""

Way = Callable[[str, tuple[Any, ...], egress.Resolver], Awaitable[object]]


async def fetched(url: str, allow: tuple[Any, ...], resolver: egress.Resolver) -> object:
    return (await fetch(url, max_bytes=1000, timeout_s=10, allow=allow, resolver=resolver)).data


async def posted(url: str, allow: tuple[Any, ...], resolver: egress.Resolver) -> object:
    return (await post(url, b"{}", {}, timeout_s=10, allow=allow, resolver=resolver)).status


both_ways = pytest.mark.parametrize("way", [fetched, posted])


def turning(*answers: list[str]) -> Any:
    """A answers in turn, the last one for ever; no AAAA."""
    return lambda _, kind, before: answers[min(before, len(answers) - 1)] if kind == "A" else []


@both_ways
async def test_the_second_answer_decides_nothing(way: Way) -> None:
    async with (
        serving(always(answer(b"secret")), host="127.0.0.1") as inside,
        serving(always(answer(b"public")), host="127.0.0.2", port=inside.port) as outside,
        naming(turning(["127.0.0.2"], ["127.0.0.1"])) as names,
    ):
        assert await way(f"http://rebind.example:{inside.port}/", OUTSIDE, names.resolve) in (b"public", 200)
        assert names.asked["rebind.example", "A"] == 1, "what was checked is what is connected to"
        assert (outside.connections, inside.connections) == (1, 0)
        assert await names.resolve("rebind.example", 0) == ["127.0.0.1"], "a second look would have led inside"
        with pytest.raises(AddressRefused):
            await way(f"http://rebind.example:{inside.port}/", OUTSIDE, names.resolve)
        assert (outside.connections, inside.connections) == (1, 0)


@both_ways
async def test_an_answer_that_flips_all_the_time_never_leads_inside(way: Way) -> None:
    flips = turning(*([["127.0.0.2"], ["127.0.0.1"]] * 50))
    async with (
        serving(always(answer(b"secret")), host="127.0.0.1") as inside,
        serving(always(answer(b"public")), host="127.0.0.2", port=inside.port) as outside,
        naming(flips) as names,
    ):
        url = f"http://flip.example:{inside.port}/"
        ends = await asyncio.gather(*(way(url, OUTSIDE, names.resolve) for _ in range(100)), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, AddressRefused)]
        assert (len(refused), outside.connections, inside.connections) == (50, 50, 0)
        assert {end for end in ends if not isinstance(end, AddressRefused)} <= {b"public", 200}


@both_ways
async def test_flips_between_a_public_address_and_loopback_connect_to_the_public_one_alone(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    async def nowhere(_: httpcore.AnyIOBackend, host: str, *__: object) -> httpcore.AsyncNetworkStream:
        tried.append(host)
        raise httpcore.ConnectError("this test reaches no public address")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", nowhere)
    async with naming(turning(*([["8.8.8.8"], ["127.0.0.1"], ["8.8.8.8", "127.0.0.1"]] * 10))) as names:
        ends = [await ended(way("http://flip.example/", (), names.resolve)) for _ in range(30)]
    assert ends == [Unreachable, AddressRefused, AddressRefused] * 10
    assert tried == ["8.8.8.8"] * 10


async def ended(attempt: Awaitable[object]) -> type[FetchFailed]:
    with pytest.raises(FetchFailed) as failure:
        await attempt
    return type(failure.value)


async def test_a_redirect_to_the_same_name_resolves_and_checks_again() -> None:
    moved = answer(b"", "Location: http://rebind.example:{port}/", "Connection: close", status="302 Found")
    async with serving(always(answer(b"secret")), host="127.0.0.1") as inside:
        there = always(moved.replace(b"{port}", str(inside.port).encode()))
        async with (
            serving(there, host="127.0.0.2", port=inside.port) as outside,
            naming(turning(["127.0.0.2"], ["127.0.0.1"])) as names,
        ):
            with pytest.raises(AddressRefused):
                await fetched(f"http://rebind.example:{inside.port}/", OUTSIDE, names.resolve)
            assert names.asked["rebind.example", "A"] == 2
            assert (outside.connections, inside.connections) == (1, 0)


@pytest.mark.parametrize(
    ("a", "aaaa"),
    [
        (["127.0.0.1"], []),
        (["0.0.0.0"], []),
        (["169.254.169.254"], []),
        (["8.8.8.8", "10.0.0.1"], []),
        (["8.8.8.8"], ["::1"]),
        ([], ["::ffff:127.0.0.1"]),
        ([], ["64:ff9b::7f00:1"]),
        ([], ["64:ff9b:1::a9fe:a9fe"]),
        ([], ["2002:7f00:1::"]),
        ([], ["2001:0:4136:e378:8000:63bf:80ff:fffe"]),
        ([], ["fd00:ec2::254"]),
        (["CNAME localhost.inside.example"], ["CNAME localhost.inside.example"]),
        (["CNAME dead.end.example"], ["CNAME dead.end.example"]),
        ([], []),
        (None, None),
    ],
)
async def test_no_answer_of_a_name_server_leads_inside(a: list[str] | None, aaaa: list[str] | None) -> None:
    def zone(name: str, kind: str, _: int) -> list[str] | None:
        if name == "localhost.inside.example":
            return ["127.0.0.1"] if kind == "A" else ["::1"]
        if name == "dead.end.example":
            return None
        return a if kind == "A" else aaaa

    async with serving(always(answer(b"secret"))) as inside, naming(zone) as names:
        for way in (fetched, posted):
            with pytest.raises(AddressRefused):
                await way(f"http://attacker.example:{inside.port}/", (), names.resolve)
        assert inside.connections == 0
        assert names.asked
