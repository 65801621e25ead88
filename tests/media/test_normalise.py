from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from media import normalise
from media.image import open_image
from media.normalise import MAX_PROFILE_BYTES, Change
from tests.media.pictures import chunk, gradient, png, press_profile, saved, swap_red_and_blue

ON_WHITE = Change("transparent", "laid on white", "models take no transparency")
UNUSED = Change("a colour profile", "sRGB", "the colour profile cannot be used")
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_scaled_not_clipped(colour: int, channels: int) -> None:
    opaque = [0xFFFF] if colour in (4, 6) else []
    values = [[level] * (channels - len(opaque)) + opaque for level in (0x0000, 0x4000, 0x8000, 0xFFFF)]
    row = b"\0" + b"".join(struct.pack(f">{channels}H", *pixel) for pixel in values)
    assert open_image(png(4, 1, 16, colour, row)).pixels[0, :, 0].tolist() == [0, 64, 128, 255]


def test_cmyk_jpegs_keep_their_colours() -> None:
    source = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    red, green, blue = open_image(saved(source, "JPEG", quality=95)).pixels[8, 8].tolist()
    assert red > 180
    assert max(green, blue) < 60


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_it_upright(orientation: int, kind: str) -> None:
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
def test_broken_exif_is_no_reason_to_refuse(kind: str, exif: bytes) -> None:
    data = saved(Image.fromarray(gradient()), kind, exif=exif)
    assert open_image(data).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    source = Image.new("RGBA", (30, 10), (255, 0, 0, 255))
    source.paste((0, 0, 0, 0), (10, 0, 20, 10))
    source.paste((0, 0, 0, 128), (20, 0, 30, 10))
    pixels = open_image(saved(source, kind, lossless=True)).pixels
    assert pixels[5, [5, 15, 25]].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]


def test_transparent_palette_and_colour_keys_too() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    pixels = open_image(saved(palette, transparency=0)).pixels
    assert pixels[0, :2].tolist() == [[255, 255, 255], [200, 100, 50]]
    keyed = Image.new("RGB", (2, 1), (9, 9, 9))
    keyed.putpixel((1, 0), (8, 8, 8))
    assert open_image(saved(keyed, transparency=(9, 9, 9))).pixels[0].tolist() == [[255] * 3, [8] * 3]


def test_a_transparent_level_of_sixteen_bits() -> None:
    row = b"\0" + struct.pack(">3H", 0x8000, 0x8001, 0x4000)
    keyed = png(3, 1, 16, 0, row, chunk(b"tRNS", struct.pack(">H", 0x8001)))
    assert open_image(keyed).pixels[0, :, 0].tolist() == [128, 255, 64]


def test_profiles_are_converted_to_srgb() -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = open_image(saved(Image.fromarray(gradient()), icc_profile=lab)).pixels.astype(int)
    assert np.abs(same - gradient()).max() <= 2
    swapped = swap_red_and_blue(lab)
    red = open_image(saved(Image.new("RGB", (4, 4), (250, 10, 10)), icc_profile=swapped)).pixels[0, 0]
    assert red[2] > 200
    assert red[0] < 60


@pytest.mark.parametrize("profile", [b"\0", b"not a profile at all" * 20, b"\0" * 128])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_an_unreadable_profile_counts_as_none(profile: bytes, mode: str) -> None:
    source = Image.fromarray(gradient()).convert(mode)
    with_profile = open_image(saved(source, icc_profile=profile)).pixels
    assert (with_profile == open_image(saved(source)).pixels).all()


def test_a_profile_of_another_colour_space_counts_as_none() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = Image.fromarray(gradient()).convert("L")
    assert (open_image(saved(source, icc_profile=profile)).pixels == open_image(saved(source)).pixels).all()


@pytest.mark.parametrize(("depth", "row"), [(2, [0b00011011]), (4, [0x05, 0xAF])])
def test_a_transparent_level_of_few_bits(depth: int, row: list[int]) -> None:
    keyed = png(
        4, 1, depth, 0, bytes([0, *row]), chunk(b"tRNS", struct.pack(">H", (1 << depth) - 2 if depth == 2 else 10))
    )
    assert open_image(keyed).pixels[0, :, 0].tolist() == [0, 85, 255, 255]


def test_a_transparent_colour_of_sixteen_bits_is_found_by_its_upper_eight() -> None:
    row = b"\0" + struct.pack(">9H", *[0x8000] * 3, *[0x0080] * 3, *[0x4000] * 3)
    keyed = png(3, 1, 16, 2, row, chunk(b"tRNS", struct.pack(">3H", *[0x8000] * 3)))
    assert open_image(keyed).pixels[0, :, 0].tolist() == [255, 0, 64]


def test_what_was_lost_is_told() -> None:
    opaque = Image.fromarray(gradient()).convert("RGBA")
    assert open_image(saved(opaque)).changes == ()
    glass = opaque.copy()
    glass.putpixel((0, 0), (1, 2, 3, 254))
    assert open_image(saved(glass)).changes == (ON_WHITE,)
    assert open_image(saved(opaque, icc_profile=SRGB)).changes == ()
    assert open_image(saved(glass, icc_profile=b"x" * 200)).changes == (ON_WHITE, UNUSED)


def test_a_profile_too_large_to_be_one_counts_as_none() -> None:
    source = Image.fromarray(gradient())
    large = swap_red_and_blue(SRGB) + bytes(MAX_PROFILE_BYTES)
    picture = open_image(saved(source, "WEBP", lossless=True, icc_profile=large))
    assert (picture.pixels == gradient()).all()
    assert picture.changes == (UNUSED,)


def test_a_profile_that_is_srgb_leaves_every_level_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    assert (open_image(saved(Image.fromarray(noise), icc_profile=SRGB)).pixels == noise).all()
    monkeypatch.setattr(normalise, "_changes_nothing", lambda *_: False)
    converted = open_image(saved(Image.fromarray(noise), icc_profile=SRGB)).pixels
    assert np.abs(converted.astype(int) - noise).max() <= 2


def test_grey_by_its_profile() -> None:
    """A grey profile of gamma 1 (ICC.1:2001-04, grayTRCTag): the middle of linear light is a light grey of sRGB."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"kTRC", 156, len(curve), b"wtpt", 156 + len(curve), len(white))
    whole = table + curve + white
    head = struct.pack(">I4sI4s4s4s", 128 + len(whole), bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    profile = head + bytes(128 - len(head)) + whole
    for mode in ("L", "LA"):
        pixels = open_image(saved(Image.new("L", (4, 4), 128).convert(mode), icc_profile=profile)).pixels
        assert pixels[0, 0].tolist() == pytest.approx([188, 188, 188], abs=2)


def test_cmyk_by_its_profile() -> None:
    source = Image.new("CMYK", (16, 16), (200, 0, 0, 0))
    plain = open_image(saved(source, "JPEG")).pixels[8, 8]
    assert plain[0] < 80
    picture = open_image(saved(source, "JPEG", icc_profile=press_profile()))
    assert picture.changes == ()
    red, green, blue = picture.pixels[8, 8].tolist()
    assert red > 120
    assert max(green, blue) < 40


def test_ycck_is_adobe_s_too() -> None:
    """Transform 2 of Adobe's marker says that C, M and Y went through the matrix of YCbCr, inverted like all of them."""
    inks = np.array([30, 200, 90], np.uint8)
    ycc = Image.fromarray(inks.reshape(1, 1, 3)).convert("YCbCr").resize((16, 16))
    luma, blue, red = (255 - np.asarray(ycc)[..., channel] for channel in range(3))
    stored = Image.merge("CMYK", [*map(Image.fromarray, (luma, blue, red)), Image.new("L", (16, 16), 0)])
    data = bytearray(saved(stored, "JPEG", quality=100, subsampling=0))
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2
    assert open_image(bytes(data)).pixels[8, 8].tolist() == pytest.approx((255 - inks).tolist(), abs=4)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_make_the_whole(mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = Image.fromarray(gradient()[..., 1])
    source = Image.fromarray(gradient())
    source.putalpha(alpha)
    image = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257) if mode == "I;16" else source.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, "JPEG" if mode == "CMYK" else "PNG", exif=exif)
    whole = open_image(data)
    monkeypatch.setattr(normalise, "_STRIP_PIXELS", 64 * 5)
    assert (open_image(data).pixels == whole.pixels).all()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert whole.pixels.shape == (upright.height, upright.width, 3)
    if mode in {"1", "L", "RGB"}:
        assert (whole.pixels == np.asarray(upright.convert("RGB"))).all()


PEAK = """
import sys
from pathlib import Path
from media.image import open_image

def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

small, large = (Path(name).read_bytes() for name in sys.argv[1:])
open_image(small)
before = peak()
picture = open_image(large)
print((peak() - before) / picture.pixels[..., 0].size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("JPEG", {}, 8),
        ("JPEG", {"progressive": True, "subsampling": 0}, 11),
        ("PNG", {"compress_level": 1, "icc_profile": swap_red_and_blue(SRGB)}, 8),
        ("WEBP", {"method": 0}, 17),
    ],
)
def test_memory_stays_below_what_is_stated(kind: str, options: dict[str, object], most: int, tmp_path: Path) -> None:
    for name, size in (("small", (64, 64)), ("large", (4000, 3000))):
        (tmp_path / name).write_bytes(saved(Image.fromarray(gradient(*size)), kind, **options))
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 3 < float(run.stdout) < most
