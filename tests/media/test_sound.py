from __future__ import annotations

import io
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from media.clip import SAMPLE_RATE
from media.errors import InvalidMedia, MediaError, MediaTooLong, NoSound, UnsupportedMedia
from media.sound import decode
from tests.media.clips import Samples, clicks, made, onsets, sounding, wav

FPS = Fraction(25)
CLICKS = clicks(75, FPS)
LENGTH = CLICKS.shape[1]
FILES = {
    "wav": ("wav", "pcm_s16le"),
    "wav24": ("wav", "pcm_s24le"),
    "wavf": ("wav", "pcm_f32le"),
    "mp3": ("mp3", "libmp3lame"),
    "flac": ("flac", "flac"),
    "opus": ("ogg", "libopus"),
    "m4a": ("ipod", "aac"),
    "alac": ("ipod", "alac"),
    "webm": ("webm", "libopus"),
    "adts": ("adts", "aac"),
}


def heard(source: Any, **options: Any) -> Samples:
    return decode(source, **{"max_seconds": 60, "max_bytes": 50_000_000, **options})


class TestFormats:
    @pytest.mark.parametrize("name", FILES.keys() - {"adts"})
    def test_starts_and_ends_where_the_sound_did(self, name: str) -> None:
        found = heard(sounding(*FILES[name], CLICKS))
        assert found.shape == (2, LENGTH)
        assert found.dtype == np.float32
        expected = onsets(CLICKS)
        starts = onsets(found)
        assert len(starts) == len(expected)
        assert np.abs(np.subtract(starts, expected)).max() <= 8
        right, left = np.abs(found[1]).max(), np.abs(found[0]).max()
        assert 0.4 < right / left < 0.6

    def test_bare_adts_tells_no_delay(self) -> None:
        found = heard(sounding(*FILES["adts"], CLICKS))
        assert 0 < onsets(found)[0] - onsets(CLICKS)[0] <= 2048
        assert found.shape[1] >= LENGTH

    @pytest.mark.parametrize("name", ["wav", "flac"])
    def test_lossless_stays_lossless(self, name: str) -> None:
        assert np.abs(heard(sounding(*FILES[name], CLICKS)) - CLICKS).max() < 2**-14

    @pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 96_000, 192_000])
    def test_any_rate_becomes_48_khz_without_a_shift(self, rate: int) -> None:
        tick = np.zeros((rate, 1), np.int16)
        tick[rate // 2] = 32_000
        found = heard(wav(tick, rate))
        assert found.shape == (2, SAMPLE_RATE)
        assert abs(int(np.abs(found[0]).argmax()) - SAMPLE_RATE // 2) <= SAMPLE_RATE / rate

    @pytest.mark.parametrize("channels", range(1, 9))
    def test_any_channels_become_two(self, channels: int) -> None:
        samples = np.zeros((4800, channels), np.int16)
        samples[:, 0] = 16_384
        found = heard(wav(samples))
        assert found.shape == (2, 4800)
        assert found[0].max() == pytest.approx(0.5, abs=0.01)
        assert found[1].max() == pytest.approx(0.5 if channels == 1 else 0, abs=0.01)

    def test_a_rate_that_changes_on_the_way_is_followed(self) -> None:
        one, other = (sounding("adts", "aac", CLICKS, rate=rate) for rate in (48_000, 24_000))
        assert heard(one + other).shape[1] == pytest.approx(2 * LENGTH, abs=8000)

    def test_what_is_no_number_is_silence_and_what_is_too_loud_is_clipped(self) -> None:
        data = sounding("wav", "pcm_f32le", np.array([[0.5, 3.0] * 500] * 2, np.float32))
        values = np.array([np.nan, np.inf, -np.inf, 4.0], "<f4").tobytes()
        broken = data[: -len(values)] + values
        assert heard(broken)[:, -3:].tolist() == [[1, 0, -1], [1, 1, 1]]


class TestSources:
    def test_bytes_a_path_and_a_stream_give_the_same(self, tmp_path: Path) -> None:
        data = sounding("flac", "flac", CLICKS)
        path = tmp_path / "named.txt"
        path.write_bytes(data)
        with path.open("rb") as file:
            assert (heard(data) == heard(path)).all()
            assert (heard(data) == heard(file)).all()
            assert not file.closed

    @pytest.mark.parametrize(
        ("name", "codec", "sound_codec"), [("a.mp4", "libx264", "aac"), ("a.webm", "libvpx-vp9", "libopus")]
    )
    def test_the_sound_of_a_video(self, name: str, codec: str, sound_codec: str, tmp_path: Path) -> None:
        found = heard(made(tmp_path / name, 75, codec=codec, sound=CLICKS, sound_codec=sound_codec))
        assert np.abs(np.subtract(onsets(found), onsets(CLICKS))).max() <= 8
        assert found.shape[1] == LENGTH

    @pytest.mark.parametrize("late", [1920, -1920, 23_040, -23_040])
    @pytest.mark.parametrize(("container", "seen", "sung"), [("webm", "libvpx", "libopus"), ("mp4", "libx264", "aac")])
    def test_starts_with_the_picture(self, container: str, seen: str, sung: str, late: int, tmp_path: Path) -> None:
        path = tmp_path / "a.video"
        with av.open(str(path), "w", format=container) as output:
            picture: Any = output.add_stream(seen, rate=25)
            picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
            voice: Any = output.add_stream(sung, rate=SAMPLE_RATE, layout="stereo")
            frame = av.AudioFrame.from_ndarray(CLICKS, format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), max(0, late)
            for index in range(75):
                image = av.VideoFrame(64, 64, "yuv420p")
                image.pts, image.time_base = index * 40 + max(0, -late // 48), Fraction(1, 1000)
                output.mux(picture.encode(image))
            output.mux(voice.encode(frame))
            output.mux(voice.encode(None))
            output.mux(picture.encode(None))
        found = heard(path)
        expected = [at + late for at in onsets(CLICKS) if at + late >= 0]
        assert np.abs(np.subtract(onsets(found), expected)).max() <= 60
        assert found.shape[1] == pytest.approx(LENGTH + late, abs=60)

    def test_a_cover_picture_is_no_video(self) -> None:
        file = io.BytesIO()
        with av.open(file, "w", format="mp3") as output:
            voice: Any = output.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="stereo")
            cover: Any = output.add_stream("png", rate=1)
            cover.width, cover.height, cover.pix_fmt = 32, 32, "rgb24"
            cover.disposition = av.stream.Disposition.attached_pic
            output.mux(cover.encode(av.VideoFrame(32, 32, "rgb24")))
            output.mux(cover.encode(None))
            frame = av.AudioFrame.from_ndarray(CLICKS, format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), 0
            output.mux(voice.encode(frame))
            output.mux(voice.encode(None))
        assert heard(file.getvalue()).shape[1] == LENGTH


class TestLimits:
    def test_longer_is_refused_or_cut(self) -> None:
        data = sounding("flac", "flac", CLICKS)
        with pytest.raises(MediaTooLong, match=r"longer than 2\.5 seconds") as caught:
            heard(data, max_seconds=2.5)
        assert caught.value.code == "media_too_long"
        assert (heard(data, max_seconds=2.5, cut=True) == heard(data)[:, :120_000]).all()
        assert heard(data, max_seconds=3).shape == (2, LENGTH)

    def test_hours_of_silence_in_few_bytes_take_no_memory(self) -> None:
        bomb = sounding("flac", "flac", np.zeros((2, 600 * SAMPLE_RATE), np.float32))
        assert len(bomb) < 200_000
        tracemalloc.start()
        try:
            with pytest.raises(MediaTooLong):
                heard(bomb, max_seconds=5)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 8 * SAMPLE_RATE * 2 * 4

    def test_too_many_bytes_are_refused(self) -> None:
        with pytest.raises(InvalidMedia, match="at most 100 are accepted"):
            heard(sounding("wav", "pcm_s16le", CLICKS), max_bytes=100)

    @pytest.mark.parametrize("rate", [1, 3999, 384_001, 2**31 - 1, 2**32 - 1])
    def test_impossible_rates_are_refused(self, rate: int) -> None:
        data = bytearray(wav(np.zeros((4800, 1), np.int16)))
        struct.pack_into("<I", data, 24, rate)
        with pytest.raises(InvalidMedia):
            heard(bytes(data))

    @pytest.mark.parametrize("channels", [9, 64, 65_535])
    def test_too_many_channels_are_refused(self, channels: int) -> None:
        data = bytearray(wav(np.zeros((65_535, 2), np.int16)))
        struct.pack_into("<H", data, 22, channels)
        struct.pack_into("<H", data, 32, 2 * channels % 65_536)
        with pytest.raises(InvalidMedia):
            heard(bytes(data))


class TestWrong:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x89PNG\r\n\x1a\n" + bytes(50),
            b"<!doctype html>",
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            b"#!AMR\n" + bytes(50),
            b"RIFF\x10\0\0\0AVI LIST",
            b"{}",
            bytes(1000),
        ],
    )
    def test_other_formats_are_unsupported(self, data: bytes) -> None:
        with pytest.raises(UnsupportedMedia, match="convert it"):
            heard(data)

    def test_nothing_is_empty(self) -> None:
        with pytest.raises(InvalidMedia, match="is empty"):
            heard(b"")

    def test_a_silent_film_has_nothing_to_hear(self, tmp_path: Path) -> None:
        with pytest.raises(NoSound, match="no audio track") as caught:
            heard(made(tmp_path / "a.mp4", 5))
        assert caught.value.code == "invalid_media"

    def test_a_header_alone_has_nothing_to_hear(self) -> None:
        with pytest.raises(NoSound, match="empty"):
            heard(wav(np.zeros((0, 2), np.int16)))

    @pytest.mark.parametrize("name", ["wav", "flac", "m4a", "alac"])
    @pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
    def test_cut_off_is_told_where_the_container_tells_its_length(self, name: str, share: float) -> None:
        data = sounding(*FILES[name], np.random.default_rng(4).normal(0, 0.1, (2, 144_000)).astype(np.float32))
        with pytest.raises(InvalidMedia):
            heard(data[: int(len(data) * share)])

    @pytest.mark.parametrize("name", ["mp3", "opus", "adts"])
    def test_cut_off_elsewhere_is_what_is_there(self, name: str) -> None:
        noise = np.random.default_rng(4).normal(0, 0.1, (2, 144_000)).astype(np.float32)
        data = sounding(*FILES[name], noise)
        assert 40_000 < heard(data[: len(data) // 2]).shape[1] < 100_000

    def test_tags_and_junk_around_an_mp3_are_skipped(self) -> None:
        data = sounding("mp3", "libmp3lame", CLICKS)
        found = heard(data + b"TAG" + bytes(125))
        assert found.shape[1] == pytest.approx(LENGTH, abs=2400)

    def test_a_codec_of_its_own_is_unsupported(self) -> None:
        with pytest.raises(UnsupportedMedia, match="adpcm_ima_wav is not supported"):
            heard(sounding("wav", "adpcm_ima_wav", CLICKS))

    @pytest.mark.parametrize("name", FILES)
    def test_damage_never_leads_to_another_error(self, name: str) -> None:
        whole = sounding(*FILES[name], CLICKS)
        random = np.random.default_rng(5)
        outcomes = set()
        for _ in range(40):
            data = bytearray(whole)
            for at in random.integers(0, min(len(data), 4000), 20):
                data[at] = random.integers(0, 256)
            try:
                outcomes.add(str(heard(bytes(data)).dtype))
            except MediaError as error:
                outcomes.add(error.code)
        assert outcomes <= {"float32", "invalid_media", "unsupported_media", "media_too_long"}
