"""A small real server on loopback that answers what a test tells it to, broken connections included."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Answer = Response | Callable[[], Response]


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Api:
    """Answers in turn what it was told to, by method and path or else to everything; the last answer stays."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.base_url = ""
        self._scripts: dict[tuple[str, str], list[Answer]] = {}
        self._rest: list[Answer] = []
        self._asked = threading.Condition()

    def will(self, *answers: Answer) -> None:
        self._rest = list(answers)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._scripts[method, path] = list(answers)

    def seen(self, method: str, path: str) -> list[Seen]:
        return [each for each in self.requests if (each.method, each.path) == (method, path)]

    def wait_for(self, method: str, path: str) -> None:
        with self._asked:
            assert self._asked.wait_for(lambda: self.seen(method, path), 60)

    async def answer(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            body = b"cut"
        path = request.url.path
        with self._asked:
            seen = Seen(request.method, path, dict(request.query_params), dict(request.headers), body)
            self.requests.append(seen)
            self._asked.notify_all()
        script = self._scripts.get((request.method, path), self._rest)
        if not script:
            return JSONResponse({"error": "not_found", "details": {"message": f"no script for {path}"}}, 404)
        answer = script.pop(0) if len(script) > 1 else script[0]
        return answer if isinstance(answer, Response) else answer()


class Cut(Response):
    """A connection that breaks before the answer is whole."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"100")]})
        raise ConnectionResetError("cut")


def busy(retry_after: str | None = "0", code: str = "database_unavailable", status: int = 503) -> Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return JSONResponse({"error": code, "details": {"message": "again"}}, status, headers)


def stream(*parts: str, cut: bool = False, type: str = "text/event-stream") -> Callable[[], Response]:
    """Server-sent events; `cut` breaks the connection behind them."""

    async def content() -> AsyncIterator[str]:
        for part in parts:
            yield part
        if cut:
            raise ConnectionResetError("cut")

    return lambda: StreamingResponse(content(), media_type=type)


@contextmanager
def running() -> Iterator[Api]:
    api = Api()
    methods = ["GET", "POST", "PUT", "DELETE"]
    listening = socket.create_server(("127.0.0.1", 0))
    api.base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    app = Starlette(routes=[Route("/{path:path}", api.answer, methods=methods)])
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield api
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
