from __future__ import annotations

import base64
import gc
import hashlib
import io
import weakref
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.database import Database
from core.errors import InvalidInput
from jobs.inputs import InlineFile, Inputs, input_key, take_out
from storage import Artifact, LocalStore
from tasks.base import Prepared
from tasks.long_text import LongText
from tasks.media_fields import decode_inline
from tasks.registry import TASKS


def picture(kind: str = "PNG", colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, kind)
    return file.getvalue()


def inline(content: bytes, mime_type: str | None = "image/png", head: str = "") -> dict[str, Any]:
    text = head + base64.b64encode(content).decode()
    return {"dataBase64": text} if mime_type is None else {"dataBase64": text, "mimeType": mime_type}


def taken(given: dict[str, Any], task: str = "image.generate", **options: Any) -> tuple[Prepared, Any]:
    return take_out(TASKS[task].prepare(given), given, **options)


def test_the_bytes_are_taken_out_and_known_by_their_content() -> None:
    red, blue = picture(), picture(colour="blue")
    given = {"prompt": "x", "seed": 1, "referenceImages": [inline(red), "https://a.example/b.png?c", inline(blue)]}
    prepared, files = taken(given)
    named = [
        {"sha256": hashlib.sha256(each).hexdigest(), "mimeType": "image/png", "bytes": len(each)}
        for each in (red, blue)
    ]
    assert prepared.effective_input["referenceImages"] == [named[0], "https://a.example/b.png?c", named[1]]
    assert [(file.content, file.key) for file in files] == [
        (red, f"in/{named[0]['sha256']}"),
        (blue, f"in/{named[1]['sha256']}"),
    ]
    assert prepared.adjustments == ()
    assert "content" not in repr(files[0])


def test_however_the_same_bytes_are_written_they_are_the_same_input() -> None:
    content = picture("JPEG")
    text = base64.b64encode(content).decode()
    ways = [
        inline(content, "image/jpeg"),
        inline(content, "image/jpg"),
        inline(content, None, "data:image/jpeg;base64,"),
        inline(content, "IMAGE/JPEG", "data:;base64,"),
        {"dataBase64": "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76)), "mimeType": "image/jpeg"},
    ]
    found = [taken({"prompt": "x", "seed": 1, "referenceImages": [each]}) for each in ways]
    task = TASKS["image.generate"]
    assert len({task.hash_input(prepared.effective_input, False) for prepared, _ in found}) == 1
    assert {prepared.adjustments for prepared, _ in found} == {()}
    twice, files = taken({"prompt": "x", "referenceImages": ways[:2]})
    assert len(files) == 1
    assert twice.effective_input["referenceImages"][0] == twice.effective_input["referenceImages"][1]


def test_a_mislabelled_file_is_used_as_what_it_is() -> None:
    given = {"prompt": "x", "referenceImages": ["https://a.example/", inline(picture("WEBP"))]}
    prepared, (file,) = taken(given)
    assert file.mime_type == prepared.effective_input["referenceImages"][1]["mimeType"] == "image/webp"
    assert [change.as_json() for change in prepared.adjustments] == [
        {
            "field": "referenceImages[1].mimeType",
            "from": "image/png",
            "to": "image/webp",
            "reason": "the file's content",
            "at": "submit",
        }
    ]
    with pytest.raises(InvalidInput) as refused:
        taken(given, strict=True)
    (problem,) = refused.value.fields
    assert (problem.path, problem.nearest) == ("input.referenceImages[1].mimeType", "image/webp")


def test_equal_mislabelled_files_are_each_told_at_their_own_place() -> None:
    images = [inline(picture(), "image/webp"), inline(picture(colour="blue")), inline(picture(), "image/webp")]
    prepared, files = taken({"prompt": "x", "referenceImages": images})
    assert [change.field for change in prepared.adjustments] == [
        "referenceImages[0].mimeType",
        "referenceImages[2].mimeType",
    ]
    assert len(files) == 2
    with pytest.raises(InvalidInput) as refused:
        taken({"prompt": "x", "referenceImages": [inline(b"none"), inline(b"none")]})
    assert [problem.path for problem in refused.value.fields] == [
        "input.referenceImages[0].dataBase64",
        "input.referenceImages[1].dataBase64",
    ]


def test_the_input_is_gone_through_once_however_many_files_are_mislabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []

    def counting(text: str | LongText) -> bytes:
        decoded.append(text)
        return decode_inline(text)

    monkeypatch.setattr("jobs.inputs.decode_inline", counting)
    colours = ("red", "green", "blue", "white")
    images = [inline(picture(colour=colour), "image/webp") for colour in colours]
    prepared, _ = taken({"prompt": "x", "referenceImages": images})
    assert (len(prepared.adjustments), len(decoded)) == (4, 4)


def test_the_tasks_own_adjustments_stay() -> None:
    prepared, _ = taken(
        {"prompt": "x", "width": 1000, "height": 512, "referenceImages": [inline(picture(), "image/webp")]}
    )
    assert [change.field for change in prepared.adjustments] == ["width", "referenceImages[0].mimeType"]


def test_an_unsupported_file_is_refused_at_its_place() -> None:
    given = {"prompt": "x", "referenceImages": [inline(picture("GIF")), inline(picture()), inline(b"%PDF-1.7")]}
    with pytest.raises(InvalidInput) as refused:
        taken(given)
    assert [problem.path for problem in refused.value.fields] == [
        "input.referenceImages[0].dataBase64",
        "input.referenceImages[2].dataBase64",
    ]
    assert refused.value.fields[0].message == "is no PNG, JPEG or WebP file; convert it to one of them"


def test_problems_are_told_in_the_callers_names() -> None:
    given = {
        "prompt": "x",
        "durationSeconds": 4,
        "startFrameImage": inline(b"none"),
        "overlapFrameImages": [inline(picture())],
    }
    with pytest.raises(InvalidInput) as refused:
        taken(given, "video.generate")
    assert [problem.path for problem in refused.value.fields] == ["input.startFrameImage.dataBase64"]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store", "https://api.example.test", b"k" * 32)


async def test_files_are_stored_once_and_their_rows_refreshed(database: Database, store: LocalStore) -> None:
    puts: list[str] = []

    class Counting(LocalStore):
        def put(self, key: str, *arguments: Any, **options: Any) -> Artifact:
            puts.append(key)
            return super().put(key, *arguments, **options)

    store.__class__ = Counting
    inputs = Inputs(database, store)
    file = InlineFile(picture(), "image/png", hashlib.sha256(picture()).digest())
    await inputs.keep([file])
    await database.execute("UPDATE input SET kept_at = kept_at - interval '2 hours'")
    await inputs.keep([file])
    assert puts == [file.key]
    assert store.read(input_key(file.sha256.hex())) == file.content
    assert await database.fetch_value("SELECT kept_at > clock_timestamp() - interval '1 minute' FROM input")
    store.delete(file.key)
    await inputs.keep([file])
    assert store.stat(file.key) == Artifact(file.key, file.sha256.hex(), len(file.content), "image/png")


def test_the_files_are_let_go_with_their_last_reference() -> None:
    text = LongText(memoryview(base64.b64encode(picture())))
    left = weakref.ref(text)
    gc.disable()
    try:
        taken({"prompt": "x", "referenceImages": [{"dataBase64": text, "mimeType": "image/png"}]})
        del text
        assert left() is None, "a cycle would keep megabytes until the next collection"
    finally:
        gc.enable()
