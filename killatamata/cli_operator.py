"""The operator's commands: accounts, keys and the ledger, straight on the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from cyclopts import App

from core.ids import decode, encode
from core.money import parse_usd, usd
from core.settings import Settings
from killatamata import show
from killatamata.command import CommandFailed, database, interruptible, operator

if TYPE_CHECKING:
    from accounts.accounts import Account
    from core.database import Database

account = App(name="account", help="Accounts, their credit and their limits.")
key = App(name="key", help="API keys.")
ledger = App(name="ledger", help="The double-entry ledger.")
prices = App(name="prices", help="The price book.")


@account.command(name="create")
def account_create(name: str, *, credit: str | None = None) -> int:
    """Make an account with an empty wallet, or with a first credit in dollars; prints its id."""
    from accounts import accounts
    from billing import wallets
    from core.ids import uuid7

    amount = None if credit is None else parse_usd(credit)

    async def create(settings: Settings) -> int:
        async with database(settings) as books, books.transaction() as connection:
            made = await accounts.create(connection, name)
            if amount is not None:
                await wallets.topup(connection, made.id, amount, f"operator:{uuid7()}")
        print(encode("acct", made.id))
        return 0

    return interruptible(create)


@account.command(name="credit")
def account_credit(account_id: str, amount: str, *, reference: str | None = None) -> int:
    """Credit an account with an amount in dollars; a debt is repaid first.

    Parameters
    ----------
    account_id:
        acct_…
    amount:
        Dollars, for example 25 or 0.50.
    reference:
        The payment's own id: the same one credits only once.
    """
    from billing import wallets
    from core.ids import uuid7

    owner, micros = _account(account_id), parse_usd(amount)

    async def give(settings: Settings) -> int:
        async with database(settings) as books:
            await _known(books, owner)
            async with books.transaction() as connection:
                given = await wallets.topup(connection, owner, micros, f"operator:{reference or uuid7()}")
            balance = await wallets.balance(books, owner)
        print(f"{'credited' if given else 'already credited'}; available ${usd(balance.available)}")
        return 0

    return interruptible(give)


@account.command(name="limits")
def account_limits(
    account_id: str, *, concurrency: int | None = None, queue_limit: int | None = None, reason: str | None = None
) -> int:
    """Give an account other limits, and print them; without one, print those it has. A change goes into the audit.

    Parameters
    ----------
    account_id:
        acct_…
    concurrency:
        Jobs that run at a time in each pool; more that run already go on.
    queue_limit:
        Unfinished jobs; a submit beyond them is refused.
    reason:
        For the audit.
    """
    from accounts import accounts

    owner, by = _account(account_id), operator(reason)

    async def limit(settings: Settings) -> int:
        async with database(settings) as books:
            known = await _known(books, owner)
            if concurrency is not None or queue_limit is not None:
                async with books.transaction() as connection:
                    known = (
                        await accounts.set_limits(
                            connection,
                            owner,
                            actor=by.actor,
                            reason=by.reason,
                            concurrency=concurrency,
                            queue_limit=queue_limit,
                        )
                        or known
                    )
        print(f"concurrency {known.concurrency}; queue limit {known.queue_limit}")
        return 0

    return interruptible(limit)


@key.command(name="create")
def key_create(account_id: str, *, label: str = "command line") -> int:
    """Make an API key and print it: this once."""
    owner = _account(account_id)

    async def create(settings: Settings) -> int:
        from accounts.keys import Keys

        async with database(settings) as books:
            await _known(books, owner)
            async with books.transaction() as connection:
                secret, _ = await Keys(books, settings.key).create(connection, owner, label)
        print(secret)
        return 0

    return interruptible(create)


@key.command(name="list")
def key_list(account_id: str) -> int:
    """List an account's keys."""
    owner = _account(account_id)

    async def print_all(settings: Settings) -> int:
        from accounts.keys import Keys

        async with database(settings) as books:
            await _known(books, owner)
            found = await Keys(books, settings.key).list(owner)
        rows = [
            {"prefix": made.prefix, "label": made.label, "created": made.created_at, "revoked": made.revoked_at or ""}
            for made in found
        ]
        show.table("Keys", rows)
        return 0

    return interruptible(print_all)


@key.command(name="revoke")
def key_revoke(account_id: str, prefix: str) -> int:
    """Revoke the account's key that begins so; it stops working at once."""
    owner = _account(account_id)

    async def revoke(settings: Settings) -> int:
        from accounts.keys import Keys

        async with database(settings) as books, books.transaction() as connection:
            revoked = await Keys(books, settings.key).revoke(connection, owner, prefix)
        print(f"revoked {revoked.prefix}")
        return 0

    return interruptible(revoke)


@ledger.command(name="check")
def ledger_check() -> int:
    """Compare wallets with entries, holds and hashes, and jobs with their holds; prints what differs, and then fails."""

    async def check(settings: Settings) -> int:
        from billing import wallets
        from jobs import history

        async with database(settings) as books:
            drifting = await wallets.drift(books)
            broken = await wallets.broken_chains(books)
            orphaned = (await history.orphaned_holds(books))[1]
            unbacked = (await history.unbacked_jobs(books))[1]
        for wallet in drifting:
            print(wallet)
        for owner, movement in broken.items():
            print(f"{encode('acct', owner)}: the chain is broken at movement {movement}")
        for owner in orphaned:
            print(f"{encode('acct', owner)}: a hold's job has ended")
        for owner in unbacked:
            print(f"{encode('acct', owner)}: an unfinished job lacks its hold or its place in the queue")
        wrong = {each.account_id for each in drifting}.union(broken, orphaned, unbacked)
        if wrong:
            raise CommandFailed(f"{len(wrong)} wallets disagree")
        print("no drift")
        return 0

    return interruptible(check)


@prices.command(name="publish")
def prices_publish(file: Path) -> int:
    """Put a price book (TOML) into force; what is already quoted or held keeps its price.

    Parameters
    ----------
    file:
        Written like pricing/book.toml; changed prices need a new version.
    """
    from killatamata import prices as books_of_prices

    async def publish(settings: Settings) -> int:
        async with database(settings) as books:
            print(await books_of_prices.publish(books, file))
        return 0

    return interruptible(publish)


def _account(text: str) -> UUID:
    found = decode("acct", text)
    if found is None:
        raise CommandFailed(f"{text!r} is no account id; it looks like acct_ and 26 characters")
    return found


async def _known(books: Database, owner: UUID) -> Account:
    from accounts import accounts

    found = await accounts.find(books, owner)
    if found is None:
        raise CommandFailed(f"there is no account {encode('acct', owner)}; killatamata account create makes one")
    return found
