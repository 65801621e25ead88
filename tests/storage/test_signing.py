from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from core.errors import Forbidden, OutputExpired, UploadExpired
from storage.base import InvalidKey, UploadPromise
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


# Uploads

DIGEST = "ab" * 32


def upload(signer: UrlSigner, **changes: Any) -> tuple[str, dict[str, str]]:
    promise = {"mime_type": "image/webp", "bytes": 1000, "sha256": DIGEST, "expires_at": NOW + HOUR, **changes}
    parts = urlsplit(signer.upload_url(KEY, **promise))
    assert parts.path == f"/uploads/{KEY}"
    return KEY, dict(parse_qsl(parts.query, keep_blank_values=True))


@pytest.mark.parametrize("sha256", [DIGEST, None])
def test_an_upload_url_carries_its_promise(signer: UrlSigner, sha256: str | None) -> None:
    key, params = upload(signer, sha256=sha256)
    assert signer.verify_upload(key, params, NOW) == UploadPromise("image/webp", 1000, sha256, NOW + HOUR)
    with pytest.raises(UploadExpired):
        signer.verify_upload(key, params, NOW + HOUR)


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": "1001"},
        {"bytes": "01000"},
        {"bytes": ""},
        {"sha256": "cd" * 32},
        {"sha256": ""},
        {"sha256": DIGEST.upper()},
        {"mimeType": "text/html"},
        {"mimeType": "image/webp\n"},
        {"expires": "9999999999"},
        {"sha256": f"{DIGEST}\nimage/webp", "mimeType": ""},
        {"bytes": "1000\n" + DIGEST, "sha256": "image/webp", "mimeType": ""},
        {"signature": ""},
        {"signature": "\ud800"},
    ],
)
def test_a_changed_upload_url_is_refused(signer: UrlSigner, change: dict[str, str]) -> None:
    key, params = upload(signer)
    with pytest.raises(InvalidSignature):
        signer.verify_upload(key, params | change, NOW)


@pytest.mark.parametrize("name", ["expires", "bytes", "sha256", "mimeType", "signature"])
def test_an_upload_url_that_lacks_a_parameter_is_refused(signer: UrlSigner, name: str) -> None:
    key, params = upload(signer)
    del params[name]
    with pytest.raises(InvalidSignature):
        signer.verify_upload(key, params, NOW)


def test_reading_and_writing_are_signed_apart(signer: UrlSigner) -> None:
    key, reading = opened(signer.url(KEY, expires_at=NOW + HOUR, filename="a"))
    _, writing = upload(signer)
    for params in (reading, writing | reading, reading | {"signature": writing["signature"]}):
        with pytest.raises(InvalidSignature):
            signer.verify_upload(key, params, NOW)
    with pytest.raises(InvalidSignature):
        signer.verify(key, reading | {"signature": writing["signature"]}, NOW)
    with pytest.raises(InvalidSignature):
        signer.verify_upload("jobs/b/1/image.webp", writing, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": 0},
        {"bytes": -1},
        {"sha256": ""},
        {"sha256": "AB" * 32},
        {"sha256": "ab" * 31},
        {"sha256": DIGEST + "\n"},
        {"mime_type": "image"},
        {"mime_type": "image/webp\r\nX: y"},
        {"expires_at": datetime(2026, 1, 1)},
    ],
)
def test_what_no_upload_can_be_is_not_signed(signer: UrlSigner, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1 byte|no SHA-256|no media type|time zone"):
        upload(signer, **change)


# Our own URLs


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://media.example", "https://media.example/objects/a/b.webp?expires=1&signature=x"),
        ("https://media.example/", "https://media.example/objects/a/b.webp"),
        ("https://media.example", "https://media.example:443/objects/a/b.webp"),
        ("https://media.example:443", "https://media.example/objects/a/b.webp#part"),
        ("https://media.example", "HTTPS://MEDIA.Example/objects/a/b.webp"),
        ("https://media.example", "https://media.example/objects/a%2fb%2Ewebp"),
        ("https://media.example", "https://media.example/%6Fbjects/a/b.webp"),
        ("https://media.example/killa%20tamata", "https://media.example/killa%20tamata/objects/a/b.webp"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/objects/a/b.webp?"),
        ("http://[::1]:8000", "http://[::1]:8000/objects/a/b.webp"),
    ],
)
def test_an_own_url_is_known_however_it_is_written(base: str, url: str) -> None:
    assert UrlSigner(base, None).key_of(url) == "a/b.webp"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a/b.webp",
        "/objects/a/b.webp",
        "//media.example/objects/a/b.webp",
        "http://media.example/objects/a/b.webp",
        "ftp://media.example/objects/a/b.webp",
        "https://media.example:8443/objects/a/b.webp",
        "https://media.example:0/objects/a/b.webp",
        "https://media.example:99999/objects/a/b.webp",
        "https://media.example:x/objects/a/b.webp",
        "https://media.example.evil.test/objects/a/b.webp",
        "https://media.example@evil.test/objects/a/b.webp",
        "https://user:pass@media.example/objects/a/b.webp",
        "https://evil.test/objects/a/b.webp?https://media.example/objects/a/b.webp",
        "https://[media.example/objects/a/b.webp",
        "https://media.example\\@evil.test/objects/a/b.webp",
        "https://media.example/object/a/b.webp",
        "https://media.example/objects",
        "https://media.example/objects/",
        "https://media.example/objects//a",
        "https://media.example/objects/a/",
        "https://media.example/objects/../objects/a",
        "https://media.example/objects/a/../b",
        "https://media.example/objects/a/%2e%2e/b",
        "https://media.example/objects/a%252fb",
        "https://media.example/objects/a%00",
        "https://media.example/objects/\ud800",
        "https://media.example/x/objects/a/b.webp",
        "https://media.example/uploads/a/b.webp",
        "https://media.example/objects/" + "a" * 1_000_000,
    ],
)
def test_another_url_is_not_ours(signer: UrlSigner, url: str) -> None:
    assert signer.key_of(url) is None


def test_a_path_of_the_base_url_is_part_of_ours() -> None:
    signer = UrlSigner("https://media.example/api", SECRET)
    assert signer.key_of(signer.url(KEY, expires_at=NOW, filename="a")) == KEY
    assert signer.key_of(f"https://media.example/objects/{KEY}") is None


def test_without_a_base_url_nothing_is_ours() -> None:
    assert UrlSigner("", None).key_of("/objects/a") is None
    assert UrlSigner("", None).key_of("https:///objects/a") is None
