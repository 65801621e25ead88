"""Ids of jobs, as callers send them."""

from __future__ import annotations

from uuid import UUID

from core.errors import NotFound
from core.ids import decode


def job_id(text: str) -> UUID:
    """The id inside `text`.

    Raises:
        NotFound: it is none; the same answer as for a job that is not there.
    """
    found = decode("job", text)
    if found is None:
        raise NotFound("There is no such job; send the jobId of a submit.")
    return found
