"""Clips joined, measured on what comes out: which frames, when, and with which sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media import combine_copy
from media.arithmetic import frame_rate
from media.clip import sound_samples
from media.combine import Combined, combine
from media.combine_smart import NotSmart, SmartPlan
from media.video import VideoWriter
from tests.media.numbered_clips import RATE_25, SIZE, Seen, drawn, made, seen

NTSC_30, NTSC_24 = Fraction(30_000, 1001), Fraction(24_000, 1001)


@dataclass(frozen=True)
class Told:
    """A clip as the test knows it: its frames' number of the first, count and rate."""

    first: int
    frames: int
    fps: Fraction


def expected(clips: Sequence[Told], cut: Fraction, fps: Fraction) -> list[int]:
    """The numbers in the result by the stated rule: each slot shows what is on at its middle."""
    begins = [Fraction(0)]
    for at, clip in enumerate(clips):
        begins.append(begins[-1] + clip.frames / clip.fps - (cut if at else 0))
    numbers = []
    for slot in range(ceil(begins[-1] * fps - Fraction(1, 2))):
        middle = (slot + Fraction(1, 2)) / fps
        at = max(at for at in range(len(clips)) if begins[at] <= middle)
        inside = middle - begins[at] + (cut if at else 0)
        numbers.append(clips[at].first + min(int(inside * clips[at].fps), clips[at].frames - 1))
    return numbers


def keys(path: Path) -> list[int]:
    """The places of the keyframes, in decoding order."""
    with av.open(str(path)) as container:
        packets = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    return [at for at, is_key in enumerate(packets) if is_key]


def joined(
    clips: Sequence[Path],
    target: Path,
    overlap: int = 0,
    overlap_fps: Fraction | None = None,
    fps: Fraction | None = None,
) -> tuple[Combined, Seen]:
    result = combine(clips, target, overlap_frames=overlap, overlap_fps=overlap_fps, frame_rate=fps)
    read = seen(target)
    assert result.frames == len(read.numbers) == result.copied_frames + result.encoded_frames
    assert read.times == [slot / result.fps for slot in range(result.frames)]
    assert 0 <= read.sound.shape[1] - sound_samples(result.frames, result.fps) < 1024
    with av.open(str(target)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.average_rate) == (result.width, result.height, result.fps)
        assert video.duration is not None
        assert video.time_base is not None
        assert video.duration * video.time_base == result.frames / result.fps
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sound.duration == sound_samples(result.frames, result.fps)
        assert (sound.codec_context.name, sound.rate, sound.layout.name) == ("aac", 48_000, "stereo")
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    return result, read


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("twenty")
    return [made(folder / f"{at}.mp4", first=1000 * at, flashes=(10, 40)) for at in range(20)]


@pytest.mark.parametrize(
    ("overlap", "copied", "encoded"), [(0, 1000, 0), (3, 50 + 19 * 25, 19 * 22), (25, 525, 0), (30, 50, 19 * 20)]
)
def test_alike_clips_are_copied_but_for_the_heads(
    overlap: int, copied: int, encoded: int, twenty: list[Path], tmp_path: Path
) -> None:
    result, read = joined(twenty, tmp_path / "out.mp4", overlap)
    assert (result.method, result.reason, result.adjustments) == ("smart", None, {})
    assert (result.copied_frames, result.encoded_frames) == (copied, encoded)
    assert read.numbers == [1000 * at + frame for at in range(20) for frame in range(overlap if at else 0, 50)]
    assert len(read.offsets) == sum(1 for at in range(20) for flash in (10, 40) if not at or flash >= overlap)
    assert max(map(abs, read.offsets)) < 0.002


def test_encoding_all_gives_the_same_frames_and_the_same_sync(
    twenty: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_given: object) -> SmartPlan:
        raise NotSmart("not today")

    monkeypatch.setattr("media.combine.smart_plan", refuse)
    result, read = joined(twenty, tmp_path / "out.mp4", 3)
    assert (result.method, result.reason, result.copied_frames, result.encoded_frames) == ("full", "not today", 0, 943)
    assert read.numbers == [1000 * at + frame for at in range(20) for frame in range(3 if at else 0, 50)]
    assert len(read.offsets) == 40
    assert max(map(abs, read.offsets)) < 0.002


@pytest.mark.parametrize(
    ("fps", "overlap", "overlap_fps"),
    [
        (Fraction(60), 3, RATE_25),
        (Fraction(60), 1, Fraction(24)),
        (NTSC_30, 3, None),
        (NTSC_24, 3, NTSC_30),
        (RATE_25, 5, Fraction(7)),
    ],
)
def test_what_is_cut_need_be_no_whole_number_of_frames(
    fps: Fraction, overlap: int, overlap_fps: Fraction | None, tmp_path: Path
) -> None:
    clips = [made(tmp_path / f"{at}.mp4", 80, first=1000 * at, fps=fps, flashes=(45,)) for at in range(12)]
    result, read = joined(clips, tmp_path / "out.mp4", overlap, overlap_fps)
    cut = overlap / (overlap_fps or fps)
    assert result.method == "smart"
    assert result.copied_frames >= 12 * (80 - 2 * round(fps))
    assert read.numbers == expected([Told(1000 * at, 80, fps) for at in range(12)], cut, fps)
    assert sorted(set(read.numbers)) == read.numbers
    assert len(read.offsets) == 12
    assert max(map(abs, read.offsets)) < 0.5 / fps + 0.002
    assert abs(result.frames / fps - (12 * 80 / fps - 11 * cut)) <= 1 / (2 * fps)


def mixed(folder: Path) -> list[tuple[Path, Told]]:
    quick = {"deadline": "realtime", "cpu-used": "8"}
    ultra = {"preset": "ultrafast", "x265-params": "log-level=none"}
    clips = []
    for at in range(20):
        fps = (RATE_25, Fraction(30), Fraction(60), Fraction(24), NTSC_30, Fraction(30), RATE_25)[at % 7]
        name = folder / f"{at}.mp4"
        given: dict[str, Any] = {"first": 1000 * at, "fps": fps, "flashes": (round(fps / 2), round(fps))}
        frames = int(fps * 3 / 2)
        match at % 7:
            case 0 | 4:
                made(name, frames, **given)
            case 1:
                made(name, frames, size=(192, 112), sound_rate=44_100, channels=1, **given)
            case 2:
                made(name, frames, **{**given, "flashes": ()}, sound=None)
            case 3:
                made(name, frames, size=(96, 160), sound="libmp3lame", sound_rate=44_100, **given)
            case 5:
                name = name.with_suffix(".webm")
                made(name, frames, codec="libvpx-vp9", options=quick, sound="libopus", **given)
            case _:
                made(name, frames, codec="libx265", options=ultra, **given)
        clips.append((name, Told(1000 * at, frames, fps)))
    return clips


@pytest.mark.parametrize("rate", [None, Fraction(60)])
def test_mixed_clips_are_encoded_anew_and_stay_in_sync(rate: Fraction | None, tmp_path: Path) -> None:
    clips = mixed(tmp_path)
    fps = rate or RATE_25
    result = combine(
        [path for path, _ in clips], tmp_path / "out.mp4", overlap_frames=3, overlap_fps=RATE_25, frame_rate=rate
    )
    assert (result.method, result.width, result.height, result.fps) == ("full", 160, 96, fps)
    assert (
        result.reason == "clip 0: its rate is 25, and the result's 60"
        if rate
        else str(result.reason).startswith("clip 1:")
    )
    assert result.adjustments["letterboxed"] == (1, 3, 8, 10, 15, 17)
    assert result.adjustments["silent"] == (2, 9, 16)
    assert set(result.adjustments["resampled"]) == {at for at, (_, told) in enumerate(clips) if told.fps != fps}
    read = seen(tmp_path / "out.mp4")
    portrait = seen(tmp_path / "out.mp4", (50, 0, 58, 96)).numbers
    wanted = expected([told for _, told in clips], Fraction(3, 25), fps)
    found = [
        one if want // 1000 % 7 != 3 else other for one, other, want in zip(read.numbers, portrait, wanted, strict=True)
    ]
    assert found == wanted
    slack = 0.5 / fps + Fraction(1, 48_000)
    assert len(read.beeps) == 2 * 17
    assert all(abs(offset) <= slack + Fraction(1, 100) for offset in read.offsets if abs(offset) < 0.2)
    assert abs(result.frames / fps - sum(t.frames / t.fps for _, t in clips) + 19 * Fraction(3, 25)) <= 1 / (2 * fps)


def test_sound_is_each_clip_s_own_and_silence_shifts_nothing(tmp_path: Path) -> None:
    clips = [
        made(tmp_path / "a.mp4", flashes=(10,), sound_seconds=Fraction(1)),
        made(tmp_path / "b.mp4", first=1000, sound=None),
        made(tmp_path / "c.mp4", first=2000, flashes=(10, 45), sound_seconds=Fraction(4)),
        made(tmp_path / "d.mp4", first=3000, flashes=(10,)),
    ]
    result, read = joined(clips, tmp_path / "out.mp4", 5)
    assert result.method == "smart"
    assert result.adjustments == {"silent": (1,)}
    slots = [10, 50 + 45 + 5, 50 + 45 + 40, 50 + 45 + 45 + 5]
    assert read.flashes == [Fraction(slot, 25) for slot in slots]
    assert len(read.beeps) == 4
    assert max(map(abs, read.offsets)) < 0.002
    silent = read.sound[:, int((1 + 0.1) * 48_000) : int((slots[1] / 25 - 0.1) * 48_000)]
    assert abs(silent).max() < 1e-3


@pytest.mark.parametrize("late", [Fraction(1, 2), Fraction(1, 100)])
def test_sound_keeps_the_time_that_its_file_gives_it(late: Fraction, tmp_path: Path) -> None:
    clips = [made(tmp_path / f"{at}.mp4", first=100 * at, flashes=(10,), sound_starts=late) for at in range(3)]
    result, read = joined(clips, tmp_path / "out.mp4", 5)
    assert result.method == "smart"
    assert len(read.offsets) == 3
    assert max(abs(offset - float(late)) for offset in read.offsets) < 0.002


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    silent = made(tmp_path / "a.mp4", sound=None)
    with av.open(str(silent)) as picture, av.open(str(tmp_path / "b.mp4"), "w") as container:
        given = picture.streams.video[0]
        video = container.add_stream_from_template(given)
        sound = container.add_stream("libopus", rate=48_000, layout="stereo")
        for packet in picture.demux(given):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        for block in range(50):
            samples = np.zeros((1, 2 * 960), np.float32)
            if block in {5, 30}:
                samples[0, 0::2] = samples[0, 1::2] = 0.6 * np.cos(np.arange(960) / 8)
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="stereo")
            frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
            frame.pts = block * 960 + (24_000 if block >= 25 else 0)
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    _, read = joined([silent, tmp_path / "b.mp4"], tmp_path / "out.mp4", 1)
    begins = 2 - Fraction(1, 25)
    wanted = [begins + Fraction(1, 10), begins + Fraction(11, 10)]
    assert [float(beep) for beep in read.beeps] == pytest.approx([float(time) for time in wanted], abs=0.008)


def test_sound_is_cut_to_the_sample(tmp_path: Path) -> None:
    quiet = made(tmp_path / "a.mp4", 25)
    loud = made(tmp_path / "b.mp4", 50, fps=Fraction(50), sound="flac", flashes=(7,), muxing={"strict": "experimental"})
    _, read = joined([quiet, loud], tmp_path / "out.mp4", 1, Fraction(50), Fraction(50))
    assert read.beeps == [1 + Fraction(6, 50)]


@pytest.mark.parametrize(("fps", "size"), [(RATE_25, SIZE), (Fraction(60), (96, 160)), (NTSC_24, (256, 160))])
def test_what_our_own_writer_makes_is_copied_and_its_heads_fit(
    fps: Fraction, size: tuple[int, int], tmp_path: Path
) -> None:
    clips = []
    for at in range(3):
        clips.append(tmp_path / f"{at}.mp4")
        with VideoWriter(clips[-1], width=size[0], height=size[1], fps=fps) as writer:
            for frame in range(2 * round(fps) + 3):
                picture = av.VideoFrame.from_ndarray(drawn(1000 * at + frame, size, False), format="rgb24")
                writer.write(picture.to_ndarray(format="yuv420p")[None].astype(np.uint8))
    result, read = joined(clips, tmp_path / "out.mp4", 3)
    frames = 2 * round(fps) + 3
    assert (result.method, result.adjustments) == ("smart", {})
    heads = sum(min(key for key in keys(clip) if key >= 3) - 3 for clip in clips[1:])
    assert 0 < result.encoded_frames == heads
    assert read.numbers == [1000 * at + frame for at in range(3) for frame in range(3 if at else 0, frames)]
    longer = [tmp_path / "out.mp4", clips[0]]
    extended = combine(longer, tmp_path / "longer.mp4", overlap_frames=1, overlap_fps=None, frame_rate=None)
    assert (extended.method, extended.copied_frames) == (
        "smart",
        result.frames + frames - min(key for key in keys(clips[0]) if key >= 1),
    )
    assert seen(tmp_path / "longer.mp4").numbers == [*read.numbers, *range(1, frames)]
    encoded = combine(clips, tmp_path / "again.mp4", overlap_frames=3, overlap_fps=None, frame_rate=fps / 2)
    assert encoded.method == "full"
    with av.open(str(tmp_path / "again.mp4")) as container:
        colours = container.streams.video[0].codec_context
        assert (colours.color_primaries, colours.color_trc, colours.colorspace, colours.color_range) == (1, 1, 1, 1)


def test_a_clip_may_come_again_and_one_alone_is_enough(tmp_path: Path) -> None:
    clip = made(tmp_path / "a.mp4", 30, first=500)
    result, read = joined([clip, clip, clip], tmp_path / "out.mp4", 2)
    assert read.numbers == [*range(500, 530), *range(502, 530), *range(502, 530)]
    assert result.copied_frames == 30 + 2 * (30 - min(key for key in keys(clip) if key >= 2))
    result, read = joined([clip], tmp_path / "out.mp4", 2)
    assert (result.copied_frames, read.numbers) == (30, list(range(500, 530)))


def test_clips_of_one_frame(tmp_path: Path) -> None:
    clips = [made(tmp_path / f"{at}.mp4", 1, first=100 + at, sound="aac" if at % 2 else None) for at in range(6)]
    result, read = joined(clips, tmp_path / "out.mp4")
    assert (result.method, read.numbers) == ("smart", [*range(100, 106)])
    result, read = joined(clips, tmp_path / "out.mp4", fps=Fraction(50))
    assert (result.method, read.numbers) == ("full", [100 + at // 2 for at in range(12)])


@pytest.mark.parametrize("bframes", ["0", "1", "3"])
def test_the_reordering_of_frames_is_taken_from_the_streams(bframes: str, tmp_path: Path) -> None:
    options = {"preset": "medium", "crf": "20", "bf": bframes}
    clips = [made(tmp_path / f"{at}.mp4", first=1000 * at, options=options) for at in range(3)]
    result, read = joined(clips, tmp_path / "out.mp4")
    assert (result.method, result.copied_frames) == ("smart", 150)
    assert read.numbers == [1000 * at + frame for at in range(3) for frame in range(50)]
    result, read = joined(clips, tmp_path / "out.mp4", 3)
    assert (result.method, result.reason) == ("full", "heads would be encoded with other parameter sets")
    assert read.numbers == [1000 * at + frame for at in range(3) for frame in range(3 if at else 0, 50)]


def test_open_groups_of_pictures_are_not_cut_into(tmp_path: Path) -> None:
    options = {"preset": "veryfast", "crf": "18", "x264-params": "open-gop=1:scenecut=0:bframes=3:b-adapt=0:keyint=12"}
    clips = [made(tmp_path / f"{at}.mp4", first=1000 * at, options=options, gop=12) for at in range(3)]
    result, read = joined(clips, tmp_path / "out.mp4", 3)
    assert read.numbers == [1000 * at + frame for at in range(3) for frame in range(3 if at else 0, 50)]
    assert len(keys(clips[0])) > 2
    assert (result.method, result.copied_frames) == ("smart", 50)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"size": (128, 96)}, "its size, pixel shape or colours are not those of the first"),
        ({"colours": (6, 6, 6, 1)}, "its size, pixel shape or colours are not those of the first"),
        ({"aspect": Fraction(4, 3)}, "its size, pixel shape or colours are not those of the first"),
        ({"fps": Fraction(24)}, "its rate is 24, and the result's 25"),
        ({"pixel_format": "yuv422p"}, "its pixels are yuv422p"),
        ({"turned": 180}, "it is turned when it is shown"),
        ({"codec": "mpeg4", "options": {}}, "mpeg4 is not H.264 in MP4"),
        ({"options": {"preset": "slow", "crf": "18"}}, "its parameter sets are not those of the first"),
        ({"options": {"preset": "veryfast", "crf": "18", "flags": "+ilme+ildct"}}, "parameter sets"),
    ],
)
def test_what_does_not_fit_is_not_copied(changed: dict[str, Any], reason: str, tmp_path: Path) -> None:
    clips = [made(tmp_path / "a.mp4", 20), made(tmp_path / "b.mp4", 20, **changed)]
    result = combine(clips, tmp_path / "out.mp4", overlap_frames=0, overlap_fps=None, frame_rate=None)
    assert result.method == "full"
    assert result.reason is not None
    assert reason in result.reason
    assert result.reason.startswith("clip 1:")


def test_what_was_copied_wrongly_is_noticed_and_encoded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [made(tmp_path / f"{at}.mp4", 30, first=100 * at) for at in range(2)]
    honest = combine_copy._samples

    def lossy(plan: SmartPlan) -> Iterator[combine_copy.Sample]:
        return (sample for sample in honest(plan) if sample.slot != 40)

    told: list[tuple[int, int]] = []
    monkeypatch.setattr(combine_copy, "_samples", lossy)
    result = combine(
        clips,
        tmp_path / "out.mp4",
        overlap_frames=0,
        overlap_fps=None,
        frame_rate=None,
        on_clip=lambda done, total: told.append((done, total)),
    )
    assert (result.method, result.reason) == (
        "full",
        "the written file lacks frames, or its size or rate are other than planned",
    )
    assert seen(tmp_path / "out.mp4").numbers == [*range(30), *range(100, 130)]
    assert told[-2:] == [(1, 2), (2, 2)]


class StopHere(Exception):
    pass


@pytest.mark.parametrize("rate", [None, Fraction(30)])
def test_it_can_be_stopped_and_leaves_nothing_behind(rate: Fraction | None, tmp_path: Path) -> None:
    clips = [made(tmp_path / f"{at}.mp4", 30) for at in range(3)]
    target = tmp_path / "out.mp4"

    def stop(done: int, total: int) -> None:
        assert (done, total) == (1, 3)
        raise StopHere

    with pytest.raises(StopHere):
        combine(clips, target, overlap_frames=3, overlap_fps=None, frame_rate=rate, on_clip=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.mp4", "1.mp4", "2.mp4"]


@pytest.mark.parametrize("rate", [None, Fraction(30)])
def test_every_clip_is_told_once(rate: Fraction | None, tmp_path: Path) -> None:
    clips = [made(tmp_path / f"{at}.mp4", 30) for at in range(3)]
    told: list[tuple[int, int]] = []
    combine(
        clips,
        tmp_path / "out.mp4",
        overlap_frames=3,
        overlap_fps=None,
        frame_rate=rate,
        on_clip=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("given", [{"overlap_frames": -1}, {"overlap_fps": Fraction(0)}, {"frame_rate": Fraction(-25)}])
def test_it_refuses_numbers_without_a_meaning(given: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"overlap_frames": 0, "overlap_fps": None, "frame_rate": None, **given}
    with pytest.raises(ValueError, match="positive rates"):
        combine([tmp_path / "a.mp4"], tmp_path / "out.mp4", **arguments)
    with pytest.raises(ValueError, match="one clip or more"):
        combine([], tmp_path / "out.mp4", overlap_frames=0, overlap_fps=None, frame_rate=None)


def test_written_rates_of_ntsc_are_the_exact_ones(tmp_path: Path) -> None:
    coarse = {"video_track_timescale": "1000"}
    clips = [made(tmp_path / f"{at}.mp4", 30, fps=NTSC_30, first=100 * at, muxing=coarse) for at in range(2)]
    result, read = joined(clips, tmp_path / "out.mp4", fps=frame_rate(29.97))
    assert (result.method, result.copied_frames) == ("smart", 60)
    assert read.numbers == [*range(30), *range(100, 130)]
