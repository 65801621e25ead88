"""Floors of each pool's line and leases."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the floors, all at the bottom, and order the index of leases by tag."""
    run_file("0004_queue_floors.sql")
