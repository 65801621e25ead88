"""The same request from many clients of one ingress, while its connections to the database are cut."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.cutting import CUTS, Cutter
from tests.serving import serving

JOBS = "/api/v1/media/jobs"
DRAWN = {"task": "image.generate", "input": {"prompt": "cinematic fox astronaut"}}
CLIENTS = 12


async def test_every_client_sees_one_job_one_hold_and_one_answer(database_url: str, tmp_path: Path) -> None:
    async with serving(database_url, tmp_path, writes_per_minute=1_000_000) as served:
        cutter = Cutter(database_url, 5)
        cutting = asyncio.create_task(cutter.run())
        refused: list[str] = []

        async def client() -> list[dict[str, Any]]:
            answers: list[dict[str, Any]] = []
            while not answers or not cutting.done():
                answer = await served.client.post(JOBS, json=DRAWN, headers={"Idempotency-Key": "one for all"})
                if answer.status_code == 202:
                    answers.append(answer.json())
                else:
                    assert answer.status_code in (409, 503), answer.text
                    assert int(answer.headers["Retry-After"]) >= 1
                    refused.append(answer.json()["error"])
            return answers

        answers = await asyncio.wait_for(asyncio.gather(*(client() for _ in range(CLIENTS))), 120)
        await cutting
        database = served.services.database
        assert cutter.cut == CUTS
        assert refused
        first = answers[0][0]
        different = {key for each in answers for answer in each for key in first if answer.get(key) != first[key]}
        assert different <= {"eventsUrl"}, "its token is signed anew"
        counts = [
            await database.fetch_value(f"SELECT count(*) FROM {table}") for table in ("job", "hold", "idempotency")
        ]
        assert counts == [1, 1, 1]
