"""A client of the public API, as the command line and the demo use it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from core.errors import OperatorError
from killatamata import transport
from killatamata.event_stream import NoStream, events
from killatamata.transport import Refused, Unreachable, json_of

FINAL = frozenset({"succeeded", "failed", "cancelled"})

_JOBS = "/api/v1/media/jobs"
_POLL_SECONDS = 1.0
_FILE_TRIES = 4
_MOST_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20


class Damaged(OperatorError):
    """A file is not what was said about it."""


class Gone(OperatorError):
    """A file is no longer kept."""


class Client:
    """One account's view of a stack. Lost connections and 503 are tried again; writes carry an idempotency key."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url, headers={"Authorization": f"Bearer {api_key}"}, timeout=30, trust_env=False
        )
        # URLs of files are their own credential; the account's key is nothing for a store.
        self._files = httpx.AsyncClient(
            base_url=base_url, timeout=30, trust_env=False, follow_redirects=True, max_redirects=_MOST_REDIRECTS
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._files.aclose()
        await self._http.aclose()

    async def quote(
        self,
        task: str,
        given: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        strict: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """The price and effective input of a job, without the job. Without a key, one is drawn."""
        return await json_of(
            self._http,
            "POST",
            "/api/v1/media/quotes",
            json={"task": task, "input": given, **options},
            params=_strictly(strict),
            headers=_once(idempotency_key),
        )

    async def submit(
        self,
        task: str,
        given: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        strict: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Submit a job once, however often the connection breaks; returns the 202's body.

        `options` are further fields of the body (`maxCostUsd`, `webhookUrl`, …). Without a key, one is drawn.

        Raises:
            Refused: the API said no.
            Unreachable: the connection failed twenty times; whether there is a job tells the same key, sent again.
        """
        return await json_of(
            self._http,
            "POST",
            _JOBS,
            json={"task": task, "input": given, **options},
            params=_strictly(strict),
            headers=_once(idempotency_key),
        )

    async def job(self, job_id: str, *, details: bool = False) -> dict[str, Any]:
        """The job as it is now."""
        more = {"includeDetails": "1"} if details else {}
        return await json_of(self._http, "GET", _JOBS, params={"jobId": job_id, **more})

    async def jobs(self, *, every: bool = False, **filters: Any) -> dict[str, Any]:
        """A page of jobs, newest first, as `{jobs, nextCursor}`; with `every`, all pages in one.

        `filters` are those of the API: `status`, `task`, `limit`, `cursor`.
        """
        wanted = {name: value for name, value in filters.items() if value is not None}
        page = await json_of(self._http, "GET", _JOBS, params=wanted)
        found, seen = list(page["jobs"]), set[str]()
        while every and (cursor := page["nextCursor"]) is not None:
            if cursor in seen:
                raise Damaged("the list goes in a circle; ask the API's operator")
            seen.add(cursor)
            page = await json_of(self._http, "GET", _JOBS, params={**wanted, "cursor": cursor})
            found += page["jobs"]
        return {**page, "jobs": found}

    async def cancel(self, job_id: str, *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Ask for the end of a job; returns the job, which may have ended otherwise. Without a key, one is drawn."""
        return await json_of(self._http, "DELETE", _JOBS, params={"jobId": job_id}, headers=_once(idempotency_key))

    async def receipt(self, job_id: str) -> dict[str, Any]:
        """What the job moved in the ledger."""
        return await json_of(self._http, "GET", f"{_JOBS}/receipt", params={"jobId": job_id})

    async def finished(self, job_id: str, on_change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Wait until the job has ended; `on_change` sees every state meanwhile. Returns the job with details.

        The job's event stream tells what happens; where there is none, the job is read every second.
        """
        job = await self.job(job_id)
        on_change(job)
        try:
            async with aclosing(events(self._http, job_id, job.get("sequence", 0))) as changes:
                while job["status"] not in FINAL:
                    event = await anext(changes)
                    told: dict[str, Any] = {
                        name: event.data[name] for name in ("progress", "stage") if name in event.data
                    }
                    job = await self.job(job_id) if event.kind == "state" else {**job, **told}
                    on_change(job)
        except (NoStream, StopAsyncIteration):
            job = await self._polled(job_id, on_change)
        return await self.job(job_id, details=True)

    async def _polled(self, job_id: str, on_change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        while True:
            job = await self.job(job_id)
            on_change(job)
            if job["status"] in FINAL:
                return job
            await asyncio.sleep(_POLL_SECONDS)

    async def upload(self, path: Path, mime_type: str, *, idempotency_key: str) -> str:
        """Bring a file to the API's store; returns the URL by which a job's input names it.

        Raises:
            Damaged: the file changed meanwhile.
            Refused: the API or its store said no.
            Unreachable: the connection failed.
        """
        size, digest = await asyncio.to_thread(_measured, path)
        made = await json_of(
            self._http,
            "POST",
            "/api/v1/media/uploads",
            json={"mimeType": mime_type, "bytes": size, "sha256": digest},
            headers=_once(idempotency_key),
        )
        headers = {"Content-Type": mime_type, "Content-Length": str(size)}
        for left in reversed(range(_FILE_TRIES)):
            try:
                answer = await self._files.put(
                    made["uploadUrl"], content=_chunks(path, size), headers=headers, follow_redirects=False
                )
            except httpx.RequestError as error:
                if not left:
                    raise Unreachable(f"{path.name} did not get through ({error!r}); send it again") from error
                await asyncio.sleep(transport.PAUSE_SECONDS)
                continue
            if answer.is_success:
                return str(made["url"])
            if not left or not transport.passing(answer):
                raise Refused(answer)
            await asyncio.sleep(transport.pause(answer))
        raise AssertionError("unreachable")

    async def download(self, output: Mapping[str, Any], path: Path) -> Path:
        """Write an output to `path` and check its length and SHA-256.

        Raises:
            Damaged: the content is not what the job says; nothing is left at `path`.
            Gone: the output has been deleted.
            Refused: the store said no.
            Unreachable: the connection failed.
        """
        if output["url"] is None:
            raise Gone(f"{path.name} is no longer kept; it was deleted when its time was over")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.part")
        try:
            for left in reversed(range(_FILE_TRIES)):
                try:
                    digest = await self._read(output["url"], fresh)
                    break
                except httpx.RequestError as error:
                    if not left:
                        raise Unreachable(f"{path.name} did not arrive ({error!r}); download it again") from error
                    await asyncio.sleep(transport.PAUSE_SECONDS)
            if digest != output["sha256"] or fresh.stat().st_size != output["bytes"]:
                raise Damaged(f"{path.name} arrived damaged; download it again")
            return fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    async def _read(self, url: str, path: Path) -> str:
        digest = hashlib.sha256()
        async with self._files.stream("GET", url) as answer:
            if not answer.is_success:
                await answer.aread()
                raise Refused(answer)
            with path.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
        return digest.hexdigest()


def _once(idempotency_key: str | None) -> dict[str, str]:
    """The header under which a write happens once, however often it is sent."""
    return {"X-Idempotency-Key": idempotency_key or secrets.token_hex(16)}


def _strictly(strict: bool) -> dict[str, str]:
    return {"strict": "1"} if strict else {}


def _measured(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


async def _chunks(path: Path, size: int) -> AsyncIterator[bytes]:
    left = size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            left -= len(chunk)
            if left >= 0:
                yield chunk
    if left:
        raise Damaged(f"{path} changed while it was sent; send it again")
