"""A web server of files on the loopback interface, one of which may never come."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class FileServer:
    """Files by name; `asked` is set once somebody waits for one that never comes. `served` are names, one a request.

    With a `gate` nobody is answered before so many ask at once.
    """

    gate: threading.Barrier | None = None

    def __init__(self) -> None:
        self._files: dict[str, bytes | None] = {}
        self.served: list[str] = []
        self.asked = threading.Event()
        self._over = threading.Event()
        outer = self

        class Files(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                content = outer._files.get(name)
                outer.served.append(name)
                if outer.gate is not None:
                    outer.gate.wait(30)
                if name in outer._files and content is None:
                    outer.asked.set()
                    outer._over.wait(60)
                    return
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name: str, content: bytes) -> str:
        """Serve `content`; its URL."""
        self._files[name] = content
        return f"{self.url}/{name}"

    def hang(self, name: str) -> str:
        """The URL of a file whose server never answers."""
        self._files[name] = None
        return f"{self.url}/{name}"

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def files() -> Iterator[FileServer]:
    server = FileServer()
    yield server
    server.close()
