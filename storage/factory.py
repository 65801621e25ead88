"""Which store the settings name."""

from __future__ import annotations

from core.errors import OperatorError
from core.settings import PREFIX, Settings
from storage.base import Store
from storage.local import LocalStore
from storage.s3 import MAX_URL_SECONDS, S3Store


def open_store(settings: Settings, base_url: str) -> Store:
    """The store of this stack. Every process of the stack gets the same objects.

    Without `s3_bucket` it is a folder, whose URLs begin with `base_url`.

    Raises:
        OperatorError: the settings of the S3 contradict each other.
    """
    if settings.s3_bucket is None:
        stray = [name for name in type(settings).model_fields if name.startswith("s3_") and getattr(settings, name)]
        if stray:
            raise OperatorError(
                f"{PREFIX}{stray[0].upper()} says nothing without {PREFIX}S3_BUCKET; set both or neither"
            )
        return LocalStore(settings.root / "storage", base_url, settings.key)
    if bool(settings.s3_access_key) != bool(settings.s3_secret_key):
        raise OperatorError(f"{PREFIX}S3_ACCESS_KEY and {PREFIX}S3_SECRET_KEY go together; set both or neither")
    if settings.output_url_seconds > MAX_URL_SECONDS:
        raise OperatorError(f"{PREFIX}OUTPUT_URL_SECONDS is at most {MAX_URL_SECONDS} (7 days) with an S3")
    return S3Store(
        settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        prefix=settings.s3_prefix,
    )
