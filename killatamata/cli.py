"""The command `killatamata`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
from cyclopts import App, Parameter
from pydantic import ValidationError
from rich.markup import escape

from core.errors import ApiError, OperatorError
from core.ids import decode, encode
from core.log import configure
from core.money import parse_usd, usd
from core.settings import PREFIX, Settings
from killatamata import show

app = App(name="killatamata", help="An open media-generation service on Ray.")
account = App(name="account", help="Accounts and their credit.")
key = App(name="key", help="API keys.")
ledger = App(name="ledger", help="The double-entry ledger.")
for group in (account, key, ledger):
    app.command(group)

INTERRUPTED = 130


class CommandFailed(OperatorError):
    """A command could not do what was asked; the message says what to do."""


@app.command
def up(*, ready_file: Path | None = None) -> int:
    """Start the whole stack and keep it running until Ctrl-C.

    Parameters
    ----------
    ready_file:
        Written once jobs are accepted: {"baseUrl", "apiKey", "pid"}.
    """

    async def serve(settings: Settings) -> int:
        from killatamata import stack
        from killatamata.private_file import write_private

        async with stack.started(settings, show.part) as (running, ready):
            if ready_file is not None:
                ready_file.parent.mkdir(parents=True, exist_ok=True)
                write_private(ready_file, json.dumps(ready.as_json()))
            show.console.print(
                f"\nReady at [bold]{ready.base_url}[/bold]\n"
                f"  API key of the local account: {ready.api_key}\n"
                f"  Try: {sys.argv[0]} submit image.generate --input prompt='cinematic fox astronaut' --wait\n"
                "  Ctrl-C stops everything; running jobs are handed back and go on at the next start.\n"
            )
            try:
                await running.watch()
            finally:
                show.console.print("Stopping; running jobs are handed back.")
        return 0

    return _interruptible(serve)


@app.command
def demo(*, tasks: str = "all", out: Path = Path("out/demo")) -> int:
    """Start a stack (or use the running one), run real jobs through the public API, show the results, stop.

    Parameters
    ----------
    tasks:
        Families of tasks, separated by commas.
    out:
        Where the results and summary.json go.
    """
    from killatamata import demo as demonstration

    async def show_off(settings: Settings) -> int:
        from killatamata import stack

        asked = demonstration.families(tasks)
        out.mkdir(parents=True, exist_ok=True)
        found = stack.running(settings)
        if found is not None:
            show.console.print(f"Using the stack that runs at {found.base_url}")
            summary = await demonstration.run(found, asked, out)
        else:
            async with stack.started(settings, show.part) as (_, ready):
                summary = await demonstration.run(ready, asked, out)
        for job in summary["jobs"]:
            for file in job["files"]:
                note = " (stand-in weights: random, so the picture is noise)" if job["standIn"] else ""
                show.console.print(f"[bold]{file['path']}[/bold]  {file['bytes']} bytes, {job['seconds']} s{note}")
        show.console.print(f"{out / 'summary.json'} has it all for programs.")
        return 0

    return _interruptible(show_off)


@app.command
def submit(
    task: str,
    *,
    inputs: Annotated[list[str] | None, Parameter(name="--input", negative="")] = None,
    priority: Literal["interactive", "standard", "batch"] = "standard",
    wait: bool = False,
    out: Path = Path("out"),
) -> int:
    """Submit a job to the running stack (or to KILLATAMATA_API_BASE with KILLATAMATA_API_KEY).

    Parameters
    ----------
    task:
        For example image.generate.
    inputs:
        A field of the input as name=value; a value that is JSON is taken as JSON, anything else as text.
    priority:
        Orders this account's own jobs.
    wait:
        Show progress, and download the outputs when the job has succeeded.
    out:
        Where outputs go.
    """
    from killatamata import client, demo

    async def send(settings: Settings) -> int:
        base, api_key = _endpoint(settings)
        async with client.Client(base, api_key) as api:
            accepted = await api.submit(task, _given(inputs or []), priority=priority)
            if not wait:
                print(json.dumps(accepted, indent=2))
                return 0
            with show.progress() as bars:
                job = await api.finished(
                    accepted["jobId"], show.follow(bars, f"{task} ${accepted['billing']['amountUsd']}")
                )
            files = await demo.downloaded(api, job, out)
            for path in files:
                print(path)
            if job["status"] == "succeeded":
                return 0
            failure = job.get("failure") or {"message": f"the job is {job['status']}"}
            raise CommandFailed(f"{failure['message']} ({job['jobId']})")

    return _interruptible(send)


@app.command
def config() -> int:
    """Print every setting, its value and where it came from."""
    for name, (value, source) in Settings().sources().items():
        print(f"{PREFIX}{name.upper()}={'' if value == 'None' else value}  # {source}")
    return 0


@account.command(name="create")
def account_create(name: str, *, credit: str | None = None) -> int:
    """Make an account with an empty wallet, or with a first credit in dollars; prints its id."""
    from accounts import accounts
    from billing import wallets
    from core.ids import uuid7

    amount = None if credit is None else parse_usd(credit)

    async def create(settings: Settings) -> int:
        async with _database(settings) as database, database.transaction() as connection:
            made = await accounts.create(connection, name)
            if amount is not None:
                await wallets.topup(connection, made.id, amount, f"operator:{uuid7()}")
        print(encode("acct", made.id))
        return 0

    return _interruptible(create)


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
        async with _database(settings) as database:
            await _known(database, owner)
            async with database.transaction() as connection:
                given = await wallets.topup(connection, owner, micros, f"operator:{reference or uuid7()}")
            balance = await wallets.balance(database, owner)
        print(f"{'credited' if given else 'already credited'}; available ${usd(balance.available)}")
        return 0

    return _interruptible(give)


@key.command(name="create")
def key_create(account_id: str, *, label: str = "command line") -> int:
    """Make an API key and print it: this once."""
    owner = _account(account_id)

    async def create(settings: Settings) -> int:
        from accounts.keys import Keys

        async with _database(settings) as database:
            await _known(database, owner)
            async with database.transaction() as connection:
                secret, _ = await Keys(database, settings.key).create(connection, owner, label)
        print(secret)
        return 0

    return _interruptible(create)


@key.command(name="list")
def key_list(account_id: str) -> int:
    """List an account's keys."""
    owner = _account(account_id)

    async def print_all(settings: Settings) -> int:
        from accounts.keys import Keys

        async with _database(settings) as database:
            await _known(database, owner)
            found = await Keys(database, settings.key).list(owner)
        rows = [
            {"prefix": made.prefix, "label": made.label, "created": made.created_at, "revoked": made.revoked_at or ""}
            for made in found
        ]
        show.table("Keys", rows)
        return 0

    return _interruptible(print_all)


@key.command(name="revoke")
def key_revoke(account_id: str, prefix: str) -> int:
    """Revoke the account's key that begins so; it stops working at once."""
    owner = _account(account_id)

    async def revoke(settings: Settings) -> int:
        from accounts.keys import Keys

        async with _database(settings) as database, database.transaction() as connection:
            revoked = await Keys(database, settings.key).revoke(connection, owner, prefix)
        print(f"revoked {revoked.prefix}")
        return 0

    return _interruptible(revoke)


@ledger.command(name="check")
def ledger_check() -> int:
    """Compare every wallet with its entries and open holds; prints the ones that drift, and fails if there are any."""

    async def check(settings: Settings) -> int:
        from billing import wallets

        async with _database(settings) as database:
            drifting = await wallets.drift(database)
        for wallet in drifting:
            print(wallet)
        if drifting:
            raise CommandFailed(f"{len(drifting)} wallets disagree with the ledger")
        print("no drift")
        return 0

    return _interruptible(check)


def _account(text: str) -> UUID:
    found = decode("acct", text)
    if found is None:
        raise CommandFailed(f"{text!r} is no account id; it looks like acct_ and 26 characters")
    return found


async def _known(database: Any, owner: UUID) -> None:
    from accounts import accounts

    if await accounts.find(database, owner) is None:
        raise CommandFailed(f"there is no account {encode('acct', owner)}; killatamata account create makes one")


def _given(inputs: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for pair in inputs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CommandFailed(f"--input takes name=value, not {pair!r}")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def _endpoint(settings: Settings) -> tuple[str, str]:
    from killatamata import stack

    base, secret = os.environ.get(f"{PREFIX}API_BASE"), os.environ.get(f"{PREFIX}API_KEY")
    if base and secret:
        return base.rstrip("/"), secret
    found = stack.running(settings)
    if found is None:
        raise CommandFailed(
            f"no stack runs on {settings.root}; start one with killatamata up, or set {PREFIX}API_BASE and _KEY"
        )
    return found.base_url, secret or found.api_key


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Any]:
    """The stack's database: the given one, the running stack's, or the embedded one started for this command alone."""
    from core.database import Database
    from killatamata.migrate import migrate
    from killatamata.stack import embedded

    async with embedded(settings) as url:
        await migrate(url)
        database = Database(url, size=2)
        await database.open()
        try:
            yield database
        finally:
            await database.close()


def _interruptible(work: Callable[[Settings], Awaitable[int]]) -> int:
    """Run `work`; Ctrl-C and SIGTERM cancel it once, so that everything it opened is closed."""

    async def run() -> int:
        settings = Settings()
        configure(settings.log_level, json=settings.log_json)
        task = asyncio.ensure_future(work(settings))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return INTERRUPTED

    return asyncio.run(run())


def main() -> None:
    """The command's entry."""
    try:
        code = app(sys.argv[1:], result_action="return_value")
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            name = name if name.startswith((PREFIX, "DATABASE")) else PREFIX + name
            show.console.print("[red]✗[/red]", escape(f"{name}: {problem['msg']}, not {problem['input']!r}"))
        code = 1
    except (OperatorError, ApiError, ValueError, OSError, asyncpg.PostgresError) as error:
        show.console.print("[red]✗[/red]", escape(str(error)))
        code = 1
    sys.exit(code)
