"""Artifacts in a bucket of any S3: Amazon's, Swift's, Ceph's, MinIO's.

SHA-256 and type travel with the object, as metadata and Content-Type. An S3 makes an object appear in one step, when
the put or the multipart upload is complete, so readers and dying writers need no care here. Every request body is signed
with its SHA-256, which any server that checks signatures checks too.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from pydantic import SecretStr

from storage.base import (
    Artifact,
    Draft,
    MissingObject,
    ObjectExists,
    StoreUnavailable,
    check_key,
    check_mime_type,
    check_prefix,
    check_range,
    is_key,
    open_source,
)
from storage.signing import UrlSigner, attachment, check_link

PART_BYTES = 8 << 20
"""Larger objects are uploaded in parts of this size, four at a time, unless they must not replace another."""

MAX_URL_SECONDS = 7 * 24 * 3600
"""The longest life that a presigned URL can have."""

_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_ATTEMPTS = 4
_CONNECTIONS = 32

_MISSING = {"NoSuchKey", "NotFound", "404"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_NO_LIFECYCLE = {"NotImplemented", "MethodNotAllowed"}
_BUCKET_ADVICE = "create the bucket that KILLATAMATA_S3_BUCKET names, or correct the name"
_ACCESS_ADVICE = (
    "check KILLATAMATA_S3_ACCESS_KEY and KILLATAMATA_S3_SECRET_KEY (or this machine's role), KILLATAMATA_S3_REGION and "
    "the clock, and let the key get, put, list and delete objects in the bucket"
)
_SERVER_ADVICE = (
    "check KILLATAMATA_S3_ENDPOINT_URL and KILLATAMATA_S3_REGION, the network, and whether the server is well"
)


class S3Store(UrlSigner):
    """A `Store` in the bucket `bucket`, which exists; every key there begins with `prefix` (empty, or ends with `/`).

    Without `endpoint_url` it is Amazon's S3, without keys and region they are found as the AWS tools find them. URLs are
    signed by `key` (32 bytes or more); with `redirect`, downloads are sent on to the bucket.
    """

    def __init__(
        self,
        bucket: str,
        *,
        base_url: str = "",
        key: bytes | None = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key: str | None = None,
        secret_key: SecretStr | None = None,
        prefix: str = "",
        redirect: bool = False,
    ) -> None:
        """Connects to nothing yet.

        Raises:
            InvalidKey: `prefix` is none.
            ValueError: `key` is too short.
            StoreUnavailable: the AWS tools' own configuration cannot be used.
        """
        super().__init__(base_url, key)
        if prefix:
            check_prefix(prefix)
        self._bucket = bucket
        self._prefix = prefix
        self._redirect = redirect
        with _translated():
            self._client = _connect(endpoint_url, region, access_key, secret_key)

    def put(self, key: str, data: bytes | Path | BinaryIO, mime_type: str, *, once: bool = False) -> Artifact:
        """See `Store.put`. With `once` an object has at most 5 GB, and the server must know `If-None-Match`."""
        check_key(key)
        check_mime_type(mime_type)
        if isinstance(data, bytes):
            artifact = Artifact(key, hashlib.sha256(data).hexdigest(), len(data), mime_type)
            self._send(artifact, io.BytesIO(data), once)
            return artifact
        with open_source(data) as source, closing(self.draft(key, mime_type)) as draft:
            draft.fill(source)
            return draft.keep(once=once)

    def draft(self, key: str, mime_type: str) -> Draft:
        """See `Store.draft`. It waits in memory (8 MiB), then on this machine's disk, until it is kept."""
        check_key(key)
        check_mime_type(mime_type)
        return _Draft(self, key, mime_type)

    def read(self, key: str) -> bytes:
        """See `Store.read`."""
        with self.open(key) as stream:
            return stream.read()

    def open(self, key: str) -> BinaryIO:
        """See `Store.open`."""
        check_key(key)
        with _translated(key):
            body = self._client.get_object(**self._at(key))["Body"]
        return io.BufferedReader(_Download(body), _CHUNK_BYTES)

    def open_range(self, key: str, start: int, stop: int) -> BinaryIO:
        """See `Store.open_range`."""
        check_key(key)
        check_range(start, stop)
        try:
            with _translated(key):
                answer = self._client.get_object(**self._at(key), Range=f"bytes={start}-{stop - 1}")
        except StoreUnavailable as refusal:
            if refusal.reason != "InvalidRange":
                raise
            return io.BytesIO()
        if not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            answer["Body"].close()
            raise StoreUnavailable("NoContentRange", _SERVER_ADVICE)
        return io.BufferedReader(_Download(answer["Body"]), _CHUNK_BYTES)

    def stat(self, key: str) -> Artifact | None:
        """See `Store.stat`."""
        check_key(key)
        try:
            with _translated(key):
                head = self._client.head_object(**self._at(key))
            metadata = {name.lower(): value for name, value in head["Metadata"].items()}
            sha256 = metadata.get("sha256") or self._digest(key)
        except MissingObject:
            return None
        return Artifact(key, sha256, head["ContentLength"], head["ContentType"])

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        check_key(key)
        with _translated():
            self._client.delete_object(**self._at(key))

    def delete_prefix(self, prefix: str) -> None:
        """See `Store.delete_prefix`."""
        check_prefix(prefix)
        # One by one: many servers refuse to delete a batch without Content-MD5, which boto3 no longer sends.
        for key in self.keys(prefix):
            self.delete(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `Store.keys`."""
        if prefix:
            check_prefix(prefix)
        place: dict[str, str] = {}
        while True:
            with _translated():
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **place)
            names = (item["Key"].removeprefix(self._prefix) for item in page.get("Contents", []))
            yield from filter(is_key, names)
            if not page["IsTruncated"]:
                return
            place = {"ContinuationToken": page["NextContinuationToken"]}

    def direct_url(self, key: str, *, expires_at: datetime, filename: str) -> str | None:
        """See `Store.direct_url`. It lives one second at least, and `MAX_URL_SECONDS` at most (less, where the credentials
        of a role end earlier). It holds the access key's name, not the secret.
        """
        check_key(key)
        check_link(expires_at, filename)
        if not self._redirect:
            return None
        seconds = min(max(math.ceil(expires_at.timestamp() - time.time()), 1), MAX_URL_SECONDS)
        answer = {"ResponseContentDisposition": attachment(filename)}
        with _translated():
            url = self._client.generate_presigned_url(
                "get_object", Params={**self._at(key), **answer}, ExpiresIn=seconds
            )
        return cast(str, url)

    def expire_after(self, days: int, *, prefix: str) -> bool:
        """Have the server itself delete what lies under `prefix` (as in `delete_prefix`) `days` (≥ 1) after its put,
        and what is left of broken uploads after one; whether the server can. Other rules of the bucket stay.

        Raises:
            InvalidKey: `prefix` is none.
            ValueError: `days` is below 1.
            StoreUnavailable: the server can, and does not.
        """
        check_prefix(prefix)
        if days < 1:
            raise ValueError(f"days is at least 1, not {days}")
        rule = {
            "ID": f"killatamata {self._prefix}{prefix}",
            "Status": "Enabled",
            "Filter": {"Prefix": self._prefix + prefix},
            "Expiration": {"Days": days},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        try:
            with _translated():
                rules = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket).get("Rules")
        except StoreUnavailable as refusal:
            if refusal.reason not in {*_NO_LIFECYCLE, "NoSuchLifecycleConfiguration"}:
                raise
            rules = None if refusal.reason in _NO_LIFECYCLE else []
        if rules is None:
            return False
        rules = [*(other for other in rules if other.get("ID") != rule["ID"]), rule]
        with _translated():
            self._client.put_bucket_lifecycle_configuration(
                Bucket=self._bucket, LifecycleConfiguration={"Rules": rules}
            )
        return True

    def _send(self, artifact: Artifact, content: BinaryIO, once: bool) -> None:
        headers = {"ContentType": artifact.mime_type, "Metadata": {"sha256": artifact.sha256}}
        place = self._at(artifact.key)
        try:
            with _translated():
                if artifact.bytes > PART_BYTES and not once:
                    self._client.upload_fileobj(content, **place, ExtraArgs=headers, Config=_in_parts())
                    return
                checksum = b64encode(bytes.fromhex(artifact.sha256)).decode()
                condition = {"IfNoneMatch": "*"} if once else {}
                self._client.put_object(**place, Body=content, ChecksumSHA256=checksum, **condition, **headers)
        except StoreUnavailable as refusal:
            if not once or refusal.reason not in _TAKEN:
                raise
            raise ObjectExists(artifact.key) from None

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    def _digest(self, key: str) -> str:
        # Tools that copy buckets drop metadata.
        with self.open(key) as stream:
            return hashlib.file_digest(cast(io.BufferedReader, stream), "sha256").hexdigest()


class _Draft(Draft):
    """A draft on this machine, for the digest must be known before the first byte is sent."""

    def __init__(self, store: S3Store, key: str, mime_type: str) -> None:
        super().__init__(cast(BinaryIO, SpooledTemporaryFile(PART_BYTES)))  # noqa: SIM115
        self._store = store
        self._key = key
        self._mime_type = mime_type

    def keep(self, *, once: bool = False) -> Artifact:
        artifact = Artifact(self._key, self.sha256, self.size, self._mime_type)
        self._file.seek(0)
        self._store._send(artifact, self._file, once)
        return artifact


class _Download(io.RawIOBase):
    """The body of an answer, whose failures are ours."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _translated():
            data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        with _translated():
            return cast(bytes, self._body.read())

    def close(self) -> None:
        self._body.close()
        super().close()


@cache
def _connect(endpoint_url: str | None, region: str | None, access_key: str | None, secret_key: SecretStr | None) -> Any:
    # Making a client takes 0.3 s, and using one is safe from any thread, so a process has one.
    import boto3
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint_url else "virtual", "payload_signing_enabled": True},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
    )
    # The default session is not safe to make clients with in several threads; a session of one's own is.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=region,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key.get_secret_value() if secret_key else None,
        config=config,
    )


def _in_parts() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=4,
        preferred_transfer_client="classic",
    )


@contextmanager
def _translated(key: str | None = None) -> Iterator[None]:
    """Failures of boto3 as ours, without what it says beyond the code: its words may hold parts of signed requests."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        CredentialRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "no code"))[:80]
        if key is not None and code in _MISSING:
            raise MissingObject(key) from None
        refused = 400 <= error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) < 500
        advice = _ACCESS_ADVICE if refused else _SERVER_ADVICE
        raise StoreUnavailable(code, _BUCKET_ADVICE if code == "NoSuchBucket" else advice) from None
    except (CredentialRetrievalError, NoCredentialsError, PartialCredentialsError) as error:
        raise StoreUnavailable(type(error).__name__, _ACCESS_ADVICE) from None
    except BotoCoreError as error:
        raise StoreUnavailable(type(error).__name__, _SERVER_ADVICE) from None
