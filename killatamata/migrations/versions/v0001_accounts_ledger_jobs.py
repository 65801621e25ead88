"""Accounts, keys, idempotency, the ledger, and jobs."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables; functions and triggers are applied afresh after every upgrade."""
    run_file("0001_accounts_ledger_jobs.sql")
