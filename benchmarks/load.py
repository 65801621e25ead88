"""Load: keep-alive HTTP/1.1 connections that each send one request again and again; a process of its own.

`python -m benchmarks.load` reads a JSON object `{"port", "seconds", "status", "requests"}` from standard input, one request
(its bytes as Latin-1) per connection, and writes a round as JSON. An answer with another status ends it with an error.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import cast

import uvloop

from benchmarks.measuring import ROUND_SECONDS, Round
from benchmarks.processes import from_process

_PATIENCE_SECONDS = 30


class UnexpectedAnswer(Exception):
    """The server answered something else, or closed the connection."""


class _Connection(asyncio.Protocol):
    """One request at a time until the deadline; `done` then gives every latency in seconds."""

    def __init__(self, request: bytes, status: int, deadline: float) -> None:
        self._request, self._status, self._deadline = request, status, deadline
        self._received = bytearray()
        self._needed: int | None = None
        self._latencies: list[float] = []
        self._began = 0.0
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by class.
        self._transport = cast(asyncio.Transport, transport)
        self._send(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._needed is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _content_length(bytes(self._received[:end]))
            if length is None:
                self._fail("the answer has no Content-Length")
                return
            self._needed = end + 4 + length
        if len(self._received) < self._needed or self.done.done():
            return
        now = time.perf_counter()
        status = int(self._received[9:12])
        if status != self._status:
            self._fail(f"{status} instead of {self._status}: {self._received.decode(errors='replace')[-500:]}")
            return
        self._latencies.append(now - self._began)
        assert self._transport is not None
        if now < self._deadline:
            self._send(self._transport)
        else:
            self.done.set_result(self._latencies)
            self._transport.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(UnexpectedAnswer("the server closed the connection"))

    def _send(self, transport: asyncio.Transport) -> None:
        self._received.clear()
        self._needed = None
        self._began = time.perf_counter()
        transport.write(self._request)

    def _fail(self, why: str) -> None:
        self.done.set_exception(UnexpectedAnswer(why))
        assert self._transport is not None
        self._transport.abort()


def _content_length(head: bytes) -> int | None:
    for field in head.split(b"\r\n")[1:]:
        name, _, value = field.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


def request(method: str, target: str, key: str, body: bytes = b"") -> str:
    """A request as this program sends it; a body is JSON."""
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head + "\r\n" + body.decode("latin-1")


async def send(port: int, requests: Sequence[str], status: int, seconds: float) -> Round:
    """Send each of `requests` over a connection of its own for so long.

    Raises:
        UnexpectedAnswer: an answer without the status, or none.
        TimeoutError: a server that accepts connections and does not answer.
        OSError: nobody listens.
    """
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    made = [partial(_Connection, each.encode("latin-1"), status, began + seconds) for each in requests]
    connections = [(await loop.create_connection(each, "127.0.0.1", port))[1] for each in made]
    async with asyncio.timeout(seconds + _PATIENCE_SECONDS):
        latencies = await asyncio.gather(*(connection.done for connection in connections))
    return Round.of([each for mine in latencies for each in mine], time.perf_counter() - began)


async def send_from_process(port: int, requests: Sequence[str], status: int, seconds: float = ROUND_SECONDS) -> Round:
    """`send` in a process of its own, so that the measuring program's loop is not in the way.

    Raises:
        ProcessFailed: it failed.
    """
    order = {"port": port, "seconds": seconds, "status": status, "requests": requests}
    return Round(**await from_process("benchmarks.load", order))


def main() -> None:
    """The command."""
    order = json.load(sys.stdin)
    done = uvloop.run(send(order["port"], order["requests"], order["status"], order["seconds"]))
    json.dump(asdict(done), sys.stdout)


if __name__ == "__main__":
    main()
