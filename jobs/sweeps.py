"""What becomes of files whose time is over. Each sweep ends when it finds nothing more to do; returns how much it did.

Any number may run at once, and each may be killed between any two lines: one transaction per item holds the row that
remembers the file, the file is deleted first, the row's memory of it last. A store that fails ends a sweep with its error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from core.database import Connection, Database
from jobs.artifacts import job_folder
from jobs.inputs import input_key
from storage import Store

BATCH = 100
STRAY_AFTER = timedelta(minutes=15)
"""How long after a job's end a late attempt may still write."""
INPUTS_KEPT = timedelta(hours=24)
"""After the end of the last job that names an input."""
UPLOAD_GRACE = timedelta(minutes=5)
"""After an upload's end: a file that was complete just in time may be on its way into the store."""

_EXPIRED = """
UPDATE job SET outputs_deleted_at = clock_timestamp(), strays = true WHERE id IN (
  SELECT id FROM job WHERE finished_at < statement_timestamp() - $1::interval
      AND outputs <> '[]'::jsonb AND outputs_deleted_at IS NULL
    ORDER BY finished_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id
"""
_STRAYS = """
SELECT id FROM job WHERE strays AND (finished_at < statement_timestamp() - $1::interval OR outputs_deleted_at IS NOT NULL)
  ORDER BY finished_at LIMIT $2
"""
_STRAY = """
SELECT CASE WHEN outputs_deleted_at IS NULL THEN outputs ELSE '[]' END AS kept FROM job WHERE id = $1 AND strays
  FOR NO KEY UPDATE SKIP LOCKED
"""
_SWEPT = "UPDATE job SET strays = finished_at >= clock_timestamp() - $2::interval WHERE id = $1 RETURNING NOT strays"
_LET_GO = """
DELETE FROM job_input WHERE (job_id, sha256) IN (
  SELECT job_input.job_id, job_input.sha256 FROM job_input JOIN job ON job.id = job_input.job_id
    WHERE job.finished_at < statement_timestamp() - $1::interval
    LIMIT $2 FOR UPDATE OF job_input SKIP LOCKED)
RETURNING job_id
"""
_NAMED = "EXISTS (SELECT FROM job_input WHERE job_input.sha256 = input.sha256)"
_UNNAMED = "kept_at < statement_timestamp() - unnamed_input_kept()"
_INPUTS = f"SELECT sha256 FROM input WHERE {_UNNAMED} AND NOT {_NAMED} ORDER BY kept_at LIMIT $1"
_INPUT = f"SELECT FROM input WHERE sha256 = $1 AND {_UNNAMED} FOR UPDATE SKIP LOCKED"
_UPLOADS = "SELECT id FROM upload WHERE expires_at < statement_timestamp() - $1::interval ORDER BY expires_at LIMIT $2"
_UPLOAD = "SELECT key FROM upload WHERE id = $1 FOR UPDATE SKIP LOCKED"


async def expire_outputs(database: Database, kept: timedelta) -> int:
    """Take back outputs of jobs that ended more than `kept` ago; `remove_strays` then deletes the files."""
    count = 0
    while rows := await database.fetch(_EXPIRED, kept, BATCH):
        count += len(rows)
    return count


async def remove_strays(database: Database, store: Store, *, after: timedelta = STRAY_AFTER) -> int:
    """Delete what attempts without a result, or deleted outputs, left behind; returns how many jobs are clean now."""

    async def clean(connection: Connection, job_id: Any) -> bool:
        row = await connection.fetchrow(_STRAY, job_id)
        if row is None:
            return False
        kept = {output["key"] for output in row["kept"]}
        await asyncio.to_thread(_delete_all_but, store, job_folder(job_id), kept)
        return bool(await connection.fetchval(_SWEPT, job_id, after))

    return await _each(database, clean, _STRAYS, after)


async def remove_inputs(database: Database, store: Store, *, kept: timedelta = INPUTS_KEPT) -> int:
    """Delete inputs `kept` after the end of their last job, or an hour after they came and became no job's."""
    while await database.fetch(_LET_GO, kept, BATCH):
        pass

    async def remove(connection: Connection, sha256: Any) -> bool:
        if await connection.fetchrow(_INPUT, sha256) is None:
            return False
        # Again, now that no job can come to name it: the first look was taken before the row was held.
        if await connection.fetchval(f"SELECT {_NAMED} FROM input WHERE sha256 = $1", sha256):
            return False
        await asyncio.to_thread(store.delete, input_key(sha256.hex()))
        await connection.execute("DELETE FROM input WHERE sha256 = $1", sha256)
        return True

    return await _each(database, remove, _INPUTS)


async def remove_uploads(database: Database, store: Store, *, grace: timedelta = UPLOAD_GRACE) -> int:
    """Delete uploads, whether anything came or not, `grace` after their end."""

    async def remove(connection: Connection, upload_id: Any) -> bool:
        key = await connection.fetchval(_UPLOAD, upload_id)
        if key is None:
            return False
        await asyncio.to_thread(store.delete, key)
        await connection.execute("DELETE FROM upload WHERE id = $1", upload_id)
        return True

    return await _each(database, remove, _UPLOADS, grace)


async def _each(
    database: Database, work: Callable[[Connection, Any], Awaitable[bool]], found: str, *values: timedelta
) -> int:
    """`work` on every row that the query `found` gives, each in a transaction, until no row of a batch is done."""
    count, done = 0, True
    while done:
        done = False
        for row in await database.fetch(found, *values, BATCH):
            async with database.transaction() as connection:
                worked = await work(connection, row[0])
            done |= worked
            count += worked
    return count


def _delete_all_but(store: Store, folder: str, kept: set[str]) -> None:
    if not kept:
        store.delete_prefix(folder)
        return
    for key in [key for key in store.keys(folder) if key not in kept]:
        store.delete(key)
