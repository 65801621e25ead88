from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import UnexpectedAnswer, request, send, send_from_process
from benchmarks.processes import ProcessFailed

BODY = b'{"task": "image.generate"}'


@asynccontextmanager
async def serving(answer: Callable[[bytes], bytes], pieces: int = 1) -> AsyncIterator[int]:
    """A server that answers each request, given without its head, by `answer`, written in so many pieces."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(len(BODY)) if head.startswith(b"POST") else b""
                text = answer(body)
                step = -(-len(text) // pieces)
                for start in range(0, len(text), step):
                    writer.write(text[start : start + step])
                    await writer.drain()
                    await asyncio.sleep(0)
                if b"Connection: close" in text:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


def accepted(body: bytes) -> bytes:
    assert body in (BODY, b"")
    return b"HTTP/1.1 202 Accepted\r\ncontent-length: 12\r\n\r\n" + b"{" + b" " * 10 + b"}"


@pytest.mark.parametrize("pieces", [1, 3, 30])
async def test_answers_are_counted_however_they_arrive(pieces: int) -> None:
    async with serving(accepted, pieces) as port:
        done = await send(port, [request("POST", "/jobs", "kt_key", BODY), request("GET", "/", "kt_key")], 202, 0.2)
    assert done.per_second > 20
    assert 0 < done.p50_ms <= done.p99_ms


async def test_another_status_ends_it_with_the_answer() -> None:
    async with serving(lambda _: b"HTTP/1.1 402 Payment Required\r\nContent-Length: 8\r\n\r\nno money") as port:
        with pytest.raises(UnexpectedAnswer, match=r"402 instead of 202(.|\n)*no money"):
            await send(port, [request("POST", "/jobs", "kt_key", BODY)], 202, 5)


async def test_a_closed_connection_ends_it() -> None:
    async with serving(lambda _: b"HTTP/1.1 202 Accepted\r\nContent-Length: 99\r\nConnection: close\r\n\r\n") as port:
        with pytest.raises(UnexpectedAnswer, match="closed"):
            await send(port, [request("GET", "/", "kt_key")], 202, 5)


async def test_an_answer_without_a_length_ends_it() -> None:
    async with serving(lambda _: b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n") as port:
        with pytest.raises(UnexpectedAnswer, match="no Content-Length"):
            await send(port, [request("GET", "/", "kt_key")], 202, 5)


async def test_it_runs_in_a_process_of_its_own_and_says_what_failed_there() -> None:
    async with serving(accepted) as port:
        assert (await send_from_process(port, [request("GET", "/", "kt_key")], 202, 0.1)).per_second > 10
        with pytest.raises(ProcessFailed, match="202 instead of 200"):
            await send_from_process(port, [request("GET", "/", "kt_key")], 200, 0.1)
