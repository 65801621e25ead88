from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from PIL import Image

from media.image import Format, encode, open_image
from media.provenance import NAMESPACE, Recipe
from tests.media.pictures import gradient

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPE = Recipe(
    task="image.generate",
    engine="qwen-image",
    weights_digest="sha256:" + "ab" * 32,
    stand_in=True,
    seed=7,
    input_sha256="cd" * 32,
)
SOURCE_TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def told(data: bytes) -> dict[str, str]:
    """What a picture's XMP says, by qualified names."""
    with Image.open(io.BytesIO(data)) as image:
        packet = image.info["xmp"]
    root = ElementTree.fromstring(packet)
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {each.tag: each.text or "" for each in description}


@pytest.mark.parametrize("kind", ["webp", "png", "jpg"])
def test_every_format_carries_the_same_recipe(kind: Format) -> None:
    data = encode(gradient(), kind, xmp=RECIPE.as_xmp())
    found = told(data)
    assert json.loads(found[f"{{{NAMESPACE}}}Recipe"]) == RECIPE.as_json()
    assert found["{http://ns.adobe.com/xap/1.0/}CreatorTool"] == f"Killa Tamata {version('killatamata')}"
    assert found[SOURCE_TYPE].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert (open_image(data).pixels == open_image(encode(gradient(), kind)).pixels).all()


def test_it_is_what_the_documentation_says() -> None:
    schema = json.loads((DOCS / "provenance.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    recipe = RECIPE.as_json()
    jsonschema.validate(recipe, schema)
    assert set(recipe) == set(schema["properties"])
    for name in recipe:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**recipe, name: None}, schema)
    (example,) = re.findall(r"```json\n(.*?)```", (DOCS / "provenance.md").read_text(), re.DOTALL)
    jsonschema.validate(json.loads(example), schema)


def test_an_edit_of_somebody_s_picture_is_another_kind_of_source() -> None:
    found = told(encode(gradient(), "png", xmp=replace(RECIPE, edited=True).as_xmp()))
    assert found[SOURCE_TYPE].endswith("/digitalsourcetype/compositeWithTrainedAlgorithmicMedia")


def test_names_cannot_break_out_of_it() -> None:
    hostile = replace(RECIPE, engine='</killatamata:Recipe>]]>&"\n\u2028{braces}', weights_digest="\x00")
    found = told(encode(gradient(), "webp", xmp=hostile.as_xmp()))
    assert json.loads(found[f"{{{NAMESPACE}}}Recipe"]) == hostile.as_json()


def test_the_same_recipe_and_pixels_give_the_same_bytes() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (40, 30, 3), np.uint8)
    for kind in ("webp", "png", "jpg"):
        assert encode(noise, kind, xmp=RECIPE.as_xmp()) == encode(noise.copy(), kind, xmp=replace(RECIPE).as_xmp())
        assert encode(noise, kind, xmp=RECIPE.as_xmp()) != encode(noise, kind, xmp=replace(RECIPE, seed=8).as_xmp())
