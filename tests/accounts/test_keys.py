"""API keys: shown once, kept as a keyed hash, revoked at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from accounts import accounts
from accounts.keys import MOST_LIVE, Caller, Keys
from core.database import Database
from core.errors import AmbiguousPrefix, InvalidInput, NotFound, WrongState


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database, b"pepper")


async def account(database: Database) -> UUID:
    async with database.transaction() as connection:
        return (await accounts.create(connection, "someone")).id


async def create(database: Database, keys: Keys, owner: UUID, label: str = "laptop") -> str:
    async with database.transaction() as connection:
        return (await keys.create(connection, owner, label))[0]


async def revoke(database: Database, keys: Keys, owner: UUID, prefix: str) -> str:
    async with database.transaction() as connection:
        return (await keys.revoke(connection, owner, prefix)).prefix


async def test_a_key_authenticates_its_account_until_it_is_revoked(database: Database, keys: Keys) -> None:
    owner = await account(database)
    key = await create(database, keys, owner)
    prefix = key.split("_")[1]
    assert await keys.authenticate(key) == Caller(owner, prefix)
    assert await revoke(database, keys, owner, prefix) == prefix
    assert await keys.authenticate(key) is None


async def test_a_revoke_counts_from_its_commit_on(database: Database, keys: Keys) -> None:
    owner = await account(database)
    key = await create(database, keys, owner)
    async with database.transaction() as connection:
        await keys.revoke(connection, owner, key[3:11])
        assert await keys.authenticate(key) is not None
    assert await keys.authenticate(key) is None


async def test_revoking_again_keeps_the_first_instant(database: Database, keys: Keys) -> None:
    owner = await account(database)
    prefix = (await create(database, keys, owner))[3:11]
    await revoke(database, keys, owner, prefix)
    (before,) = await keys.list(owner)
    assert before.revoked_at is not None
    await revoke(database, keys, owner, f"kt_{prefix}")
    assert await keys.list(owner) == [before]


async def test_only_a_keyed_hash_is_kept(database: Database, keys: Keys) -> None:
    owner = await account(database)
    key = await create(database, keys, owner)
    secret = key.split("_")[2]
    row = await database.fetch_value("SELECT api_key::text FROM api_key")
    assert secret not in row
    assert secret.encode().hex() not in row
    assert await Keys(database, b"another pepper").authenticate(key) is None
    again = await create(database, keys, owner)
    assert again != key
    assert len(await database.fetch("SELECT DISTINCT hash FROM api_key")) == 2


async def test_the_secret_of_another_key_does_not_fit(database: Database, keys: Keys) -> None:
    owner = await account(database)
    first, second = await create(database, keys, owner), await create(database, keys, owner)
    assert await keys.authenticate(f"kt_{first[3:11]}_{second[12:]}") is None


NO_KEYS = (
    "",
    "kt_",
    "kt_aaaaaaaa",
    "aaaaaaaa_" + "s" * 32,
    "kt_aaaaaaaa_" + "s" * 31,
    "kt_aaaaaaaa_" + "s" * 33,
    "kt_aaaaaaaa_" + "s" * 32,
    "KT_aaaaaaaa_" + "s" * 32,
    "kt_aaaaaaaa_" + "S" * 32,
    "kt_aaaa'--a_" + "s" * 32,
    "kt_aaaaaaaa_" + "\0" * 32,
    "kt_aaaaaaaa_" + "é" * 32,
    "kt_aaaaaaaa_" + "\ud800" * 32,
    "k" * 1_000_000,
)


async def test_what_is_no_key_of_ours_is_nobody(database: Database, keys: Keys) -> None:
    key = await create(database, keys, await account(database))
    for text in (*NO_KEYS, key + "\n", " " + key, key.upper(), key[:-1]):
        assert await keys.authenticate(text) is None
    assert await keys.authenticate(key) is not None


async def test_the_last_use_is_noted_once_a_minute(database: Database, keys: Keys) -> None:
    owner = await account(database)
    key = await create(database, keys, owner)
    assert (await keys.list(owner))[0].last_used_at is None
    await keys.authenticate(key)
    first = (await keys.list(owner))[0].last_used_at
    assert first is not None
    await keys.authenticate(key)
    assert (await keys.list(owner))[0].last_used_at == first
    await database.execute("UPDATE api_key SET last_used_at = $1", first - timedelta(minutes=2))
    await keys.authenticate(key)
    again = (await keys.list(owner))[0].last_used_at
    assert again is not None
    assert again > first


async def test_a_wrong_secret_is_no_use(database: Database, keys: Keys) -> None:
    owner = await account(database)
    key = await create(database, keys, owner)
    await keys.authenticate(key[:-1] + ("a" if key[-1] != "a" else "b"))
    assert (await keys.list(owner))[0].last_used_at is None


async def test_keys_are_listed_oldest_first_and_only_to_their_account(database: Database, keys: Keys) -> None:
    owner, other = await account(database), await account(database)
    made = [await create(database, keys, owner, label) for label in ("one", "two")]
    await create(database, keys, other, "theirs")
    await revoke(database, keys, owner, made[0][3:11])
    assert [(key.label, key.revoked_at is None) for key in await keys.list(owner)] == [("one", False), ("two", True)]


async def named(database: Database, keys: Keys, owner: UUID, *prefixes: str) -> None:
    for prefix in prefixes:
        key = await create(database, keys, owner)
        await database.execute("UPDATE api_key SET prefix = $1 WHERE prefix = $2", prefix, key[3:11])


async def test_a_key_is_revoked_by_enough_of_its_prefix(database: Database, keys: Keys) -> None:
    owner = await account(database)
    await named(database, keys, owner, "abcde111", "abcde222", "abcde333", "fghij444")
    assert await revoke(database, keys, owner, "abcde1") == "abcde111"
    assert await revoke(database, keys, owner, "kt_abcde2") == "abcde222"
    assert await revoke(database, keys, owner, "fghij444") == "fghij444"
    assert [key.prefix for key in await keys.list(owner) if key.revoked_at is None] == ["abcde333"]


async def test_an_ambiguous_prefix_revokes_nothing(database: Database, keys: Keys) -> None:
    owner = await account(database)
    await named(database, keys, owner, "abcde111", "abcde222")
    with pytest.raises(AmbiguousPrefix, match="2 keys"):
        await revoke(database, keys, owner, "abcde")
    assert all(key.revoked_at is None for key in await keys.list(owner))


async def test_another_accounts_key_is_not_there(database: Database, keys: Keys) -> None:
    owner, other = await account(database), await account(database)
    await named(database, keys, owner, "abcde111")
    await named(database, keys, other, "abcde222")
    with pytest.raises(NotFound):
        await revoke(database, keys, other, "abcde111")
    assert await revoke(database, keys, other, "abcde") == "abcde222"
    assert (await keys.list(owner))[0].revoked_at is None


async def test_what_is_no_prefix_is_refused_as_such(database: Database, keys: Keys) -> None:
    owner = await account(database)
    key = await create(database, keys, owner)
    for prefix in ("", "abcd", "kt_abcd", "abcde1111", "abc%e", "ABCDE", "kt_kt_abcde", key[3:11] + "\n", key):
        with pytest.raises(InvalidInput) as caught:
            await revoke(database, keys, owner, prefix)
        assert [problem.path for problem in caught.value.fields] == ["keyPrefix"]
    assert (await keys.list(owner))[0].revoked_at is None


async def test_a_prefix_that_is_taken_is_drawn_again(
    database: Database, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = await account(database)
    draws = iter(["abcdefgh", "s" * 32, "abcdefgh", "t" * 32, "hgfedcba", "u" * 32])
    monkeypatch.setattr("accounts.keys._draw", lambda _: next(draws))
    first, second = await create(database, keys, owner), await create(database, keys, owner)
    assert (first[3:11], second[3:11]) == ("abcdefgh", "hgfedcba")
    assert await keys.authenticate(first) is not None
    assert await keys.authenticate(second) is not None


async def test_20_revokes_at_once_agree(database: Database, keys: Keys) -> None:
    owner = await account(database)
    prefix = (await create(database, keys, owner))[3:11]
    assert set(await asyncio.gather(*(revoke(database, keys, owner, prefix) for _ in range(20)))) == {prefix}


async def test_an_account_has_so_many_live_keys_and_no_more(database: Database, keys: Keys) -> None:
    owner, other = await account(database), await account(database)
    made = [await create(database, keys, owner) for _ in range(MOST_LIVE - 1)]

    async def another() -> bool:
        try:
            await create(database, keys, owner)
        except WrongState:
            return False
        return True

    assert sum(await asyncio.gather(*(another() for _ in range(4)))) == 1
    await create(database, keys, other)
    await revoke(database, keys, owner, made[0][3:11])
    assert await another()
    with pytest.raises(WrongState, match="revoke one first"):
        await create(database, keys, owner)
