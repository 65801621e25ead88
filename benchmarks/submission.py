"""SQL `submit` called directly: for one job, or for many in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from benchmarks.services import CREDIT
from core.database import Connection, Database
from core.ids import uuid7

ONE = f"SELECT * FROM submit({', '.join(f'${number}' for number in range(1, 20))})"

_MANY = """
SELECT count(*) FROM unnest($1::uuid[], $2::uuid[]) AS new (job, account), submit(new.job, new.account, 'image.generate',
  '{"prompt": "cinematic fox astronaut"}', '[]', '[]', '{}', 5000, ARRAY[$3], 5 + 10 * random(), 2::smallint,
  'req_benchmark',
  'POST /media/jobs', NULL, '', interval '1 day', NULL, NULL, '{}')
"""


async def arguments(connection: Connection, job: UUID) -> tuple[Any, ...]:
    """What `submit` got after the ids of `job` and its account; `connection` is one whose jsonb is text."""
    row = await connection.fetchrow(
        "SELECT task, effective_input, input_adjustments, warnings, billing, amount, job.pools, cost, class, request_id"
        " FROM job JOIN queue ON queue.job_id = job.id WHERE job.id = $1",
        job,
    )
    return (*row, "POST /media/jobs", None, b"", timedelta(hours=1), None, None, [])


async def customers(database: Database, count: int) -> list[UUID]:
    """So many new accounts with credit."""
    ids = [uuid7() for _ in range(count)]
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO account (id, name) SELECT unnest($1::uuid[]), 'benchmark'", ids)
        await connection.execute("INSERT INTO wallet (account_id) SELECT unnest($1::uuid[])", ids)
        await connection.execute(
            "SELECT count(topup(id, $2, 'benchmark:' || id, NULL)) FROM unnest($1::uuid[]) AS account (id)", ids, CREDIT
        )
    return ids


async def submit_for(database: Database, pool: str, accounts: Sequence[UUID]) -> None:
    """One job for each of `accounts`, in one transaction."""
    await database.execute(_MANY, [uuid7() for _ in accounts], list(accounts), pool)
