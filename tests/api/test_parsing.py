from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import Message

from api import parsing
from api.parsing import LONG_BYTES, MAX_DEPTH, parse
from api.room import Guest, Room
from api.services import LARGE_BYTES, Services
from core.errors import BodyTooLarge, BodyTooSlow, InvalidInput, MalformedJson
from tasks.long_text import LongText

PATH = "/api/v1/keys"
GOOD = b'{"label": "x"}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{'label': 'x'}",
        b'{"label": "x",}',
        b'{"label": "x"} {}',
        b'{"label": "x"}\0',
        b'\xef\xbb\xbf{"label": "x"}',
        b'{"label": "\xff"}',
        b'{"label": "\xed\xa0\x80"}',
        '{"label": "x"}'.encode("utf-16"),
        b'{"label": NaN}',
        b'{"label": Infinity}',
        b'{"label": -Infinity}',
        b'{"label": 1e999}',
        b'{"label": ' + b"9" * 5000 + b"}",
        b'{"label": "x", "label": "x"}',
        b'{"label": "a", "deep": [{"a": 1, "a": 2}]}',
        b'{"label": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"label": "\\u0000"}',
        b'{"a\\u0000": 1}',
        b'{"label": "x\ny"}',
        b"[" * 20_000 + b"]" * 20_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"a": [' + b"{}," * 60_000 + b"{}]}",
        b'{"a": [' + b"0," * 60_000 + b"0]}",
    ],
    ids=lambda body: ascii(body[:24]),
)
def test_what_is_no_strict_json_is_400(client: TestClient, body: bytes) -> None:
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == "malformed_json"
    assert answer.json()["details"]["message"].endswith(".")


@pytest.mark.parametrize("body", [b"[]", b"null", b'"label"', b"1", b"true"])
def test_json_that_is_no_object_is_422(client: TestClient, body: bytes) -> None:
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 201),
        ("APPLICATION/JSON", 201),
        ("application/json; charset=utf-8", 201),
        ('application/json;charset="UTF-8"', 201),
        ("application/json; charset=utf8", 201),
        ("application/json; charset=utf-8; profile=x", 201),
        ("application/json; charset=latin-1", 415),
        ("application/json; charset=", 415),
        ("application/jsonp", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
def test_the_content_type_decides(client: TestClient, content_type: str, status: int) -> None:
    answer = client.post(PATH, content=GOOD, headers={"Content-Type": content_type})
    assert answer.status_code == status
    if status == 415:
        assert answer.json()["error"] == "unsupported_media_type"


def _chunks(count: int) -> Iterator[bytes]:
    yield b'{"label": "'
    for _ in range(count):
        yield b"x" * 50_000
    yield b'"}'


def test_a_body_above_the_cap_is_413_declared_or_not(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    declared = client.post(PATH, content=b"".join(_chunks(5)), headers=headers)
    chunked = client.post(PATH, content=_chunks(5), headers=headers)
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]) == (413, "body_too_large")
        assert answer.headers["connection"] == "close"
        assert "200000 bytes" in answer.json()["details"]["message"]
    assert client.post(PATH, content=_chunks(3), headers=headers).status_code == 422


def test_numbers_are_json_numbers_and_not_python_ones() -> None:
    values = parse(b'{"a": 160.0, "b": 0.5, "c": -0.0, "d": 1e3, "e": 12345678901234567890, "f": 1e300}').value
    assert values == {"a": 160, "b": 0.5, "c": 0, "d": 1000, "e": 12345678901234567890, "f": 1e300}
    assert [type(value) for value in values.values()] == [int, float, int, int, int, float]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [1, 2]}', '{ "b" : [1,2],\n"a":1.0}', True),
        ('{"a": 1, "idempotencyKey": "x"}', '{"a": 1}', True),
        ('{"a": {"idempotencyKey": "x"}}', '{"a": {}}', False),
        ('{"a": "\\u00e9"}', '{"a": "é"}', True),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": 1}', '{"a": "1"}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": null}', "{}", False),
    ],
)
def test_the_fingerprint_is_of_the_meaning(one: str, other: str, same: bool) -> None:
    assert (parse(one.encode()).fingerprint == parse(other.encode()).fingerprint) is same


def test_nesting_up_to_the_limit_is_parsed() -> None:
    levels = MAX_DEPTH - 1
    assert parse(b'{"a": ' + b"[" * levels + b"]" * levels + b"}").value
    with pytest.raises(MalformedJson, match=str(MAX_DEPTH)):
        parse(b'{"a": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")
    with pytest.raises(InvalidInput):
        parse(b"[]")


def test_text_from_outside_stays_printable_in_a_message() -> None:
    with pytest.raises(MalformedJson) as caught:
        parse(b'{"\\ud800\\n": 1, "\\ud800\\n": 2}')
    json.dumps(caught.value.as_json(), ensure_ascii=False).encode()


async def test_work_on_a_large_body_leaves_the_loop(services: Services) -> None:
    here = threading.get_ident()
    assert await services.offload(LARGE_BYTES - 1, threading.get_ident) == here
    assert await services.offload(LARGE_BYTES, threading.get_ident) != here


TEXTS = st.text(st.sampled_from('aZ+/=\\"\n\ré😀,:{}[]'), max_size=12) | st.just("dataBase64")
INLINE = st.fixed_dictionaries({"dataBase64": TEXTS})
DOCUMENTS = st.dictionaries(TEXTS, TEXTS | INLINE | st.lists(TEXTS | INLINE, max_size=4), max_size=4)


def plain(value: Any) -> Any:
    if isinstance(value, LongText):
        return "".join(value.pieces())
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=300, deadline=None)
@given(document=DOCUMENTS, spaced=st.booleans(), escaped=st.booleans())
def test_what_is_set_aside_means_the_same(document: dict[str, Any], spaced: bool, escaped: bool) -> None:
    body = json.dumps(document, separators=(" , ", " :\t") if spaced else None).encode()
    if escaped:
        body = body.replace(b"/", b"\\/").replace(b"+", b"\\u002B")
    with pytest.MonkeyPatch.context() as patch:
        whole = parse(body)
        patch.setattr(parsing, "LONG_BYTES", 1)
        apart = parse(body)
    assert plain(apart.value) == whole.value == json.loads(body)
    if all(text.isascii() for text in _strings(document)):
        assert apart.fingerprint == whole.fingerprint


def _strings(value: Any) -> Iterator[str]:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, str):
            yield item
        else:
            yield from _strings(item)


@pytest.mark.parametrize(
    "ending", [b'"}}', b'"}', b"", b'\\"}}', b"\n" + b'"}}', b"\\x" + b'"}}', b"\xc3\xa9" + b'"}}']
)
def test_a_long_string_is_checked_like_any_other(ending: bytes) -> None:
    body = b'{"a": {"dataBase64": "' + b"A" * LONG_BYTES + ending
    if ending == b'"}}':
        assert isinstance(parse(body).value["a"]["dataBase64"], LongText)
        assert parse(body).fingerprint != parse(body.replace(b"AAA", b"AAB", 1)).fingerprint
    else:
        with pytest.raises(MalformedJson):
            parse(body)


def test_names_and_texts_that_look_like_inline_media_are_none() -> None:
    long = "A" * LONG_BYTES
    tricky = {'a "dataBase64': long, "b": f'"dataBase64": "{long}"', "dataBase64": [long], "c": {"dataBase64": 1}}
    assert parse(json.dumps(tricky).encode()).value == tricky
    with pytest.raises(MalformedJson, match="twice"):
        parse(f'{{"dataBase64": "{long}", "dataBase64": "{long}"}}'.encode())


def test_the_rest_of_a_body_has_a_cap_of_its_own() -> None:
    inline = b'{"dataBase64": "' + b"A" * 9_000_000 + b'"}'
    assert parse(b'{"a": ' + inline + b"}").size == len(inline) + 7
    with pytest.raises(BodyTooLarge, match="8000000 bytes beside its inline media"):
        parse(b'{"a": ' + inline + b', "b": "' + b"A" * 8_000_000 + b'"}')


def test_a_million_short_ones_are_no_trouble() -> None:
    start = time.process_time()
    with pytest.raises(MalformedJson):
        parse(b'{"dataBase64":"' * 500_000)
    assert time.process_time() - start < 5


def test_the_largest_body_of_many_values_is_parsed_quickly() -> None:
    body = json.dumps({"a": list(range(49_000))}).encode()
    start = time.process_time()
    parse(body)
    assert time.process_time() - start < 0.5


def test_two_content_types_are_none(client: TestClient) -> None:
    twice = [("content-type", "application/json"), ("content-type", "application/json")]
    answer = client.post(PATH, content=GOOD, headers=twice)
    assert (answer.status_code, answer.json()["error"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(("silence", "whole"), [(0.05, 9.0), (9.0, 0.05)], ids=["silent", "dripping"])
async def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch, silence: float, whole: float) -> None:
    monkeypatch.setattr(parsing, "SILENCE_SECONDS", silence)
    monkeypatch.setattr(parsing, "BODY_SECONDS", whole)

    async def receive() -> Message:
        await asyncio.sleep(60 if silence < 1 else 0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    with pytest.raises(BodyTooSlow) as caught:
        await parsing.read(request, 1000, Guest(Room(10_000, 10_000)))
    assert (caught.value.status, caught.value.headers) == (408, {"Connection": "close"})


async def test_a_body_that_drips_but_comes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "SILENCE_SECONDS", 0.5)
    left = list(b'{"label": 1}')

    async def receive() -> Message:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": bytes([left.pop(0)]), "more_body": bool(left)}

    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, receive)
    assert await parsing.read(request, 1000, Guest(Room(10_000, 10_000))) == b'{"label": 1}'


def _dripping(size: int, piece: int, declared: bytes) -> Request:
    left = size

    async def receive() -> Message:
        nonlocal left
        await asyncio.sleep(0.01)
        left -= piece
        return {"type": "http.request", "body": b" " * piece, "more_body": left > 0}

    headers = [(b"content-type", b"application/json"), (b"content-length", declared)]
    return Request({"type": "http", "headers": headers}, receive)


@pytest.mark.parametrize(
    ("size", "piece", "declared"),
    [(2_000_000, 1, b"2000000"), (2_000_000, 20_000, b"2000000"), (2_000_000, 40_000, b"")],
    ids=["silent", "slow", "undeclared"],
)
async def test_a_large_body_must_keep_a_pace(
    monkeypatch: pytest.MonkeyPatch, size: int, piece: int, declared: bytes
) -> None:
    monkeypatch.setattr(parsing, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(parsing, "LEAST_BYTES_A_SECOND", 20_000_000)
    with pytest.raises(BodyTooSlow):
        await parsing.read(_dripping(size, piece, declared), 10_000_000, Guest(Room(10_000_000, 10_000_000)))


@pytest.mark.parametrize(
    ("piece", "pace"), [(50_000, 1e12), (200_000, 1000)], ids=["small and slow", "large and fast enough"]
)
async def test_who_keeps_the_pace_or_is_small_is_read(monkeypatch: pytest.MonkeyPatch, piece: int, pace: float) -> None:
    monkeypatch.setattr(parsing, "GRACE_SECONDS", 0.0 if pace > 1e9 else 5.0)
    monkeypatch.setattr(parsing, "LEAST_BYTES_A_SECOND", pace)
    size = piece * 10
    request = _dripping(size, piece, str(size).encode())
    assert len(await parsing.read(request, 10_000_000, Guest(Room(10_000_000, 10_000_000)))) == size
