from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from killatamata.inputs import BadInput, File, complete, inlined, read

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
INLINE = {"dataBase64": base64.b64encode(PNG).decode(), "mimeType": "image/png"}


class Uploads:
    """A double of the client: every upload gets a URL."""

    def __init__(self) -> None:
        self.made: list[tuple[Path, str, str]] = []

    async def upload(self, path: Path, mime_type: str, *, idempotency_key: str) -> str:
        self.made.append((path, mime_type, idempotency_key))
        return f"https://api.test/in/{len(self.made)}"


@pytest.fixture
def png(tmp_path: Path) -> str:
    path = tmp_path / "fox=1.png"
    path.write_bytes(PNG)
    return f"@{path}"


def plain(*inputs: str, task: str = "image.generate") -> dict[str, Any]:
    return read(task, inputs, ()).assembled({})


def test_inputs_are_json_where_they_can_be_and_text_elsewhere() -> None:
    assert plain("prompt=a = b", "width=512", 'negativePrompt="12"', "seed=", "ok=true", "none=null", 'a={"b": 1}') == {
        "prompt": "a = b",
        "width": 512,
        "negativePrompt": "12",
        "seed": "",
        "ok": True,
        "none": None,
        "a": {"b": 1},
    }


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "[NaN]", "01", "9" * 5000, "{", "'a'"])
def test_what_is_no_json_is_text(text: str) -> None:
    assert plain(f"prompt={text}") == {"prompt": text}


def test_a_name_given_twice_and_a_field_that_is_a_list_become_lists() -> None:
    assert plain("x=1", "x=2", task="no.such") == {"x": [1, 2]}
    assert plain("referenceImages=https://a.test/1.png") == {"referenceImages": ["https://a.test/1.png"]}
    assert plain("referenceImages=[]") == {"referenceImages": []}
    assert plain('referenceImages=["a"]', "referenceImages=b") == {"referenceImages": ["a", "b"]}
    assert plain("referenceImages=a", task="no.such") == {"referenceImages": "a"}


@pytest.mark.parametrize("text", ["prompt", "", "=x"])
def test_an_input_without_a_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--input takes name=value"):
        plain(text)


@pytest.mark.parametrize("text", ["prompt=\udcff", 'prompt="\\ud800"'])
def test_text_that_no_json_can_carry_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="valid Unicode"):
        plain(text)


def test_json_without_a_bottom_is_refused() -> None:
    with pytest.raises(BadInput, match="too deeply"):
        plain("prompt=" + "[" * 200_000)


@pytest.mark.parametrize("text", ["sourceImage=fox.png", "sourceImage=https://a.test/1.png", "sourceImage", "@fox.png"])
def test_a_file_has_its_form(text: str) -> None:
    with pytest.raises(BadInput, match="--file takes name=@path"):
        read("image.edit", (), [text])


async def test_small_files_go_inline(png: str) -> None:
    api: Any = Uploads()
    given = read("image.generate", ["prompt=a fox"], [f"referenceImages={png}", f"sourceImage={png}"])
    assert await complete(given, api, "key") == {
        "prompt": "a fox",
        "referenceImages": [INLINE],
        "sourceImage": INLINE,
    }
    assert api.made == []


async def test_files_stand_behind_the_inputs_of_the_same_name(png: str) -> None:
    api: Any = Uploads()
    given = read("image.generate", ["referenceImages=https://a.test/1.png"], [f"referenceImages={png}"] * 2)
    assert await complete(given, api, "key") == {"referenceImages": ["https://a.test/1.png", INLINE, INLINE]}


async def test_a_field_of_urls_gets_an_upload_and_the_same_key_each_time(png: str) -> None:
    api: Any = Uploads()
    given = read("video.combine", (), [f"videoUrls={png}", f"videoUrls={png}", f"sourceImageUrl={png}"])
    sent = {"videoUrls": ["https://api.test/in/1", "https://api.test/in/2"], "sourceImageUrl": "https://api.test/in/3"}
    assert await complete(given, api, "key") == sent
    again: Any = Uploads()
    await complete(given, again, "key")
    assert again.made == api.made, "a retry names the same uploads, so that its body is the same"
    assert len({key for *_, key in api.made}) == 3
    other: Any = Uploads()
    await complete(given, other, "another key")
    assert not {key for *_, key in other.made} & {key for *_, key in api.made}


def test_the_smallest_files_are_inline_as_long_as_the_budget_lasts() -> None:
    small, middle, large, url = (
        File(field, Path("x"), "image/png", size) for field, size in (("a", 10), ("b", 20), ("c", 71), ("videoUrls", 1))
    )
    assert inlined([large, middle, small, url], 100) == {small, middle}
    assert inlined([middle, small, url], 30) == {small, middle}
    assert inlined([large], 71) == {large}
    assert inlined([large], 70) == set()
    assert inlined([]) == set()


async def test_a_file_above_the_budget_is_uploaded(png: str, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(PNG)
        file.truncate(45_000_001)
    api: Any = Uploads()
    given = read("image.edit", (), [f"sourceImage=@{path}", f"referenceImages={png}"])
    sent = await complete(given, api, "key")
    assert sent["sourceImage"] == "https://api.test/in/1"
    assert INLINE in (sent["referenceImages"], *sent["referenceImages"])
    assert [made[:2] for made in api.made] == [(path, "image/png")]
