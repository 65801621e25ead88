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
_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_NO_JSON = {"error": "no_json", "details": {"message": "the answer is no JSON object; is this the API's address?"}}


class Refused(OperatorError):
    """The API said no; the message is its own."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.code = body.get("error", "error")
        details = body.get("details", {})
        fields = "".join(f"\n  {field['path']}: {field['message']}" for field in details.get("fields", ()))
        super().__init__(f"{status} {self.code}: {details.get('message', '')}{fields}")


class Unreachable(OperatorError):
    """The connection failed every time."""


class Damaged(OperatorError):
    """A downloaded file is not what the API said it is."""


class Client:
    """One account's view of a stack. Lost connections and 503 are tried again; submits carry an idempotency key."""

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
            Unreachable: the connection failed twenty times.
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
            Damaged: the content is not what the job says; nothing is left at `path`.
            Refused: the store said no.
            Unreachable: the connection failed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        fresh = path.with_name(f".{path.name}.part")
        try:
            # The URL is its own credential; the account's key is nothing for a store.
            async with self._http.stream("GET", output["url"], headers={"Authorization": ""}) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise Refused(answer.status_code, _body(answer) or _NO_JSON)
                with fresh.open("wb") as file:
                    async for chunk in answer.aiter_bytes():
                        digest.update(chunk)
                        file.write(chunk)
            if digest.hexdigest() != output["sha256"] or fresh.stat().st_size != output["bytes"]:
                raise Damaged(f"{path.name} arrived damaged; download it again")
            return fresh.replace(path)
        except httpx.TransportError as error:
            raise Unreachable(f"{path.name} did not arrive ({error!r}); download it again") from error
        finally:
            fresh.unlink(missing_ok=True)

    async def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        for left in reversed(range(_TRIES)):
            try:
                answer = await self._http.request(method, path, **request)
            except httpx.TransportError as error:
                if not left:
                    raise Unreachable(f"{self._http.base_url} cannot be reached: {error!r}") from error
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            body = _body(answer)
            if answer.is_success and body is not None:
                return body
            if not left or not _passing(answer, body):
                raise Refused(answer.status_code, body or _NO_JSON)
            await asyncio.sleep(_pause(answer))
        raise AssertionError("unreachable")


def _body(answer: httpx.Response) -> dict[str, Any] | None:
    """The JSON object of an answer; None when something on the way to the API answered in its place."""
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _passing(answer: httpx.Response, body: dict[str, Any] | None) -> bool:
    """Whether the same request may fare better in a moment."""
    code = None if body is None else body.get("error")
    return code == "idempotency_in_progress" or (answer.status_code == 503 and code != "task_unavailable")


def _pause(answer: httpx.Response) -> float:
    """Seconds that `Retry-After` asks for; a date (RFC 9110, section 10.2.3) counts as absent."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE_SECONDS) if text.isascii() and text.isdigit() else _PAUSE_SECONDS
