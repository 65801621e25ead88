"""Callers: they send what was planned, retry with the same key, cut their connections, cancel, vanish."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence

import httpx

from tests.chaos.storm.ground import Json, note
from tests.chaos.storm.plan import Wish
from tests.chaos.storm.service import Customer

FINAL = {"succeeded", "failed", "cancelled"}
_TIMEOUT_SECONDS = 8.0
_PATIENCE_SECONDS = 150.0
_AGAIN = {409, 429, 500, 502, 503}


class Load:
    """All callers of a storm."""

    def __init__(self, base_url: str, customers: Sequence[Customer], seed: int, hooks: dict[int, str]) -> None:
        self._base_url = base_url
        self._customers = customers
        self._dice = random.Random(seed ^ 0x10AD)
        self._hooks = hooks
        self._client = httpx.AsyncClient(
            base_url=f"{base_url}/api/v1",
            trust_env=False,
            timeout=_TIMEOUT_SECONDS,
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=20, keepalive_expiry=2),
        )
        self.wishes: list[Wish] = []
        self.statuses: Counter[str] = Counter()
        self.waits: dict[str, list[float]] = {}
        self.sent = 0

    async def close(self) -> None:
        """Hang up."""
        await self._client.aclose()

    async def run(self, wishes: Sequence[Wish]) -> None:
        """Send each wish at its time; returns when every caller has its answer, or has given up."""
        began = time.monotonic()
        self.wishes += wishes
        async with asyncio.TaskGroup() as callers:
            for wish in sorted(wishes, key=lambda each: each.at):
                await asyncio.sleep(max(0.0, wish.at - (time.monotonic() - began)))
                callers.create_task(self._want(wish))

    async def one_by_one(self, wishes: Sequence[Wish], stop: asyncio.Event) -> None:
        """Send each wish when the one before has ended, until `stop`; note how long each waited for its start."""
        self.wishes += wishes
        for wish in wishes:
            if stop.is_set():
                wish.given_up = True
                continue
            job = await self._submit(wish, 0)
            while job is not None and not stop.is_set():
                found = await self._call("GET", "/media/jobs", wish, params={"jobId": job})
                if found is not None and found.json()["status"] in FINAL:
                    break
                await asyncio.sleep(0.05)

    async def _want(self, wish: Wish) -> None:
        self.sent += 1
        jobs = await asyncio.gather(*(self._submit(wish, each) for each in range(wish.crowd)))
        job = next((each for each in jobs if each), None)
        if job is None:
            return
        asked = time.monotonic()
        for delay in wish.cancels:
            await asyncio.sleep(max(0.0, delay - (time.monotonic() - asked)))
            answer = await self._call("DELETE", "/media/jobs", wish, params={"jobId": job})
            if answer is not None and answer.status_code == 200:
                wish.ends.add(answer.json()["status"])

    async def _submit(self, wish: Wish, place: int) -> str | None:
        """The job's id; None when the caller has vanished or was refused for good."""
        body = dict(wish.body)
        if wish.webhook:
            body["webhookUrl"] = f"{self._hooks[wish.customer]}/{wish.name}"
        headers = {"X-Idempotency-Key": wish.name}
        if wish.prefer_wait is not None:
            headers["Prefer"] = f"wait={wish.prefer_wait}"
        if wish.impatient and place == 0:
            hurry = self._dice.uniform(0.002, 0.08)
            answer = await self._once("POST", "/media/jobs", wish, json=body, headers=headers, timeout=hurry)
            if answer is not None and answer.status_code in (200, 202):
                return self._accepted(wish, answer.json())
            if wish.vanishes:
                wish.given_up = True
                note("caller", how="vanished")
                return None
        answer = await self._call("POST", "/media/jobs", wish, json=body, headers=headers)
        if answer is None:
            wish.given_up = True
            return None
        if answer.status_code in (200, 202):
            return self._accepted(wish, answer.json())
        wish.refused.append(f"{answer.status_code} {answer.text[:200]}")
        return None

    def _accepted(self, wish: Wish, answer: Json) -> str:
        wish.answers.add(answer["jobId"])
        wish.prices.add(answer["billing"]["amountMicros"])
        if "effectiveInput" in answer:
            lasting = {"input": answer["effectiveInput"], "adjustments": answer["inputAdjustments"]}
            wish.promises.add(json.dumps({**lasting, "lines": answer["billing"]["lineItems"]}, sort_keys=True))
        return str(answer["jobId"])

    async def _call(self, method: str, path: str, wish: Wish, **request: object) -> httpx.Response | None:
        """The first answer that is no "later"; None when there was none in all the caller's patience."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end:
            answer = await self._once(method, path, wish, **request)
            if answer is not None and answer.status_code not in _AGAIN:
                return answer
            await asyncio.sleep(self._dice.uniform(0.1, 0.6))
        return None

    async def _once(self, method: str, path: str, wish: Wish, **request: object) -> httpx.Response | None:
        headers = {"Authorization": f"Bearer {self._customers[wish.customer].key}", **dict(request.pop("headers", {}))}  # type: ignore[call-overload]
        try:
            answer = await self._client.request(method, path, headers=headers, **request)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            self.statuses[type(error).__name__] += 1
            return None
        self.statuses[str(answer.status_code)] += 1
        if answer.status_code == 500:
            self.statuses[f"500 {answer.headers.get('x-request-id')}"] += 1
        return answer
