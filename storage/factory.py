"""Which store the settings name."""

from __future__ import annotations

from core.settings import Settings
from storage.base import Store
from storage.local import LocalStore


def open_store(settings: Settings, base_url: str) -> Store:
    """The store of this stack; its URLs begin with `base_url`. Every process of the stack gets the same objects."""
    return LocalStore(settings.root / "storage", base_url, settings.key)
