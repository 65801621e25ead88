from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import decode, encode, uuid7


def test_uuid7_has_version_variant_and_the_present_time() -> None:
    before = time.time_ns() // 1_000_000
    drawn = uuid7()
    after = time.time_ns() // 1_000_000
    assert drawn.version == 7
    assert drawn.variant == uuid.RFC_4122
    assert before <= drawn.int >> 80 <= after


def test_uuid7_does_not_repeat() -> None:
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_later_ids_sort_after_earlier_ones_within_a_millisecond_too() -> None:
    drawn = [encode("job", uuid7()) for _ in range(20_000)]
    assert drawn == sorted(drawn)


def test_a_clock_that_goes_back_makes_no_id_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert uuid7() > first


def test_threads_draw_no_id_twice() -> None:
    with ThreadPoolExecutor(8) as threads:
        drawn = list(threads.map(lambda _: uuid7(), range(20_000)))
    assert len({value.int >> 64 for value in drawn}) == 20_000


def test_the_format_is_that_of_typeid() -> None:
    known = uuid.UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert encode("prefix", known) == "prefix_01h455vb4pex5vsknk084sn02q"


@given(st.uuids(), st.sampled_from(["job", "acct", "ktd"]))
def test_decode_undoes_encode(value: uuid.UUID, prefix: str) -> None:
    assert decode(prefix, encode(prefix, value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_",
        "job",
        "job_",
        "acct_01h455vb4pex5vsknk084sn02q",
        "xjob_01h455vb4pex5vsknk084sn02q",
        "JOB_01h455vb4pex5vsknk084sn02q",
        "job_01H455VB4PEX5VSKNK084SN02Q",
        "job_01h455vb4pex5vsknk084sn02",
        "job_01h455vb4pex5vsknk084sn02qq",
        "job_81h455vb4pex5vsknk084sn02q",
        "job_01h455vb4pex5vsknk084sn02u",
        "job_01h455vb4pex5vsknk084sn02 ",
        "job_01h455vb4pex5vsknk084sn02q\n",
        "job_\x0001h455vb4pex5vsknk084sn02",
        "job_" + "٠" * 26,
        "job_" + "0" * 1_000_000,
    ],
)
def test_what_is_no_identifier_decodes_to_none(text: str) -> None:
    assert decode("job", text) is None


@given(st.text(max_size=40))
def test_decode_takes_any_text(text: str) -> None:
    assert decode("job", "job_" + text) is None or len(text) == 26
