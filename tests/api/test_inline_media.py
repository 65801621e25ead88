"""Inline media over a real database and store: what lands where."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from jobs import pools
from tests.serving import FOX, serving

JOBS = "/api/v1/media/jobs"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400


async def test_no_base64_reaches_the_database(database_url: str, tmp_path: Path) -> None:
    encoded = base64.b64encode(PNG).decode()
    wrapped = "\r\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76))
    images = [{"dataBase64": wrapped, "mimeType": "image/png"}, {"dataBase64": f"data:image/png;base64,{encoded}"}]
    digest = hashlib.sha256(PNG)
    async with serving(database_url, tmp_path) as served:
        database, store = served.services.database, served.services.store
        await pools.declare(database, frozenset({"qwen-image", "qwen-image-edit"}))
        answer = await served.client.post(
            JOBS, json={**FOX, "input": {"prompt": "x", "referenceImages": images}}, headers={"Idempotency-Key": "k"}
        )
        assert answer.status_code == 202, answer.text
        row = await database.fetch_row("SELECT * FROM job")
        assert row is not None
        named = {"sha256": digest.hexdigest(), "mimeType": "image/png", "bytes": len(PNG)}
        assert row["effective_input"]["referenceImages"] == [named, named]
        assert len(json.dumps(dict(row), default=str)) < 3000
        assert (
            await database.fetch_value("SELECT sha256 FROM job_input WHERE job_id = $1", row["id"]) == digest.digest()
        )
        assert store.read(f"in/{digest.hexdigest()}") == PNG
        read = await served.client.get(JOBS, params={"jobId": answer.json()["jobId"], "includeDetails": "1"})
        assert read.json()["details"]["effectiveInput"] == answer.json()["effectiveInput"]
