"""What operators do by hand, and what keeps a pool's line from growing without end."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add quarantine, audit, the pools' limits and drains, and a check."""
    run_file("0007_operators.sql")
