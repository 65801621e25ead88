"""What keeps one account from taking more than its share."""

from __future__ import annotations

from killatamata.migrate import run_file

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add what the limits are counted in, and the indexes they are read by."""
    run_file("0006_shares.sql")
