from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.errors import OperatorError
from core.settings import Settings
from storage import LocalStore, S3Store, open_store
from tests.storage import swift_server
from tests.storage.conftest import BUCKET

S3 = {"BUCKET": BUCKET, "REGION": "us-east-1", "ACCESS_KEY": swift_server.USER, "SECRET_KEY": swift_server.KEY}


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KILLATAMATA_SECRET_KEY", raising=False)
    monkeypatch.setenv("KILLATAMATA_DATA_DIR", str(tmp_path / "data"))


def configure(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"KILLATAMATA_S3_{name}", value)
    return Settings()


def test_without_a_bucket_it_is_a_folder(tmp_path: Path) -> None:
    store = open_store(Settings(), "http://x")
    assert isinstance(store, LocalStore)
    store.put("a", b"x", "image/webp")
    assert store.path("a").is_relative_to(tmp_path / "data")


def test_with_a_bucket_it_is_that_s3(monkeypatch: pytest.MonkeyPatch, swift: str, tmp_path: Path) -> None:
    settings = configure(monkeypatch, **S3, ENDPOINT_URL=swift, PREFIX="test-factory/deep/")
    store = open_store(settings, "")
    assert isinstance(store, S3Store)
    store.put("jobs/a/1", b"x", "image/webp")
    assert open_store(configure(monkeypatch, PREFIX="test-factory/"), "").read("deep/jobs/a/1") == b"x"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("missing", ["ACCESS_KEY", "SECRET_KEY", "BUCKET"])
def test_half_of_the_settings_are_refused(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    settings = configure(monkeypatch, **{name: value for name, value in S3.items() if name != missing})
    with pytest.raises(OperatorError, match=f"KILLATAMATA_S3_{missing}") as refusal:
        open_store(settings, "http://x")
    assert swift_server.KEY not in str(refusal.value)


def test_an_s3_signs_with_the_secret_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    local = open_store(Settings(), "http://x").url("a", expires_at=datetime(2026, 1, 1, tzinfo=UTC), filename="b")
    store = open_store(configure(monkeypatch, **S3), "http://x")
    assert store.url("a", expires_at=datetime(2026, 1, 1, tzinfo=UTC), filename="b") == local


def test_a_process_that_makes_no_urls_needs_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for settings in (Settings(), configure(monkeypatch, **S3)):
        with pytest.raises(ValueError, match="without a base URL"):
            open_store(settings, "").url("a", expires_at=datetime.now(UTC), filename="b")
    assert not (tmp_path / "data" / "secret").exists()


def test_downloads_are_sent_on_by_a_setting_that_needs_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILLATAMATA_S3_REDIRECT", "true")
    with pytest.raises(OperatorError, match="KILLATAMATA_S3_REDIRECT"):
        open_store(Settings(), "http://x")
    store = open_store(configure(monkeypatch, **S3), "http://x")
    assert store.direct_url("a", expires_at=datetime.now(UTC), filename="b") is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUCKET", ""),
        ("BUCKET", "a/b"),
        ("BUCKET", "../a"),
        ("ENDPOINT_URL", "s3.example.com"),
        ("ENDPOINT_URL", "ftp://s3.example.com"),
        ("ENDPOINT_URL", "https://user:hush@s3.example.com"),
        ("PREFIX", "no-slash"),
        ("PREFIX", "../"),
        ("PREFIX", "/"),
    ],
)
def test_a_bad_value_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=f"S3_{name}|s3_{name.lower()}"):
        configure(monkeypatch, **{**S3, name: value})


def test_the_secret_is_masked_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configure(monkeypatch, **S3)
    assert settings.sources()["s3_secret_key"] == ("**********", "environment (KILLATAMATA_S3_SECRET_KEY)")
    assert settings.sources()["s3_bucket"] == (BUCKET, "environment (KILLATAMATA_S3_BUCKET)")
    assert swift_server.KEY not in f"{settings.sources()} {settings!r} {settings}"
