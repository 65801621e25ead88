"""A client of the public API, as the command line and the demo use it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from core.errors import OperatorError

FINAL = frozenset({"succeeded", "failed", "cancelled"})
_POLL_SECONDS = 0.25
_TRIES = 20


class Refused(OperatorError):
    """The API said no; the message is its own."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.code = body.get("error", "error")
        details = body.get("details", {})
        fields = "".join(f"\n  {field['path']}: {field['message']}" for field in details.get("fields", ()))
        super().__init__(f"{status} {self.code}: {details.get('message', '')}{fields}")


class Damaged(OperatorError):
    """A downloaded file is not what the API said it is."""


class Client:
    """One account's view of a stack. Connection failures and 503 are tried again; submits carry an idempotency key."""

    def __init__(self, base_url: str, api_key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url, headers={"Authorization": f"Bearer {api_key}"}, timeout=30, trust_env=False
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def quote(self, task: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The price and effective input of a job, without the job."""
        return await self._json("POST", "/api/v1/media/quotes", json={"task": task, "input": given})

    async def submit(self, task: str, given: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Submit a job once, however often the connection breaks; returns the 202's body.

        Raises:
            Refused: the API said no.
        """
        return await self._json(
            "POST",
            "/api/v1/media/jobs",
            json={"task": task, "input": given, **options},
            headers={"X-Idempotency-Key": secrets.token_hex(16)},
        )

    async def job(self, job_id: str, *, details: bool = False) -> dict[str, Any]:
        """The job as it is now."""
        return await self._json(
            "GET", "/api/v1/media/jobs", params={"jobId": job_id, **({"includeDetails": "1"} if details else {})}
        )

    async def finished(self, job_id: str, on_change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Wait until the job has ended; `on_change` sees every state read meanwhile. Returns the job with details."""
        while True:
            job = await self.job(job_id)
            on_change(job)
            if job["status"] in FINAL:
                return await self.job(job_id, details=True)
            await asyncio.sleep(_POLL_SECONDS)

    async def download(self, output: Mapping[str, Any], path: Path) -> Path:
        """Write an output to `path` and check its length and SHA-256.

        Raises:
            Damaged: the content is not what the job says.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        fresh = path.with_name(f".{path.name}.part")
        async with self._http.stream("GET", output["url"], headers={"Authorization": ""}) as answer:
            answer.raise_for_status()
            with fresh.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
        if digest.hexdigest() != output["sha256"] or fresh.stat().st_size != output["bytes"]:
            fresh.unlink()
            raise Damaged(f"{path.name} arrived damaged; download it again")
        return fresh.replace(path)

    async def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        for attempt in range(_TRIES):
            try:
                answer = await self._http.request(method, path, **request)
            except httpx.TransportError:
                if attempt + 1 == _TRIES:
                    raise
                await asyncio.sleep(0.5)
                continue
            if answer.status_code == 503 and attempt + 1 < _TRIES:
                await asyncio.sleep(float(answer.headers.get("Retry-After", "1")))
                continue
            body: dict[str, Any] = answer.json()
            if answer.is_success:
                return body
            raise Refused(answer.status_code, body)
        raise AssertionError("unreachable")
