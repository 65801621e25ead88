from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from media import probe as probing
from media.errors import InvalidMedia, MediaError, MediaTooLong, NoPicture, UnsupportedMedia
from media.probe import probe
from media.video import VideoWriter
from tests.media.clips import chunks, clicks, made, seen, sounding

FPS = Fraction(25)
RATES = [
    Fraction(24000, 1001),
    Fraction(24),
    FPS,
    Fraction(30000, 1001),
    Fraction(30),
    Fraction(60000, 1001),
    Fraction(60),
]


class TestRate:
    @pytest.mark.parametrize("fps", [*RATES, Fraction(17), Fraction(25, 2)])
    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")])
    def test_is_exact_whatever_the_container_rounds(self, name: str, codec: str, fps: Fraction, tmp_path: Path) -> None:
        info = probe(made(tmp_path / name, 61, codec=codec, fps=fps))
        assert (info.rate, info.variable, info.frames) == (fps, False, 61)
        assert info.duration == 61 / fps
        assert info.start == 0

    def test_of_our_own_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        with VideoWriter(path, width=128, height=96, fps=Fraction(30000, 1001)) as writer:
            for each in chunks(40):
                writer.write(each)
        info = probe(path)
        assert (info.container, info.codec, info.pix_fmt, info.bit_depth) == ("mp4", "h264", "yuv420p", 8)
        assert (info.width, info.height, info.rotation) == (128, 96, 0)
        assert info.pixel_aspect == 1
        assert (info.rate, info.variable, info.frames) == (Fraction(30000, 1001), False, 40)
        assert info.start == 0
        assert info.duration == 40 * Fraction(1001, 30000)
        assert (info.hdr, info.alpha, info.colours, info.full_range) == (None, False, (1, 1, 1), False)
        assert (info.has_audio, info.audio_codec, info.sample_rate) == (True, "aac", 48_000)

    def test_variable(self, tmp_path: Path) -> None:
        times = [0, 40, 80, 200, 240, 500, 510, 1000]
        info = probe(made(tmp_path / "a.mp4", 8, times=times, tick=Fraction(1, 1000)))
        assert info.variable
        assert info.frames == 8
        assert info.rate == 7
        assert info.duration >= 1

    def test_a_gap_makes_it_variable(self, tmp_path: Path) -> None:
        info = probe(made(tmp_path / "a.mp4", 20, times=[*range(10), *range(12, 22)]))
        assert info.variable
        assert info.frames == 20

    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("b.webm", "libvpx")])
    def test_one_frame(self, name: str, codec: str, tmp_path: Path) -> None:
        info = probe(made(tmp_path / name, 1, codec=codec))
        assert (info.frames, info.variable, info.rate, info.duration) == (1, False, FPS, Fraction(1, 25))

    def test_frames_that_are_never_shown_do_not_count(self, tmp_path: Path) -> None:
        options = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "4"}
        path = made(tmp_path / "a.webm", 60, codec="libvpx", options=options)
        assert probe(path).frames == len(seen(path)) == 60

    @pytest.mark.parametrize("hidden", [1, 5, 19])
    def test_frames_that_an_edit_list_hides_do_not_count(self, hidden: int, tmp_path: Path) -> None:
        source, path = made(tmp_path / "a.mp4", 20, options={"bf": "2"}), tmp_path / "b.mp4"
        with av.open(str(source)) as whole, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                if packet.size and packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                    shift = round(hidden / FPS / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                    output.mux(packet)
        assert [number for _, number, _ in seen(path)] == list(range(hidden, 20))
        info = probe(path)
        assert (info.frames, info.variable, info.rate) == (20 - hidden, False, FPS)
        assert info.start == 0

    def test_in_fragments(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        fragments = {"movflags": "frag_keyframe+empty_moov"}
        with av.open(str(path), "w", options=fragments) as output, av.open(str(made(tmp_path / "b.mp4", 30))) as whole:
            stream = output.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
        info = probe(path)
        assert (info.frames, info.variable, info.rate) == (30, False, FPS)
        assert info.duration == Fraction(6, 5)

    def test_a_late_start_is_told(self, tmp_path: Path) -> None:
        path = made(tmp_path / "a.webm", 10, codec="libvpx-vp9", times=list(range(5, 15)))
        assert (probe(path).start, probe(path).duration) == (Fraction(1, 5), Fraction(2, 5))


class TestPicture:
    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "depth"),
        [
            ("libx264", "yuv420p10le", 10),
            ("libx265", "yuv420p10le", 10),
            ("libx264", "yuv444p", 8),
            ("libx264", "yuv422p", 8),
        ],
    )
    def test_depth_and_sampling(self, codec: str, pix_fmt: str, depth: int, tmp_path: Path) -> None:
        info = probe(made(tmp_path / "a.mp4", 5, codec=codec, pix_fmt=pix_fmt))
        assert (info.pix_fmt, info.bit_depth, info.hdr) == (pix_fmt, depth, None)

    @pytest.mark.parametrize(("transfer", "hdr"), [(16, "pq"), (18, "hlg"), (1, None), (14, None)])
    def test_hdr(self, transfer: int, hdr: str | None, tmp_path: Path) -> None:
        path = made(tmp_path / "a.mp4", 5, codec="libx265", pix_fmt="yuv420p10le", colours=(9, transfer, 9))
        assert probe(path).hdr == hdr

    def test_colours(self, tmp_path: Path) -> None:
        info = probe(made(tmp_path / "a.mp4", 5, pix_fmt="yuvj420p", colours=(5, 6, 5)))
        assert (info.colours, info.full_range) == ((5, 6, 5), True)
        info = probe(made(tmp_path / "b.mp4", 5, colours=(2, 2, 2)))
        assert (info.colours, info.full_range) == ((2, 2, 2), False)

    @pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
    def test_alpha(self, codec: str, tmp_path: Path) -> None:
        options = {"auto-alt-ref": "0"}
        path = made(tmp_path / "a.webm", 5, codec=codec, pix_fmt="yuva420p", options=options, alpha=True)
        assert probe(path).alpha
        assert not probe(made(tmp_path / "b.webm", 5, codec=codec)).alpha

    @pytest.mark.parametrize("size", [(127, 95), (33, 64), (16, 16)])
    def test_odd_sizes(self, size: tuple[int, int], tmp_path: Path) -> None:
        info = probe(made(tmp_path / "a.webm", 5, codec="libvpx-vp9", size=size))
        assert (info.width, info.height) == size

    @pytest.mark.parametrize(
        ("rotation", "clockwise", "size"),
        [(0, 0, (128, 96)), (90, 270, (96, 128)), (180, 180, (128, 96)), (-90, 90, (96, 128))],
    )
    def test_rotation(self, rotation: int, clockwise: int, size: tuple[int, int], tmp_path: Path) -> None:
        info = probe(made(tmp_path / "a.mp4", 5, rotation=rotation))
        assert (info.width, info.height) == size
        assert (info.coded_width, info.coded_height) == (128, 96)
        assert info.rotation == clockwise

    @pytest.mark.parametrize(
        ("aspect", "size"),
        [(Fraction(4, 3), (171, 96)), (Fraction(1, 2), (128, 192)), (Fraction(1), (128, 96))],
    )
    def test_pixels_that_are_not_square(self, aspect: Fraction, size: tuple[int, int], tmp_path: Path) -> None:
        info = probe(made(tmp_path / "a.mp4", 5, aspect=aspect))
        assert (info.width, info.height) == size
        assert info.pixel_aspect == aspect

    @pytest.mark.parametrize(
        ("codec", "name", "expected"),
        [
            ("libsvtav1", "a.mp4", "av1"),
            ("libx265", "a.mp4", "hevc"),
            ("libvpx", "a.webm", "vp8"),
            ("mpeg4", "a.mp4", "mpeg4"),
        ],
    )
    def test_codec(self, codec: str, name: str, expected: str, tmp_path: Path) -> None:
        info = probe(made(tmp_path / name, 5, codec=codec))
        assert info.codec == expected
        assert info.frames == 5


class TestWrong:
    def test_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        path.touch()
        with pytest.raises(InvalidMedia, match="is empty"):
            probe(path)

    @pytest.mark.parametrize(
        "data",
        [
            b"\x89PNG\r\n\x1a\n" + bytes(50),
            b"GIF89a" + bytes(50),
            b"#EXTM3U\nfile:///etc/passwd\n",
            b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            b"RIFF\x10\0\0\0AVI LIST",
            b"OggS" + bytes(50),
            b"<html>",
            bytes(4000),
        ],
    )
    def test_another_format_is_unsupported(self, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(data)
        with pytest.raises(UnsupportedMedia, match="none of MP4 or WebM"):
            probe(path)

    def test_no_moov(self, tmp_path: Path) -> None:
        path = made(tmp_path / "a.mp4", 20)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(InvalidMedia, match="broken or cut off"):
            probe(path)

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_cut_off_behind_its_moov(self, share: float, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        with VideoWriter(path, width=128, height=96, fps=FPS, sound=clicks(50, FPS)) as writer:
            for each in chunks(50):
                writer.write(each)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InvalidMedia, match="cut off"):
            probe(path)

    def test_only_sound(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        path.write_bytes(sounding("mp4", "aac", clicks(25, FPS)))
        with pytest.raises(NoPicture, match="no video track") as caught:
            probe(path)
        assert caught.value.code == "invalid_media"

    def test_a_codec_that_is_not_taken(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedMedia, match="mjpeg is not supported"):
            probe(made(tmp_path / "a.mp4", 5, codec="mjpeg", pix_fmt="yuvj420p"))

    def test_a_codec_that_nobody_knows(self, tmp_path: Path) -> None:
        path = made(tmp_path / "a.mp4", 5)
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
        with pytest.raises(MediaError):
            probe(path)

    @pytest.mark.parametrize(("limit", "value"), [("MAX_SIDE", 100), ("MAX_PIXELS", 1000)])
    def test_too_large(self, limit: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, limit, value)
        with pytest.raises(InvalidMedia, match="128x96 pixels; at most"):
            probe(made(tmp_path / "a.mp4", 5))

    def test_a_size_that_only_the_header_has(self, tmp_path: Path) -> None:
        path = made(tmp_path / "a.webm", 5, codec="libvpx-vp9")
        data = path.read_bytes()
        at = data.index(b"\xb0\x81\x80\xba\x81\x60")
        path.write_bytes(data[:at] + b"\xb0\x82\xff\xff\xba\x81" + data[at + 5 :])
        with pytest.raises(MediaError):
            probe(path)

    def test_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "MAX_SECONDS", 1)
        with pytest.raises(MediaTooLong, match="lasts 2 s; at most 1 s"):
            probe(made(tmp_path / "a.mp4", 50))

    def test_too_many_frames(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "_MAX_FRAMES", 10)
        with pytest.raises(InvalidMedia, match="more than 10 frames"):
            probe(made(tmp_path / "a.mp4", 20))

    def test_too_many_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probing, "MAX_BYTES", 10)
        with pytest.raises(InvalidMedia, match="at most 10 are accepted"):
            probe(made(tmp_path / "a.mp4", 5))

    @pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9")])
    def test_damage_never_leads_to_another_error(self, name: str, codec: str, tmp_path: Path) -> None:
        path = made(
            tmp_path / name, 20, codec=codec, sound=clicks(20, FPS), sound_codec="aac" if name == "a.mp4" else "libopus"
        )
        whole = path.read_bytes()
        random = np.random.default_rng(6)
        outcomes = set()
        for _ in range(60):
            data = bytearray(whole)
            for at in random.integers(0, len(data), 30):
                data[at] = random.integers(0, 256)
            path.write_bytes(data)
            try:
                outcomes.add(type(probe(path)).__name__)
            except MediaError as error:
                outcomes.add(error.code)
        assert outcomes <= {"VideoInfo", "invalid_media", "unsupported_media", "media_too_long"}

    def test_a_table_that_promises_billions_of_frames(self, tmp_path: Path) -> None:
        path = made(tmp_path / "a.mp4", 20)
        data = bytearray(path.read_bytes())
        at = data.index(b"stsz")
        struct.pack_into(">II", data, at + 8, 1, 2**31 - 1)
        path.write_bytes(data)
        with pytest.raises(MediaError):
            probe(path)
