"""Clips of every kind that callers send, joined; and those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from media import combine_source
from media.combine import Combined, combine
from media.errors import InvalidMedia, MediaError, MediaTooLong, NoPicture, OverlapTooLong, UnsupportedMedia
from tests.media.claims import claiming
from tests.media.numbered_clips import RATE_25, SIZE, lumas, made, seen

QUICK_VP9 = {"deadline": "realtime", "cpu-used": "8"}
IN_ORDER = {"preset": "veryfast", "crf": "18", "bf": "0"}
ULTRA_H265 = {"preset": "ultrafast", "x265-params": "log-level=none"}


def together(folder: Path, *clips: Path, overlap: int = 0, fps: Fraction | None = None) -> Combined:
    return combine(clips, folder / "out.mp4", overlap_frames=overlap, overlap_fps=None, frame_rate=fps)


def marked(path: Path, corner: str, size: tuple[int, int], **options: Any) -> Path:
    """A clip of 5 grey frames with one white corner."""
    width, height = size
    picture = np.full((height, width, 3), 60, np.uint8)
    rows = slice(0, height // 2) if "top" in corner else slice(height // 2, height)
    columns = slice(0, width // 2) if "left" in corner else slice(width // 2, width)
    picture[rows, columns] = 255
    return painted(path, picture, **options)


def painted(path: Path, picture: npt.NDArray[np.uint8], *, turned: int = 0, mirrored: bool = False) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width = picture.shape[:2]
        video.pix_fmt = "yuv420p"
        if turned or mirrored:
            video.set_display_rotation(turned, hflip=mirrored)
        for at in range(5):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = at
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def bright_corner(path: Path) -> str:
    luma = lumas(path)[0][1].astype(float)
    height, width = luma.shape
    levels = {
        f"{upper}-{side}": luma[height // 2 * (upper == "bottom") :, width // 2 * (side == "right") :][
            : height // 2, : width // 2
        ].mean()
        for upper in ("top", "bottom")
        for side in ("left", "right")
    }
    return max(levels, key=lambda corner: levels[corner])


@pytest.mark.parametrize(
    ("turned", "mirrored", "size", "corner"),
    [
        (0, False, (160, 96), "top-left"),
        (-90, False, (96, 160), "top-right"),
        (90, False, (96, 160), "bottom-left"),
        (180, False, (160, 96), "bottom-right"),
        (0, True, (160, 96), "top-right"),
        (90, True, (96, 160), None),
        (-90, True, (96, 160), None),
    ],
)
def test_turned_clips_are_shown_upright(
    turned: int, mirrored: bool, size: tuple[int, int], corner: str | None, tmp_path: Path
) -> None:
    clip = marked(tmp_path / "a.mp4", "top-left", SIZE, turned=turned, mirrored=mirrored)
    result = together(tmp_path, clip, clip)
    assert (result.width, result.height) == size
    if turned or mirrored:
        assert result.method == "full"
        assert result.adjustments["turned"] == (0, 1)
    assert bright_corner(tmp_path / "out.mp4") == (corner or _turned_corner(clip))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def _turned_corner(path: Path) -> str:
    """Where the display matrix takes the upper left corner (ISO/IEC 14496-12, section 6.2.2)."""
    with av.open(str(path)) as container:
        frame: Any = next(container.decode(video=0))
    a, b, _, c, d, *_ = memoryview(bytes(frame.side_data["DISPLAYMATRIX"])).cast("i")
    x, y = (-a - c) / 65536, (-b - d) / 65536
    return f"{'bottom' if y > 0 else 'top'}-{'right' if x > 0 else 'left'}"


def test_other_shapes_are_letterboxed_to_the_first(tmp_path: Path) -> None:
    first = made(tmp_path / "a.mp4", 10)
    tall = made(tmp_path / "b.mp4", 10, first=100, size=(96, 160))
    wide = made(tmp_path / "c.mp4", 10, first=200, size=(320, 96))
    result = together(tmp_path, first, tall, wide)
    assert (result.width, result.height, result.method) == (160, 96, "full")
    assert result.adjustments == {"letterboxed": (1, 2), "scaled": (1, 2)}
    assert seen(tmp_path / "out.mp4", (50, 0, 58, 96)).numbers[10:20] == [*range(100, 110)]
    assert seen(tmp_path / "out.mp4", (0, 24, 160, 48)).numbers[20:] == [*range(200, 210)]
    pictures = [luma for _, luma in lumas(tmp_path / "out.mp4")]
    assert pictures[15][:, :46].max() < 24
    assert pictures[15][:, 114:].max() < 24
    assert pictures[25][:20].max() < 24


def test_pixels_that_are_not_square_are_made_so(tmp_path: Path) -> None:
    clip = made(tmp_path / "a.mp4", 10, aspect=Fraction(4, 3))
    result = together(tmp_path, clip, made(tmp_path / "b.mp4", 10, first=100, aspect=Fraction(1, 2)))
    assert (result.width, result.height) == (212, 96)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in {None, 1}
    assert seen(tmp_path / "out.mp4").numbers[:10] == [*range(10)]


@pytest.mark.parametrize("size", [(161, 97), (160, 97), (33, 35)])
def test_odd_sizes_lose_their_last_line(size: tuple[int, int], tmp_path: Path) -> None:
    odd = made(tmp_path / "a.webm", 8, size=size, codec="libvpx-vp9", options=QUICK_VP9, sound="libopus")
    result = together(tmp_path, odd, odd)
    assert (result.width, result.height) == (size[0] // 2 * 2, size[1] // 2 * 2)
    assert "letterboxed" not in result.adjustments
    assert result.frames == 16
    if size[0] > 100:
        assert seen(tmp_path / "out.mp4").numbers == [*range(8), *range(8)]


def test_a_rate_that_changes_keeps_each_frame_s_time(tmp_path: Path) -> None:
    times = [Fraction(0)]
    for place in range(40):
        times.append(times[-1] + Fraction((1, 3, 1, 7)[place % 4], 50))
    uneven = made(tmp_path / "a.mp4", 40, times=times, flashes=(8, 31), options=IN_ORDER)
    even = made(tmp_path / "b.mp4", 50, first=1000)
    result = together(tmp_path, even, uneven, even, overlap=2)
    read = seen(tmp_path / "out.mp4")
    assert result.adjustments == {"resampled": (1,)}
    assert result.frames == round(50 + (times[-1] * 25) - 2 + 48)
    cut = Fraction(2, 25)
    wanted = []
    for slot in range(50, 50 + round((times[-1] - cut) * 25)):
        inside = (slot + Fraction(1, 2)) / 25 - 2 + cut
        wanted.append(max(at for at in range(40) if times[at] <= inside))
    assert read.numbers[50 : 50 + len(wanted)] == wanted
    assert read.numbers[-48:] == [*range(1002, 1050)]
    assert len(read.offsets) == 2
    assert max(map(abs, read.offsets)) <= 0.5 / 25 + 0.002


def test_a_first_clip_without_a_constant_rate_gives_its_mean(tmp_path: Path) -> None:
    times = [Fraction(at * at, 400) for at in range(31)]
    result = together(tmp_path, made(tmp_path / "a.mp4", 30, times=times, options=IN_ORDER))
    assert result.fps == pytest.approx(Fraction(30) / times[-1], rel=1e-3)
    assert str(result.reason) == "clip 0: its rate is not constant, and the result's 40/3"
    fast = together(tmp_path, made(tmp_path / "b.mp4", 60, fps=Fraction(120)))
    assert (fast.fps, fast.frames) == (Fraction(60), 30)


@pytest.mark.parametrize("starts", [Fraction(-1, 5), Fraction(2, 5), Fraction(7)])
def test_clips_begin_with_the_first_frame_that_their_edit_lists_show(starts: Fraction, tmp_path: Path) -> None:
    times = [starts + Fraction(at, 25) for at in range(31)]
    shifted = made(tmp_path / "a.mp4", 30, first=100, times=times, flashes=(10, 20))
    together(tmp_path, made(tmp_path / "b.mp4", 10), shifted, shifted, overlap=2)
    read = seen(tmp_path / "out.mp4")
    hidden = 5 if starts < 0 else 0
    assert read.numbers == [*range(10), *range(102 + hidden, 130), *range(102 + hidden, 130)]
    assert len(read.offsets) == 4
    assert max(map(abs, read.offsets)) < 0.002


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_mapped_to_the_range_of_others_and_said(transfer: int, name: str, tmp_path: Path) -> None:
    deep: dict[str, Any] = {
        "codec": "libx265",
        "options": ULTRA_H265,
        "pixel_format": "yuv420p10le",
        "colours": (9, transfer, 9, 1),
    }
    result = together(tmp_path, made(tmp_path / "a.mp4", 10), made(tmp_path / "b.mp4", 10, first=100, **deep))
    assert result.adjustments == {"tone_mapped": (1,), "reduced": (1,)}
    assert seen(tmp_path / "out.mp4").numbers == [*range(10), *range(100, 110)]
    with av.open(str(tmp_path / "out.mp4")) as container:
        for frame in container.decode(video=0):
            assert frame.format.name == "yuv420p"
            assert (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range) == (1, 1, 1, 1)


def test_ten_bits_become_eight(tmp_path: Path) -> None:
    deep: dict[str, Any] = {"codec": "libx265", "options": ULTRA_H265, "pixel_format": "yuv420p10le"}
    clip = made(tmp_path / "a.mp4", 10, **deep)
    result = together(tmp_path, clip, clip)
    assert result.adjustments == {"reduced": (0, 1)}
    plain = [luma.astype(int) for _, luma in lumas(made(tmp_path / "b.mp4", 10))]
    for ours, theirs in zip((luma.astype(int) for _, luma in lumas(tmp_path / "out.mp4")), plain, strict=False):
        assert np.abs(ours - theirs).mean() < 3


@pytest.mark.parametrize("colours", [(6, 6, 6, 1), (2, 2, 2, 1), (1, 1, 1, 2)])
def test_colours_keep_their_looks(colours: tuple[int, int, int, int], tmp_path: Path) -> None:
    picture = np.zeros((96, 160, 3), np.uint8)
    picture[:, :53], picture[:, 53:106], picture[:, 106:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 160, 96, "yuv420p"
        context = video.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = colours
        matrix = 1 if colours[2] == 1 else 5
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=matrix, dst_color_range=colours[3]
        )
        frame.pts = 0
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
    together(tmp_path, path, made(tmp_path / "b.mp4", 5))
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24", src_colorspace=1)
    for column in (25, 80, 130):
        assert np.abs(shown[48, column].astype(int) - picture[48, column]).max() < 12


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    alpha = np.full((96, 160), 255, np.uint8)
    alpha[48:, :80] = 0
    alpha[48:, 80:] = 128
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        video: Any = container.add_stream("libvpx-vp9", rate=25)
        video.width, video.height, video.pix_fmt = 160, 96, "yuva420p"
        video.codec_context.options = {**QUICK_VP9, "auto-alt-ref": "0"}
        picture = np.full((96, 160, 3), 255, np.uint8)
        for at in range(5):
            frame = av.VideoFrame.from_ndarray(np.dstack([picture, alpha]), format="rgba").reformat(format="yuva420p")
            frame.pts = at
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    result = together(tmp_path, made(tmp_path / "b.mp4", 5), tmp_path / "a.webm")
    assert result.adjustments["flattened"] == (1,)
    shown = lumas(tmp_path / "out.mp4")[7][1].astype(int)
    assert shown[:40].mean() > 228
    assert shown[56:, :70].mean() < 20
    assert 110 < shown[56:, 90:].mean() < 140


def test_a_size_that_changes_within_a_clip_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        stream: Any = None
        for part, size in enumerate([(160, 96), (80, 48)]):
            encoder: Any = av.CodecContext.create("libvpx", "w")
            encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
            encoder.time_base, encoder.framerate, encoder.bit_rate = Fraction(1, 25), RATE_25, 2_000_000
            encoder.options = QUICK_VP9
            stream = stream or _mux_stream(container, size)
            shown = made(tmp_path / f"{part}.mp4", 10, first=100 * part, size=(160, 96))
            with av.open(str(shown)) as given:
                frames = [frame.reformat(width=size[0], height=size[1]) for frame in given.decode(video=0)]
            packets = [packet for frame in frames for packet in encoder.encode(_timed(frame))] + encoder.encode(None)
            for packet in packets:
                packet.stream, packet.time_base = stream, Fraction(1, 25)
                packet.pts = packet.dts = packet.pts + 10 * part
                container.mux(packet)
    together(tmp_path, path, path)
    assert seen(tmp_path / "out.mp4").numbers == 2 * [*range(10), *range(100, 110)]


def _mux_stream(container: Any, size: tuple[int, int]) -> Any:
    return container.add_mux_stream("vp8", rate=25, width=size[0], height=size[1], time_base=Fraction(1, 25))


def _timed(frame: Any) -> Any:
    frame.pts, frame.time_base = round(frame.time * 25), Fraction(1, 25)
    frame.pict_type = 0
    return frame


def cut_off(share: float) -> Callable[[Path], bytes]:
    return lambda whole: whole.read_bytes()[: int(whole.stat().st_size * share)]


def padded(whole: Path) -> bytes:
    """Cut off, but with the last box made to end where the file does."""
    data = bytearray(whole.read_bytes())
    at = data.index(b"mdat") - 4
    data = data[: at + int.from_bytes(data[at : at + 4], "big") // 2]
    data[at : at + 4] = (len(data) - at).to_bytes(4, "big")
    return bytes(data)


def without_picture(whole: Path) -> bytes:
    target = whole.with_name("heard.mp4")
    with av.open(str(whole)) as given, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(audio=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return target.read_bytes()


BROKEN: dict[str, tuple[Callable[[Path], bytes], type[MediaError], str]] = {
    "empty": (lambda _: b"", InvalidMedia, "the file is empty; send the whole clip."),
    "text": (lambda _: b"hello" * 100, UnsupportedMedia, "the file is not MP4 or WebM"),
    "playlist": (lambda _: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", UnsupportedMedia, "the file is not MP4 or WebM"),
    "picture": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(100), UnsupportedMedia, "the file is not MP4 or WebM"),
    "head alone": (lambda whole: whole.read_bytes()[:32], InvalidMedia, ""),
    "junk in a box": (lambda _: b"\0\0\0\x18ftypisom" + bytes(range(256)) * 9, InvalidMedia, ""),
    "cut off early": (cut_off(0.1), InvalidMedia, "the file is cut off; send it whole."),
    "cut off": (cut_off(0.6), InvalidMedia, "the file is cut off; send it whole."),
    "cut off late": (cut_off(0.999), InvalidMedia, "the file is cut off; send it whole."),
    "cut off and closed": (padded, InvalidMedia, "the file is cut off; send it whole."),
    "sound alone": (without_picture, NoPicture, "the file has no picture"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("index", [0, 3])
def test_what_cannot_be_joined_is_named_and_nothing_is_left(name: str, index: int, tmp_path: Path) -> None:
    content, kind, says = BROKEN[name]
    good = made(tmp_path / "good.mp4", 20, muxing={"movflags": "+faststart"})
    bad = tmp_path / "bad"
    bad.write_bytes(content(good))
    clips = [good] * 4
    clips[index] = bad
    with pytest.raises(MediaError) as caught:
        combine(clips, tmp_path / "out.mp4", overlap_frames=0, overlap_fps=None, frame_rate=None)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"videoUrls[{index}]: {says}")
    assert not (tmp_path / "out.mp4").exists()


def test_a_webm_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.webm", 20, codec="libvpx-vp9", options=QUICK_VP9, sound="libopus")
    assert together(tmp_path, whole).frames == 20
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(InvalidMedia, match=r"videoUrls\[0\]: the file is cut off"):
        together(tmp_path, whole)


def test_an_overlap_that_leaves_nothing_of_a_clip_is_refused_before_any_work(tmp_path: Path) -> None:
    long, short = made(tmp_path / "a.mp4", 30), made(tmp_path / "b.mp4", 10)
    assert together(tmp_path, short, long, overlap=10).frames == 30
    assert together(tmp_path, long, short, overlap=9).frames == 31
    (tmp_path / "out.mp4").unlink()
    for overlap in (10, 3600):
        with pytest.raises(OverlapTooLong, match=r"videoUrls\[2\]: the clip lasts 0.400 s") as caught:
            together(
                tmp_path,
                long if overlap == 10 else short,
                made(tmp_path / "c.mp4", 4000, sound=None),
                short,
                overlap=overlap,
            )
        assert caught.value.code == "overlap_too_long"
        assert "fewer overlapFrames" in str(caught.value)
    assert not (tmp_path / "out.mp4").exists()


def test_limits_are_held_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = made(tmp_path / "a.mp4", 30)
    for name, value, says in (
        ("MAX_CLIP_PIXELS", 160 * 96 - 1, "160×96 pixels; send at most 15359"),
        ("MAX_CLIP_SECONDS", 1, "lasts 1 s; send at most 1 s"),
        ("MAX_CLIP_FRAMES", 29, "more than 29 frames"),
        ("MAX_BYTES", {"video": 1000}, "bytes; send at most 1000"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(combine_source, name, value)
            with pytest.raises((InvalidMedia, MediaTooLong), match=rf"videoUrls\[0\]: .*{says}"):
                together(tmp_path, clip)


def test_names_in_another_encoding_than_utf_8_are_no_fault(tmp_path: Path) -> None:
    clip = made(tmp_path / "a.mp4", 5)
    content = clip.read_bytes()
    assert content.count(b"VideoHandler") == 1
    clip.write_bytes(content.replace(b"VideoHandler", "Vidéo-caméra".encode("latin-1")))
    assert together(tmp_path, clip, clip).frames == 10
    assert together(tmp_path, clip, clip, fps=Fraction(30)).method == "full"


def test_all_together_are_no_longer_than_one_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = made(tmp_path / "a.mp4", 30)
    monkeypatch.setattr("media.combine.MAX_CLIP_SECONDS", Fraction(12, 5))
    assert together(tmp_path, clip, clip).frames == 60
    (tmp_path / "out.mp4").unlink()
    with pytest.raises(MediaTooLong, match="together"):
        together(tmp_path, clip, clip, clip)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("place", [0, 1])
def test_pixels_may_not_stretch_a_picture_beyond_the_limits(place: int, tmp_path: Path) -> None:
    wide = made(tmp_path / "wide.mp4", 5, aspect=Fraction(60))
    clips = [made(tmp_path / "good.mp4", 5)] * 2
    clips[place] = wide
    with pytest.raises(InvalidMedia, match=rf"videoUrls\[{place}\]: .*9600×96 square pixels"):
        together(tmp_path, *clips)


def test_sound_of_an_impossible_rate_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    clip = made(tmp_path / "slow.mp4", 50, sound="flac", sound_rate=1000)
    with pytest.raises(InvalidMedia, match=r"videoUrls\[0\]: the sound has 1000 samples a second"):
        together(tmp_path, clip)


def test_a_picture_too_large_is_not_even_decoded_to_look_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def opened(*given: Any, **named: Any) -> Any:
        asked.append(named.get("options", {}))
        return open_(*given, **named)

    open_ = av.open
    clip = made(tmp_path / "a.mp4", 5)
    monkeypatch.setattr(av, "open", opened)
    combine_source.source(clip, 0)
    assert asked[0]["max_pixels"] == str(combine_source.MAX_CLIP_PIXELS)


def test_a_file_that_claims_millions_of_frames_in_a_kilobyte_is_refused(tmp_path: Path) -> None:
    clip = claiming(made(tmp_path / "a.mp4", 5, sound=None), 20_000_000)
    with pytest.raises(InvalidMedia, match=r"videoUrls\[0\]: The file claims more than 4000000"):
        together(tmp_path, clip)
