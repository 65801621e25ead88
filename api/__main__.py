"""`python -m api`: run the ingress on the host and port of the settings, or on a listening socket that was handed over."""

from __future__ import annotations

import argparse
import socket

from api.server import listen, serve
from core.log import configure
from core.settings import Settings


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m api", description="Run the ingress.")
    parser.add_argument("--fd", type=int, help="number of a listening socket's file descriptor")
    given = parser.parse_args()
    settings = Settings()
    configure(settings.log_level, json=settings.log_json)
    listening = listen(settings.host, settings.port) if given.fd is None else socket.socket(fileno=given.fd)
    serve(settings, listening)


if __name__ == "__main__":
    main()
