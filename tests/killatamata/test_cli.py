"""The commands, run as `main` runs them; one test runs them as a user does, over an embedded database of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ids import encode, uuid7
from tests.killatamata.conftest import Run

KEY = "s" * 32
NOBODY = encode("acct", uuid7())


@pytest.fixture
def run(commands: Run, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command on a fresh database."""
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", database_url)
    monkeypatch.setenv("KILLATAMATA_SECRET_KEY", KEY)
    return commands


def test_an_account_is_made_credited_once_per_reference_and_its_key_revoked(run: Run) -> None:
    code, account, _ = run("account", "create", "Ada", "--credit", "12.50")
    assert (code, account[:5]) == (0, "acct_")
    assert run("account", "credit", account, "0.000001", "--reference", "bank-1") == (
        0,
        "credited; available $12.500001",
        "",
    )
    assert run("account", "credit", account, "0.000001", "--reference", "bank-1")[1].startswith("already credited")
    code, key, _ = run("key", "create", account, "--label", "laptop")
    assert (code, key[:3]) == (0, "kt_")
    prefix = key.split("_")[1]
    code, listed, _ = run("key", "list", account)
    assert code == 0
    assert prefix in listed
    assert "laptop" in listed
    assert key not in listed, "a key is shown once"
    assert run("key", "revoke", account, prefix) == (0, f"revoked {prefix}", "")
    assert run("key", "revoke", account, f"kt_{prefix}")[0] == 0, "again is no error"
    assert run("ledger", "check") == (0, "no drift", "")


def test_a_drifting_wallet_fails_the_check(run: Run, database_url: str) -> None:
    import asyncio

    import asyncpg

    _, account, _ = run("account", "create", "Ada", "--credit", "5")

    async def tamper() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("UPDATE wallet SET available = available + 1")
        await connection.close()

    asyncio.run(tamper())
    code, out, err = run("ledger", "check")
    assert code == 1
    assert "available=5000001" in out
    assert "1 wallets disagree" in err
    assert account


@pytest.mark.parametrize(
    "words",
    [
        ("account", "credit", "acct_nonsense", "5"),
        ("account", "credit", "job_" + "0" * 26, "5"),
        ("key", "create", ""),
        ("key", "list", "1; DROP TABLE account"),
        ("key", "revoke", "acct_" + "z" * 26, "abcde"),
    ],
)
def test_a_word_that_is_no_account_id_is_said_to_be_none(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "is no account id; it looks like acct_ and 26 characters" in err


@pytest.mark.parametrize(
    "words", [("account", "credit", NOBODY, "5"), ("key", "create", NOBODY), ("key", "list", NOBODY)]
)
def test_an_account_that_does_not_exist_is_said_not_to(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert f"there is no account {NOBODY}" in err


@pytest.mark.parametrize("amount", ["0", "0.0000001", "1e3", "five", "NaN", "1,50", "", "99999999999999", "٣"])
def test_an_amount_that_cannot_be_credited_changes_nothing(run: Run, amount: str) -> None:
    _, account, _ = run("account", "create", "Ada")
    code, out, err = run("account", "credit", account, amount)
    assert (code, out) == (1, "")
    assert "amount" in err
    assert run("account", "credit", account, "1")[1] == "credited; available $1.000000"


def test_a_negative_amount_is_refused(run: Run) -> None:
    _, account, _ = run("account", "create", "Ada")
    assert run("account", "credit", account, "--amount=-5")[0] == 1
    assert run("account", "credit", account, "1")[1] == "credited; available $1.000000"


def test_an_amount_beyond_the_books_is_an_error_and_no_traceback(run: Run) -> None:
    _, account, _ = run("account", "create", "Ada")
    codes = [run("account", "credit", account, "999999999999")[0] for _ in range(11)]
    assert codes[0] == 0
    assert codes[-1] == 1
    assert run("ledger", "check")[0] == 0


@pytest.mark.parametrize("name", ["", "   ", "x" * 201])
def test_a_name_that_is_none_makes_no_account(run: Run, name: str) -> None:
    code, out, err = run("account", "create", name, "--credit", "1")
    assert (code, out) == (1, "")
    assert "1 to 200 characters" in err


def test_a_wrong_first_credit_makes_no_account(run: Run, database_url: str) -> None:
    code, out, _ = run("account", "create", "Ada", "--credit", "0")
    assert (code, out) == (1, "")
    assert run("ledger", "check")[0] == 0


def test_a_prefix_of_no_key_is_said_to_be_none(run: Run) -> None:
    _, account, _ = run("account", "create", "Ada")
    assert "No key of this account begins" in run("key", "revoke", account, "abcde")[2]
    assert "the 5 to 8 characters" in run("key", "revoke", account, "x")[2]


@pytest.mark.parametrize("words", [("acount",), ("key", "destroy"), ("account", "create", "a", "--debt", "1")])
def test_a_command_that_does_not_exist_fails(run: Run, words: tuple[str, ...]) -> None:
    code, _, _ = run(*words)
    assert code != 0


def test_settings_are_printed_with_their_source_and_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", "postgresql://ada:hunter2@db.test/kt")
    code, out, _ = run("config")
    assert code == 0
    assert "environment (KILLATAMATA_DATABASE_URL)" in out
    assert "hunter2" not in out
    assert KEY not in out
    rows = [line for line in out.splitlines() if "KILLATAMATA_PORT" in line]
    assert len(rows) == 1
    assert "default" in rows[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "99999"), ("LOG_LEVEL", "loud"), ("EGRESS_ALLOW", "every where"), ("OUTPUT_DAYS", "-1")],
)
def test_a_wrong_setting_stops_every_command_in_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"KILLATAMATA_{name}", value)
    code, _, err = run("ledger", "check")
    assert code == 1
    assert name.lower() in err.lower()


def test_a_database_that_is_away_or_refuses_is_an_error_and_no_traceback(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, _, err = run("ledger", "check")
    assert (code, err[:1]) == (1, "✗")
    head, _, query = database_url.partition("?")
    monkeypatch.setenv("KILLATAMATA_DATABASE_URL", f"{head}_not_there?{query}")
    code, _, err = run("ledger", "check")
    assert (code, "does not exist" in err) == (1, True)


def test_a_submit_without_a_stack_says_how_to_get_one(run: Run) -> None:
    code, _, err = run("submit", "image.generate", "--input", "prompt=a fox")
    assert code == 1
    assert "killatamata up" in err


def test_an_unknown_demo_starts_nothing(run: Run, tmp_path: Path) -> None:
    code, _, err = run("demo", "--tasks", "imagge", "--out", str(tmp_path / "out"))
    assert code == 1
    assert "there is one for: image" in err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ktc"))
    yield made
    shutil.rmtree(made)


def test_a_user_needs_no_database_of_their_own(folder: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KILLATAMATA_", "DATABASE_URL"))}
    environment = {**kept, "KILLATAMATA_DATA_DIR": str(folder / "data")}
    command = Path(sys.executable).with_name("killatamata")

    def said(*words: str) -> str:
        done = subprocess.run(
            [command, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    account = said("account", "create", "Ada", "--credit", "3")
    assert said("account", "credit", account, "4.5") == "credited; available $7.500000"
    left = [path.name for path in (folder / "data").iterdir()]
    assert "postmaster.pid" not in json.dumps(left)
    assert not list((folder / "data").glob("pg*/postmaster.pid")), "the server ended with its command"
