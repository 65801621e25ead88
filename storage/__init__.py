"""Artifacts: bytes by key, kept whole, found again, and handed out by signed URLs."""

from storage.base import Artifact, InvalidKey, MissingObject, Store, StoreUnavailable
from storage.factory import open_store
from storage.local import LocalStore
from storage.s3 import S3Store
from storage.signing import ExpiredSignature, InvalidSignature

__all__ = [
    "Artifact",
    "ExpiredSignature",
    "InvalidKey",
    "InvalidSignature",
    "LocalStore",
    "MissingObject",
    "S3Store",
    "Store",
    "StoreUnavailable",
    "open_store",
]
