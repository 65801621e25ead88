"""A receiver of webhooks as a customer would write it: Starlette on uvicorn, checking signatures with `standardwebhooks`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Answer = Callable[["Got"], Awaitable[Response] | Response]


@dataclass(frozen=True)
class Got:
    """One POST as it arrived: what `standardwebhooks` makes of it under each of the receiver's secrets."""

    id: str
    headers: dict[str, str]
    body: bytes
    notices: Sequence[dict[str, Any] | None]

    @property
    def notice(self) -> dict[str, Any]:
        """The body, signed with the receiver's one secret."""
        (found,) = self.notices
        assert found is not None, "the signature does not verify"
        return found


class Receiver:
    """Answers in turn by `answers`, the last one again and again; keeps what it got."""

    def __init__(self, *answers: Answer | int, secrets: Sequence[str] = ()) -> None:
        self.answers: list[Answer | int] = list(answers) or [200]
        self.secrets = list(secrets)
        self.got: list[Got] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=t"

    def _verified(self, secret: str, body: bytes, headers: dict[str, str]) -> dict[str, Any] | None:
        try:
            notice: dict[str, Any] = Webhook(secret).verify(body, headers)
        except WebhookVerificationError:
            return None
        return notice

    async def handle(self, request: Request) -> Response:
        body, headers = await request.body(), dict(request.headers)
        notices = [self._verified(secret, body, headers) for secret in self.secrets]
        answer = self.answers[min(len(self.got), len(self.answers) - 1)]
        self.got.append(Got(headers["webhook-id"], headers, body, notices))
        if isinstance(answer, int):
            return Response("secret of the receiver", answer)
        made = answer(self.got[-1])
        return made if isinstance(made, Response) else await made


async def never(_: Got) -> Response:
    """No answer, ever."""
    await asyncio.Event().wait()
    raise AssertionError


@asynccontextmanager
async def receiving(*answers: Answer | int, secrets: Sequence[str] = ()) -> AsyncIterator[Receiver]:
    """A receiver on a free port of the loopback."""
    receiver = Receiver(*answers, secrets=secrets)
    app = Starlette(routes=[Route("/{path:path}", receiver.handle, methods=["GET", "POST"])])
    config = uvicorn.Config(app, "127.0.0.1", 0, log_config=None, lifespan="off", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    with server.capture_signals():
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        receiver.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield receiver
        finally:
            server.should_exit = True
            await serving
