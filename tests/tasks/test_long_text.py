from __future__ import annotations

import base64
import binascii
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import long_text
from tasks.long_text import LongText
from tasks.media_fields import decode_inline


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> object:
    """So small that every cut there can be comes up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "PIECE_BYTES", 8)
        yield


def long(inside: str) -> LongText:
    return LongText(memoryview(inside.encode()))


WHOLE = st.sampled_from(["\\\\", '\\"', "\\/", "\\n", "\\r\\n", "\\u002B", "\\u0041", "A", "bc", "=", "\\\\u0041"])


@settings(deadline=None)
@given(parts=st.lists(WHOLE, max_size=40))
def test_a_long_text_reads_like_the_string_it_is(parts: list[str]) -> None:
    inside = "".join(parts)
    pieces = list(long(inside).pieces())
    assert "".join(pieces) == json.loads(f'"{inside}"')
    assert all(0 < len(piece) <= 8 for piece in pieces)
    assert long(inside).head == (pieces[0] if pieces else "")


@pytest.mark.parametrize("inside", ["a\\", "a\\x" + "b" * 20, "b" * 20 + "\\u12", "a\nb", "\\", "é" * 20])
def test_what_is_no_string_is_refused(inside: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(long(inside).pieces())
    with pytest.raises(ValueError, match=r"."):
        decode_inline(long(inside))


def test_a_bad_beginning_has_no_head() -> None:
    assert long("a\nb").head == ""


def strictly(text: str) -> bytes | None:
    text = "".join(text.split())
    if text.endswith("==="):
        # binascii takes them after a whole group, for what they are worth.
        return None
    try:
        return binascii.a2b_base64(text, strict_mode=True) if len(text) % 4 == 0 else None
    except ValueError:
        return None


def decoded(text: str | LongText) -> bytes | None:
    try:
        return decode_inline(text)
    except ValueError:
        return None


@settings(max_examples=1500, deadline=None)
@given(parts=st.lists(st.sampled_from(["QUJD", "QQ==", "QUI=", "A", "=", "\n", " ", "+/", "*"]), max_size=12))
def test_base64_in_pieces_is_the_same_base64(parts: list[str]) -> None:
    text = "".join(parts)
    assert decoded(text) == decoded(long(json.dumps(text)[1:-1])) == strictly(text)


@pytest.mark.parametrize("content", [b"", b"a", b"ab", b"abc", bytes(range(256))])
@pytest.mark.parametrize("head", ["", "data:;base64,", "data:image/png;base64,", "DATA:image/png;name=a;BASE64,"])
def test_a_data_uri_is_base64_behind_a_head(content: bytes, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "PIECE_BYTES", 64)
    text = head + base64.b64encode(content).decode()
    assert decode_inline(text) == decode_inline(long(text)) == content


def test_a_data_uri_without_base64_is_refused() -> None:
    for text in ("data:image/png,raw", long("data:image/png,raw")):
        with pytest.raises(ValueError, match="must say ;base64,"):
            decode_inline(text)
