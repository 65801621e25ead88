from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from core.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith((PREFIX, "DATABASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KILLATAMATA_DATA_DIR", str(tmp_path / "data"))
    return


def test_an_empty_environment_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KILLATAMATA_DATA_DIR")
    settings = Settings()
    assert settings.data_dir == Path(".killatamata")
    assert settings.database_url is None
    assert settings.host == "127.0.0.1"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILLATAMATA_PORT", "8080")
    assert Settings().port == 8080


def test_the_database_goes_by_its_common_name_and_ours_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://common/db")
    assert Settings().database_url == "postgresql://common/db"
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", "postgresql://ours/db")
    assert Settings().database_url == "postgresql://ours/db"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "70000"),
        ("PORT", "http"),
        ("INGRESS_WORKERS", "0"),
        ("LOG_LEVEL", "loud"),
        ("OUTPUT_DAYS", "-1"),
        ("MAX_BODY_BYTES", "10"),
        ("EGRESS_ALLOW", "everything"),
        ("TRUSTED_PROXIES", "*"),
        ("TRUSTED_PROXIES", "127.0.0.1, proxy.example"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("WRITES_PER_MINUTE", "-1"),
        ("EVENT_STREAMS_PER_KEY", "0"),
        ("RATE_LIMIT_STORE", "memory://"),
        ("RATE_LIMIT_STORE", "localhost:6379"),
        ("METRICS_TOKEN", "short"),
        ("EGRESS_ALLOW", "10.0.0.1/8"),
    ],
)
def test_a_bad_value_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_the_root_is_absolute_private_and_made_when_missing() -> None:
    root = Settings().root
    assert root.is_absolute()
    assert root.stat().st_mode & 0o777 == 0o700


def test_runtime_folders_are_short_private_and_one_per_data_folder(tmp_path: Path) -> None:
    one, other = Settings(data_dir=tmp_path / "a"), Settings(data_dir=tmp_path / ("b" * 200))
    try:
        assert one.runtime_dir != other.runtime_dir
        assert one.runtime_dir == Settings(data_dir=tmp_path / "." / "a").runtime_dir
        assert one.runtime_dir.stat().st_mode & 0o777 == 0o700
        assert len(other.runtime_dir.name) < 32
    finally:
        one.runtime_dir.rmdir()
        other.runtime_dir.rmdir()


@pytest.mark.parametrize("trap", ["open", "link"])
def test_a_runtime_folder_that_others_can_reach_is_refused(
    trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Settings().runtime_dir
    folder.rmdir()
    if trap == "open":
        folder.mkdir()
        folder.chmod(0o755)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="not a private folder"):
        _ = Settings().runtime_dir


def test_the_key_is_made_once_and_kept_private() -> None:
    settings = Settings()
    key = settings.key
    assert len(key) >= 32
    assert Settings().key == key
    assert (settings.root / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in settings.root.iterdir()] == ["secret"]


def test_two_data_folders_have_two_keys(tmp_path: Path) -> None:
    assert Settings(data_dir=tmp_path / "a").key != Settings(data_dir=tmp_path / "b").key


def test_processes_that_start_together_agree_on_the_key() -> None:
    program = (
        "import sys; from core.settings import Settings; print('ready', flush=True); input(); print(Settings().key)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=60)[0] for process in started}
    assert keys == {f"{Settings().key!r}\n"}


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_damaged_key_file_is_no_key(content: bytes) -> None:
    settings = Settings()
    (settings.root / "secret").write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        _ = settings.key


def test_a_given_key_must_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILLATAMATA_SECRET_KEY", "x" * 31)
    with pytest.raises(ValueError, match="at least 32"):
        _ = Settings().key
    monkeypatch.setenv("KILLATAMATA_SECRET_KEY", "x" * 32)
    assert Settings().key == b"x" * 32


def test_sources_tell_where_a_value_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILLATAMATA_PORT", "8080")
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/db")
    sources = Settings().sources()
    assert sources["port"] == ("8080", "environment (KILLATAMATA_PORT)")
    assert sources["database_url"] == ("postgresql://h/db", "environment (DATABASE_URL)")
    assert sources["host"] == ("127.0.0.1", "default")
    assert sources.keys() == Settings.model_fields.keys()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@host:5432/db",
        "postgresql://user:a@s3cret:b@host/db",
        "postgresql://:s3cret@host/db",
        "postgresql://host/db?user=u&password=s3cret&x=y",
        "postgresql://host/db?password=s3/cret",
    ],
)
def test_sources_mask_passwords(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("KILLATAMATA_SECRET_KEY", "s3cret" * 8)
    monkeypatch.setenv("KILLATAMATA_METRICS_TOKEN", "s3cret" * 8)
    monkeypatch.setenv("KILLATAMATA_RATE_LIMIT_STORE", "redis://:s3cret@host:6379/0")
    shown = str([value for value, _ in Settings().sources().values()])
    assert "s3" not in shown
    assert "host" in shown


def test_sources_leave_a_port_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILLATAMATA_PUBLIC_URL", "http://127.0.0.1:8080")
    assert Settings().sources()["public_url"][0] == "http://127.0.0.1:8080"
