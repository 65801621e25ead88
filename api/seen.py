"""Answers to reads of jobs, kept by one process while the jobs stay as they are: whoever polls mostly finds nothing new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from jobs.store import Version

if TYPE_CHECKING:
    from api.views import JobAnswer

MOST = 2000


@dataclass(frozen=True)
class Seen:
    """An answer, its text, and which version of the job it tells of."""

    version: Version
    answer: JobAnswer
    text: str


class SeenJobs:
    """The jobs that were read last, `most` of them."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._seen: dict[UUID, Seen] = {}

    def get(self, job_id: UUID) -> Seen | None:
        """What was kept of the job: the database alone knows whether it still holds, and whose job it is."""
        seen = self._seen.pop(job_id, None)
        if seen is not None:
            self._seen[job_id] = seen
        return seen

    def keep(self, job_id: UUID, seen: Seen) -> None:
        """Keep it instead of what was kept of the job before."""
        self._seen.pop(job_id, None)
        self._seen[job_id] = seen
        if len(self._seen) > self._most:
            del self._seen[next(iter(self._seen))]

    def forget(self, job_id: UUID) -> None:
        """The job is not kept any more; it need not be."""
        self._seen.pop(job_id, None)
