from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.testclient import TestClient

from accounts import idempotency
from api.app import application
from api.cursors import Cursors
from api.event_tokens import EventTokens
from api.rate_limits import RateLimits
from api.services import Services
from core.settings import Settings
from jobs.admission import Admission
from jobs.artifacts import Artifacts
from jobs.estimates import Estimates
from jobs.inputs import Inputs
from jobs.run_times import RunTimes
from jobs.snapshot import Queues
from jobs.uploads import UploadLimits, Uploads
from pricing.tokens import QuoteTokens
from storage import LocalStore
from tests.api.doubles import (
    KEY,
    BooksDouble,
    DatabaseDouble,
    HubDouble,
    JobsDouble,
    KeysDouble,
    RecordDouble,
    WakeupDouble,
    WebhooksDouble,
    begin,
)
from tests.storage.conftest import make_s3, no_aws, swift

BASE_URL = "https://api.example.test"
SECRET = b"k" * 32

__all__ = ["make_s3", "no_aws", "swift"]


@pytest.fixture
def database() -> DatabaseDouble:
    return DatabaseDouble()


@pytest.fixture
def jobs() -> JobsDouble:
    return JobsDouble()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "storage", BASE_URL, SECRET)


@pytest.fixture
def services(
    tmp_path: Path,
    database: DatabaseDouble,
    jobs: JobsDouble,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
) -> Services:
    records = RecordDouble()
    whatever: Any = database
    queues = Queues(whatever)
    monkeypatch.setattr(idempotency, "begin", records.begin)
    monkeypatch.setattr(idempotency, "record", records.record)
    monkeypatch.setattr(idempotency, "earlier", begin)
    doubles: Any = {
        "database": database,
        "keys": KeysDouble(database),
        "jobs": jobs,
        "price_books": BooksDouble(),
        "wakeup": WakeupDouble(),
        "webhooks": WebhooksDouble(jobs),
        "hub": HubDouble(),
    }
    settings = Settings(data_dir=tmp_path, secret_key="k" * 32, max_body_bytes=200_000, public_url=BASE_URL)
    return Services(
        settings=settings,
        base_url=BASE_URL,
        queues=queues,
        estimates=Estimates(queues, RunTimes(whatever)),
        admission=Admission(queues),
        quote_tokens=QuoteTokens(b"k" * 32),
        cursors=Cursors(b"k" * 32),
        event_tokens=EventTokens(b"k" * 32),
        store=store,
        inputs=Inputs(whatever, store),
        uploads=Uploads(store, UploadLimits(2, 40_000_000, 3600)),
        artifacts=Artifacts(whatever, store, 7),
        rate_limits=RateLimits.of(settings),
        **cast("dict[str, Any]", doubles),
    )


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    app = application(services)
    with TestClient(app, BASE_URL, raise_server_exceptions=False, headers={"x-api-key": KEY}) as client:
        yield client
