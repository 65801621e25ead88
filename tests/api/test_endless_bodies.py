"""Bodies larger than any that is taken, over a real socket: the sender is told so, cut off, and nothing of it stays."""

from __future__ import annotations

import dataclasses
import itertools
import socket
from collections.abc import Iterable
from contextlib import suppress

import httpx
import pytest

from api.services import Services
from tests.api.doubles import KEY
from tests.api.serving import served, until

PATH = "/api/v1/keys"
CAP = 4_000_000
ON_THE_WAY = 16_000_000
"""What the sockets' buffers of both ends may hold besides, and more."""
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\nContent-Type: application/json\r\n"
PIECE = b" " * 65_536
CHUNK = b"10000\r\n" + PIECE + b"\r\n"


@pytest.fixture
def capped(services: Services) -> Services:
    return dataclasses.replace(services, settings=services.settings.model_copy(update={"max_body_bytes": CAP}))


def cut_off(port: int, framing: str, pieces: Iterable[bytes]) -> tuple[bytes, int]:
    """What the server said, and how many bytes of the body it let be sent before it closed the connection."""
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sender:
        sender.sendall(f"{HEAD}{framing}\r\n\r\n".encode())
        with suppress(ConnectionError):
            for piece in pieces:
                sender.sendall(piece)
                sent += len(piece)
            pytest.fail("the server took it all")
        with suppress(ConnectionError):
            while part := sender.recv(65_536):
                answer += part
    return answer, sent


@pytest.mark.parametrize(
    ("framing", "pieces", "least", "most"),
    [
        ("Transfer-Encoding: chunked", itertools.repeat(CHUNK), CAP, CAP + ON_THE_WAY),
        ("Content-Length: 100000000", itertools.repeat(PIECE, 100_000_000 // len(PIECE)), 0, ON_THE_WAY),
    ],
    ids=["chunked without end", "100 MB declared"],
)
def test_whoever_sends_too_much_is_told_and_cut_off(
    capped: Services, framing: str, pieces: Iterable[bytes], least: int, most: int
) -> None:
    with served(capped) as port:
        answer, sent = cut_off(port, framing, pieces)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in head.lower()
        assert b'"body_too_large"' in body
        assert least <= sent < most
        until(lambda: capped.room.taken == 0, "the room is free again")
        url, headers = f"http://127.0.0.1:{port}{PATH}", {"x-api-key": KEY}
        assert httpx.post(url, json={"label": "x"}, headers=headers).is_success
