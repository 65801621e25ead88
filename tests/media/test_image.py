from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from media.errors import InvalidMedia, MediaError, UnsupportedMedia
from media.image import MIME_TYPES, Format, encode, open_image, sniff

FORMATS: list[Format] = ["webp", "png", "jpg"]
Pixels = npt.NDArray[np.uint8]


def gradient(width: int = 64, height: int = 48) -> Pixels:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = 128
    return pixels


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


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

    @pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
    def test_sixteen_bits_are_scaled_not_clipped(self, colour: int, channels: int) -> None:
        opaque = [0xFFFF] if colour in (4, 6) else []
        values = [[level] * (channels - len(opaque)) + opaque for level in (0x0000, 0x4000, 0x8000, 0xFFFF)]
        row = b"\0" + b"".join(struct.pack(f">{channels}H", *pixel) for pixel in values)
        assert open_image(png(4, 1, 16, colour, row)).pixels[0, :, 0].tolist() == [0, 64, 128, 255]

    def test_cmyk_jpegs_keep_their_colours(self) -> None:
        source = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
        red, green, blue = open_image(saved(source, "JPEG", quality=95)).pixels[8, 8].tolist()
        assert red > 180
        assert max(green, blue) < 60

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_exif_turns_it_upright(self, orientation: int, kind: str) -> None:
        # The mark lies in the stored picture where each orientation puts the upright picture's top left corner.
        upright = Image.new("RGB", (64, 32), "black")
        upright.paste("white", (0, 0, 16, 16))
        stored = {
            1: [],
            2: [Image.Transpose.FLIP_LEFT_RIGHT],
            3: [Image.Transpose.ROTATE_180],
            4: [Image.Transpose.FLIP_TOP_BOTTOM],
            5: [Image.Transpose.TRANSPOSE],
            6: [Image.Transpose.ROTATE_90],
            7: [Image.Transpose.TRANSVERSE],
            8: [Image.Transpose.ROTATE_270],
        }[orientation]
        image = upright
        for method in stored:
            image = image.transpose(method)
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = open_image(saved(image, kind, exif=exif)).pixels
        assert pixels.shape == (32, 64, 3)
        assert pixels[8, 8].min() > 200
        assert pixels[24, 56].max() < 50

    @pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xffgarbage", b"Exif\0\0nonsense", b"Exif\0\0MM"])
    def test_broken_exif_is_no_reason_to_refuse(self, kind: str, exif: bytes) -> None:
        data = saved(Image.fromarray(gradient()), kind, exif=exif)
        assert open_image(data).pixels.shape == (48, 64, 3)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_transparency_is_laid_on_white(self, kind: str) -> None:
        source = Image.new("RGBA", (30, 10), (255, 0, 0, 255))
        source.paste((0, 0, 0, 0), (10, 0, 20, 10))
        source.paste((0, 0, 0, 128), (20, 0, 30, 10))
        pixels = open_image(saved(source, kind, lossless=True)).pixels
        assert pixels[5, [5, 15, 25]].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]

    def test_transparent_palette_and_colour_keys_too(self) -> None:
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([10, 20, 30, 200, 100, 50])
        palette.putpixel((1, 0), 1)
        pixels = open_image(saved(palette, transparency=0)).pixels
        assert pixels[0, :2].tolist() == [[255, 255, 255], [200, 100, 50]]
        keyed = Image.new("RGB", (2, 1), (9, 9, 9))
        keyed.putpixel((1, 0), (8, 8, 8))
        assert open_image(saved(keyed, transparency=(9, 9, 9))).pixels[0].tolist() == [[255] * 3, [8] * 3]

    def test_a_transparent_level_of_sixteen_bits(self) -> None:
        whole = png(3, 1, 16, 0, b"\0" + struct.pack(">3H", 0x8000, 0x8001, 0x4000))
        keyed = whole[:33] + chunk(b"tRNS", struct.pack(">H", 0x8001)) + whole[33:]
        assert open_image(keyed).pixels[0, :, 0].tolist() == [128, 255, 64]

    def test_profiles_are_converted_to_srgb(self) -> None:
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        same = open_image(saved(Image.fromarray(gradient()), icc_profile=lab)).pixels.astype(int)
        assert np.abs(same - gradient()).max() <= 2
        swapped = swap_red_and_blue(lab)
        red = open_image(saved(Image.new("RGB", (4, 4), (250, 10, 10)), icc_profile=swapped)).pixels[0, 0]
        assert red[2] > 200
        assert red[0] < 60

    @pytest.mark.parametrize("profile", [b"\0", b"not a profile at all" * 20, b"\0" * 128])
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    def test_an_unreadable_profile_counts_as_none(self, profile: bytes, mode: str) -> None:
        source = Image.fromarray(gradient()).convert(mode)
        with_profile = open_image(saved(source, icc_profile=profile)).pixels
        assert (with_profile == open_image(saved(source)).pixels).all()

    def test_a_profile_of_another_colour_space_counts_as_none(self) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        source = Image.fromarray(gradient()).convert("L")
        assert (open_image(saved(source, icc_profile=profile)).pixels == open_image(saved(source)).pixels).all()

    def test_phones_multi_picture_jpegs_and_animations_give_their_first(self) -> None:
        first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
        for kind, options in [("MPO", {}), ("PNG", {}), ("WEBP", {"lossless": True})]:
            data = saved(first, kind, save_all=True, append_images=[second], **options)
            assert open_image(data).pixels[8, 8, 0] > 240


def swap_red_and_blue(profile: bytes) -> bytes:
    """An RGB profile whose red and blue primaries have changed places."""
    count = struct.unpack_from(">I", profile, 128)[0]
    table = bytearray(profile)
    for index in range(count):
        at = 132 + 12 * index
        name = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(bytes(table[at : at + 4]))
        if name:
            table[at : at + 4] = name
    return bytes(table)


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

    @pytest.mark.parametrize(("width", "height"), [(8_000, 8_000), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 1)])
    def test_a_bomb_is_refused_by_its_header(self, width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
        with pytest.raises(InvalidMedia):
            open_image(png(width, height, 8, 2, b"\0" * 1000))

    @pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5)])
    def test_a_picture_without_pixels_is_invalid(self, width: int, height: int) -> None:
        with pytest.raises(InvalidMedia):
            open_image(png(width, height, 8, 2, b""))

    def test_bombs_in_jpeg_and_webp_headers(self) -> None:
        jpeg = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG"))
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
        webp = bytearray(saved(Image.new("RGBA", (8, 8), (1, 2, 3, 4)), "WEBP", lossless=False))
        at = webp.index(b"VP8X")
        webp[at + 12 : at + 18] = b"\xff\x3f\0\xff\x3f\0"
        for data in (bytes(jpeg), bytes(webp)):
            with pytest.raises(InvalidMedia):
                open_image(data)

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


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """The name and the body of each chunk of a PNG."""
    found = []
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found
