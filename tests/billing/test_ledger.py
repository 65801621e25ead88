"""The ledger in PostgreSQL, called as the jobs call it, raced, and attacked from below."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts import accounts
from billing import wallets
from billing.wallets import Balance
from core.database import Database

MAX = 2**63 - 1


async def customer(database: Database, credit: int = 0) -> UUID:
    async with database.transaction() as connection:
        account = await accounts.create(connection, "customer")
        if credit:
            await wallets.topup(connection, account.id, credit, f"first:{account.id}")
    return account.id


async def topup(database: Database, account: UUID, amount: Any, business_id: str = "") -> bool:
    async with database.transaction() as connection:
        return await wallets.topup(connection, account, amount, business_id or f"t:{uuid4()}", "req")


async def chargeback(database: Database, account: UUID, amount: int, business_id: str = "") -> bool:
    async with database.transaction() as connection:
        return await wallets.chargeback(connection, account, amount, business_id or f"c:{uuid4()}", "req")


async def hold(database: Database, account: UUID, amount: int, hold_id: UUID | None = None) -> UUID:
    hold_id = hold_id or uuid4()
    await database.execute("SELECT hold_open($1, $2, $3, 'req')", hold_id, account, amount)
    return hold_id


async def settle(database: Database, hold_id: UUID, *, capture: bool) -> str | None:
    state: str | None = await database.fetch_value("SELECT hold_settle($1, $2, 'req')", hold_id, capture)
    return state


async def entries(database: Database, business_id: str) -> list[tuple[str, int, int | None]]:
    rows = await database.fetch(
        "SELECT book, amount, balance_after FROM entry JOIN movement ON movement.id = movement_id"
        " WHERE business_id = $1 ORDER BY seq",
        business_id,
    )
    return [(row["book"], row["amount"], row["balance_after"]) for row in rows]


async def total(database: Database) -> int:
    return int(await database.fetch_value("SELECT coalesce(sum(amount), 0) FROM entry"))


async def refused(call: Any) -> str:
    with pytest.raises(asyncpg.PostgresError) as caught:
        await call
    return str(caught.value.sqlstate)


async def test_topup_credits_once_per_business_id(database: Database) -> None:
    account = await customer(database)
    assert await topup(database, account, 700, "stripe:cs_1")
    assert not await topup(database, account, 700, "stripe:cs_1")
    assert await wallets.balance(database, account) == Balance(700, 0, 0)
    assert await entries(database, "stripe:cs_1") == [("clearing", -700, None), ("available", 700, 700)]


async def test_ten_topups_at_once_with_one_business_id_credit_once(database: Database) -> None:
    account = await customer(database)
    given_ = await asyncio.gather(*(topup(database, account, 700, "stripe:cs_1") for _ in range(10)))
    assert sum(given_) == 1
    assert (await wallets.balance(database, account)).available == 700


async def test_a_twin_waits_and_goes_on_when_the_first_rolls_back(database: Database) -> None:
    account = await customer(database)
    async with database.pool.acquire() as first:
        transaction = first.transaction()
        await transaction.start()
        assert await wallets.topup(first, account, 700, "stripe:cs_1")
        twin = asyncio.create_task(topup(database, account, 700, "stripe:cs_1"))
        await asyncio.sleep(0.1)
        assert not twin.done()
        await transaction.rollback()
    assert await twin
    assert (await wallets.balance(database, account)).available == 700


@pytest.mark.parametrize("change", ["account", "amount", "kind"])
async def test_a_business_id_of_another_movement_is_refused(database: Database, change: str) -> None:
    account = await customer(database, 1_000)
    await topup(database, account, 700, "stripe:1")
    other = await customer(database) if change == "account" else account
    move = chargeback if change == "kind" else topup
    with pytest.raises(wallets.BusinessIdReused):
        await move(database, other, 701 if change == "amount" else 700, "stripe:1")
    assert await wallets.balance(database, account) == Balance(1_700, 0, 0)
    assert (await database.fetch_value("SELECT count(*) FROM movement")) == 2


async def test_a_topup_repays_a_debt_first_as_an_entry_of_its_own(database: Database) -> None:
    account = await customer(database, 100)
    await chargeback(database, account, 250, "dispute:1")
    assert await wallets.balance(database, account) == Balance(0, 0, 150)
    assert (await wallets.balance(database, account)).balance == -150
    assert await entries(database, "dispute:1") == [
        ("available", -100, 0),
        ("debt", -150, -150),
        ("clearing", 250, None),
    ]
    await topup(database, account, 100, "a")
    assert await wallets.balance(database, account) == Balance(0, 0, 50)
    assert await entries(database, "a") == [("clearing", -100, None), ("debt", 100, -50)]
    await topup(database, account, 80, "b")
    assert await wallets.balance(database, account) == Balance(30, 0, 0)
    assert await entries(database, "b") == [("clearing", -80, None), ("debt", 50, 0), ("available", 30, 30)]
    assert await wallets.drift(database) == []


async def test_a_wallet_with_debt_opens_no_hold(database: Database) -> None:
    account = await customer(database, 100)
    await chargeback(database, account, 150)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hold(database, account, 1)
    assert (caught.value.sqlstate, caught.value.detail) == ("KT402", "-50")
    await topup(database, account, 51)
    await hold(database, account, 1)
    assert await wallets.balance(database, account) == Balance(0, 1, 0)


async def test_a_released_hold_repays_a_debt_first(database: Database) -> None:
    account = await customer(database, 100)
    small, large = await hold(database, account, 30), await hold(database, account, 70)
    await chargeback(database, account, 50)
    assert await wallets.balance(database, account) == Balance(0, 100, 50)
    assert await settle(database, small, capture=False) == "released"
    assert await wallets.balance(database, account) == Balance(0, 70, 20)
    assert await settle(database, large, capture=False) == "released"
    assert await wallets.balance(database, account) == Balance(50, 0, 0)
    assert await entries(database, f"settle:{large}") == [("held", -70, 0), ("debt", 20, 0), ("available", 50, 50)]
    assert await wallets.drift(database) == []


async def test_a_capture_pays_from_what_was_held_even_in_debt(database: Database) -> None:
    account = await customer(database, 100)
    held = await hold(database, account, 60)
    await chargeback(database, account, 100)
    assert await settle(database, held, capture=True) == "captured"
    assert await wallets.balance(database, account) == Balance(0, 0, 60)
    assert await entries(database, f"settle:{held}") == [("held", -60, 0), ("revenue", 60, None)]


async def test_hold_refuses_more_than_is_available_and_leaves_nothing(database: Database) -> None:
    account = await customer(database, 100)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await hold(database, account, 101)
    assert (caught.value.sqlstate, caught.value.detail) == ("KT402", "100")
    assert await database.fetch_value("SELECT count(*) FROM hold") == 0
    assert await database.fetch_value("SELECT count(*) FROM movement WHERE kind = 'hold'") == 0
    await hold(database, account, 100)
    assert await wallets.balance(database, account) == Balance(0, 100, 0)


async def test_the_same_hold_is_never_opened_twice(database: Database) -> None:
    account = await customer(database, 100)
    twice = uuid4()
    await hold(database, account, 10, twice)
    assert await refused(hold(database, account, 10, twice)) == asyncpg.UniqueViolationError.sqlstate
    assert await wallets.balance(database, account) == Balance(90, 10, 0)


async def test_a_settled_hold_keeps_its_end(database: Database) -> None:
    account = await customer(database, 100)
    held = await hold(database, account, 10)
    assert await settle(database, held, capture=False) == "released"
    assert await settle(database, held, capture=True) == "released"
    assert await settle(database, uuid4(), capture=True) is None
    assert await wallets.balance(database, account) == Balance(100, 0, 0)


async def test_200_holds_at_once_with_money_for_100(database: Database) -> None:
    account = await customer(database, 100)

    ends = await asyncio.gather(*(hold(database, account, 1) for _ in range(200)), return_exceptions=True)
    assert sum(isinstance(end, UUID) for end in ends) == 100
    assert {end.sqlstate for end in ends if isinstance(end, asyncpg.PostgresError)} == {"KT402"}
    assert await wallets.balance(database, account) == Balance(0, 100, 0)
    assert await wallets.drift(database) == []


async def test_20_settles_at_once_end_a_hold_once(database: Database) -> None:
    account = await customer(database, 100)
    held = await hold(database, account, 10)
    states = await asyncio.gather(*(settle(database, held, capture=number % 2 == 0) for number in range(20)))
    assert len(set(states)) == 1
    assert await database.fetch_value("SELECT count(*) FROM movement WHERE hold_id = $1", held) == 2
    captured = states[0] == "captured"
    assert await wallets.balance(database, account) == Balance(90 if captured else 100, 0, 0)
    assert await wallets.drift(database) == []


_ADD = "INSERT INTO movement (kind, business_id, account_id, hash) VALUES ('adjust', 'x', $1, sha256('x'))"
_ENTRY = "INSERT INTO entry (movement_id, seq, book, account_id, amount, balance_after) VALUES "


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param((_ADD,), id="a movement without entries"),
        pytest.param((_ADD, _ENTRY + "((SELECT max(id) FROM movement), 1, 'available', $1, 5, 5)"), id="one sided"),
        pytest.param(
            (
                _ADD,
                _ENTRY + "((SELECT max(id) FROM movement), 1, 'available', $1, 5, 5),"
                " ((SELECT max(id) FROM movement), 2, 'clearing', NULL, -4, NULL)",
            ),
            id="unequal sides",
        ),
        pytest.param((_ENTRY + "((SELECT min(id) FROM movement), 9, 'available', $1, 5, 5)",), id="a lone later entry"),
    ],
)
async def test_what_does_not_sum_to_zero_is_refused(database: Database, statements: tuple[str, ...]) -> None:
    account = await customer(database, 100)

    async def write() -> None:
        async with database.transaction() as connection:
            for statement in statements:
                await connection.execute(statement, account)

    assert await refused(write()) == "KT901"
    assert await database.fetch_value("SELECT count(*) FROM movement") == 1
    assert await total(database) == 0


async def test_the_past_does_not_change(database: Database) -> None:
    await customer(database, 100)
    for table in ("entry", "movement"):
        for statement in ("UPDATE {} SET account_id = account_id", "DELETE FROM {}", "TRUNCATE {} CASCADE"):
            assert await refused(database.execute(statement.format(table))) == "KT900"
    assert await wallets.drift(database) == []


async def test_a_wallet_cannot_hold_nonsense(database: Database) -> None:
    await customer(database, 100)
    for change in ("available = -1", "held = -1", "debt = -1", "available = NULL", "available = 5, debt = 5"):
        assert (await refused(database.execute(f"UPDATE wallet SET {change}")))[:2] == "23"


async def test_only_positive_amounts_move(database: Database) -> None:
    account = await customer(database, 100)
    for amount in (0, -1, -MAX, None):
        for function in ("topup", "chargeback"):
            assert (
                await refused(database.fetch_value(f"SELECT {function}($1, $2, 'x', '')", account, amount)) == "KT905"
            )
    for number in (0, -1):
        assert await refused(hold(database, account, number)) == asyncpg.CheckViolationError.sqlstate
        for move in (topup, chargeback):
            with pytest.raises(ValueError, match="positive"):
                await move(database, account, number)
    assert await wallets.balance(database, account) == Balance(100, 0, 0)


async def test_amounts_end_where_bigint_ends(database: Database) -> None:
    account = await customer(database, MAX)
    assert await refused(topup(database, account, 1, "over")) == asyncpg.NumericValueOutOfRangeError.sqlstate
    with pytest.raises(asyncpg.DataError):
        await topup(database, account, MAX + 1)
    with pytest.raises(asyncpg.DataError):
        await topup(database, account, 1.5)
    held = await hold(database, account, MAX)
    assert await settle(database, held, capture=True) == "captured"
    assert await topup(database, account, MAX, "over")
    assert await wallets.balance(database, account) == Balance(MAX, 0, 0)
    assert await wallets.drift(database) == []


async def test_an_unknown_account_has_no_wallet(database: Database) -> None:
    for call in (
        wallets.balance(database, uuid4()),
        topup(database, uuid4(), 5),
        chargeback(database, uuid4(), 5),
    ):
        with pytest.raises(LookupError):
            await call


@pytest.mark.parametrize(
    "plant",
    [
        "UPDATE wallet SET available = available + 1",
        "UPDATE wallet SET held = held + 1",
        "UPDATE wallet SET available = 0, debt = 5",
        "UPDATE hold SET state = 'released', ended_at = now()",
        "UPDATE hold SET amount = amount + 1",
    ],
)
async def test_a_planted_drift_is_seen(database: Database, plant: str) -> None:
    account = await customer(database, 100)
    innocent = await customer(database)
    await hold(database, account, 40)
    assert await wallets.drift(database) == []
    await database.execute(f"{plant} WHERE account_id = $1", account)
    (found,) = await wallets.drift(database)
    assert found.account_id == account != innocent
    assert (found.entries_available, found.entries_held, found.entries_debt) == (60, 40, 0)


class Model:
    """What the wallet should be, in plain Python."""

    def __init__(self) -> None:
        self.available = self.held = self.debt = 0
        self.open: dict[UUID, int] = {}

    def topup(self, amount: int) -> None:
        repaid = min(amount, self.debt)
        self.debt -= repaid
        self.available += amount - repaid

    def chargeback(self, amount: int) -> None:
        taken = min(amount, self.available)
        self.available -= taken
        self.debt += amount - taken

    def may_hold(self, amount: int) -> bool:
        return self.debt == 0 and self.available >= amount

    def balance(self) -> Balance:
        return Balance(self.available, self.held, self.debt)


_STEPS = st.lists(
    st.tuples(st.sampled_from(["topup", "chargeback", "hold", "capture", "release"]), st.integers(1, 60)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
async def test_any_sequence_agrees_with_the_model_and_never_drifts(
    database: Database, steps: list[tuple[str, int]]
) -> None:
    account, model = await customer(database), Model()
    for step, amount in steps:
        match step:
            case "topup":
                await topup(database, account, amount)
                model.topup(amount)
            case "chargeback":
                await chargeback(database, account, amount)
                model.chargeback(amount)
            case "hold" if model.may_hold(amount):
                held = await hold(database, account, amount)
                model.open[held] = amount
                model.available -= amount
                model.held += amount
            case "hold":
                assert await refused(hold(database, account, amount)) == "KT402"
            case _ if model.open:
                held = list(model.open)[amount % len(model.open)]
                sum_ = model.open.pop(held)
                await settle(database, held, capture=step == "capture")
                model.held -= sum_
                if step == "release":
                    model.topup(sum_)
        assert await wallets.balance(database, account) == model.balance()
    assert await wallets.drift(database) == []
    assert await total(database) == 0
    after = await database.fetch(
        "SELECT DISTINCT ON (book) book, balance_after FROM entry WHERE account_id = $1"
        " ORDER BY book, movement_id DESC, seq DESC",
        account,
    )
    last = {row["book"]: row["balance_after"] for row in after}
    assert last.get("available", 0) == model.available
    assert last.get("held", 0) == model.held
    assert last.get("debt", 0) == -model.debt


async def test_many_at_once_never_drift_nor_deadlock(database: Database) -> None:
    accounts_ = [await customer(database, 50) for _ in range(3)]

    async def work(number: int) -> None:
        account = accounts_[number % 3]
        await topup(database, account, 5)
        try:
            held = await hold(database, account, 7)
        except asyncpg.PostgresError as error:
            if error.sqlstate != "KT402":
                raise
            return
        await asyncio.gather(
            settle(database, held, capture=True),
            settle(database, held, capture=False),
            chargeback(database, account, 3),
        )

    await asyncio.gather(*(work(number) for number in range(90)))
    assert await wallets.drift(database) == []
    assert await total(database) == 0
    assert await database.fetch_value("SELECT count(*) FROM hold WHERE state = 'held'") == 0
