"""Jobs whose time on record is over go, and their attempts with them."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Drop the trigger that kept every attempt that had ended."""
    run_file("0008_end_of_jobs.sql")
