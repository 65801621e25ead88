"""The account of whoever runs a stack on their own machine: one account, one key, kept in the data folder."""

from __future__ import annotations

from pathlib import Path

from accounts import accounts
from accounts.keys import Keys
from billing import wallets
from core.database import Database
from core.log import logger
from killatamata.private_file import write_private

log = logger(__name__)

LABEL = "local"


async def local_key(database: Database, keys: Keys, path: Path, credit: int) -> str:
    """The key kept at `path`, or that of a new account with `credit` micro-dollars when the kept one is of no use."""
    if path.exists():
        kept = path.read_text(errors="replace").strip()
        if await keys.authenticate(kept) is not None:
            return kept
        log.warning("the kept local key is not known to this database; making a new account", path=str(path))
    async with database.transaction() as connection:
        account = await accounts.create(connection, LABEL)
        key, _ = await keys.create(connection, account.id, LABEL)
        if credit:
            await wallets.topup(connection, account.id, credit, f"local:{account.id}")
    write_private(path, key)
    return key
