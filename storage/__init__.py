"""Artifacts: bytes by key, kept whole, found again, and handed out by signed URLs."""

from storage.base import (
    Artifact,
    Draft,
    InvalidKey,
    MissingObject,
    ObjectExists,
    Store,
    StoreUnavailable,
    UploadPromise,
)
from storage.factory import open_store
from storage.local import LocalStore
from storage.s3 import S3Store
from storage.signing import ExpiredSignature, InvalidSignature, attachment

__all__ = [
    "Artifact",
    "Draft",
    "ExpiredSignature",
    "InvalidKey",
    "InvalidSignature",
    "LocalStore",
    "MissingObject",
    "ObjectExists",
    "S3Store",
    "Store",
    "StoreUnavailable",
    "UploadPromise",
    "attachment",
    "open_store",
]
