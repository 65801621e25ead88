from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from killatamata import demo
from killatamata.demo import CLIPS, FAMILIES, IMAGES, DemoFailed, UnknownFamily, families
from killatamata.stack import Ready
from killatamata.transport import Refused
from tasks.registry import TASKS

PICTURE = b"RIFF a picture"
READY = Ready("http://127.0.0.1:1", "kt_key", 1)


class ClientDouble:
    """A double of the API's client: every job succeeds with one picture, or fails."""

    def __init__(self, state: str = "succeeded") -> None:
        self.state = state
        self.submitted: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def __call__(self, base_url: str, api_key: str) -> ClientDouble:
        assert (base_url, api_key) == (READY.base_url, READY.api_key)
        return self

    async def __aenter__(self) -> ClientDouble:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def quote(self, task: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"quoteToken": f"token of {task}"}

    async def submit(self, task: str, given: dict[str, Any], **options: Any) -> dict[str, Any]:
        if self.state == "refused":
            raise Refused(httpx.Response(402, json={"error": "insufficient_balance", "details": {"message": "top up"}}))
        self.submitted.append((task, given, options))
        job_id = f"job_{len(self.submitted):08}"
        return {"jobId": job_id, "task": task, "billing": {"amountUsd": "0.005000"}}

    async def finished(self, job_id: str, on_change: Any) -> dict[str, Any]:
        on_change({"status": "queued", "progress": 0.0})
        on_change({"status": "running", "progress": 0.5, "stage": "qwen-image"})
        task = self.submitted[int(job_id.removeprefix("job_")) - 1][0]
        kind = "video/mp4" if task.startswith("video") else "image/jpeg"
        output = {"role": "primary", "mimeType": kind, "bytes": len(PICTURE), "url": "/x", "frames": None}
        return {
            "jobId": job_id,
            "task": task,
            "downloadableOutputUrls": [f"/{job_id}"],
            "status": self.state,
            "billing": {"amountMicros": 5000},
            "details": {"attempts": [{}, {}]},
            "engine": "qwen-image",
            "weightsDigest": "sha256:00",
            "standIn": True,
            "createdAt": "2026-11-23T10:00:00.000Z",
            "finishedAt": "2026-11-23T10:00:02.500Z",
            "outputs": [output] if self.state == "succeeded" else [],
        }

    async def download(self, output: dict[str, Any], path: Path) -> Path:
        path.write_bytes(PICTURE)
        return path


async def test_no_name_that_the_api_gives_leads_out_of_the_folder(tmp_path: Path) -> None:
    output = {"role": "../../up", "mimeType": "image/../../etc", "bytes": 1, "url": "/x"}
    job = {"task": "../image", "jobId": "job_/../..", "outputs": [output]}
    (path,) = await demo.downloaded(ClientDouble(), job, tmp_path)  # type: ignore[arg-type]
    assert path.parent == tmp_path
    assert path.is_file()


def test_families_are_named_one_by_one_or_all_at_once() -> None:
    assert families("all") == tuple(FAMILIES)
    assert families("image") == ("image",)
    assert families(" image , image") == ("image", "image")


@pytest.mark.parametrize("names", ["", "imagge", "image,", "image;video", "ALL", "image,nothing"])
def test_a_family_that_does_not_exist_is_named_beside_those_that_do(names: str) -> None:
    with pytest.raises(UnknownFamily, match=r"no demo for .*; there is one for: image"):
        families(names)


@pytest.mark.parametrize(("task", "given"), [*IMAGES, *CLIPS])
def test_every_example_is_a_valid_input(task: str, given: dict[str, Any]) -> None:
    prepared = TASKS[task].prepare(given, strict=True)
    assert not prepared.seed_drawn, "a demo shows the same twice"


async def test_the_demo_leaves_its_files_and_a_summary_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ClientDouble()
    monkeypatch.setattr(demo, "Client", api)
    summary = await demo.run(READY, ("image",), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    job, edited = summary["jobs"]
    path = tmp_path / "image.generate-00000001.jpg"
    assert (edited["task"], edited["files"][0]["path"]) == ("image.edit", str(tmp_path / "image.edit-00000002.jpg"))
    assert job == {
        "task": "image.generate",
        "jobId": "job_00000001",
        "status": "succeeded",
        "amountMicros": 5000,
        "attempts": 2,
        "engine": "qwen-image",
        "weightsDigest": "sha256:00",
        "standIn": True,
        "seconds": 2.5,
        "files": [
            {
                "path": str(path),
                "mimeType": "image/jpeg",
                "bytes": len(PICTURE),
                "sha256": hashlib.sha256(PICTURE).hexdigest(),
            }
        ],
    }
    assert path.read_bytes() == PICTURE
    assert [(task, given) for task, given, _ in api.submitted] == list(IMAGES)
    assert [options for _, _, options in api.submitted] == [
        {"quoteToken": "token of image.generate"},
        {"quoteToken": "token of image.edit"},
    ]


async def test_a_failed_job_fails_the_demo_after_the_summary_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "Client", ClientDouble("failed"))
    with pytest.raises(DemoFailed, match="job_00000001"):
        await demo.run(READY, ("image",), tmp_path)
    for job in json.loads((tmp_path / "summary.json").read_text())["jobs"]:
        assert (job["status"], job["files"]) == ("failed", [])


async def test_the_clips_are_extended_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = ClientDouble()
    monkeypatch.setattr(demo, "Client", api)

    async def extended(client: Any, clip: Path, made: Any, wish: Any, key: str, watch: Any) -> dict[str, Any]:
        assert clip == tmp_path / f"video.generate-{made['jobId'][-8:]}.mp4"
        assert made["jobId"] == "job_00000001"
        job: dict[str, Any] = await watch(await client.submit("video.combine", {"extended": wish.seconds}))
        return job

    monkeypatch.setattr(demo, "extended", extended)
    summary = await demo.run(READY, ("video",), tmp_path)
    assert [job["task"] for job in summary["jobs"]] == ["video.generate"] * 2 + ["video.combine"] * 2
    assert [given for _, given, _ in api.submitted[2:]] == [
        {"extended": 1.0},
        {"videoUrls": ["/job_00000003", "/job_00000002"]},
    ]


async def test_a_refused_job_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "Client", ClientDouble("refused"))
    with pytest.raises(Refused, match="top up"):
        await demo.run(READY, ("image",), tmp_path)
