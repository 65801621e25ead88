from __future__ import annotations

import base64
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import FieldProblem, InvalidInput
from media.arithmetic import MAX_PIXELS
from tasks.base import Adjustment, Prepared
from tasks.fields import MAX_SEED
from tasks.image_generate import ImageGenerate, steps
from tasks.media_fields import MAX_IMAGE_BYTES

TASK = ImageGenerate()
URL = "https://cdn.example.com/style.webp"
PIXEL = base64.b64encode(b"not looked at here").decode()
INLINE = {"dataBase64": PIXEL, "mimeType": "image/png"}


def prepare(**fields: Any) -> Prepared:
    return TASK.prepare({"prompt": "a fox", **fields})


def refused(raw: object, *, strict: bool = False) -> tuple[FieldProblem, ...]:
    with pytest.raises(InvalidInput) as caught:
        TASK.prepare(raw, strict=strict)
    assert caught.value.fields
    assert caught.value.fields[0].path in caught.value.message
    return caught.value.fields


def test_every_default_is_filled_in() -> None:
    prepared = prepare()
    seed = prepared.effective_input["seed"]
    assert prepared.effective_input == {
        "prompt": "a fox",
        "negativePrompt": "",
        "width": 1024,
        "height": 1024,
        "outputFormat": "webp",
        "highDetail": False,
        "referenceImages": [],
        "seed": seed,
    }
    assert 0 <= seed <= MAX_SEED
    assert prepared.seed_drawn
    assert prepared.adjustments == ()
    assert prepared.warnings == ()


def test_seeds_are_drawn_afresh_and_given_ones_kept() -> None:
    assert len({prepare().effective_input["seed"] for _ in range(20)}) > 15
    for seed in (0, 424242, MAX_SEED):
        prepared = prepare(seed=seed)
        assert prepared.effective_input["seed"] == seed
        assert not prepared.seed_drawn


def test_null_for_an_optional_field_is_absence() -> None:
    nulls = dict.fromkeys(set(TASK.Input.wire_names()) - {"prompt"})
    assert prepare(**{**nulls, "seed": 7}) == prepare(seed=7)
    assert prepare(**nulls).seed_drawn


def test_sides_go_down_to_a_multiple_of_32() -> None:
    prepared = prepare(width=1000, height=287)
    assert (prepared.effective_input["width"], prepared.effective_input["height"]) == (992, 256)
    assert [change.as_json() for change in prepared.adjustments] == [
        {"field": "width", "from": 1000, "to": 992, "reason": "multiple of 32", "at": "submit"},
        {"field": "height", "from": 287, "to": 256, "reason": "multiple of 32", "at": "submit"},
    ]


def test_strict_refuses_every_adjustment_and_nothing_else() -> None:
    fields = refused({"prompt": "x", "width": 1000, "height": 1023}, strict=True)
    assert [(field.path, field.nearest) for field in fields] == [("input.width", 992), ("input.height", 992)]
    assert TASK.prepare({"prompt": "x", "width": 992, "height": 1024}, strict=True).adjustments == ()


@pytest.mark.parametrize(("width", "height"), [(2048, 2048), (2049, 2079), (16384, 256), (256, 256)])
def test_largest_and_smallest_canvases(width: int, height: int) -> None:
    effective = prepare(width=width, height=height).effective_input
    assert effective["width"] * effective["height"] <= MAX_PIXELS


@pytest.mark.parametrize(("width", "height"), [(2080, 2048), (16384, 288), (300, 16384), (9000, 9000), (4096, 1056)])
def test_too_many_pixels_names_a_canvas_that_fits(width: int, height: int) -> None:
    problems = refused({"prompt": "x", "width": width, "height": height})
    assert [problem.path for problem in problems] == ["input.width", "input.height"]
    near = dict(zip(("width", "height"), (problem.nearest for problem in problems), strict=True))
    prepared = TASK.prepare({"prompt": "x", **near}, strict=True)
    area = prepared.effective_input["width"] * prepared.effective_input["height"]
    assert MAX_PIXELS * 0.85 < area <= MAX_PIXELS
    assert (near["width"] > near["height"]) == (width > height)


@pytest.mark.parametrize(("one", "other"), [("width", "height"), ("height", "width")])
@pytest.mark.parametrize("rest", [{}, {"null": True}])
def test_one_side_alone_is_refused(one: str, other: str, rest: dict[str, Any]) -> None:
    (problem,) = refused({"prompt": "x", one: 512, **({other: None} if rest else {})})
    assert problem.path == f"input.{other}"
    assert one in problem.message


@pytest.mark.parametrize(
    ("field", "value", "path", "says", "nearest"),
    [
        ("prompt", "", "input.prompt", "at least 1 character", None),
        ("prompt", None, "input.prompt", "is required", None),
        ("prompt", "x" * 4001, "input.prompt", "at most 4000 characters, not 4001", None),
        ("prompt", 5, "input.prompt", "must be a string, not 5", None),
        ("prompt", ["x"], "input.prompt", "must be a string, not a list", None),
        ("prompt", {"x": 1}, "input.prompt", "must be a string, not an object", None),
        ("prompt", "a\0b", "input.prompt", "NUL", None),
        ("prompt", "a\ud800b", "input.prompt", "valid Unicode", None),
        ("negativePrompt", "x" * 4001, "input.negativePrompt", "at most 4000 characters", None),
        ("negativePrompt", True, "input.negativePrompt", "must be a string, not true", None),
        ("negativePrompt", "\udfff", "input.negativePrompt", "valid Unicode", None),
        ("width", 255, "input.width", "at least 256, not 255", 256),
        ("width", -1, "input.width", "at least 256, not -1", 256),
        ("width", 16385, "input.width", "at most 16384, not 16385", 16384),
        ("width", 10**400, "input.width", "at most 16384, not a huge number", 16384),
        ("width", 1e300, "input.width", "at most 16384, not a huge number", 16384),
        ("width", "160", "input.width", "must be an integer, not '160'", 256),
        ("width", "1024", "input.width", "must be an integer, not '1024'", 1024),
        ("width", "wide", "input.width", "must be an integer, not 'wide'", None),
        ("width", 1024.5, "input.width", "must be an integer, not 1024.5", 1024),
        ("width", True, "input.width", "must be an integer, not true", None),
        ("width", float("nan"), "input.width", "must be an integer, not nan", None),
        ("width", float("inf"), "input.width", "must be an integer, not inf", None),
        ("width", [1024], "input.width", "must be an integer, not a list", None),
        ("height", 255.0, "input.height", "at least 256, not 255", 256),
        ("height", 16385, "input.height", "at most 16384", 16384),
        ("height", {}, "input.height", "must be an integer, not an object", None),
        ("outputFormat", "gif", "input.outputFormat", "one of webp, png, jpg, jpeg, not 'gif'", "webp"),
        ("outputFormat", "PNG", "input.outputFormat", "one of webp, png, jpg, jpeg, not 'PNG'", "png"),
        ("outputFormat", "", "input.outputFormat", "one of", "webp"),
        ("outputFormat", 1, "input.outputFormat", "one of", "webp"),
        ("highDetail", "true", "input.highDetail", "must be true or false, not 'true'", None),
        ("highDetail", 1, "input.highDetail", "must be true or false, not 1", None),
        ("seed", -1, "input.seed", "at least 0, not -1", 0),
        ("seed", MAX_SEED + 1, "input.seed", "at most 2147483647", MAX_SEED),
        ("seed", "7", "input.seed", "must be an integer, not '7'", 7),
        ("seed", False, "input.seed", "must be an integer, not false", None),
        ("referenceImages", URL, "input.referenceImages", "must be a list", None),
        ("referenceImages", {}, "input.referenceImages", "must be a list, not an object", None),
        ("referenceImages", [URL] * 5, "input.referenceImages", "at most 4 items, not 5", None),
        ("referenceImages", [URL, None], "input.referenceImages[1]", "a URL string or an object {dataBase64", None),
        ("referenceImages", [[URL]], "input.referenceImages[0]", "a URL string or an object", None),
        ("referenceImages", [""], "input.referenceImages[0]", "begins with http://", None),
        ("referenceImages", ["ftp://a.example/b"], "input.referenceImages[0]", "begins with http://", None),
        ("referenceImages", ["https://"], "input.referenceImages[0]", "names a host", None),
        ("referenceImages", ["https://me@a.example/b"], "input.referenceImages[0]", "no user name or password", None),
        ("referenceImages", [URL, "https://me:pw@a.example/b"], "input.referenceImages[1]", "no user name", None),
        ("referenceImages", ["https://:pw@a.example/b"], "input.referenceImages[0]", "no user name or password", None),
        ("referenceImages", ["https://@a.example/b"], "input.referenceImages[0]", "no user name or password", None),
        ("referenceImages", ["https://[::1"], "input.referenceImages[0]", "names a host", None),
        ("referenceImages", ["https://a.example:99999/"], "input.referenceImages[0]", "names a host", None),
        ("referenceImages", ["https://a.example/b c"], "input.referenceImages[0]", "begins with", None),
        ("referenceImages", ["https://a.example/\r\nHost: b"], "input.referenceImages[0]", "begins with", None),
        ("referenceImages", [f"data:image/png;base64,{PIXEL}"], "input.referenceImages[0]", "{dataBase64", None),
        ("referenceImages", ["https://a.example/" + "b" * 2031], "input.referenceImages[0]", "at most 2048", None),
        ("referenceImages", [{}], "input.referenceImages[0].dataBase64", "is required", None),
        ("referenceImages", [{"dataBase64": PIXEL}], "input.referenceImages[0].mimeType", "is required", None),
        (
            "referenceImages",
            [URL, {**INLINE, "mimeType": "image/gif"}],
            "input.referenceImages[1].mimeType",
            "one of image/png",
            "image/png",
        ),
        (
            "referenceImages",
            [{"dataBase64": f"data:image/svg+xml;base64,{PIXEL}"}],
            "input.referenceImages[0].mimeType",
            "one of image/png",
            "image/png",
        ),
        ("referenceImages", [{**INLINE, "mimeType": 1}], "input.referenceImages[0].mimeType", "one of", None),
        ("referenceImages", [{**INLINE, "dataBase64": 5}], "input.referenceImages[0].dataBase64", "a string", None),
        ("referenceImages", [{**INLINE, "dataBase64": ""}], "input.referenceImages[0].dataBase64", "at least 1", None),
        ("referenceImages", [{**INLINE, "dataBase64": "a"}], "input.referenceImages[0].dataBase64", "base64", None),
        ("referenceImages", [{**INLINE, "dataBase64": "é==="}], "input.referenceImages[0].dataBase64", "base64", None),
        ("referenceImages", [{**INLINE, "dataBase64": "\n"}], "input.referenceImages[0].dataBase64", "no bytes", None),
        (
            "referenceImages",
            [{**INLINE, "dataBase64": "data:image/png,raw"}],
            "input.referenceImages[0].dataBase64",
            "data URI with ;base64,",
            None,
        ),
        (
            "referenceImages",
            [{**INLINE, "mimetype": "image/png"}],
            "input.referenceImages[0].mimetype",
            "did you mean `mimeType`?",
            "mimeType",
        ),
        ("referenceImageUrls", [INLINE], "input.referenceImageUrls[0]", "must be a string, not an object", None),
        ("referenceImageUrls", [URL] * 5, "input.referenceImageUrls", "at most 4 items", None),
        ("negativeprompt", "x", "input.negativeprompt", "did you mean `negativePrompt`?", "negativePrompt"),
        ("reference_images", [], "input.reference_images", "did you mean `referenceImages`?", "referenceImages"),
        ("steps", 50, "input.steps", "unknown field `steps`", None),
        ("zzz", None, "input.zzz", "unknown field `zzz`", None),
        ("<url>", 1, 'input["<url>"]', "unknown field `<url>`", None),
        ("referenceImages", [{"<inline>": 1}], 'input.referenceImages[0]["<inline>"]', "unknown field", None),
        ("a b", 1, 'input["a b"]', "unknown field `a b`", None),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_bad_fields(field: str, value: object, path: str, says: str, nearest: object) -> None:
    raw = {"prompt": "a fox", field: value}
    if field in ("width", "height"):
        raw = {"prompt": "a fox", "width": 512, "height": 512, field: value}
    problem = next(each for each in refused(raw) if each.path == path)
    assert says in problem.message
    assert problem.nearest == nearest


@pytest.mark.parametrize("raw", [None, [], "prompt", 5, True, float("nan")])
def test_an_input_that_is_no_object(raw: object) -> None:
    (problem,) = refused(raw)
    assert problem.path == "input"
    assert "must be an object" in problem.message


def test_what_is_allowed_is_said() -> None:
    width, fmt = refused({"prompt": "x", "width": 1, "height": 512, "outputFormat": "gif"})
    assert width.allowed == {"type": "integer", "minimum": 256, "maximum": 16384}
    assert fmt.allowed == {"type": "string", "enum": ["webp", "png", "jpg", "jpeg"]}
    (unknown,) = refused({"prompt": "x", "widht": 1})
    assert unknown.allowed == [*TASK.Input.wire_names()[1:], "seed"]


def test_both_names_of_the_references_are_refused_even_when_empty() -> None:
    problems = refused({"prompt": "x", "referenceImages": [], "referenceImageUrls": [URL]})
    assert [problem.path for problem in problems] == ["input.referenceImages", "input.referenceImageUrls"]
    assert "referenceImageUrls" in problems[0].message


def test_all_problems_are_reported_at_once() -> None:
    problems = refused({"promt": "x", "width": 1, "height": "2", "seed": -1})
    assert {problem.path for problem in problems} == {
        "input.prompt",
        "input.promt",
        "input.width",
        "input.height",
        "input.seed",
    }
    across = refused({"prompt": "x", "width": 512, "referenceImages": [], "referenceImageUrls": []})
    assert {problem.path for problem in across} == {
        "input.height",
        "input.referenceImages",
        "input.referenceImageUrls",
    }


def test_accepted_spellings() -> None:
    effective = prepare(width=512.0, height=1024.0, outputFormat="jpeg", seed=7.0).effective_input
    assert json.dumps([effective[name] for name in ("width", "height", "outputFormat", "seed")]) == (
        '[512, 1024, "jpg", 7]'
    )
    assert prepare(prompt="𝒻🦊" * 2000).effective_input["prompt"] == "𝒻🦊" * 2000
    assert prepare(referenceImageUrls=[URL]).effective_input["referenceImages"] == [URL]
    assert prepare(referenceImages=["HTTP://EXAMPLE.com"]).effective_input["referenceImages"] == ["HTTP://EXAMPLE.com"]


def test_inline_images_are_decoded_once() -> None:
    uri = f"data:image/WEBP;name=a;base64,{PIXEL[:4]}\n{PIXEL[4:]}"
    given = [INLINE, {"dataBase64": uri}, {"dataBase64": uri, "mimeType": "IMAGE/PNG"}]
    content = b"not looked at here"
    effective = prepare(referenceImages=given).effective_input
    assert effective["referenceImages"] == [
        {"dataBase64": content, "mimeType": INLINE["mimeType"]},
        {"dataBase64": content, "mimeType": "image/webp"},
        {"dataBase64": content, "mimeType": "image/png"},
    ]
    again = TASK.prepare(effective).effective_input["referenceImages"]
    assert again == effective["referenceImages"]
    assert again[0]["dataBase64"] is effective["referenceImages"][0]["dataBase64"]


def test_inline_images_have_a_largest_size() -> None:
    exact = base64.b64encode(bytes(MAX_IMAGE_BYTES)).decode()
    assert prepare(referenceImages=[{**INLINE, "dataBase64": exact}]).adjustments == ()
    over = base64.b64encode(bytes(MAX_IMAGE_BYTES + 1)).decode()
    (problem,) = refused({"prompt": "x", "referenceImages": [{**INLINE, "dataBase64": over}]})
    assert problem.message == "must hold at most 30000000 bytes, not 30000001"


def test_an_effective_input_prepares_to_itself() -> None:
    first = prepare(width=1000, height=700, referenceImageUrls=[URL], outputFormat="jpeg", highDetail=True)
    again = TASK.prepare(first.effective_input, strict=True)
    assert again == Prepared(first.effective_input, (), (), seed_drawn=False)


def test_pools_steps_and_prior() -> None:
    plain, detailed = prepare().effective_input, prepare(highDetail=True).effective_input
    edited = prepare(referenceImages=[INLINE]).effective_input
    assert TASK.pools(plain) == ("qwen-image",)
    assert TASK.pools(edited) == ("qwen-image-edit",)
    assert (steps(plain), steps(detailed)) == (30, 45)
    assert TASK.prior_seconds(plain) == pytest.approx(10.84, abs=0.01)
    assert TASK.prior_seconds(plain) < TASK.prior_seconds(detailed) < TASK.prior_seconds(edited)


def test_the_hash_leaves_out_only_a_drawn_seed() -> None:
    one, two = prepare().effective_input, prepare().effective_input
    assert TASK.hash_input(one, True) == TASK.hash_input(two, True)
    assert TASK.hash_input({**one, "seed": 1}, False) != TASK.hash_input({**one, "seed": 2}, False)
    assert TASK.hash_input(dict(reversed(one.items())), True) == TASK.hash_input(one, True)
    for other in ({"prompt": "b"}, {"width": 512, "height": 512}, {"referenceImages": [URL]}):
        assert TASK.hash_input(prepare(**other).effective_input, True) != TASK.hash_input(one, True)
    assert len(TASK.hash_input(one, True)) == 64


def test_the_schema_accepts_its_examples_and_agrees_with_the_model() -> None:
    schema = TASK.Input.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert len(schema["examples"]) == 2
    for example in schema["examples"]:
        validator.validate(example)
        TASK.prepare(example, strict=True)
    accepted: list[dict[str, Any]] = [
        {"prompt": "x", "width": 512.0, "height": 512},
        {"prompt": "x", "seed": None, "highDetail": None},
        {"prompt": "x", "referenceImages": [{"dataBase64": f"data:image/png;base64,{PIXEL}"}, URL]},
    ]
    wrong: list[dict[str, Any]] = [
        {"prompt": ""},
        {"prompt": "x", "seed": 2**31},
        {"prompt": "x", "steps": 1},
        {"prompt": "x", "width": 1, "height": 512},
        {"prompt": "x", "referenceImages": ["ftp://a.example/"]},
    ]
    for raw in accepted:
        validator.validate(raw)
        TASK.prepare(raw)
    for raw in wrong:
        assert not validator.is_valid(raw)
        refused(raw)


def test_the_schema_says_what_it_should() -> None:
    properties = TASK.Input.model_json_schema()["properties"]
    assert list(properties) == [*TASK.Input.wire_names()[1:], "seed"]
    assert properties["highDetail"]["x-agent-hint"] == "opt-in"
    assert properties["width"]["minimum"] == 256
    assert properties["width"]["default"] == 1024
    assert properties["outputFormat"]["default"] == "webp"
    assert properties["referenceImageUrls"]["deprecated"] is True
    assert all(node.get("description") for node in properties.values())
    assert "title" not in properties["prompt"]


NAMES = st.sampled_from([*TASK.Input.wire_names(), "durationSecond", "", "\ud800"]) | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(raw=JSON | st.dictionaries(NAMES, JSON, max_size=10))
def test_any_json_is_prepared_or_refused_in_words_that_can_be_sent(raw: object) -> None:
    problems: tuple[FieldProblem, ...] = ()
    try:
        effective = TASK.prepare(raw).effective_input
    except InvalidInput as error:
        problems, body = error.fields, json.dumps(error.as_json(), ensure_ascii=False, allow_nan=False).encode()
    else:
        assert TASK.prepare(effective).effective_input == effective
        return
    assert problems
    assert all(problem.path.startswith("input") for problem in problems)
    assert len(body) < 20_000


def test_huge_hostile_objects_are_refused_briefly() -> None:
    (problem,) = refused({f"field{index}": index for index in range(200_000)})
    assert problem.message == "must not have more than 64 fields"
    assert len(refused({"n" * 1_000_000 + str(index): index for index in range(60)})) == 20
    raw: dict[str, object] = {"prompt": {"x" * 10_000_000: "y"}, "width": "9" * 5_000_000, "height": "h" * 5_000_000}
    with pytest.raises(InvalidInput) as caught:
        TASK.prepare(raw)
    assert len(json.dumps(caught.value.as_json())) < 2_000
    deep: Any = {}
    for _ in range(100_000):
        deep = {"referenceImages": [deep]}
    assert refused({"prompt": "x", "referenceImages": [deep]})


def test_adjustments_are_values() -> None:
    change = Adjustment("width", 1000, 992, "multiple of 32")
    assert change == Adjustment("width", 1000, 992, "multiple of 32", "submit")
    assert Adjustment("width", 1, 2, "source", at="run").as_json()["at"] == "run"
