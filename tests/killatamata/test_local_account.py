from __future__ import annotations

import stat
from pathlib import Path

import pytest

from accounts.keys import Keys
from billing import wallets
from core.database import Database
from killatamata.local_account import local_key

PEPPER = b"p" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "local-key"


async def accounts_in(database: Database) -> int:
    return int(await database.fetch_value("SELECT count(*) FROM account"))


async def test_the_first_start_makes_an_account_with_credit_and_later_ones_keep_it(
    database: Database, path: Path
) -> None:
    keys = Keys(database, PEPPER)
    key = await local_key(database, keys, path, 7_000_000)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (key, 0o600)
    caller = await keys.authenticate(key)
    assert caller is not None
    assert (await wallets.balance(database, caller.account_id)).available == 7_000_000
    assert await local_key(database, keys, path, 7_000_000) == key
    assert (await wallets.balance(database, caller.account_id)).available == 7_000_000
    assert await accounts_in(database) == 1
    assert await wallets.drift(database) == []


async def test_without_credit_the_account_is_empty(database: Database, path: Path) -> None:
    keys = Keys(database, PEPPER)
    caller = await keys.authenticate(await local_key(database, keys, path, 0))
    assert caller is not None
    assert (await wallets.balance(database, caller.account_id)).balance == 0


@pytest.mark.parametrize(
    "kept", [b"", b"rubbish", b"kt_aaaaaaaa_" + b"a" * 32, b"\xff\x00\xfe", b"kt_" * 10_000], ids=lambda kept: kept[:8]
)
async def test_a_kept_key_that_is_of_no_use_is_replaced(database: Database, path: Path, kept: bytes) -> None:
    path.write_bytes(kept)
    keys = Keys(database, PEPPER)
    key = await local_key(database, keys, path, 1)
    assert await keys.authenticate(key) is not None
    assert path.read_text() == key


async def test_a_revoked_or_a_strangers_key_is_replaced(database: Database, path: Path) -> None:
    keys = Keys(database, PEPPER)
    key = await local_key(database, keys, path, 1)
    caller = await keys.authenticate(key)
    assert caller is not None
    async with database.transaction() as connection:
        await keys.revoke(connection, caller.account_id, caller.key_prefix)
    second = await local_key(database, keys, path, 1)
    assert second != key
    third = await local_key(database, Keys(database, b"another server's secret, 32 bytes"), path, 1)
    assert third not in (key, second)
    assert await accounts_in(database) == 3
