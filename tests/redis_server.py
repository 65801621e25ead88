"""A real Redis on a Unix socket, for the tests of what several processes count together."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from tests.conftest import absent

START_SECONDS = 20


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its URL; `.ci/run` installs the program, elsewhere the test is skipped without it."""
    program = shutil.which("redis-server")
    if program is None:
        absent("redis-server is not installed (Debian: apt-get install redis-server)")
    socket = folder / "redis.sock"
    options = {"--port": "0", "--unixsocket": str(socket), "--save": "", "--appendonly": "no", "--dir": str(folder)}
    command = [program, *(word for option in options.items() for word in option)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(process, str(socket))
        yield process, f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], socket: str) -> None:
    end = time.monotonic() + START_SECONDS
    with Redis(unix_socket_path=socket) as client:
        while True:
            try:
                client.ping()
            except NotThere:
                assert process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)
            else:
                return
