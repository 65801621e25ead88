"""Which store the settings name."""

from __future__ import annotations

from core.errors import OperatorError
from core.settings import PREFIX, Settings
from storage.base import Store
from storage.local import LocalStore
from storage.s3 import S3Store


def open_store(settings: Settings, base_url: str) -> Store:
    """The store of this stack. Every process of the stack gets the same objects.

    Its URLs begin with `base_url`; with an empty one it makes none, and needs no secret to sign them.

    Raises:
        OperatorError: the settings of the S3 contradict each other.
    """
    key = settings.key if base_url else None
    if settings.s3_bucket is None:
        stray = [name for name in type(settings).model_fields if name.startswith("s3_") and getattr(settings, name)]
        if stray:
            raise OperatorError(
                f"{PREFIX}{stray[0].upper()} says nothing without {PREFIX}S3_BUCKET; set both or neither"
            )
        return LocalStore(settings.root / "storage", base_url, key)
    if bool(settings.s3_access_key) != bool(settings.s3_secret_key):
        raise OperatorError(f"{PREFIX}S3_ACCESS_KEY and {PREFIX}S3_SECRET_KEY go together; set both or neither")
    return S3Store(
        settings.s3_bucket,
        base_url=base_url,
        key=key,
        endpoint_url=settings.s3_endpoint_url,
        region=settings.s3_region,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key,
        prefix=settings.s3_prefix,
        redirect=settings.s3_redirect,
    )
