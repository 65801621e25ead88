"""The real database under the operations of `model`: performs them, and reads back what the model must agree with."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from accounts import accounts
from billing import wallets
from core.database import Database
from core.errors import IdempotencyConflict, InsufficientBalance, QueueFull
from core.ids import uuid7
from jobs import pools
from jobs.leases import Leases, Outcome, SessionEnded
from jobs.models import Lease, Submission
from jobs.store import Jobs
from killatamata.embedded_postgres import EmbeddedPostgres
from pricing.quotes import Quote
from tests.conftest import sibling
from tests.emptied import EMPTY
from tests.jobs.invariants import broken
from tests.jobs.model import (
    POOLS,
    Beat,
    Cancel,
    CancelDue,
    Chargeback,
    Claim,
    Close,
    HandBack,
    Model,
    Opened,
    Operation,
    Permitted,
    ProgressMade,
    SegmentEnd,
    Settle,
    Silence,
    Slots,
    StageBegin,
    StartTimeout,
    Submit,
    Token,
    Topup,
    Wrong,
)
from tests.jobs.world import FAILURE

CONCURRENCY = {0: 2, 1: 3, 2: 1}
QUEUE_LIMIT = {0: 6, 1: 100, 2: 100}
CREDIT = {0: 100_000, 1: 600, 2: 100_000}
_REFUSED = (IdempotencyConflict, InsufficientBalance, QueueFull, SessionEnded)

_JOBS = """
SELECT job.id, job.state, job.segment, job.fence, job.session_id AS session, job.starts, job.attempts,
  job.cancel_requested_at IS NOT NULL AS asked, job.stage IS NOT NULL AS stage, hold.state AS hold, hold.amount,
  job.failure ->> 'code' AS failure, job.outputs <> '[]' AS outputs, queue.state AS place, queue.pool,
  CASE queue.state WHEN 'ready' THEN queue.begun END AS begun,
  ARRAY(SELECT coalesce(data ->> 'status', type) FROM event WHERE job_id = job.id ORDER BY seq) AS events,
  (SELECT jsonb_agg(jsonb_build_array(fence, session_id, outcome) ORDER BY fence) FROM attempt WHERE job_id = job.id)
    AS tries,
  EXISTS (SELECT FROM stage WHERE stage.job_id = job.id AND ended_at IS NULL) AS at_work,
  (SELECT count(*) FROM delivery WHERE job_id = job.id) AS notices
FROM job LEFT JOIN hold ON hold.id = job.id LEFT JOIN queue ON queue.job_id = job.id
"""
_WALLETS = "SELECT account_id, available, held, debt FROM wallet"


class Scene:
    """A database of its own, in which sessions never expire by themselves, however slow the machine is."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.accounts: list[UUID] = []
        self.jobs: list[UUID] = []
        self.sessions: list[int] = []

    async def begin(self) -> Model:
        """Nothing but accounts with credit, and pools."""
        async with self.database.transaction() as connection:
            await connection.execute(EMPTY)
        self.accounts, self.jobs, self.sessions = [], [], []
        model = Model(CONCURRENCY, QUEUE_LIMIT)
        await pools.declare(self.database, frozenset(POOLS))
        for pool in POOLS:
            await self.prepare(model, Slots(pool, 2))
        for number, concurrency in CONCURRENCY.items():
            async with self.database.transaction() as connection:
                made = await accounts.create(connection, "customer")
                await connection.execute(
                    "UPDATE account SET concurrency = $2, queue_limit = $3 WHERE id = $1",
                    made.id, concurrency, QUEUE_LIMIT[number],
                )  # fmt: skip
            self.accounts.append(made.id)
            await self.prepare(model, Topup(number, CREDIT[number], -number - 1))
        await self.prepare(model, Opened())
        await self.compare(model)
        return model

    async def agree(self, model: Model, *operations: Operation) -> list[Any]:
        """Perform operations one after another; the model must have the same answers and agree on everything after each."""
        answers = []
        for operation in operations:
            answers += await self.prepare(model, operation)
            await self.compare(model)
        return answers

    async def prepare(self, model: Model, *operations: Operation) -> list[Any]:
        """The same, but nothing is read back."""
        answers = []
        for operation in operations:
            answers.append(await self.perform(operation))
            self.answered(model, operation, answers[-1])
        return answers

    def answered(self, model: Model, operation: Operation, answer: Any) -> None:
        """The model makes the operation; its answer must be the database's."""
        expected = model.apply(operation, answer)
        if expected != answer:
            raise Wrong(f"{operation} answered {answer!r} and had to answer {expected!r}")

    async def compare(self, model: Model) -> None:
        """The database and the model are in the same state."""
        found = await self._jobs()
        if len(found) != len(model.jobs):
            raise Wrong(f"there are {len(found)} jobs and had to be {len(model.jobs)}")
        model.settle_places(
            {
                number
                for number, job in enumerate(model.jobs)
                if job.place == "parked" and found[number]["place"] == "ready"
            }
        )
        for number, job in enumerate(model.jobs):
            expected = job.seen()
            wrong = {key: (found[number][key], value) for key, value in expected.items() if found[number][key] != value}
            if wrong:
                raise Wrong(f"job {number}: (is, had to be) {wrong}")
        rows = {row["account_id"]: row for row in await self.database.fetch(_WALLETS)}
        for number, account in enumerate(self.accounts):
            row, had = rows[account], model.wallets[number]
            is_ = (row["available"], row["held"], row["debt"])
            if is_ != (had.available, had.held, had.debt):
                raise Wrong(f"wallet {number} is {is_} (available, held, debt) and had to be {had}")
            if had.available + had.held - had.debt != had.paid_in - had.captured:
                raise Wrong(f"money appeared in wallet {number}: {had}")

    async def hold_at_rest(self) -> None:
        """Everything else that must be true of any database."""
        wrong = await broken(self.database)
        twice = await self.database.fetch(
            "SELECT hold_id FROM movement WHERE kind IN ('capture', 'release') GROUP BY 1 HAVING count(*) > 1"
        )
        if wrong or twice:
            raise Wrong(f"{wrong}, settled twice: {twice}")

    async def drain(self, model: Model) -> None:
        """No job is lost: every one of them can still be brought to its end."""
        await self.agree(model, *(Slots(pool, 100) for pool in POOLS))
        await self.agree(model, *(Close(number) for number in range(len(self.sessions))), Opened())
        last = len(self.sessions) - 1
        for _ in range(10 * len(model.jobs) + 1):
            taken = [job for pool in POOLS for job in (await self.agree(model, Claim(pool, 100, last)))[0]]
            for number in taken:
                job, token = model.jobs[number], Token(number, model.jobs[number].fence)
                over = job.segment + 1 == len(job.chain)
                await self.agree(model, Settle(token, "succeeded") if over else SegmentEnd(token))
            if not taken:
                break
        await self.hold_at_rest()
        lost = [number for number, job in enumerate(model.jobs) if not job.ended]
        if lost or any(wallet.held for wallet in model.wallets.values()):
            raise Wrong(f"jobs {lost} cannot be brought to an end")

    async def perform(self, operation: Operation) -> Any:
        """What the database answers, in the model's words; each call as from a client of its own."""
        leases = Leases(self.database)
        try:
            return await self._perform(operation, leases)
        except _REFUSED as refused:
            return type(refused).__name__

    async def _perform(self, operation: Operation, leases: Leases) -> Any:
        match operation:
            case Submit():
                accepted = await Jobs(self.database).submit(self._submission(operation))
                if accepted.replayed:
                    return ("replayed", self.jobs.index(accepted.job.id))
                self.jobs.append(accepted.job.id)
                return ("accepted", len(self.jobs) - 1)
            case Claim(pool, most, session):
                taken = await leases.claim(pool, most, self.sessions[session])
                return [self.jobs.index(lease.job_id) for lease in taken]
            case Settle(token, state):
                failure = FAILURE if state == "failed" else None
                made = Outcome(outputs=({"key": f"jobs/{token.job}/{token.fence}/a"},) if state == "succeeded" else ())
                return await leases.settle(self._lease(token), state, made, failure)  # type: ignore[arg-type]
            case SegmentEnd(token):
                return await leases.segment_end(self._lease(token), {"fence": token.fence})
            case HandBack(token, counts, begun, last):
                return await leases.hand_back(self._lease(token), "test", counts=counts, begun=begun, last=last)
            case StageBegin(token):
                return await leases.stage_begin(self._lease(token), "model")
            case ProgressMade(token):
                return await leases.progress(self._lease(token), 0.5)
            case Permitted(token):
                return await self.database.fetch_value("SELECT permitted($1, $2)", self.jobs[token.job], token.fence)
            case Cancel(number):
                owner = await self.database.fetch_value("SELECT account_id FROM job WHERE id = $1", self.jobs[number])
                return await self.database.fetch_value(
                    "SELECT cancel($1, $2, NULL, NULL, NULL)", owner, self.jobs[number]
                )
            case CancelDue():
                return await leases.cancel_due(most_running=1000)
            case StartTimeout():
                return await leases.time_out_starts()
            case Opened():
                self.sessions.append(await leases.open_session("model"))
                return len(self.sessions) - 1
            case Beat(session):
                await leases.beat(self.sessions[session])
                return "beaten"
            case Silence(session):
                await self.database.execute(
                    "UPDATE session SET beat_at = beat_at - interval '1 year' WHERE id = $1", self.sessions[session]
                )
                return None
            case Close(session):
                return await leases.close_session(self.sessions[session])
            case Slots(pool, slots, paused):
                await self.database.execute(
                    "UPDATE pool SET slots = $2, paused = $3 WHERE name = $1", pool, slots, paused
                )
                return None
            case Topup(account, amount, number):
                async with self.database.transaction() as connection:
                    return await wallets.topup(connection, self.accounts[account], amount, f"paid:{number}")
            case Chargeback(account, amount, number):
                async with self.database.transaction() as connection:
                    return await wallets.chargeback(connection, self.accounts[account], amount, f"paid:{number}")

    def _submission(self, asked: Submit) -> Submission:
        return Submission(
            account_id=self.accounts[asked.account],
            task="image.generate",
            effective_input={"prompt": "a tree"},
            input_adjustments=[],
            warnings=[],
            quote=Quote(asked.price, (), "test"),
            pools=asked.chain,
            cost_seconds=1.0,
            priority="standard",
            request_id="req_1",
            idempotency_key=asked.key,
            fingerprint=bytes([asked.body]) * 32,
            start_timeout_seconds=0 if asked.late else 3600,
            cancel_after_seconds=0 if asked.due else None,
            webhook_url="https://hooks.example.test" if asked.webhook else None,
        )

    def _lease(self, token: Token) -> Lease:
        return Lease(self.jobs[token.job], token.fence, uuid7(), "image.generate", 0, {}, None, "req_1")

    async def _jobs(self) -> list[dict[str, Any]]:
        rows = {row["id"]: dict(row) for row in await self.database.fetch(_JOBS)}
        if len(rows) != len(self.jobs):
            raise Wrong(f"there are {len(rows)} jobs, {len(self.jobs)} were accepted")
        number = {session: place for place, session in enumerate(self.sessions)}
        for row in rows.values():
            row["session"] = number.get(row["session"])
            row["tries"] = [(fence, number[session], outcome) for fence, session, outcome in row["tries"] or ()]
        return [rows[job] for job in self.jobs]


@dataclass(frozen=True)
class Plant:
    """A bug: in the SQL function, the text that stands there once, and what stands there instead."""

    function: str
    text: str
    instead: str


class Bench:
    """A database for scenes and an event loop to use it from tests that are no coroutines (hypothesis runs none)."""

    def __init__(self, postgres: EmbeddedPostgres, template: str, name: str) -> None:
        self._admin_url, self._template, self._name = postgres.dsn, template, name
        self._loop = asyncio.new_event_loop()
        self.database = Database(sibling(postgres.dsn, name), size=8)
        self.tried = 0
        """How many lines of operations, or pairs of them, were tried."""

    def run(self, work: Any) -> Any:
        """The result of a coroutine."""
        return self._loop.run_until_complete(work)

    async def _administer(self, statement: str) -> None:
        connection = await asyncpg.connect(self._admin_url)
        await connection.execute(statement)
        await connection.close()

    async def _spoil(self, plant: Plant) -> None:
        (text,) = [
            row[0]
            for row in await self.database.fetch(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronamespace = 'public'::regnamespace",
                plant.function,
            )
        ]
        if text.count(plant.text) != 1:
            raise LookupError(f"{plant.function} does not say {plant.text!r} once any more: plant this bug anew")
        await self.database.execute(text.replace(plant.text, plant.instead))

    async def _open(self, plant: Plant | None) -> None:
        await self._administer(f"CREATE DATABASE {self._name} TEMPLATE {self._template} STRATEGY FILE_COPY")
        await self._administer(f"ALTER DATABASE {self._name} SET deadlock_timeout = '100ms'")
        await self._administer(f"ALTER DATABASE {self._name} SET synchronous_commit = off")
        await self.database.open()
        for function, interval in (("restart_grace", "0"), ("session_expiry", "1 month")):
            await self.database.execute(
                f"CREATE OR REPLACE FUNCTION {function}() RETURNS interval LANGUAGE sql IMMUTABLE"
                f" AS $$ SELECT interval '{interval}' $$"
            )
        if plant is not None:
            await self._spoil(plant)

    async def _close(self) -> None:
        await self.database.close()
        await self._administer(f"DROP DATABASE {self._name} WITH (FORCE)")

    @contextmanager
    def opened(self, plant: Plant | None = None) -> Iterator[Bench]:
        """The database exists in this block, with a bug in it if one is to be planted.

        Raises:
            LookupError: the function does not have the text that is to be replaced.
        """
        try:
            self.run(self._open(plant))
            yield self
        finally:
            self.run(self._close())
            self._loop.close()
