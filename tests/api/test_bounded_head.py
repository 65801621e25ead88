"""Heads, trailers and clocks of connections, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from api import bounded_head
from api.bounded_head import MAX_HEAD_BYTES, BoundedHead
from tests.api.serving import until

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"

Connect: TypeAlias = Callable[[], socket.socket]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says how many bytes the body had and how many header lines there are; `/early` does not read the body."""
    request = Request(scope, receive)
    size = 0 if request.url.path == "/early" else len(await request.body())
    if request.url.path == "/slow":
        await asyncio.sleep(0.6)
    await PlainTextResponse(f"{size} bytes, {len(scope['headers'])} lines")(scope, receive, send)


@contextmanager
def running(http: Any = BoundedHead, keep_alive: float = 20) -> Iterator[tuple[uvicorn.Server, Connect]]:
    """A server of `echo` over `http`, and what connects to it."""
    config: Any = {"http": http, "lifespan": "off", "log_config": None, "timeout_keep_alive": keep_alive}
    server = uvicorn.Server(uvicorn.Config(echo, loop="uvloop", ws="none", timeout_graceful_shutdown=1, **config))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: server.run([listening]))
        thread.start()
        made: list[socket.socket] = []

        def connect() -> socket.socket:
            made.append(socket.create_connection(listening.getsockname(), timeout=20))
            return made[-1]

        try:
            until(lambda: server.started, "the server started")
            yield server, connect
        finally:
            for each in made:
                each.close()
            server.should_exit = True
            thread.join()


def answers(connection: socket.socket, count: int = 1) -> list[bytes]:
    """The next answers' status and body."""
    found, received = list[bytes](), b""
    while len(found) < count:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if not end or len(rest) < length:
            piece = connection.recv(65536)
            assert piece, f"closed after {received!r}"
            received += piece
            continue
        found.append(head[9:12] + b" " + rest[:length])
        received = rest[length:]
    return found


def closed(connection: socket.socket) -> bytes:
    """All that still comes before the end."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def flood(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send `piece` again and again; how many bytes went out before the other side had enough."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"GET /a HTTP/1.1\r\n", b"a: b\r\n" * 2000),
        (b"GET /a HTTP/1.1\r\na: ", b"x" * 8000),
        (b"GET /a HTTP/1.1\r\na", b"x" * 8000),
        (b"GET /a HTTP/1.1\r\na:", b" " * 8000),
        (b"GET /", b"x" * 8000),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"a: b\r\n" * 2000),
        (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\na: ", b"x" * 8000),
    ],
    ids=["lines", "value", "name", "spaces", "url", "trailers", "trailer"],
)
def test_a_head_or_trailer_without_end_is_400_and_cut_off(begin: bytes, piece: bytes) -> None:
    with running() as (server, connect):
        connection = connect()
        connection.sendall(begin)
        assert flood(connection, piece, 64_000_000) < 16_000_000
        until(lambda: not server.server_state.connections, "the connection was cut off")
        assert answers_of_a_new(connect) == [b"200 0 bytes, 1 lines"]


def answers_of_a_new(connect: Connect) -> list[bytes]:
    connection = connect()
    connection.sendall(GET)
    return answers(connection)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n",
        b"GET /a HTTP/1.1\r\na: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET /" + b"x" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
    ids=["lines", "value", "url", "trailer"],
)
def test_a_whole_head_beyond_the_bound_is_400(head: bytes) -> None:
    with running() as (_, connect):
        connection = connect()
        connection.sendall(head)
        assert closed(connection).startswith(b"HTTP/1.1 400 ")


def test_a_head_of_nearly_the_bound_is_taken() -> None:
    with running() as (_, connect):
        connection = connect()
        for _ in range(2):
            connection.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\na: " + b"x" * 60_000 + b"\r\n\r\n")
            assert answers(connection) == [b"200 0 bytes, 2 lines"]


@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"", b""),
        (b"\r\n", b"\r\n"),
        (b"GET /", b"x"),
        (b"GET /a HTTP/1.1\r\n", b"a: b\r\n"),
        (b"GET /a HTTP/1.1\r\nHost: x\r\na: ", b"x"),
    ],
)
def test_half_a_head_is_cut_off_though_it_drips(monkeypatch: pytest.MonkeyPatch, begin: bytes, drop: bytes) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.3)
    with running(keep_alive=60) as (server, connect):
        connections = [connect() for _ in range(20)]
        for each in connections:
            each.sendall(begin)
        for _ in range(3):
            for each in connections[:5]:
                flood(each, drop, len(drop))
        until(lambda: not server.server_state.connections, "all were cut off")


def test_a_second_head_has_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.3)
    with running(keep_alive=60) as (server, connect):
        connection = connect()
        connection.sendall(GET)
        assert answers(connection) == [b"200 0 bytes, 1 lines"]
        connection.sendall(GET[:-2])
        until(lambda: not server.server_state.connections, "it was cut off")


def test_an_idle_connection_stays_as_long_as_uvicorn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.2)
    with running(keep_alive=60) as (server, connect):
        connection = connect()
        for _ in range(3):
            connection.sendall(GET)
            assert answers(connection) == [b"200 0 bytes, 1 lines"]
            threading.Event().wait(0.5)
        assert len(server.server_state.connections) == 1


def test_a_half_head_behind_a_slow_answer_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_head, "HEAD_SECONDS", 0.25)
    with running() as (server, connect):
        connection = connect()
        connection.sendall(GET.replace(b"/a", b"/slow") + GET[:-2])
        assert answers(connection) == [b"200 0 bytes, 1 lines"]
        connection.sendall(b"\r\n")
        assert answers(connection) == [b"200 0 bytes, 1 lines"]
        connection.sendall(b"G")
        until(lambda: not server.server_state.connections, "it was cut off")


def test_too_large_a_head_behind_a_slow_answer_adds_nothing_to_it() -> None:
    with running() as (_, connect):
        connection = connect()
        connection.sendall(GET.replace(b"/a", b"/slow") + GET + b"GET /a HTTP/1.1\r\na: " + b"x" * 90_000 + b"\r\n\r\n")
        assert b"400" not in closed(connection)


def test_pipelined_requests_are_answered_in_turn() -> None:
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    with running() as (_, connect):
        connection = connect()
        connection.sendall((GET + post) * 20)
        assert answers(connection, 40) == [b"200 0 bytes, 1 lines", b"200 3 bytes, 2 lines"] * 20


@pytest.mark.parametrize("trailer", [b"", b"Digest: x\r\nHost: evil\r\n"])
def test_large_chunked_bodies_pass_and_trailers_are_dropped(trailer: bytes) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running() as (_, connect):
        connection = connect()
        for _ in range(2):
            connection.sendall(head)
            for _ in range(30):
                connection.sendall(b"186a0\r\n" + b"x" * 100_000 + b"\r\n")
            connection.sendall(b"1\r\nx\r\n" * 50_000)
            connection.sendall(b"0\r\n" + trailer + b"\r\n")
            assert answers(connection) == [b"200 3050000 bytes, 2 lines"]


def test_the_rest_of_an_answered_body_keeps_no_connection_open() -> None:
    with running(keep_alive=1) as (server, connect):
        connection = connect()
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        assert answers(connection) == [b"200 0 bytes, 2 lines"]
        connection.sendall(b"x")
        until(lambda: not server.server_state.connections, "it was closed")
