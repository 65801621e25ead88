from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from core.errors import Forbidden, OutputExpired
from storage.base import InvalidKey
from storage.signing import ExpiredSignature, InvalidSignature, UrlSigner

SECRET = b"k" * 32
KEY = "jobs/a/1/image.webp"
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def signer() -> UrlSigner:
    return UrlSigner("https://media.example/", SECRET)


def opened(url: str) -> tuple[str, dict[str, str]]:
    """What a server makes of a URL: the key and the decoded query."""
    parts = urlsplit(url)
    prefix, key = parts.path[:9], unquote(parts.path[9:])
    assert prefix == "/objects/"
    return key, dict(parse_qsl(parts.query, keep_blank_values=True))


def test_the_shape_of_a_url(signer: UrlSigner) -> None:
    url = signer.url(KEY, expires_at=NOW, filename="image.webp")
    assert url.startswith(
        "https://media.example/objects/jobs/a/1/image.webp?expires=1795428000&filename=image.webp&signature="
    )
    assert SECRET.decode() not in url


@pytest.mark.parametrize(
    "filename", ["image.webp", "тест 1.webp", "日本語.webp", "a&b=c;d?#%+.png", "🍅.png", 'q"uote.png', "e\u0301"]
)
def test_a_signed_url_opens_under_its_name(signer: UrlSigner, filename: str) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename=filename))
    assert key == KEY
    assert signer.verify(key, params, NOW) == filename


def test_signing_is_repeatable(signer: UrlSigner) -> None:
    again = UrlSigner("https://media.example", SECRET)
    assert signer.url(KEY, expires_at=NOW, filename="a") == again.url(KEY, expires_at=NOW, filename="a")


def test_a_url_lives_until_its_second(signer: UrlSigner) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + timedelta(microseconds=1), filename="a"))
    assert signer.verify(key, params, NOW + timedelta(microseconds=999_999)) == "a"
    with pytest.raises(ExpiredSignature):
        signer.verify(key, params, NOW + timedelta(seconds=1))


@pytest.mark.parametrize(
    "change",
    [
        {"expires": "9999999999"},
        {"expires": "01795431600"},
        {"expires": "1795431600 "},
        {"expires": "１７９５４３１６００"},
        {"expires": ""},
        {"expires": "9" * 100_000},
        {"expires": "1795431600\nimage.webp"},
        {"filename": "other.webp"},
        {"filename": ""},
        {"filename": "image.webp\n"},
        {"filename": "\ud800"},
        {"signature": ""},
        {"signature": "0" * 64},
        {"signature": "ü" * 64},
        {"signature": "\ud800"},
        {"signature": "0" * 1_000_000},
    ],
)
def test_what_was_changed_is_refused(signer: UrlSigner, change: dict[str, str]) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="image.webp"))
    with pytest.raises(InvalidSignature):
        signer.verify(key, params | change, NOW)


@pytest.mark.parametrize("name", ["expires", "filename", "signature"])
def test_what_lacks_a_parameter_is_refused(signer: UrlSigner, name: str) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="image.webp"))
    del params[name]
    with pytest.raises(InvalidSignature):
        signer.verify(key, params, NOW)


def test_every_character_of_the_signature_counts(signer: UrlSigner) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="image.webp"))
    good = params["signature"]
    changed = [good[:at] + ("0" if good[at] != "0" else "1") + good[at + 1 :] for at in range(len(good))]
    for signature in [*changed, good.upper(), good[:-1], good + "0", good + " "]:
        with pytest.raises(InvalidSignature):
            signer.verify(key, params | {"signature": signature}, NOW)


@pytest.mark.parametrize(
    "key", ["jobs/a/1/image.webp2", "jobs/b/1/image.webp", "jobs/a/1/../1/image.webp", "../x", "", "a\n1"]
)
def test_a_signature_is_for_one_key(signer: UrlSigner, key: str) -> None:
    _, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="image.webp"))
    with pytest.raises(InvalidSignature):
        signer.verify(key, params, NOW)


def test_another_secret_signs_nothing(signer: UrlSigner) -> None:
    key, params = opened(UrlSigner("https://media.example", b"o" * 32).url(KEY, expires_at=NOW + HOUR, filename="a"))
    with pytest.raises(InvalidSignature):
        signer.verify(key, params, NOW)


def test_the_secret_itself_signs_nothing(signer: UrlSigner) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="a"))
    message = f"{key}\n{params['expires']}\na".encode()
    params["signature"] = hmac.new(SECRET, message, "sha256").hexdigest()
    with pytest.raises(InvalidSignature):
        signer.verify(key, params, NOW)


def test_a_forged_url_is_not_told_whether_it_would_have_expired(signer: UrlSigner) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW - HOUR, filename="a"))
    with pytest.raises(InvalidSignature):
        signer.verify(key, params | {"filename": "b"}, NOW)


def test_strangers_parameters_do_no_harm(signer: UrlSigner) -> None:
    key, params = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="a"))
    assert signer.verify(key, params | {"utm_source": "x"}, NOW) == "a"


@pytest.mark.parametrize("filename", ["", "a/b", "a\\b", "a\r\nX: y", "a\x00", "a" * 201, "\x7f"])
def test_names_that_are_no_file_names_are_not_signed(signer: UrlSigner, filename: str) -> None:
    with pytest.raises(ValueError, match="no file name"):
        signer.url(KEY, expires_at=NOW, filename=filename)


def test_bad_keys_and_times_are_not_signed(signer: UrlSigner) -> None:
    with pytest.raises(InvalidKey):
        signer.url("../x", expires_at=NOW, filename="a")
    with pytest.raises(ValueError, match="time zone"):
        signer.url(KEY, expires_at=NOW.replace(tzinfo=None), filename="a")


def test_the_errors_are_answers_of_the_api() -> None:
    assert isinstance(InvalidSignature(), Forbidden)
    assert isinstance(ExpiredSignature(), OutputExpired)
    assert ExpiredSignature().as_json()["details"]["message"]
