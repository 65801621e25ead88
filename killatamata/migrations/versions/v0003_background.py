"""procrastinate's own tables, and what the background process keeps beside them."""

from __future__ import annotations

from importlib.metadata import version

from alembic import op

from killatamata.migrate import run_file, run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Apply the schema of the installed procrastinate and note its version (docs/decisions/0023 says what upgrades do)."""
    from procrastinate.schema import SchemaManager

    run_script(op.get_bind(), SchemaManager.get_schema())
    op.execute(f"COMMENT ON TABLE procrastinate_jobs IS 'procrastinate {version('procrastinate')}'")
    run_file("0003_background.sql")
