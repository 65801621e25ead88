"""What every input object has in common: strict JSON types, camelCase names, and null that means absent."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

MAX_SEED = 2**31 - 1
"""The largest seed that a caller may give."""

MAX_FIELDS = 64
"""An object with more fields is refused before each unknown one is looked at."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: float) -> float:
    return int(value) if value.is_integer() else value


def _storable(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text_nul", "must not contain the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("text_surrogate", "must be valid Unicode: it has half of a surrogate pair") from None
    return text


WHOLE = BeforeValidator(_whole)
"""Last in the annotation of an `int`: 160.0 is an integer too (as JSON Schema has it); "160" and true are not."""

PLAIN = AfterValidator(_plain)
"""Last in the annotation of a `float`: 6.0 is shown as 6. A number may be written with or without a fraction."""

Text = Annotated[str, AfterValidator(_storable)]
"""A string that UTF-8 and PostgreSQL can hold: no NUL, no lone surrogate. Lengths count code points."""

MAX_PROMPT_CHARACTERS = 4000
Prompt = Annotated[Text, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
NegativePrompt = Annotated[Text, Field(max_length=MAX_PROMPT_CHARACTERS)]


class InputModel(BaseModel):
    """An object in a request: unknown fields are refused, and null for an optional field counts as absent."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        alias_generator=to_camel,
        serialize_by_alias=True,
    )

    @classmethod
    @cache
    def aliases(cls) -> Mapping[str, str]:
        """The fields' names on the wire, by their names here."""
        return {name: field.alias or name for name, field in cls.model_fields.items()}

    @classmethod
    def wire_names(cls) -> tuple[str, ...]:
        """The fields' names on the wire."""
        return tuple(cls.aliases().values())

    def given(self) -> frozenset[str]:
        """The wire names of the fields that the caller set; null is not set."""
        aliases = self.aliases()
        return frozenset(aliases[name] for name in self.model_fields_set)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        if len(data) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", f"must not have more than {MAX_FIELDS} fields")
        if None not in data.values():
            return data
        known = cls.wire_names()
        return {name: value for name, value in data.items() if value is not None or name not in known}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The model's JSON Schema, in which every optional field admits null and no property repeats its own name."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        properties = schema.get("properties", {})
        for name, node in properties.items():
            node.pop("title", None)
            if name not in schema.get("required", ()):
                properties[name] = _nullable(node)
        return schema


def _nullable(node: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    about = {key: value for key, value in node.items() if key != "anyOf" and (key, value) != ("default", None)}
    forms = [form for form in node["anyOf"] if form != null] if "anyOf" in node else [{}]
    if len(forms) > 1:
        return {**about, "anyOf": [*forms, null]}
    if not isinstance(forms[0].get("type", about.get("type")), str):
        return {**about, "anyOf": [*forms, null]} if forms[0] else {"anyOf": [about, null]}
    nullable = {**forms[0], **about}
    nullable["type"] = [nullable["type"], "null"]
    if "enum" in nullable:
        nullable["enum"] = [*nullable["enum"], None]
    return nullable


class TaskInput(InputModel):
    """The fields that every task takes. A task's validator is built when it is first needed, not at import."""

    model_config = ConfigDict(defer_build=True)

    seed: Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | None = Field(
        None,
        description="Fixes the random numbers: the same input with the same seed gives the same result. "
        "Drawn, and reported in effectiveInput, when absent.",
        examples=[424242],
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """As for every input object; `seed` comes last, after the task's own fields."""
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        schema["properties"]["seed"] = schema["properties"].pop("seed")
        return schema
