from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.app import application, create_app
from api.server import listen
from api.services import Services
from core.settings import Settings
from tests.api.doubles import DatabaseDouble


async def test_it_starts_without_a_database_and_connects_when_there_is_one(
    services: Services, database: DatabaseDouble
) -> None:
    database.failure = ConnectionRefusedError("not yet")
    app = application(services)
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0.15)
        assert database.opened == 0
        database.failure = None
        async with asyncio.timeout(5):
            while not database.opened:
                await asyncio.sleep(0.01)
    assert (database.opened, database.closed) == (1, 1)


async def test_it_stops_while_the_database_is_away(services: Services, database: DatabaseDouble) -> None:
    database.failure = ConnectionRefusedError("not yet")
    app = application(services)
    async with asyncio.timeout(1), app.router.lifespan_context(app):
        pass
    assert (database.opened, database.closed) == (0, 1)


async def test_a_fault_in_the_settings_stops_the_start(services: Services, database: DatabaseDouble) -> None:
    database.failure = ValueError("no such scheme")
    app = application(services)
    with pytest.raises(ValueError, match="no such scheme"):
        await app.router.lifespan_context(app).__aenter__()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"public_url": "https://api.example.test/"}, "https://api.example.test"),
        ({"port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "0.0.0.0", "port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "::", "port": 8000}, "http://[::1]:8000"),
        ({"host": "api.example.test", "port": 80}, "http://api.example.test:80"),
    ],
)
def test_the_base_url(settings: dict[str, str], url: str) -> None:
    assert Settings.model_validate(settings).base_url == url


def test_without_what_it_needs_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "KILLATAMATA_DATABASE_URL", "KILLATAMATA_PORT", "KILLATAMATA_PUBLIC_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="PUBLIC_URL"):
        _ = Settings().base_url
    with pytest.raises(ValueError, match="DATABASE_URL"):
        create_app(Settings(data_dir=tmp_path, port=8000))


@pytest.fixture(params=[1, 2])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real ingress on a socket that this process opened; its database is a closed port."""
    with listen("127.0.0.1", 0) as listening, listen("127.0.0.1", 0) as closed:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        environment = os.environ | {
            "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{closed.getsockname()[1]}/none",
            "KILLATAMATA_DATA_DIR": str(tmp_path),
            "KILLATAMATA_INGRESS_WORKERS": str(request.param),
            "KILLATAMATA_SECRET_KEY": "k" * 32,
        }
        closed.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "api", "--fd", str(listening.fileno())],
            env=environment,
            pass_fds=[listening.fileno()],
            cwd=Path(__file__).parents[2],
        )
    try:
        yield process, address
    finally:
        process.kill()
        process.wait()


def test_a_real_server_answers_and_stops(server: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = server
    with httpx.Client(base_url=address, timeout=30) as client:
        answer = client.get("/health")
        assert answer.json() == {"status": "ok"}
        assert "server" not in answer.headers
        assert client.head("/openapi.json").status_code == 200
        key = {"x-api-key": "kt_aaaaaaaa_" + "s" * 32}
        away = client.get("/api/v1/balance", headers=key)
        assert (away.status_code, away.headers["retry-after"]) == (503, "2")
        assert client.get("/openapi.json").json()["servers"] == [{"url": address}]
    port = int(address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"NONSENSE\r\n\r\n")
        assert b"400 Bad Request" in raw.recv(1000)
    process.terminate()
    before = time.monotonic()
    process.wait(15)
    assert time.monotonic() - before < 10
