"""What the background process tells the bucket at its start: lifecycles on moto, their absence on Swift."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.services import Services
from core.settings import Settings
from killatamata.background import Background
from killatamata.sweeps import SWEEPS, set_lifecycle
from storage.s3 import S3Store
from tests.leasing import until_true
from tests.storage.conftest import BUCKET, access, client_of, moto, no_aws, swift
from tests.webhooks.scene import FAST, Scene, settings

__all__ = ["moto", "no_aws", "swift"]


def with_bucket(scene: Scene, folder: Path, endpoint: str, **changes: Any) -> Services:
    """Services like the scene's whose files lie in the bucket, below `ours/`."""
    s3 = {f"s3_{name}": value for name, value in access(endpoint).items()}
    ours = settings(scene.database.url, folder).model_dump() | {"s3_bucket": BUCKET, "s3_prefix": "ours/"} | s3
    return Services.of(Settings(**(ours | {"database_url": scene.database.url} | changes)))


@asynccontextmanager
async def started(services: Services) -> AsyncIterator[None]:
    """The background process without a sweep."""
    running = asyncio.create_task(Background(services, schedule=FAST, sweeps=()).run())
    try:
        yield
        assert not running.done(), running.exception()
    finally:
        running.cancel()
        await asyncio.wait({running})


def endpoint_of(store: S3Store) -> str:
    address: str = client_of(store).meta.endpoint_url
    return address


def rules(store: S3Store) -> dict[str, int]:
    """The days of each prefix; empty without a lifecycle."""
    client = client_of(store)
    try:
        found = client.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return {}
    return {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in found}


async def test_every_start_gives_the_bucket_the_rules_of_the_settings(
    scene: Scene, tmp_path: Path, moto: S3Store
) -> None:
    assert rules(moto) == {}
    foreign = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    client_of(moto).put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": [foreign]})

    async def at_start(**changes: Any) -> dict[str, int]:
        before = await asyncio.to_thread(rules, moto)
        async with started(with_bucket(scene, tmp_path, endpoint_of(moto), **changes)):

            async def changed() -> bool:
                now = await asyncio.to_thread(rules, moto)
                return {"ours/jobs/", "ours/up/"} <= now.keys() and all(
                    now[prefix] != before.get(prefix) for prefix in ("ours/jobs/", "ours/up/")
                )

            await until_true(changed, "both rules", 30)
        return await asyncio.to_thread(rules, moto)

    assert await at_start() == {"logs/": 3, "ours/jobs/": 9, "ours/up/": 2}
    assert await at_start(output_days=0.5, upload_hours=25) == {"logs/": 3, "ours/jobs/": 3, "ours/up/": 3}


class Said:
    """A log that keeps every line, whatever level another test has set."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, event: str, **_: Any) -> None:
        self.lines.append(("info", event))

    def warning(self, event: str, **_: Any) -> None:
        self.lines.append(("warning", event))


async def test_a_server_without_lifecycles_is_told_of_and_no_error(
    scene: Scene, tmp_path: Path, swift: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Said()
    monkeypatch.setattr("killatamata.sweeps._log", said)
    async with started(with_bucket(scene, tmp_path, swift)):
        await until_true(lambda: said.lines, "the line in the log", 30)
    assert said.lines == [("info", "the bucket's server has no lifecycles; the sweeps alone delete files")]


async def test_a_bucket_that_refuses_stops_nothing(scene: Scene, tmp_path: Path, moto: S3Store) -> None:
    services = with_bucket(scene, tmp_path, endpoint_of(moto), s3_bucket="another")
    with capture_logs() as logged:
        async with started(services):
            await until_true(
                lambda: any(entry["event"].startswith("the bucket's lifecycle was not set") for entry in logged),
                "the line in the log",
                30,
            )
            await asyncio.sleep(0.2)
    (entry,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert "NoSuchBucket" in entry["error"]


async def test_it_is_said_again_every_night(scene: Scene, tmp_path: Path, moto: S3Store) -> None:
    (nightly,) = (sweep for sweep in SWEEPS if sweep.run is set_lifecycle)
    await nightly.run(with_bucket(scene, tmp_path, endpoint_of(moto)))
    # None for `in/`: a job that waits may need an input of long ago.
    assert rules(moto) == {"ours/jobs/": 9, "ours/up/": 2}
