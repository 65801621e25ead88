"""Settings: every one is an environment variable `KILLATAMATA_<NAME>`; `DATABASE_URL` also goes by its common name."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from contextlib import suppress
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.addresses import parse_allowed

PREFIX = "KILLATAMATA_"

_PASSWORD = re.compile(r"(://[^:/@]*:|[?&]password=)(?:[^/]*(?=@)|(?<=password=)[^&]*)")


class Settings(BaseSettings):
    """What an operator can set. Every process of a stack reads the same environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    data_dir: Path = Field(
        Path(".killatamata"), description="Everything embedded lives here: database, objects, weights, secrets."
    )
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("KILLATAMATA_DATABASE_URL", "DATABASE_URL"),
        description="PostgreSQL 15 or newer; absent: the embedded server under the data folder.",
    )
    database_url_direct: str | None = Field(
        None,
        validation_alias=AliasChoices("KILLATAMATA_DATABASE_URL_DIRECT", "DATABASE_URL_DIRECT"),
        description="The same database without a pooler between (LISTEN needs one); absent: database_url.",
    )
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = Field(8, description="Connections per process.")
    host: str = Field("127.0.0.1", description="Address the ingress listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="Port of the ingress; 0: a free one.")
    ingress_workers: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Ingress processes.")
    public_url: str | None = Field(None, description="Base URL that callers use; absent: made from host and port.")
    secret_key: SecretStr | None = Field(
        None,
        description="At least 32 characters; signs URLs and quotes, peppers keys. Absent: kept in the data folder.",
    )
    fleet: str = Field("embedded", description="Name of a file in deployments/fleets, or a path.")
    fleet_memory_gib: Annotated[float, Field(gt=0)] = Field(
        4, description="Host memory that the fleet's replicas may declare in all, in GiB; whoever goes beyond waits."
    )
    fleet_seconds: Annotated[float, Field(gt=0)] = Field(
        120, description="How long a fleet may take to come up; production weights take many minutes the first time."
    )
    cpu_slots: Annotated[int, Field(ge=1)] = Field(
        max(1, (os.cpu_count() or 1) // 2),
        description="Segments without a model (encoding, combining) that run at once in the cluster; half the cores.",
    )
    price_book: Path | None = Field(None, description="The operator's price book (TOML); absent: the built-in one.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool | None = Field(None, description="Absent: JSON unless the log goes to a terminal.")
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(64_000_000, description="Largest JSON body.")
    max_bodies_bytes: Annotated[int, Field(ge=1024)] = Field(
        512_000_000,
        description="Bodies that one ingress process takes in at a time, a quarter of it from one account; it needs twice "
        "as much memory.",
    )
    output_url_seconds: Annotated[int, Field(ge=1)] = Field(3600, description="Life of a signed output URL.")
    output_days: Annotated[float, Field(gt=0)] = Field(7, description="Outputs are kept this long after a job's end.")
    job_days: Annotated[float, Field(ge=1)] = Field(
        400,
        description="Records of jobs are kept this long after a job's end, and as long as its outputs; the ledger stays.",
    )
    upload_hours: Annotated[float, Field(gt=0)] = Field(24, description="Life of an upload, its URLs and its file.")
    uploads_most: Annotated[int, Field(ge=1)] = Field(100, description="Uploads that an account may have at a time.")
    uploads_bytes_most: Annotated[int, Field(ge=1)] = Field(
        5_000_000_000, description="Bytes that these may have in all."
    )
    inline_bytes_a_day: Annotated[int, Field(ge=0)] = Field(
        5_000_000_000, description="Bytes of files that an account may send inside requests within 24 hours."
    )
    provenance: bool = Field(True, description="Write into every output which recipe made it (docs/provenance.md).")
    quote_minutes: Annotated[float, Field(gt=0)] = Field(15, description="Life of a quoteToken.")
    start_timeout_seconds: Annotated[int, Field(ge=1)] = Field(
        3600, description="A job not started by then fails, at no cost."
    )
    event_token_seconds: Annotated[int, Field(ge=1)] = Field(3600, description="Life of the token in an eventsUrl.")
    event_streams_per_key: Annotated[int, Field(ge=1)] = Field(
        10, description="Event streams that one key may have open, in each ingress process."
    )
    prefer_wait_seconds: Annotated[int, Field(ge=0)] = Field(60, description="Longest Prefer: wait of a submit.")
    running_cancels_a_day: Annotated[int, Field(ge=0)] = Field(
        20,
        description="Running jobs that an account may cancel, deadlines included; more pause its submits for ten minutes.",
    )
    writes_per_minute: Annotated[int, Field(ge=0)] = Field(120, description="Of each key; 0: no limit.")
    reads_per_minute: Annotated[int, Field(ge=0)] = Field(1200, description="Of each key; 0: no limit.")
    requests_per_minute_without_key: Annotated[int, Field(ge=0)] = Field(
        30, description="Of each address, wrong keys included; 0: no limit."
    )
    rate_limit_store: Annotated[str, Field(pattern=r"^(rediss?|unix)://")] | None = Field(
        None, description="A Redis that all ingress processes count in; absent: each counts for itself."
    )
    trusted_proxies: str = Field(
        "", description="Addresses and networks, comma-separated, of proxies whose X-Forwarded-For is believed."
    )
    metrics_token: Annotated[SecretStr, Field(min_length=16)] | None = Field(
        None,
        description="Opens /metrics, as a bearer token; absent: /metrics answers this machine alone, and with a public_url "
        "nobody.",
    )
    egress_allow: str = Field(
        "",
        description="Networks (10.1.0.0/16) and host:port, comma-separated, that users' URLs may lead to besides public "
        "addresses.",
    )

    s3_bucket: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$")] | None = Field(
        None, description="Artifacts go into this existing bucket; absent: into the data folder."
    )
    s3_endpoint_url: Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")] | None = Field(
        None, description="Where an S3 other than Amazon's answers."
    )
    s3_region: str | None = Field(None, description="Absent: as the AWS tools find it.")
    s3_access_key: str | None = Field(
        None, description="With s3_secret_key; both absent: as the AWS tools find them (environment, profile, role)."
    )
    s3_secret_key: SecretStr | None = None
    s3_prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,127}/)*$")] = Field(
        "", description="What our keys in the bucket begin with; ends with a slash."
    )
    s3_redirect: bool = Field(
        False, description="Send downloads on to presigned URLs of the bucket, which callers must then reach."
    )

    @field_validator("egress_allow")
    @classmethod
    def _readable(cls, text: str) -> str:
        parse_allowed(text)
        return text

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, text: str) -> str:
        for part in filter(None, map(str.strip, text.split(","))):
            ip_network(part)
        return text

    @cached_property
    def base_url(self) -> str:
        """The URL that callers use, without a slash at its end.

        Raises:
            ValueError: `public_url` is absent and the port is not yet known.
        """
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        if self.port == 0:
            raise ValueError("set KILLATAMATA_PUBLIC_URL, or a port: with port 0 no URL can be made")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 (compared, not bound)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @cached_property
    def root(self) -> Path:
        """The data folder, absolute, made private (0700) when it does not exist."""
        root = self.data_dir.expanduser().absolute()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return root

    @cached_property
    def runtime_dir(self) -> Path:
        """A short private folder for sockets (an AF_UNIX path ends at 107 bytes), named by a hash of the data folder.

        Raises:
            PermissionError: the folder exists and belongs to somebody else.
        """
        name = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:10]
        folder = Path(tempfile.gettempdir()) / f"kt-{os.geteuid()}-{name}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise PermissionError(f"{folder} is not a private folder of this user; remove it and start again")
        return folder

    @cached_property
    def key(self) -> bytes:
        """The secret that signs and peppers, at least 32 bytes.

        Raises:
            ValueError: `secret_key`, or the file that keeps it, is too short.
        """
        if self.secret_key is not None:
            key = self.secret_key.get_secret_value().encode()
            if len(key) < 32:
                raise ValueError(f"{PREFIX}SECRET_KEY must have at least 32 characters")
            return key
        path = self.root / "secret"
        if not path.exists():
            _write_once(path, secrets.token_hex(32).encode())
        key = path.read_bytes()
        if len(key) < 32:
            raise ValueError(f"{path} is damaged: restore it, or remove it together with every key and URL it made")
        return key

    def sources(self) -> dict[str, tuple[str, str]]:
        """Every setting's value (secrets masked) and where it came from: `environment` or `default`."""
        found: dict[str, tuple[str, str]] = {}
        for name in type(self).model_fields:
            names = [PREFIX + name.upper(), *([name.upper()] if name.startswith("database_url") else [])]
            variable = next((candidate for candidate in names if candidate in os.environ), None)
            value = _PASSWORD.sub(r"\1**********", str(getattr(self, name)))
            found[name] = (value, f"environment ({variable})" if variable else "default")
        return found


def _write_once(path: Path, content: bytes) -> None:
    # A link appears whole or not at all: a process that starts beside this one reads no half of a secret.
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
