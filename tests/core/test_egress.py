from __future__ import annotations

import asyncio
import datetime
import gzip
import pickle
import ssl
import time
from pathlib import Path

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from core import egress
from core.addresses import Allowed, parse_allowed
from core.egress import (
    AddressRefused,
    AnswerRefused,
    BadUrl,
    Fetched,
    FetchFailed,
    Guard,
    Late,
    Unreachable,
    check_url,
    fetch,
    post,
)
from tests.core.raw_server import Handler, always, answer, serving

LOOPBACK = parse_allowed("127.0.0.0/8")
PNG = b"\x89PNG" + bytes(1000)


async def get(
    url: str,
    *,
    max_bytes: int = 10_000,
    timeout_s: float = 10,
    allow: tuple[Allowed, ...] = LOOPBACK,
    resolver: egress.Resolver = egress.resolve,
) -> Fetched:
    return await fetch(url, max_bytes=max_bytes, timeout_s=timeout_s, allow=allow, resolver=resolver)


def names(**known: list[str]) -> egress.Resolver:
    async def resolver(host: str, port: int) -> list[str]:
        if host not in known:
            raise OSError(f"{host}:{port} is unknown")
        return known[host]

    return resolver


async def test_a_file_is_fetched() -> None:
    async with serving(always(answer(PNG, "Content-Type: image/png"))) as server:
        fetched = await get(f"{server.url}/a.png?x=1#part")
        assert fetched == Fetched(PNG, "image/png", f"{server.url}/a.png?x=1#part")
        head = server.heads[0].lower()
        assert head.startswith("get /a.png?x=1 http/1.1\r\n")
        assert f"host: 127.0.0.1:{server.port}\r\n" in head
        assert "accept-encoding: identity\r\n" in head
        assert "authorization" not in head


async def test_a_host_in_brackets_stays_in_brackets() -> None:
    async with serving(always(answer(PNG))) as server:
        assert (await get(f"http://[::ffff:127.0.0.1]:{server.port}/")).data == PNG
        assert f"host: [::ffff:127.0.0.1]:{server.port}\r\n" in server.heads[0].lower()


async def test_a_label_is_not_needed() -> None:
    async with serving(always(answer(PNG))) as server:
        assert (await get(server.url)).content_type == ""


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]"]
)
async def test_loopback_is_not_reached_however_it_is_spelled(host: str) -> None:
    async with serving(always(answer(PNG))) as server:
        with pytest.raises(FetchFailed, match=r"no public address|cannot be read"):
            await get(f"http://{host}:{server.port}/", allow=())
        with pytest.raises(AddressRefused, match="no public address"):
            await Guard().connect_tcp(host.strip("[]"), server.port)
        assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:7f00:1::]/",
        "http://0/",
        "http://10.0.0.1/",
        "http://1.2.3.4.5/",
        "http://8.8.8.8:22/",
        "https://8.8.8.8:25/",
        f"http://{'a' * 70}.example/",
        "http://a..b/",
    ],
)
async def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused, match="no public address") as refusal:
        await get(url, allow=(), resolver=names())
    assert not any(digits in str(refusal.value) for digits in ("10.0.0", "169.254", "8.8.8"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/relative.png",
        "example.com/a.png",
        "ftp://127.0.0.1/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "gopher://127.0.0.1:70/_x",
        "http://",
        "http:///path",
        "http://\x00/",
        "http://127.0.0.1\r\nX: y/",
        "http://user@127.0.0.1/",
        "http://user:password@127.0.0.1/",
        "http://:password@127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:-1/",
        "http://[::1/",
        "http://xn--\x80.example/",
        "http://xn--/",
        "http://xn--a.com/",
        "http://127.0.0.1/" + "a" * 8192,
        "http://127.0.0.1/" + "a" * 1_000_000,
    ],
)
async def test_urls_that_are_refused(url: str) -> None:
    for attempt in (get(url), post(url, b"{}", {}, timeout_s=10, allow=LOOPBACK)):
        with pytest.raises(BadUrl) as refusal:
            await attempt
        assert "password@" not in str(refusal.value)
    with pytest.raises(BadUrl):
        check_url(url, LOOPBACK)


async def test_one_private_answer_among_public_ones_is_enough_to_refuse() -> None:
    async with serving(always(answer(PNG))) as server:
        resolver = names(mixed=["8.8.8.8", "127.0.0.1"])
        with pytest.raises(AddressRefused, match="no public address"):
            await get(f"http://mixed:{server.port}/", allow=(), resolver=resolver)
        assert server.connections == 0


async def test_a_name_inside_and_no_name_look_the_same() -> None:
    resolver = names(inside=["10.0.0.1"], empty=[], odd=["not an address"])
    reasons = set()
    for host in ("inside", "missing", "empty", "odd"):
        with pytest.raises(FetchFailed) as refusal:
            await get(f"http://{host}/", allow=(), resolver=resolver)
        reasons.add(refusal.value.reason)
    assert len(reasons) == 1


async def test_a_name_that_changes_its_address_has_no_second_say() -> None:
    answers = iter([["127.0.0.2"], ["127.0.0.3"]])
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    async with serving(always(answer(PNG)), host="127.0.0.2") as server:
        stream = await Guard(parse_allowed("127.0.0.2"), rebinding).connect_tcp("rebind.example", server.port)
        assert stream.get_extra_info("server_addr") == ("127.0.0.2", server.port)
        await stream.aclose()
        assert asked == ["rebind.example"]
        with pytest.raises(FetchFailed):
            await Guard(parse_allowed("127.0.0.2"), rebinding).connect_tcp("rebind.example", server.port)
        assert server.connections == 1


async def test_a_redirect_to_another_server_resolves_and_checks_again() -> None:
    async with serving(always(answer(b"secret"))) as inside:
        location = f"Location: http://moved.example:{inside.port}/"
        async with serving(always(answer(b"", location, status="302 Found"))) as outside:
            allow = parse_allowed(f"127.0.0.1:{outside.port}")
            resolver = names(**{"first.example": ["127.0.0.1"], "moved.example": ["127.0.0.1"]})
            with pytest.raises(AddressRefused, match="no public address"):
                await get(f"http://first.example:{outside.port}/", allow=allow, resolver=resolver)
            assert (outside.connections, inside.connections) == (1, 0)


async def test_unreachable_addresses_are_passed_over() -> None:
    async with serving(always(answer(PNG))) as server:
        resolver = names(two=["127.0.0.9", "127.0.0.1"])
        assert (await get(f"http://two:{server.port}/", resolver=resolver)).data == PNG


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        ("file:///etc/passwd", BadUrl),
        ("gopher://127.0.0.1:25/_x", BadUrl),
        ("http://u:p@127.0.0.1/", BadUrl),
        ("http://xn--/", BadUrl),
        ("//xn--a.com/", BadUrl),
        ("http://[", AddressRefused),
        ("http://169.254.169.254/latest/meta-data/", AddressRefused),
        ("http://[fd00:ec2::254]/", AddressRefused),
        ("http://metadata.google.internal/", AddressRefused),
        ("http://2852039166/", AddressRefused),
        ("http://0251.0376.0251.0376/", BadUrl),
        ("http://0xa9fea9fe/", AddressRefused),
        ("http://[::ffff:169.254.169.254]/", AddressRefused),
        ("http://[64:ff9b::a9fe:a9fe]/", AddressRefused),
        ("http://[64:ff9b:1::a9fe:a9fe]/", AddressRefused),
        ("http://[2002:a9fe:a9fe::]/", AddressRefused),
        ("//10.0.0.1/", AddressRefused),
        ("//[::1]/", AddressRefused),
        ("http://8.8.8.8:25/", AddressRefused),
    ],
)
async def test_bad_redirects_are_refused(target: str, refusal: type[FetchFailed]) -> None:
    resolver = names(**{"metadata.google.internal": ["169.254.169.254"]})
    async with serving(always(answer(b"", f"Location: {target}", status="302 Found"))) as server:
        with pytest.raises(refusal):
            await get(server.url, resolver=resolver)
        assert server.connections == 1


async def test_the_body_of_a_redirect_is_not_waited_for() -> None:
    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        if path == "/moved":
            writer.write(answer(PNG))
            return
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /moved\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            await writer.drain()

    async with serving(handler) as server:
        assert (await get(server.url)).data == PNG


async def test_the_time_cap_covers_all_redirects_together() -> None:
    async def handler(path: str, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(answer(b"", "Location: /again", status="302 Found"))

    async with serving(handler) as server:
        with pytest.raises(Late):
            await get(server.url, timeout_s=0.5)


async def redirects(path: str, writer: asyncio.StreamWriter) -> None:
    left = int(path.strip("/"))
    writer.write(answer(b"", f"Location: {left - 1}", status="307 Temporary Redirect") if left else answer(PNG))


async def test_five_redirects_are_followed_and_no_more() -> None:
    async with serving(redirects) as server:
        fetched = await get(f"{server.url}/5")
        assert (fetched.data, fetched.final_url) == (PNG, f"{server.url}/0")
        with pytest.raises(AnswerRefused, match="more than 5 redirects"):
            await get(f"{server.url}/6")


@pytest.mark.parametrize(
    "status", ["204 No Content", "206 Partial Content", "304 Not Modified", "302 Found", "404 Not Found", "500 Oops"]
)
async def test_only_200_is_an_answer_and_its_body_stays_there(status: str) -> None:
    raw = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n" if status[0] in "23" else None
    handler = always(raw.encode() if raw else answer(b"internal secret", status=status))
    async with serving(handler) as server:
        with pytest.raises(AnswerRefused, match=f"status {status[:3]}") as refusal:
            await get(server.url)
        assert "secret" not in str(refusal.value)
        assert "127.0.0.1" not in str(refusal.value)


async def test_the_cap_is_exact() -> None:
    async with serving(always(answer(PNG))) as server:
        assert len((await get(server.url, max_bytes=len(PNG))).data) == len(PNG)
        with pytest.raises(AnswerRefused, match=f"more than {len(PNG) - 1} bytes"):
            await get(server.url, max_bytes=len(PNG) - 1)


async def endless(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        await writer.drain()


async def test_an_endless_body_ends_at_the_cap() -> None:
    async with serving(endless) as server:
        with pytest.raises(AnswerRefused, match="more than 1000000 bytes"):
            await get(server.url, max_bytes=1_000_000)


@pytest.mark.parametrize("length", ["9999999", "99999999999999999999"])
async def test_a_length_above_the_cap_is_refused_unread(length: str) -> None:
    async with serving(always(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())) as server:
        with pytest.raises(AnswerRefused, match="more than"):
            await get(server.url)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nConnection: close\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"",
    ],
)
async def test_broken_answers(raw: bytes) -> None:
    async def handler(_: str, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with serving(handler) as server:
        with pytest.raises(Unreachable, match="cannot be reached, or broke off"):
            await get(server.url)


async def test_a_length_below_the_truth_cuts_the_body() -> None:
    async with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + PNG)) as server:
        assert (await get(server.url)).data == PNG[:4]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip", "identity, gzip"])
async def test_a_compressed_answer_is_refused(encoding: str) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    async with serving(always(answer(bomb, f"Content-Encoding: {encoding}"))) as server:
        with pytest.raises(AnswerRefused, match="compresses"):
            await get(server.url, max_bytes=100_000_000)


async def test_a_compressed_file_is_not_opened() -> None:
    packed = gzip.compress(bytes(10_000))
    async with serving(
        always(answer(packed, "Content-Type: application/gzip", "Content-Encoding: identity"))
    ) as server:
        assert (await get(server.url)).data == packed


@pytest.mark.parametrize("label", ["text/html", "image/svg+xml", "image/webp", "multipart/x-mixed-replace", "\xff", ""])
async def test_a_lying_label_changes_nothing(label: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(PNG)}\r\nContent-Type: {label}\r\n\r\n"
    async with serving(always(head.encode("latin-1") + PNG)) as server:
        fetched = await get(server.url)
        assert (fetched.data, fetched.content_type) == (PNG, label)


async def drip(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_head(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def drip_chunks(_: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def forever_soon(_: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def silence(_: str, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("handler", [drip, drip_head, drip_chunks, forever_soon, silence])
async def test_the_time_cap_covers_the_whole(handler: Handler) -> None:
    async with serving(handler) as server:
        began = time.monotonic()
        with pytest.raises(Late, match=r"within 0\.5 seconds"):
            await get(server.url, timeout_s=0.5)
        assert time.monotonic() - began < 3


async def test_a_slow_name_server_counts_too() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return ["127.0.0.1"]

    with pytest.raises(Late, match="within"):
        await get("http://slow/", timeout_s=0.2, resolver=slow)


async def test_a_caller_that_gives_up_is_not_told_of_a_failure() -> None:
    async with serving(silence) as server:
        task = asyncio.create_task(get(server.url))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_nobody_listens() -> None:
    async with serving(silence) as server:
        url = server.url
    with pytest.raises(Unreachable, match="cannot be reached") as refusal:
        await get(url)
    assert "127.0.0.1" not in str(refusal.value)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(answer(b"proxied"))) as proxy, serving(always(answer(PNG))) as server:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert (await get(server.url)).data == PNG
        assert proxy.connections == 0


async def test_many_fetches_at_once() -> None:
    async with serving(always(answer(PNG))) as server:
        fetched = await asyncio.gather(*(get(f"{server.url}/{number}") for number in range(50)))
        assert {each.data for each in fetched} == {PNG}


async def test_no_unix_socket_is_opened(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        await Guard(LOOPBACK).connect_unix_socket(str(tmp_path / "socket"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for media.example, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "media.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("media.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "media.example.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.public_bytes(pem))
    return path


@pytest.mark.parametrize(
    ("trusted", "host", "works"),
    [
        (True, "media.example", True),
        (True, "other.example", False),
        (True, "127.0.0.1", False),
        (False, "media.example", False),
    ],
)
async def test_tls_verifies_the_name_of_the_url(
    authority: Path, trusted: bool, host: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    if trusted:
        context = httpcore.default_ssl_context()
        context.load_verify_locations(authority)
        monkeypatch.setattr(egress, "_tls_context", lambda: context)
    resolver = names(**{"media.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    async with serving(always(answer(PNG)), tls=tls) as server:
        url = f"https://{host}:{server.port}/"
        if works:
            assert (await get(url, resolver=resolver)).data == PNG
        else:
            with pytest.raises(Unreachable, match="no valid certificate"):
                await get(url, resolver=resolver)
            assert server.heads == []


def test_the_error_crosses_processes() -> None:
    received = pickle.loads(pickle.dumps(Late("The URL is gone.")))
    assert type(received) is Late
    assert (received.code, received.reason, str(received)) == ("fetch_failed", "The URL is gone.", "The URL is gone.")
