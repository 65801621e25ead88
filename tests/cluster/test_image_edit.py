"""The chain of image.edit over a real database, real Ray tasks and real pictures; its model is a double."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import ray
from PIL import Image

from cluster.chains import image_edit
from cluster.steps import Steps
from core.database import Database
from core.settings import Settings
from deployments.messages import Call, Message
from jobs.artifacts import Artifacts
from jobs.leases import Leases, Outcome
from storage import open_store
from tests.cluster.doubles import STARTED, HandleDouble, finished
from tests.leasing import leased, new_pool, session


class Made:
    """A picture as an engine gives it."""

    pixels = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)


async def painting(call: Call) -> AsyncIterator[Message]:
    """An engine that makes a picture."""
    yield STARTED
    yield finished(Made())


def stored(width: int, height: int, colour: str = "teal", **options: Any) -> dict[str, Any]:
    """An inline picture as a job has it, in the store."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG", **options)
    content = file.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    open_store(Settings(), Settings().base_url).put(f"in/{digest}", content, "image/jpeg")
    return {"sha256": digest, "mimeType": "image/jpeg", "bytes": len(content)}


Edit = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> HandleDouble:
    """The edit engine's pool."""
    made = HandleDouble(painting)
    monkeypatch.setattr("cluster.conversation.serve.get_app_handle", made)
    return made


@pytest.fixture
async def edit(in_cluster: None, cluster_database: Database, handle: HandleDouble) -> AsyncIterator[Edit]:
    """The chain's outcome for a source, and references if there are any."""
    async with session(cluster_database) as number:

        async def run(source: Any, *references: Any, **changes: Any) -> Outcome:
            given = {
                "prompt": "make it noir",
                "sourceImage": source,
                "referenceImages": list(references),
                "outputFormat": "png",
                "highDetail": False,
                "seed": 7,
                **changes,
            }
            lease = await leased(cluster_database, number, new_pool(), given, task="image.edit")
            store = open_store(Settings(), Settings().base_url)
            return await image_edit.edit(
                Steps(lease, Leases(cluster_database), Artifacts(cluster_database, store, kept_days=7))
            )

        yield run


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


@pytest.mark.parametrize(
    ("size", "orientation", "canvas", "reason"),
    [
        ((640, 512), 1, (640, 512), None),
        ((640, 512), 6, (512, 640), None),
        ((1, 1), 1, (512, 512), "scaled"),
        ((3000, 2000), 1, (1760, 1152), "scaled"),
        ((1600, 100), 1, (1600, 384), "padded to 4:1"),
        ((10, 1600), 1, (384, 1600), "padded to 4:1"),
    ],
)
async def test_the_output_follows_the_upright_source(
    edit: Edit,
    handle: HandleDouble,
    size: tuple[int, int],
    orientation: int,
    canvas: tuple[int, int],
    reason: str | None,
) -> None:
    outcome = await edit(stored(*size, exif=exif(orientation)))
    (output,) = [each for each in outcome.outputs if each["role"] == "primary"]
    assert (output["width"], output["height"]) == canvas
    with Image.open(io.BytesIO(open_store(Settings(), "").read(output["key"]))) as picture:
        assert picture.size == canvas
    request = handle.streams[0].call.request
    assert (request.width, request.height, request.steps, request.seed) == (*canvas, 30, 7)
    if reason is None:
        assert outcome.adjustments == ()
    else:
        (change,) = outcome.adjustments
        assert (change["field"], change["at"]) == ("sourceImage", "run")
        assert change["to"] == f"{canvas[0]}x{canvas[1]}"
        assert change["reason"].startswith(reason)


async def test_the_source_comes_first_and_pixels_travel_by_reference(edit: Edit, handle: HandleDouble) -> None:
    await edit(stored(64, 32), stored(16, 16, "red"), stored(8, 8, "blue"), highDetail=True)
    request = handle.streams[0].call.request
    assert request.steps == 45
    assert all(isinstance(each, ray.ObjectRef) for each in request.references)
    assert [(await each).shape for each in request.references] == [(32, 64, 3), (16, 16, 3), (8, 8, 3)]


async def test_what_was_lost_in_decoding_is_told_at_its_place(edit: Edit) -> None:
    clear = io.BytesIO()
    Image.new("RGBA", (512, 512), (9, 9, 9, 9)).save(clear, "PNG")
    digest = hashlib.sha256(clear.getvalue()).hexdigest()
    open_store(Settings(), Settings().base_url).put(f"in/{digest}", clear.getvalue(), "image/png")
    see_through = {"sha256": digest, "mimeType": "image/png", "bytes": len(clear.getvalue())}
    outcome = await edit(see_through, stored(8, 8), see_through)
    assert sorted(change["field"] for change in outcome.adjustments) == ["referenceImages[1]", "sourceImage"]
    assert {(change["to"], change["at"]) for change in outcome.adjustments} == {("laid on white", "run")}


async def test_references_alone_give_a_square(edit: Edit, handle: HandleDouble) -> None:
    outcome = await edit(None, stored(64, 32))
    assert (outcome.outputs[0]["width"], outcome.outputs[0]["height"]) == (1024, 1024)
    assert outcome.adjustments == ()
    assert len(handle.streams[0].call.request.references) == 1


async def test_what_the_engine_could_not_do_is_an_adjustment_of_the_job(edit: Edit, handle: HandleDouble) -> None:
    change = {"field": "prompt", "from": "2000 tokens", "to": "1000 tokens", "reason": "long", "at": "run"}

    async def cutting(call: Call) -> AsyncIterator[Message]:
        yield STARTED
        end = finished(Made())
        yield type(end)(end.result, end.gpu_seconds, {**end.details, "adjustments": [change]})

    handle.answer = cutting
    outcome = await edit(stored(512, 512))
    assert outcome.adjustments == (change,)
    assert outcome.upstream == {"seed": 7}
