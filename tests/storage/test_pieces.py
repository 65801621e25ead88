"""A stored object read in pieces, on both stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from storage import MissingObject, Store
from storage.local import LocalStore
from storage.pieces import Pieces

CONTENT = bytes(range(256)) * 5


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store with an object of 1280 bytes and an empty one."""
    made = LocalStore(tmp_path, "", None) if request.param == "local" else request.getfixturevalue("s3")
    made.put("jobs/a/1/full", CONTENT, "video/x-matroska")
    made.put("jobs/a/1/empty", b"", "video/x-matroska")
    return cast(Store, made)


@pytest.mark.parametrize("size", [1, 7, 100, 256, 5000])
@pytest.mark.parametrize("piece", [1000, 1279, 1280, 4096])
def test_it_reads_all_in_order(store: Store, size: int, piece: int) -> None:
    source, parts = Pieces(store, "jobs/a/1/full", piece), []
    while part := source.read(size):
        assert len(part) <= size
        parts.append(part)
    assert b"".join(parts) == CONTENT
    assert source.read(size) == b""


def test_an_empty_object_has_nothing(store: Store) -> None:
    assert Pieces(store, "jobs/a/1/empty").read(10) == b""


def test_what_is_not_there_is_missing(store: Store) -> None:
    with pytest.raises(MissingObject):
        Pieces(store, "jobs/a/1/nothing")


def test_no_more_is_asked_for_than_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    real: Any = store.open_range

    def open_range(key: str, start: int, stop: int) -> Any:
        asked.append((start, stop))
        return real(key, start, stop)

    monkeypatch.setattr(store, "open_range", open_range)
    source = Pieces(store, "jobs/a/1/full", 500)
    assert asked == []
    source.read(10)
    source.read(490)
    assert asked == [(0, 500)]
    source.read(1)
    assert asked == [(0, 500), (500, 1000)]


def test_what_vanishes_on_the_way_is_missing(store: Store) -> None:
    source = Pieces(store, "jobs/a/1/full", 500)
    source.read(500)
    store.delete("jobs/a/1/full")
    with pytest.raises(MissingObject):
        source.read(1)
