from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from media import image as media_image
from media.errors import InvalidMedia, MediaError, UnsupportedMedia
from media.image import MAX_SCANS, MIME_TYPES, Format, encode, open_image, sniff
from media.normalise import Change
from tests.media.pictures import chunk, chunks, gradient, png, saved

FORMATS: list[Format] = ["webp", "png", "jpg"]


class TestEncode:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_gives_the_format_that_was_asked_for(self, kind: Format) -> None:
        data = encode(gradient(), kind)
        with Image.open(io.BytesIO(data)) as image:
            assert image.get_format_mimetype() == MIME_TYPES[kind]
            assert image.size == (64, 48)
            assert image.mode == "RGB"
        assert sniff(data) == kind

    @pytest.mark.parametrize("kind", FORMATS)
    def test_keeps_the_picture(self, kind: Format) -> None:
        back = open_image(encode(gradient(), kind)).pixels.astype(int)
        assert np.abs(back - gradient()).mean() < (0.01 if kind == "png" else 4)

    def test_png_is_lossless(self) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (33, 47, 3), np.uint8)
        assert (open_image(encode(noise, "png")).pixels == noise).all()

    @pytest.mark.parametrize("kind", FORMATS)
    def test_the_same_pixels_give_the_same_bytes(self, kind: Format) -> None:
        assert encode(gradient(), kind) == encode(gradient().copy(), kind)

    def test_resizes_smoothly_to_width_and_height(self) -> None:
        picture = open_image(encode(gradient(), "png", size=(512, 256))).pixels
        assert picture.shape == (256, 512, 3)
        assert np.abs(np.diff(picture[128, :, 0].astype(int))).max() <= 2

    @pytest.mark.parametrize("kind", ["webp", "jpg"])
    def test_a_profile_says_srgb_and_not_when_it_was_made(self, kind: Format) -> None:
        first = encode(gradient(), kind)
        media_image._srgb_profile.cache_clear()
        assert encode(gradient(), kind) == first
        with Image.open(io.BytesIO(first)) as image:
            profile = image.info["icc_profile"]
        assert len(profile) < 600
        assert profile[24:36] == bytes(12)
        name = ImageCms.getProfileDescription(ImageCms.getOpenProfile(io.BytesIO(profile)))
        assert "sRGB" in name

    def test_a_png_says_srgb_in_its_own_chunk(self) -> None:
        names = [name for name, _ in chunks(encode(gradient(), "png"))]
        assert names == [b"IHDR", b"sRGB", b"IDAT", b"IEND"]

    def test_its_own_size_changes_nothing(self) -> None:
        assert encode(gradient(), "png", size=(64, 48)) == encode(gradient(), "png")

    def test_takes_views_of_larger_arrays(self) -> None:
        flipped = gradient()[::-1, ::2]
        assert (open_image(encode(flipped, "png")).pixels == flipped).all()

    @pytest.mark.parametrize(
        "pixels",
        [
            np.zeros((4, 4), np.uint8),
            np.zeros((4, 4, 4), np.uint8),
            np.zeros((0, 4, 3), np.uint8),
            np.zeros((4, 4, 3), np.float32),
            np.zeros((1, 4, 4, 3), np.uint8),
        ],
    )
    def test_refuses_other_arrays(self, pixels: Any) -> None:
        with pytest.raises(ValueError, match="uint8 of shape"):
            encode(pixels, "png")

    @pytest.mark.parametrize("kind", ["gif", "", "WEBP", "jpeg"])
    def test_refuses_other_formats(self, kind: Any) -> None:
        with pytest.raises(ValueError, match="webp, png, jpg"):
            encode(gradient(), kind)

    @pytest.mark.parametrize("size", [(0, 10), (10, 0), (-1, 10)])
    def test_refuses_an_empty_size(self, size: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="positive"):
            encode(gradient(), "png", size=size)

    def test_knows_the_limit_of_webp(self) -> None:
        assert sniff(encode(gradient(), "webp", size=(16_383, 2))) == "webp"
        assert sniff(encode(gradient(), "png", size=(16_384, 2))) == "png"
        with pytest.raises(ValueError, match="at most 16383"):
            encode(gradient(), "webp", size=(16_384, 2))


class TestOpen:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_gives_pixels_and_what_they_came_in(self, kind: Format) -> None:
        picture = open_image(encode(gradient(), kind))
        assert picture.format == kind
        assert picture.pixels.shape == (48, 64, 3)
        assert picture.pixels.dtype == np.uint8

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_every_png_mode_becomes_rgb(self, mode: str) -> None:
        source = Image.fromarray((gradient()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else gradient())
        picture = open_image(saved(source if mode == "I;16" else source.convert(mode)))
        assert picture.pixels.shape == (48, 64, 3)
        assert picture.pixels[:, 48:].mean() > picture.pixels[:, :16].mean() + 20

    def test_one_pixel(self) -> None:
        assert open_image(saved(Image.new("RGB", (1, 1), (1, 2, 3)))).pixels.tolist() == [[[1, 2, 3]]]

    def test_long_and_thin(self) -> None:
        pixels = open_image(saved(Image.fromarray(gradient(16_000, 10)), "JPEG", quality=95)).pixels
        assert pixels.shape == (10, 16_000, 3)
        assert np.abs(pixels.astype(int) - gradient(16_000, 10)).mean() < 4

    def test_a_phone_s_two_pictures_in_one_are_no_animation(self) -> None:
        first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
        picture = open_image(saved(first, "MPO", save_all=True, append_images=[second]))
        assert picture.pixels[8, 8, 0] > 240
        assert (picture.format, picture.frames, picture.changes) == ("jpg", 1, ())

    @pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
    def test_an_animation_gives_its_first_frame_and_says_so(self, kind: str, options: dict[str, Any]) -> None:
        first, *others = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green"))
        picture = open_image(saved(first, kind, save_all=True, append_images=others, **options))
        assert picture.pixels[8, 8].tolist() == [255, 0, 0]
        assert picture.frames == 3
        change = Change("an animation of 3 frames", "its first frame", "only still pictures are taken")
        assert picture.changes == (change,)

    def test_what_follows_a_picture_is_not_looked_at(self) -> None:
        plain = saved(Image.fromarray(gradient()), "JPEG")
        video = b"\xff\xda\xff\xd8" * 300 + b"<script>alert(1)</script>"
        assert (open_image(plain + video).pixels == open_image(plain).pixels).all()

    def test_a_picture_may_have_many_scans(self) -> None:
        data = saved(Image.fromarray(gradient()), "JPEG", progressive=True)
        assert data.count(b"\xff\xda") > 5
        assert open_image(data).pixels.shape == (48, 64, 3)


class TestHostile:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff",
            b"\x89PNG",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            b"<?xml version='1.0'?><!DOCTYPE svg>",
            b"<!doctype html><html><body>Not found</body></html>",
            b"<!doctype html><img src='data:image/png;base64,iVBORw0KGgo='>",
            b"GIF89a/*" + bytes(20) + b"*/=1;alert(document.domain)//",
            b'{"error": "not_found"}',
            b"%PDF-1.7\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            b"RIFF\x10\0\0\0WAVEfmt ",
            b" \x89PNG\r\n\x1a\n",
            saved(Image.new("RGB", (4, 4)), "GIF"),
            saved(Image.new("RGB", (4, 4)), "BMP"),
            saved(Image.new("RGB", (4, 4)), "TIFF"),
            saved(Image.new("RGB", (4, 4)), "ICO"),
            saved(Image.new("RGB", (4, 4)), "PPM"),
            saved(Image.new("RGB", (4, 4)), "TGA"),
        ],
    )
    def test_other_formats_are_unsupported(self, data: bytes) -> None:
        with pytest.raises(UnsupportedMedia, match="PNG") as caught:
            open_image(data)
        assert caught.value.code == "unsupported_media"

    @pytest.mark.parametrize("kind", FORMATS)
    @pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
    def test_cut_off_files_are_invalid(self, kind: Format, share: float) -> None:
        noise = np.random.default_rng(2).integers(0, 256, (200, 200, 3), np.uint8)
        data = encode(noise, kind)
        with pytest.raises(InvalidMedia, match="broken or cut off") as caught:
            open_image(data[: int(len(data) * share)])
        assert caught.value.code == "invalid_media"

    @pytest.mark.parametrize(
        "data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff\xe0" + b"<svg/>" * 50]
    )
    def test_a_signature_alone_is_invalid(self, data: bytes) -> None:
        with pytest.raises(InvalidMedia):
            open_image(data)

    @pytest.mark.parametrize(
        ("width", "height"),
        [
            (8_000, 8_000),
            (10_000, 10_000),
            (20_000, 20_000),
            (30_000, 30_000),
            (70_000, 1),
            (1, 70_000),
            (2**31 - 1, 1),
        ],
    )
    def test_a_bomb_is_refused_by_its_header(self, width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
        with pytest.raises(InvalidMedia, match="pixels; at most 40000000 are accepted"):
            open_image(png(width, height, 8, 2, b"\0" * 1000))

    @pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5)])
    def test_a_picture_without_pixels_is_invalid(self, width: int, height: int) -> None:
        with pytest.raises(InvalidMedia):
            open_image(png(width, height, 8, 2, b""))

    def test_bombs_in_jpeg_and_webp_headers(self) -> None:
        jpeg = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG"))
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
        canvas = bytearray(saved(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP", lossless=False))
        at_size = canvas.index(b"VP8X") + 12
        canvas[at_size : at_size + 6] = b"\xff\x3f\0\xff\x3f\0"
        for data in (bytes(jpeg), bytes(canvas)):
            with pytest.raises(InvalidMedia):
                open_image(data)
        for side, message in ((20_000, "too many pixels; at most 40000000"), (7_000, "7000x7000 pixels; at most")):
            jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
            with pytest.raises(InvalidMedia, match=message):
                open_image(bytes(jpeg))

    def test_a_scan_bomb_is_refused_before_it_is_decoded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = saved(Image.new("L", (512, 512), 128), "JPEG", progressive=True)
        last = whole[whole.rindex(b"\xff\xda") : -2]
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
        with pytest.raises(InvalidMedia, match=f"more than {MAX_SCANS} scans"):
            open_image(whole[:-2] + last * MAX_SCANS + b"\xff\xd9")

    def test_markers_inside_a_segment_are_no_scans(self) -> None:
        plain = saved(Image.fromarray(gradient()), "JPEG")
        comment = b"\xff\xda" * (MAX_SCANS * 2)
        data = plain[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + plain[2:]
        assert (open_image(data).pixels == open_image(plain).pixels).all()

    def test_a_profile_that_is_inflated_again_and_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = saved(Image.new("RGB", (2, 2)))
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
        profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1_000_000)))
        with pytest.raises(InvalidMedia, match="colour profiles"):
            open_image(plain[:33] + profile * 9 + plain[33:])

    @pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + bytes(99), b"RIFF\0\0\0\0WEBPVP8X"])
    def test_messages_say_nothing_of_our_memory(self, data: bytes) -> None:
        with pytest.raises(InvalidMedia) as caught:
            open_image(data)
        assert "0x" not in str(caught.value)
        assert "BytesIO" not in str(caught.value)

    def test_a_picture_that_is_a_page_too_is_only_a_picture(self) -> None:
        page = b"<script>alert(document.domain)</script>"
        data = saved(Image.fromarray(gradient()), "JPEG", comment=page) + page
        for kind in FORMATS:
            assert b"script" not in encode(open_image(data).pixels, kind)

    def test_the_limits_are_the_caller_s_to_set(self) -> None:
        data = encode(gradient(64, 48), "png")
        open_image(data, max_bytes=len(data), max_pixels=64 * 48)
        with pytest.raises(InvalidMedia, match=f"at most {len(data) - 1} are"):
            open_image(data, max_bytes=len(data) - 1)
        with pytest.raises(InvalidMedia, match="64x48 pixels"):
            open_image(data, max_pixels=64 * 48 - 1)

    def test_compressed_text_and_profile_bombs(self) -> None:
        bomb = zlib.compress(b"\0" * 50_000_000)
        plain = saved(Image.new("RGB", (2, 2)))
        for kind, body in [(b"iCCP", b"x\0\0" + bomb), (b"zTXt", b"x\0\0" + bomb), (b"iTXt", b"x\0\1\0\0\0" + bomb)]:
            with pytest.raises(InvalidMedia):
                open_image(plain[:33] + chunk(kind, body) + plain[33:])

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
    @pytest.mark.parametrize("kind", FORMATS)
    def test_damaged_bytes_never_raise_anything_else(self, kind: Format) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        name = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}[kind]
        whole = saved(Image.fromarray(gradient()), name, exif=exif, icc_profile=profile)
        draw = random.Random(kind)
        outcomes = set()
        for _ in range(400):
            damaged = bytearray(whole)
            for _ in range(draw.randint(1, 6)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            try:
                outcomes.add(open_image(bytes(damaged)).pixels.dtype.name)
            except MediaError as error:
                outcomes.add(error.code)
        assert "invalid_media" in outcomes

    def test_damaged_chunks_with_sound_checksums_raise_nothing_else(self) -> None:
        source = Image.fromarray(gradient()).convert("P")
        options: dict[str, Any] = {"save_all": True, "append_images": [source.rotate(180)], "dpi": (72, 72)}
        whole = saved(source, transparency=0, icc_profile=b"x" * 200, **options)
        names = [b"IHDR", b"PLTE", b"tRNS", b"pHYs", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"IDAT"]
        draw = random.Random(3)
        outcomes = set()
        for _ in range(1500):
            parts = chunks(whole)
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(len(parts))
                name, body = parts[at]
                parts[at] = draw.choice(
                    [
                        (name, body[: draw.randint(0, len(body))]),
                        (draw.choice(names), body),
                        (name, draw.randbytes(draw.randint(0, 30))),
                        parts[draw.randrange(len(parts))],
                    ]
                )
            try:
                outcomes.add(open_image(whole[:8] + b"".join(chunk(*part) for part in parts)).pixels.dtype.name)
            except MediaError as error:
                outcomes.add(error.code)
        assert outcomes == {"uint8", "invalid_media"}
