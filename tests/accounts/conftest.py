"""These tests share one database, emptied before each."""

from tests.emptied import database, database_url, kept

__all__ = ["database", "database_url", "kept"]
