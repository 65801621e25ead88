from __future__ import annotations

from uuid import UUID

import pytest

from accounts import accounts
from billing import checks, wallets
from core.database import Database


async def credited(database: Database, micros: int = 1_000) -> UUID:
    async with database.transaction() as connection:
        account = await accounts.create(connection, "customer")
        await wallets.topup(connection, account.id, micros, f"test:{account.id}")
    return account.id


async def later(database: Database) -> None:
    """As if all checks had been made an hour ago, and all that was moved had been moved long before."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE movement SET created_at = created_at - interval '2 hours'")
        await connection.execute("UPDATE ledger_check SET at = at - interval '1 hour'")


async def drifts(database: Database, account: UUID, by: int = 1) -> None:
    await database.execute("UPDATE wallet SET available = available + $2 WHERE account_id = $1", account, by)


async def test_wallets_that_moved_since_the_last_check_are_checked(database: Database) -> None:
    one, two = await credited(database), await credited(database)
    first = await checks.check_touched(database)
    assert (first.scope, first.checked, first.wrong) == ("touched", 2, [])
    await later(database)
    await drifts(database, one)
    assert (await checks.check_touched(database)).checked == 0, "a wallet that did not move is for the nightly check"
    await later(database)
    for account in (one, two):
        async with database.transaction() as connection:
            await wallets.topup(connection, account, 5, f"more:{account}")
    found = await checks.check_touched(database)
    assert (found.checked, found.wrong) == (2, [one])


async def test_a_wallet_found_wrong_is_checked_until_it_is_right(database: Database) -> None:
    account = await credited(database)
    await drifts(database, account)
    for _ in range(3):
        assert (await checks.check_touched(database)).wrong == [account]
        await later(database)
    await drifts(database, account, -1)
    assert (await checks.check_touched(database)).wrong == []


async def test_the_full_check_finds_what_never_moved(database: Database) -> None:
    accounts_ = [await credited(database) for _ in range(3)]
    await later(database)
    await drifts(database, accounts_[1])
    found = await checks.check_all(database)
    assert (found.scope, found.checked, found.wrong) == ("all", 3, [accounts_[1]])


async def test_the_last_result_of_each_check_is_kept(database: Database) -> None:
    assert await checks.last(database) == []
    account = await credited(database)
    await checks.check_touched(database)
    await drifts(database, account)
    await checks.check_touched(database)
    await checks.check_all(database)
    await checks.keep(database, "holds", 7, [])
    kept = {check.scope: (check.checked, check.wrong) for check in await checks.last(database)}
    assert kept == {"touched": (1, [account]), "all": (1, [account]), "holds": (7, [])}


async def test_one_wallets_check_reads_no_other_wallets_entries(database: Database) -> None:
    account = await credited(database)
    await database.execute(
        "INSERT INTO account SELECT gen_random_uuid(), 'x' FROM generate_series(1, 300)",
    )
    await database.execute("INSERT INTO wallet SELECT id FROM account ON CONFLICT DO NOTHING")
    await database.execute(
        "SELECT topup(account_id, 5, 'load:' || account_id || n, NULL) FROM wallet, generate_series(1, 10) n"
    )
    await later(database)
    async with database.transaction() as connection:
        await wallets.topup(connection, account, 5, "now")
    await database.execute("VACUUM ANALYZE entry")
    await checks.check_touched(database)
    await later(database)
    async with database.transaction() as connection:
        await wallets.topup(connection, account, 5, "again")
    plan = await database.fetch(f"EXPLAIN (ANALYZE, COSTS OFF) {checks._TOUCHED}")
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan on entry" not in text, text


async def rewritten(database: Database, account: UUID) -> None:
    """Somebody with the rights of the owner changes an account's past, and keeps every sum right."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE movement SET kind = 'adjust' WHERE id = (SELECT min(id) FROM movement WHERE account_id = $1)",
            account,
        )


async def chains(database: Database, most: int = checks.CHAIN_STEP) -> checks.Check:
    while (found := await checks.check_chains(database, most=most)) is None:
        pass
    return found


@pytest.mark.parametrize("most", [1, 2, 3, 100])
async def test_a_rewritten_past_is_found_by_its_chain_alone(database: Database, most: int) -> None:
    whole, broken, again = [await credited(database) for _ in range(3)]
    for account in (whole, broken, again):
        for number in range(4):
            async with database.transaction() as connection:
                await wallets.topup(connection, account, 5, f"{account}:{number}")
    assert (await chains(database, most)).wrong == []
    await rewritten(database, broken)
    await database.execute("UPDATE wallet SET chain = sha256('elsewhere') WHERE account_id = $1", again)
    assert (await checks.check_all(database)).wrong == []
    found = await chains(database, most)
    assert (found.scope, found.checked, found.wrong) == ("chains", 3, sorted([broken, again]))
    assert found in await checks.last(database)


async def test_a_call_follows_so_many_movements_and_the_next_one_goes_on(database: Database) -> None:
    first, second = sorted([await credited(database), await credited(database)])
    for number in range(4):
        async with database.transaction() as connection:
            await wallets.topup(connection, first, 5, f"more:{number}")
    await rewritten(database, second)
    where = (
        "SELECT account_id = $1, (SELECT count(*) FROM movement WHERE account_id = $1 AND id <= movement_id)"
        " FROM ledger_check"
    )
    for seen in (2, 4):
        assert await checks.check_chains(database, most=2) is None
        assert tuple((await database.fetch(where, first))[0]) == (True, seen)
        assert [each.checked for each in await checks.last(database)] == [0]
    assert await checks.check_chains(database, most=2) is None
    assert [(each.checked, each.wrong) for each in await checks.last(database)] == [(2, [second])]
    ended = await checks.check_chains(database, most=2)
    assert ended is not None
    assert (ended.checked, ended.wrong) == (2, [second])
    assert await checks.check_chains(database, most=2) is None
    assert [each.wrong for each in await checks.last(database)] == [[second]], "wrong until a round finds it whole"
