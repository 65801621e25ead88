"""Files that this service has already: outputs that feed the next job of the same account, until they are deleted."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, ClassVar
from uuid import UUID

from core.database import Database
from core.egress import FetchFailed
from core.errors import NotFound, WrongState
from core.log import logger
from jobs.uploads import FOLDER as UPLOADS
from storage import Artifact, Store, StoreUnavailable

FOLDER = "jobs"

_log = logger(__name__)

_OUTPUT = """
SELECT outputs @> jsonb_build_array(jsonb_build_object('key', $3::text)) AS named,
  outputs_deleted_at IS NULL AND finished_at > clock_timestamp() - $4::interval AS kept
FROM job WHERE id = $1 AND account_id = $2
"""
_UPLOAD = "SELECT expires_at > clock_timestamp() AS kept FROM upload WHERE key = $1 AND account_id = $2"
# Marked as a stray in the same breath: whoever dies after this line leaves the rest to the sweep.
_MARK = """
WITH ended AS (SELECT id, strays FROM job WHERE id = $1 AND account_id = $2 AND finished_at IS NOT NULL FOR NO KEY UPDATE)
UPDATE job SET outputs_deleted_at = coalesce(outputs_deleted_at, clock_timestamp()), strays = true
FROM ended WHERE job.id = ended.id RETURNING ended.strays
"""


class NoSuchFile(FetchFailed):
    """The URL is one of ours, and leads to nothing of this account: the same answer whether it is there or not."""

    def __init__(self) -> None:
        super().__init__("This service has no such file of your account; take a URL that a job or an upload gave you.")


class NotUploaded(FetchFailed):
    """The upload is this account's, and its content never came."""

    def __init__(self) -> None:
        super().__init__("Nothing was sent to this upload yet; PUT the file to its uploadUrl, then submit again.")


class FileGone(FetchFailed):
    """The file was this account's, and its time is over."""

    code: ClassVar[str] = "output_expired"

    def __init__(self) -> None:
        super().__init__("This file was deleted when its time was over; make or upload it again.")


class FileTooLarge(FetchFailed):
    """The file is larger than what its place in the input takes."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"The file behind this URL has {size} bytes; at most {most} are read.")


def job_folder(job_id: UUID) -> str:
    """Where the store has everything that attempts of the job wrote; ends with a slash."""
    return f"{FOLDER}/{job_id}/"


class Artifacts:
    """Outputs and uploads as their own account sees them. `kept_days` is the life of outputs after a job's end."""

    def __init__(self, database: Database, store: Store, kept_days: float) -> None:
        self._database = database
        self._store = store
        self._kept = timedelta(days=kept_days)

    async def locate(self, account_id: UUID, url: str, *, max_bytes: int) -> Artifact | None:
        """The stored file that `url` names, when it is one of ours, however old its signature; None for every other URL.

        Raises:
            FetchFailed: by class: it is not the account's, is gone, was never sent, or is too large.
            StoreUnavailable: the store fails.
        """
        key = self._store.key_of(url)
        if key is None:
            return None
        if not await self._kept_for(account_id, key):
            raise FileGone
        found = await asyncio.to_thread(self._store.stat, key)
        if found is None:
            raise NotUploaded if key.startswith(f"{UPLOADS}/") else FileGone
        if found.bytes > max_bytes:
            raise FileTooLarge(found.bytes, max_bytes)
        return found

    async def _kept_for(self, account_id: UUID, key: str) -> bool:
        folder, _, rest = key.partition("/")
        row: Any = None
        if folder == UPLOADS:
            row = await self._database.fetch_row(_UPLOAD, key, account_id)
        elif folder == FOLDER:
            job_id = _uuid(rest.partition("/")[0])
            row = job_id and await self._database.fetch_row(_OUTPUT, job_id, account_id, key, self._kept)
        if not row or not row.get("named", True):
            raise NoSuchFile
        return bool(row["kept"])

    async def delete_outputs(self, account_id: UUID, job_id: UUID) -> None:
        """Delete what the job made; again is fine. A store that fails only delays the files' end, to the next sweep.

        Raises:
            NotFound: there is no such job, or it belongs to another account.
            WrongState: it has not ended.
        """
        row = await self._database.fetch_row(_MARK, job_id, account_id)
        if row is None:
            if await self._database.fetch_value(
                "SELECT true FROM job WHERE id = $1 AND account_id = $2", job_id, account_id
            ):
                raise WrongState(
                    "This job has not ended; cancel it, or wait for its end, before you delete its outputs."
                )
            raise NotFound("There is no such job; send the jobId of a submit.")
        try:
            await asyncio.to_thread(self._store.delete_prefix, job_folder(job_id))
        except StoreUnavailable as error:
            _log.warning("outputs are left to the sweep", job=str(job_id), error=str(error))
            return
        if not row["strays"]:
            await self._database.execute("UPDATE job SET strays = false WHERE id = $1", job_id)


def _uuid(text: str) -> UUID | None:
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text else None
