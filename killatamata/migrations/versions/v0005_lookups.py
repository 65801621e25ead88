"""Indexes for checks of the ledger and for filtered lists of jobs."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the indexes."""
    run_file("0005_lookups.sql")
