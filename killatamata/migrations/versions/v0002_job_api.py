"""Deadlines, lists, inputs, uploads, webhooks, run times, and the hash chain of the ledger."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables and columns; movements that exist are chained in the order of their ids."""
    run_file("0002_job_api.sql")
