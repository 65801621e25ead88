"""A receiver of webhooks that is down, slow, broken or elsewhere, as the storm wants it; and what it was told."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from tests.chaos.storm.ground import Json, note, told

MODES = ("down", "slow", "broken", "redirecting")
_SLOW_SECONDS = 5.0


class Receiver:
    """Listens while the block lasts. `heard` has the notices, each with the path it came to."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Json]] = []
        self.forged = 0
        self.secrets: dict[str, str] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            def do_GET(self) -> None:
                receiver.forged += 1
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)

    def url(self, account: str, name: str) -> str:
        """Where notices of `name` go to; `account` chooses the secret."""
        return f"http://127.0.0.1:{self._server.server_port}/{account}/{name}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        wish = told("receiver")
        wrong = wish["mode"] if wish and time.time() < wish["until"] else None
        if wrong:
            note("receiver", what=wrong)
        if wrong == "down":
            request.close_connection = True
            return
        body = request.rfile.read(int(request.headers["Content-Length"]))
        if wrong == "slow":
            time.sleep(_SLOW_SECONDS)
        if wrong == "redirecting":
            request.send_response(302)
            request.send_header("Location", f"http://127.0.0.1:{self._server.server_port}/elsewhere/x")
        elif wrong == "broken":
            request.send_response(500)
        else:
            self._hear(request, body)
            request.send_response(200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _hear(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        _, account, _name = request.path.split("/", 2)
        try:
            notice = Webhook(self.secrets[account]).verify(body, dict(request.headers))
        except (WebhookVerificationError, KeyError):
            self.forged += 1
            return
        self.heard.append((request.path, notice))
