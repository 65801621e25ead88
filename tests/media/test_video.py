from __future__ import annotations

import resource
import struct
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.clip import SAMPLE_RATE, sound_samples
from media.probe import probe
from media.sound import decode
from media.video import TAGS, XMP_BOX, VideoWriter
from tests.media.clips import FLASH_EVERY, Planes, Samples, chunk, chunks, clicks, onsets, seen

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60), Fraction(17)]


def write(path: Path, source: Iterator[Planes], **options: Any) -> Path:
    defaults = {"width": 128, "height": 96, "fps": Fraction(25)}
    with VideoWriter(path, **{**defaults, **options}) as writer:
        for each in source:
            writer.write(each)
    return path


def boxes(data: bytes) -> list[bytes]:
    names, at = [], 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        names.append(name)
        at += size or len(data)
    return names


def sound_of(path: Path) -> Samples:
    return decode(path, max_seconds=60, max_bytes=1 << 30)


class TestFile:
    @pytest.mark.parametrize("fps", RATES)
    @pytest.mark.parametrize("frames", [1, 2, 17, 61])
    def test_has_exactly_its_frames_rate_and_length(self, frames: int, fps: Fraction, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", chunks(frames), fps=fps)
        assert [(time, number) for time, number, _ in seen(path)] == [(index / fps, index) for index in range(frames)]
        with av.open(str(path)) as container:
            picture, voice = container.streams.video[0], container.streams.audio[0]
            assert picture.average_rate == fps
            assert picture.frames == frames
            assert (picture.start_time, voice.start_time) == (0, 0)
            assert picture.duration is not None
            assert picture.time_base is not None
            assert picture.duration * picture.time_base == frames / fps
            assert voice.duration == sound_samples(frames, fps)
            assert voice.time_base == Fraction(1, SAMPLE_RATE)

    def test_is_tagged_high_yuv420p_bt709_aac_lc(self, tmp_path: Path) -> None:
        with av.open(str(write(tmp_path / "a.mp4", chunks(5)))) as container:
            context, voice = container.streams.video[0].codec_context, container.streams.audio[0]
            assert (context.name, context.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
            assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
            assert (voice.codec_context.name, voice.profile) == ("aac", "LC")
            assert (voice.sample_rate, voice.channels) == (SAMPLE_RATE, 2)
            frame = next(container.decode(video=0))
            assert (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range) == (1, 1, 1, 1)

    def test_says_its_colours_in_the_container_too(self, tmp_path: Path) -> None:
        data = write(tmp_path / "a.mp4", chunks(5)).read_bytes()
        assert b"colrnclx\0\1\0\1\0\1\0" in data

    def test_begins_with_what_a_player_needs(self, tmp_path: Path) -> None:
        names = boxes(write(tmp_path / "a.mp4", chunks(40)).read_bytes())
        assert names.index(b"moov") < names.index(b"mdat")
        assert names[0] == b"ftyp"

    def test_interleaves_sound_and_picture(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", chunks(150), sound=clicks(150, Fraction(25)))
        with av.open(str(path)) as container:
            order = [packet.stream.type for packet in container.demux() if packet.size]
        half = len(order) // 2
        assert {"audio", "video"} == set(order[:half]) == set(order[half:])

    @pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(25), Fraction(60)])
    def test_can_be_cut_each_second(self, fps: Fraction, tmp_path: Path) -> None:
        second = round(fps)
        path = write(tmp_path / "a.mp4", chunks(3 * second), fps=fps)
        with av.open(str(path)) as container:
            packets = [(packet.pts or 0, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
            tick = container.streams.video[0].time_base
        assert tick is not None
        keys = [round(pts * tick * fps) for pts, is_key in packets if is_key]
        # Closed: nothing after a key frame is shown before it, so what is copied from there is whole.
        for at, (pts, is_key) in enumerate(packets):
            if is_key:
                assert all(later >= pts for later, _ in packets[at:])
                assert all(earlier < pts for earlier, _ in packets[:at])
        assert keys[0] == 0
        assert max(np.diff([*keys, 3 * second])) <= second

    def test_the_same_arguments_give_the_same_file(self, tmp_path: Path) -> None:
        one, other = (
            write(tmp_path / name, chunks(40), sound=clicks(40, Fraction(25)), metadata={"comment": "x"})
            for name in ("a.mp4", "b.mp4")
        )
        assert one.read_bytes() == other.read_bytes()

    def test_carries_its_metadata(self, tmp_path: Path) -> None:
        told = {"comment": '{"seed": 1}', "description": "ümläut & <b>", "title": "x" * 5000}
        with av.open(str(write(tmp_path / "a.mp4", chunks(5), metadata=told))) as container:
            assert told.items() <= container.metadata.items()

    def test_carries_every_tag_that_it_takes(self, tmp_path: Path) -> None:
        told = {tag: f"{number}" for number, tag in enumerate(TAGS, 2000)}
        with av.open(str(write(tmp_path / "a.mp4", chunks(5), metadata=told))) as container:
            assert told.items() <= container.metadata.items()

    def test_carries_an_xmp_packet_behind_the_rest(self, tmp_path: Path) -> None:
        plain, path = write(tmp_path / "a.mp4", chunks(5)), tmp_path / "b.mp4"
        write(path, chunks(5), xmp=b"<x:xmpmeta/>")
        data = path.read_bytes()
        assert boxes(data) == [*boxes(plain.read_bytes()), b"uuid"]
        assert data.endswith(XMP_BOX.bytes + b"<x:xmpmeta/>")
        assert [number for _, number, _ in seen(path)] == list(range(5))

    def test_holds_no_chunk(self, tmp_path: Path) -> None:
        with VideoWriter(tmp_path / "a.mp4", width=128, height=96, fps=Fraction(25)) as writer:
            for start in range(0, 64, 16):
                planes = chunk(range(start, start + 16))
                gone = weakref.ref(planes)
                writer.write(planes)
                del planes
                assert gone() is None

    def test_keeps_the_picture(self, tmp_path: Path) -> None:
        before = np.concatenate(list(chunks(20, 640, 352)))
        path = write(tmp_path / "a.mp4", iter([before[:16], before[16:]]), width=640, height=352)
        with av.open(str(path)) as container:
            after = np.stack([frame.to_ndarray() for frame in container.decode(video=0)])
        assert 10 * np.log10(255**2 / np.mean((after.astype(float) - before) ** 2)) > 38


class TestScaling:
    @pytest.mark.parametrize("size", [(256, 192), (64, 48), (320, 96), (1280, 704)])
    def test_to_the_promised_canvas(self, size: tuple[int, int], tmp_path: Path) -> None:
        path = write(tmp_path / "a.mp4", chunks(9), width=size[0], height=size[1], source_width=128, source_height=96)
        assert [number for _, number, _ in seen(path)] == list(range(9))
        info = probe(path)
        assert (info.width, info.height) == size

    def test_leaves_colours_alone(self, tmp_path: Path) -> None:
        flat = np.full((4, 144, 128), 235, np.uint8)
        flat[:, 96:] = 90
        path = write(tmp_path / "a.mp4", iter([flat]), width=256, height=192, source_width=128, source_height=96)
        with av.open(str(path)) as container:
            after = next(container.decode(video=0)).to_ndarray().astype(int)
        assert np.abs(after[:192] - 235).max() <= 1
        assert np.abs(after[192:] - 90).max() <= 1


class TestSound:
    @pytest.mark.parametrize("fps", RATES)
    def test_clicks_with_the_flashes(self, fps: Fraction, tmp_path: Path) -> None:
        frames = 101
        sound = clicks(frames, fps)
        path = write(tmp_path / "a.mp4", chunks(frames), fps=fps, sound=sound)
        heard = sound_of(path)
        assert heard.shape[1] == sound_samples(frames, fps)
        flashes = [time for time, _, flash in seen(path) if flash]
        found = onsets(heard)
        assert len(found) == len(flashes) == frames // FLASH_EVERY + 1
        assert max(abs(at - time * SAMPLE_RATE) for at, time in zip(found, flashes, strict=True)) < 48

    def test_lags_by_not_one_sample(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(3).normal(0, 0.1, (2, 96_000)).astype(np.float32)
        before = np.stack([np.convolve(each, np.ones(8) / 8, "same") for each in noise]).astype(np.float32)
        after = sound_of(write(tmp_path / "a.mp4", chunks(50), sound=before))
        assert after.shape == before.shape
        for start in (0, 80_000):
            here = slice(start + 2000, start + 14_000)
            scores = [float(after[0, here] @ np.roll(before[0], lag)[here]) for lag in range(-50, 51)]
            assert int(np.argmax(scores)) == 50

    @pytest.mark.parametrize("samples", [0, 1, 47_999, 95_999, 96_001, 200_000])
    def test_is_cut_or_followed_by_silence(self, samples: int, tmp_path: Path) -> None:
        tone = 0.5 * np.sin(np.arange(samples) / 20).astype(np.float32)
        heard = sound_of(write(tmp_path / "a.mp4", chunks(50), sound=np.stack([tone, tone])))
        assert heard.shape == (2, 96_000)
        silent = heard[:, min(samples, 96_000) + 3000 :]
        assert not silent.size or np.abs(silent).max() < 0.01
        assert samples < 40_000 or np.abs(heard[:, 20_000:40_000]).max() > 0.4

    def test_none_is_silence(self, tmp_path: Path) -> None:
        heard = sound_of(write(tmp_path / "a.mp4", chunks(30)))
        assert heard.shape[1] == sound_samples(30, Fraction(25))
        assert not heard.any()


class TestWhole:
    def test_nothing_is_at_the_path_before_the_close(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        writer = VideoWriter(path, width=128, height=96, fps=Fraction(25))
        writer.write(chunk(range(16)))
        assert not path.exists()
        writer.close()
        assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]

    def test_an_abort_leaves_nothing_and_an_older_file_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(b"older")
        writer = VideoWriter(path, width=128, height=96, fps=Fraction(25))
        writer.write(chunk(range(16)))
        writer.abort()
        writer.abort()
        assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("a.mp4", b"older")]
        with pytest.raises(ValueError, match="closed"):
            writer.write(chunk([1]))
        with pytest.raises(ValueError, match="closed"):
            writer.close()

    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_an_exception_leaves_nothing(self, after: int, tmp_path: Path) -> None:
        def broken() -> Iterator[Planes]:
            yield from list(chunks(48))[:after]
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write(tmp_path / "a.mp4", broken())
        assert not list(tmp_path.iterdir())

    def test_a_full_disk_is_told_and_leaves_nothing(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(7).integers(16, 235, (16, 144, 128), np.uint8)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                write(tmp_path / "a.mp4", iter([noise] * 10))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.iterdir())

    def test_no_frame_is_no_video(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="at least one frame"):
            write(tmp_path / "a.mp4", iter([]))
        assert not list(tmp_path.iterdir())

    def test_a_missing_folder_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            write(tmp_path / "none" / "a.mp4", chunks(5))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"width": 127}, "even"),
            ({"height": 0}, "even"),
            ({"source_width": 99, "source_height": 96}, "even"),
            ({"fps": Fraction(0)}, "positive"),
            ({"sound": np.zeros((1, 5), np.float32)}, "needed"),
            ({"sound": np.zeros(5, np.float32)}, "needed"),
            ({"metadata": {"killatamata": "x"}}, "use some of"),
        ],
    )
    def test_what_cannot_be_is_refused(self, options: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            write(tmp_path / "a.mp4", chunks(5), **options)
        assert not list(tmp_path.iterdir())

    def test_other_chunks_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="needed"):
            write(tmp_path / "a.mp4", chunks(5), source_width=96, source_height=128)
        assert not list(tmp_path.iterdir())
