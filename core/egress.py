"""The only way out to a user's URL: guarded, capped in bytes and time, and silent about what lies inside.

The host is resolved once per connection, every answer is checked, and the socket connects to a checked address, never to
the name: a second answer of the name server (DNS rebinding) has nothing to decide. TLS still verifies the name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, ClassVar, Protocol, TypeAlias

import httpcore
import httpx

from core.addresses import Address, Allowed, literal, may_name, may_reach

MAX_REDIRECTS = 5
MAX_URL_CHARACTERS = 8192

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECT_SECONDS = 5.0
_ANSWER_BYTES = 65_536
_AGENT = "killatamata"
_PORTS = {"http": 80, "https": 443}
# One sentence for both, lest it tell which names exist inside.
_NO_ADDRESS = "The URL's host has no public address, or its port is not one that may be reached."

Resolver: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host name and a port to addresses, best first; raises OSError when there are none."""


class FetchFailed(Exception):
    """A user's URL could not be used; `reason` is for the user's eyes and names no address. Each cause is a class.

    `path` is where the URL stands in a job's input, once somebody who knows has set it.
    """

    code: ClassVar[str] = "fetch_failed"
    path: str | None = None

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadUrl(FetchFailed):
    """The text is no URL that leads anywhere from here: not http(s), too long, with a password, without a host."""


class AddressRefused(FetchFailed):
    """The host has no address, or one that may not be reached, or the port may not."""


class Late(FetchFailed):
    """No answer in time."""


class Unreachable(FetchFailed):
    """No connection, no valid certificate, or no whole answer."""


class AnswerRefused(FetchFailed):
    """The answer is not one that is taken: its status, its size, its compression, too many redirects."""


@dataclass(frozen=True)
class Fetched:
    """What a URL gave. `content_type` is the server's word for it (may be empty), `final_url` where redirects led."""

    data: bytes
    content_type: str
    final_url: str


@dataclass(frozen=True)
class Posted:
    """What a receiver answered, and the seconds until its status was there, look-up of its name included."""

    status: int
    seconds: float


async def resolve(host: str, port: int) -> list[str]:
    """The system's addresses of `host`.

    Raises:
        OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


async def fetch(
    url: str,
    *,
    max_bytes: int,
    timeout_s: float,
    allow: Sequence[Allowed] = (),
    accept: str = "*/*",
    resolver: Resolver = resolve,
) -> Fetched:
    """GET `url`, following at most `MAX_REDIRECTS` redirects, each checked like the first.

    `timeout_s` bounds the whole, however slowly bytes drip. The server is asked for `accept` (a header's value) and for
    no compression, and a compressed answer is refused, so `max_bytes` bounds what is read and what is returned alike.

    Raises:
        FetchFailed: by class: no http(s) URL, a forbidden address, no answer in time, none at all, or not a good one.
    """
    data = bytearray()
    content_type, final_url = await _get(url, data.extend, max_bytes, timeout_s, allow, accept, resolver)
    return Fetched(bytes(data), content_type, final_url)


async def download(
    url: str,
    file: BinaryIO,
    *,
    max_bytes: int,
    timeout_s: float,
    allow: Sequence[Allowed] = (),
    accept: str = "*/*",
    resolver: Resolver = resolve,
) -> None:
    """GET `url` as `fetch` does, and write what comes into `file` as it comes; a failure leaves a part of it there.

    Raises:
        FetchFailed: as `fetch`.
        OSError: the file cannot be written.
    """
    await _get(url, file.write, max_bytes, timeout_s, allow, accept, resolver)


async def _get(
    url: str,
    take: Callable[[bytes], object],
    max_bytes: int,
    timeout_s: float,
    allow: Sequence[Allowed],
    accept: str,
    resolver: Resolver,
) -> tuple[str, str]:
    target = _parse(url)
    headers = httpx.Headers({"Accept": accept, "Accept-Encoding": "identity", "User-Agent": _AGENT})
    async with _way_out(timeout_s, allow, resolver) as send:
        for _ in range(MAX_REDIRECTS + 1):
            async with send("GET", target, headers) as response:
                answer = httpx.Headers(response.headers)
                if response.status not in _REDIRECTS or "location" not in answer:
                    await _body(response, answer, max_bytes, take)
                    return answer.get("content-type", ""), str(target)
            target = _parse(answer["location"], base=target)
    raise AnswerRefused(f"The URL leads through more than {MAX_REDIRECTS} redirects; give the last address itself.")


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    timeout_s: float,
    allow: Sequence[Allowed] = (),
    resolver: Resolver = resolve,
) -> Posted:
    """POST `body` to `url`. No redirect is followed: its status is the answer, as is any other.

    `timeout_s` bounds the whole. Of the answer's body at most 64 KiB are read, so that the receiver can finish its
    sentence, and thrown away; a status that is there stands, whatever becomes of the body behind it.

    Raises:
        FetchFailed: by class: no http(s) URL, a forbidden address, no status in time, or none at all.
    """
    target = _parse(url)
    sent = httpx.Headers(headers)
    sent.update({"Accept-Encoding": "identity", "Content-Length": str(len(body)), "User-Agent": _AGENT})
    began = time.monotonic()
    posted: Posted | None = None
    try:
        async with _way_out(timeout_s, allow, resolver) as send, send("POST", target, sent, body) as response:
            posted = Posted(response.status, time.monotonic() - began)
            read = 0
            async for chunk in response.aiter_stream():
                read += len(chunk)
                if read >= _ANSWER_BYTES:
                    break
    except FetchFailed:
        if posted is None:
            raise
    return posted


def check_url(url: str, allow: Sequence[Allowed] = ()) -> None:
    """Refuse what is known to lead nowhere without asking a name server: a bad form, a port, an address spelled out.

    A name passes; where it leads is checked at every connection.

    Raises:
        FetchFailed: by class: no http(s) URL, or a forbidden address.
    """
    target = _parse(url)
    host, port = target.raw_host.decode("ascii"), target.port or _PORTS[target.scheme]
    try:
        spelled = literal(host)
    except ValueError:
        raise AddressRefused(_NO_ADDRESS) from None
    if not (may_name(host, port, allow) if spelled is None else may_reach(host, spelled, port, allow)):
        raise AddressRefused(_NO_ADDRESS)


class _Send(Protocol):
    def __call__(
        self, method: str, target: httpx.URL, headers: httpx.Headers, body: bytes | None = None
    ) -> AbstractAsyncContextManager[httpcore.Response]: ...


@asynccontextmanager
async def _way_out(timeout_s: float, allow: Sequence[Allowed], resolver: Resolver) -> AsyncIterator[_Send]:
    """A guarded way to send requests, open for `timeout_s` at most; what goes wrong is raised as `FetchFailed`."""
    timeouts = {"connect": min(timeout_s, _CONNECT_SECONDS), "read": timeout_s, "write": timeout_s, "pool": timeout_s}
    guard = Guard(allow, resolver)

    def send(
        method: str, target: httpx.URL, headers: httpx.Headers, body: bytes | None = None
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        url = httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path)
        named = [(b"Host", target.netloc), *((name, text) for name, text in headers.raw if name.lower() != b"host")]
        return pool.stream(method, url, headers=named, content=body, extensions={"timeout": timeouts})

    try:
        async with (
            asyncio.timeout(timeout_s),
            httpcore.AsyncConnectionPool(network_backend=guard, ssl_context=_tls_context()) as pool,
        ):
            yield send
    except (TimeoutError, httpcore.TimeoutException):
        raise Late(f"The URL did not finish its answer within {timeout_s:g} seconds.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError, ssl.SSLError):
        raise Unreachable("The URL's server cannot be reached, or broke off, or has no valid certificate.") from None


async def _body(
    response: httpcore.Response, headers: httpx.Headers, max_bytes: int, take: Callable[[bytes], object]
) -> None:
    if response.status != 200:
        raise AnswerRefused(f"The URL's server answered with status {response.status} instead of 200.")
    if headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise AnswerRefused("The URL's server compresses although asked not to; serve the file as it is.")
    too_large = f"The URL delivers more than {max_bytes} bytes, the most that is read."
    if int(headers.get("content-length", "0")) > max_bytes:
        raise AnswerRefused(too_large)
    read = 0
    async for chunk in response.aiter_stream():
        read += len(chunk)
        if read > max_bytes:
            raise AnswerRefused(too_large)
        take(chunk)


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = httpx.URL(text) if base is None else base.join(text)
        host = url.host
    except (httpx.InvalidURL, UnicodeError):
        raise BadUrl("The URL cannot be read; give one such as https://example.com/picture.png.") from None
    if url.scheme not in ("http", "https") or not host or len(text) > MAX_URL_CHARACTERS:
        raise BadUrl(f"Only http and https URLs of at most {MAX_URL_CHARACTERS} characters are taken.")
    if url.userinfo:
        raise BadUrl("The URL carries a user name or password; give one that needs none.")
    if url.port is not None and not 1 <= url.port <= 65535:
        raise BadUrl("The URL's port is no port; give one from 1 to 65535.")
    return url


@cache
def _tls_context() -> ssl.SSLContext:
    return httpcore.default_ssl_context()


class Guard(httpcore.AsyncNetworkBackend):
    """The network as a user's URL may see it: connects to checked addresses only, and to no Unix socket.

    Give it to an `httpcore.AsyncConnectionPool`. A refusal raises `AddressRefused`.
    """

    def __init__(self, allow: Sequence[Allowed] = (), resolver: Resolver = resolve) -> None:
        self._allow = allow
        self._resolver = resolver
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the first address of `host` that takes one.

        Raises:
            AddressRefused: `host` has no address, or any that may not be reached.
            httpcore.NetworkError: no address takes a connection.
        """
        failure: Exception = httpcore.ConnectError("no address")
        for address in await self._addresses(host, port):
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            spelled = literal(host)
            found = [spelled] if spelled else [ipaddress.ip_address(each) for each in await self._resolver(host, port)]
        except (OSError, ValueError):
            found = []
        if not found or not all(may_reach(host, address, port, self._allow) for address in found):
            raise AddressRefused(_NO_ADDRESS)
        return list(dict.fromkeys(found))
