"""A real S3 for the tests of storage: Swift's, in a process beside them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from storage.s3 import S3Store
from tests.conftest import absent
from tests.storage import swift_server

BUCKET = "tests"
BASE_URL = "https://media.example"
SECRET = b"k" * 32

_numbers = itertools.count()


def needs(*packages: str) -> None:
    """Skip a test unless these packages are there (see `absent`)."""
    for each in packages:
        if find_spec(each) is None:
            absent(f"{each} is not installed: no S3 to test against")


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a running Swift, whose bucket `BUCKET` exists."""
    needs("boto3", "swift")
    folder = tmp_path_factory.mktemp("swift")
    try:
        os.setxattr(folder, "user.killatamata", b"1")
    except OSError as error:
        absent(f"Swift needs user xattrs, and {folder} has none: {error}")
    log = folder / "log"
    command = [sys.executable, swift_server.__file__, str(folder)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, log.read_text()
        endpoint = f"http://127.0.0.1:{port}"
        client_of(S3Store(BUCKET, **access(endpoint))).create_bucket(Bucket=BUCKET)
        yield endpoint
        process.kill()


def access(endpoint: str) -> dict[str, Any]:
    """How an `S3Store` reaches the Swift at `endpoint`."""
    key = SecretStr(swift_server.KEY)
    return {"endpoint_url": endpoint, "region": "us-east-1", "access_key": swift_server.USER, "secret_key": key}


def client_of(store: S3Store) -> Any:
    """The boto3 client behind `store`, to do what a store cannot."""
    return store._client


@pytest.fixture
def make_s3(swift: str) -> Callable[..., S3Store]:
    """Makes stores in `BUCKET`, below a prefix of this test's own unless told otherwise."""
    ours = {"base_url": BASE_URL, "key": SECRET, "prefix": f"test-{next(_numbers)}/"}
    return lambda bucket=BUCKET, **options: S3Store(bucket, **{**access(swift), **ours, **options})


@pytest.fixture
def s3(make_s3: Callable[..., S3Store]) -> S3Store:
    """An empty store in a real S3."""
    return make_s3()


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the user's own AWS configuration reaches a test."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "KILLATAMATA_S3_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def moto(tmp_path: Path) -> Iterator[S3Store]:
    """An empty store in moto, which knows lifecycles (and checks no signature)."""
    needs("boto3", "moto")
    with (
        (tmp_path / "log").open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, (tmp_path / "log").read_text()
        store = S3Store(BUCKET, **access(f"http://127.0.0.1:{port}"), prefix="ours/")
        client_of(store).create_bucket(Bucket=BUCKET)
        yield store
        process.kill()
