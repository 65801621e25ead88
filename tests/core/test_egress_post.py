from __future__ import annotations

import asyncio
import socket

import pytest

from core import egress
from core.addresses import Allowed, parse_allowed
from core.egress import AddressRefused, BadUrl, Late, Posted, Unreachable, check_url, post
from tests.core.raw_server import Handler, always, answer, serving

LOOPBACK = parse_allowed("127.0.0.0/8")
BODY = b'{"type": "job.succeeded"}'
HEADERS = {"Content-Type": "application/json", "webhook-id": "msg_1", "webhook-signature": "v1,abc"}


async def send(
    url: str, body: bytes = BODY, *, timeout_s: float = 10, resolver: egress.Resolver = egress.resolve
) -> Posted:
    return await post(url, body, HEADERS, timeout_s=timeout_s, allow=LOOPBACK, resolver=resolver)


async def test_a_body_arrives_as_it_was_signed() -> None:
    async with serving(always(answer(b"thank you"))) as server:
        posted = await send(f"{server.url}/hook?x=1#part")
        assert posted.status == 200
        assert 0 < posted.seconds < 10
        assert server.bodies == [BODY]
        head = server.heads[0].lower()
        assert head.startswith("post /hook?x=1 http/1.1\r\n")
        for line in (
            f"host: 127.0.0.1:{server.port}",
            f"content-length: {len(BODY)}",
            "content-type: application/json",
            "webhook-id: msg_1",
            "webhook-signature: v1,abc",
            "user-agent: killatamata",
        ):
            assert head.count(f"{line}\r\n") == 1
        assert "authorization" not in head
        assert "transfer-encoding" not in head


async def test_the_callers_headers_decide_neither_host_nor_length() -> None:
    async with serving(always(answer(b""))) as server:
        headers = {"host": "inside.example", "CONTENT-LENGTH": "1", "user-agent": "x"}
        await post(server.url, BODY, headers, timeout_s=10, allow=LOOPBACK)
        head = server.heads[0].lower()
        assert "inside.example" not in head
        assert (head.count("host:"), head.count("content-length:"), head.count("user-agent:")) == (1, 1, 1)
        assert server.bodies == [BODY]


async def test_an_empty_body_is_a_body() -> None:
    async with serving(always(answer(b""))) as server:
        assert (await send(server.url, b"")).status == 200
        assert "content-length: 0\r\n" in server.heads[0].lower()


@pytest.mark.parametrize("status", [200, 204, 301, 302, 303, 307, 308, 400, 404, 410, 429, 500, 503, 599])
async def test_every_status_is_an_answer_and_no_redirect_is_followed(status: int) -> None:
    async with serving(always(answer(b"secret"))) as inside:
        raw = f"HTTP/1.1 {status} So\r\nLocation: {inside.url}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(always(raw)) as server:
            assert (await send(server.url)).status == status
            assert (server.connections, len(server.heads), inside.connections) == (1, 1, 0)


async def closes(_: str, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half_a_head(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await writer.drain()
    writer.close()


async def another_protocol(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def endless_head(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    for _each in range(1000):
        writer.write(b"a" * 10_000)
        await writer.drain()


@pytest.mark.parametrize("handler", [closes, half_a_head, another_protocol, endless_head])
async def test_a_receiver_without_a_whole_status_is_unreachable(handler: Handler) -> None:
    async with serving(handler) as server:
        with pytest.raises(Unreachable) as failure:
            await send(server.url)
        assert "127.0.0.1" not in str(failure.value)


async def silence(_: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drip_head(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def only_hints(_: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("handler", [silence, drip_head, only_hints])
async def test_a_receiver_that_never_answers_is_late(handler: Handler) -> None:
    async with serving(handler) as server:
        with pytest.raises(Late, match=r"within 0\.5 seconds"):
            await send(server.url, timeout_s=0.5)


async def test_a_receiver_that_reads_nothing_is_late() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(Late):
        await send(f"http://127.0.0.1:{deaf.getsockname()[1]}/", bytes(50_000_000), timeout_s=0.5)


async def test_nobody_listens() -> None:
    async with serving(silence) as server:
        url = server.url
    with pytest.raises(Unreachable):
        await send(url)


async def drip(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def cut_off(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\nshort")
    await writer.drain()
    writer.close()


async def not_chunks(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")


@pytest.mark.parametrize("handler", [drip, endless, cut_off, not_chunks])
async def test_a_status_stands_whatever_becomes_of_the_body_behind_it(handler: Handler) -> None:
    async with serving(handler) as server, asyncio.timeout(10):
        assert (await send(server.url, timeout_s=1)).status == 202


async def test_a_receiver_may_answer_before_it_has_read() -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"", "Connection: close", status="413 Too Large"))
        await writer.drain()
        while await reader.read(65_536):
            pass
        writer.close()

    async with await asyncio.start_server(refuses, "127.0.0.1", 0) as server:
        posted = await send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", bytes(5_000_000))
        assert posted.status == 413


async def test_a_caller_that_gives_up_is_not_told_of_a_failure() -> None:
    for handler in (silence, drip):
        async with serving(handler) as server:
            task = asyncio.create_task(send(server.url))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


REFUSED_UNSEEN = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://127.0.0.1./",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0X7F.0.0.1/",
    "http://0177.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://3232235777/",
    "http://169.254.169.254/latest/meta-data/",
    "http://168.63.129.16/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[::]/",
    "http://[::1]/",
    "http://[::127.0.0.1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[0:0:0:0:0:ffff:7f00:1]/",
    "http://[64:ff9b::127.0.0.1]/",
    "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001::1]/",
    "http://[fc00::1]/",
    "http://[fe80::1]/",
    "http://[ff02::1]/",
    "http://1.2.3.4.5/",
    "http://8.8.8.8:22/",
    "https://hooks.example.com:25/",
    "http://hooks.example.com:6667/",
    "http://localhost/",
    "http://LocalHost:8080/",
    "http://localhost./",
    "http://a.b.localhost/",
]


@pytest.mark.parametrize("url", REFUSED_UNSEEN)
async def test_what_is_known_without_a_name_server_is_refused_at_once_and_at_the_delivery_too(url: str) -> None:
    async def loopback(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with pytest.raises(AddressRefused) as refusal:
        check_url(url)
    assert not any(part in str(refusal.value) for part in ("127", "10.0", "169", "localhost"))
    with pytest.raises(AddressRefused):
        await post(url, BODY, HEADERS, timeout_s=10, resolver=loopback)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com/a?b=c",
        "http://hooks.example.com",
        "https://hooks.example.com:8443/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://b\u00fccher.example/",
        "https://127.0.0.1.nip.io/",
        "https://localhost.example.com/",
        "https://notlocalhost/",
    ],
)
def test_a_name_and_a_public_address_pass(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://0177.0.0.1/",
        "http://256.0.0.1/",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://\u2460.0.0.1/",
        "http://127\u30020.0.1/",
    ],
)
def test_other_spellings_of_an_address_are_refused(url: str) -> None:
    with pytest.raises((BadUrl, AddressRefused)):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "allowed", "passes"),
    [
        ("http://127.0.0.1:9/", "127.0.0.1:9", True),
        ("http://2130706433:9/", "127.0.0.1:9", True),
        ("http://[::ffff:7f00:1]:9/", "127.0.0.1:9", True),
        ("http://127.0.0.1:10/", "127.0.0.1:9", False),
        ("http://localhost:9/", "127.0.0.1:9", True),
        ("http://localhost:9/", "[::1]:9", True),
        ("http://localhost:9/", "localhost:9", True),
        ("http://localhost:9/", "10.0.0.0/8", False),
        ("http://nas.lan:25/", "nas.lan:25", True),
        ("http://other.lan:25/", "nas.lan:25", False),
        ("http://nas.lan:25/", "10.0.0.0/8", True),
        ("http://nas.lan:25/", "10.0.0.1:26", False),
        ("http://10.1.2.3:25/", "10.0.0.0/8", True),
    ],
)
def test_the_operators_word_counts_at_once_too(url: str, allowed: str, passes: bool) -> None:
    allow: tuple[Allowed, ...] = parse_allowed(allowed)
    if passes:
        check_url(url, allow)
    else:
        with pytest.raises(AddressRefused):
            check_url(url, allow)
