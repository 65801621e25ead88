"""Floors of each pool's line and leases, and fewer checks of what is known already."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the floors, all at the bottom, order the index of leases by tag, and drop foreign keys that nothing can break."""
    run_file("0004_queue_floors.sql")
