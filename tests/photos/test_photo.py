import io
import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from deployments.types import Photo
from loadtest.bench.photos.heic import heic_grid
from serve_app.errors import ImageUrlError
from serve_app.photos import decode as photo
from serve_app.photos.decode import PhotoSettings, decode_photo, pack_photo, unpack_photo
from tests.support.heic import heic

# pytest puts its own filters in place of the module's; a test below shows that the module's work.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

LIMITS = PhotoSettings()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels(data: bytes, limits: PhotoSettings = LIMITS) -> np.ndarray:
    return decode_photo(data, limits).pixels


def reason(data: bytes, limits: PhotoSettings = LIMITS) -> str:
    with pytest.raises(ImageUrlError) as caught:
        decode_photo(data, limits)
    return caught.value.data["reason"]


def quadrants(width: int = 64, height: int = 32) -> Image.Image:
    """Red, green / blue, white."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def corners(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The colours of the four quadrants: upper left, upper right, lower left, lower right."""
    height, width = picture.shape[:2]
    at = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [tuple(int(value) for value in picture[y, x]) for y, x in at]


def assert_close(found: Any, expected: Any, within: int) -> None:
    assert np.abs(np.asarray(found, np.int32) - np.asarray(expected, np.int32)).max() <= within


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


# Formats and modes


@pytest.mark.parametrize(
    ("image_format", "options", "within"),
    [
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 8),
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("JPEG", {"quality": 95, "progressive": True}, 4),
    ],
)
def test_every_format_gives_the_colours_of_the_picture(image_format, options, within):
    picture = pixels(encoded(quadrants(), image_format, **options))
    assert picture.shape == (32, 64, 3)
    assert picture.dtype == np.uint8
    assert_close(corners(picture), [RED, GREEN, BLUE, WHITE], within)


def test_the_pixels_cannot_be_written():
    assert not pixels(encoded(quadrants(), "PNG")).flags.writeable


GREY = Image.new("L", (32, 32), 100)
HALF_RED = Image.new("RGBA", (32, 32), (255, 0, 0, 51))  # a fifth of red over white
PALETTE = quadrants().quantize(4)
KEYED = Image.new("P", (32, 32), 1)
KEYED.putpalette([*RED, *GREEN, *BLUE])


@pytest.mark.parametrize(
    ("image", "options", "colour"),
    [
        (GREY, {}, (100, 100, 100)),
        (Image.new("1", (32, 32), 1), {}, WHITE),
        (Image.new("1", (32, 32), 0), {}, (0, 0, 0)),
        (Image.new("LA", (32, 32), (100, 255)), {}, (100, 100, 100)),
        (Image.new("LA", (32, 32), (0, 0)), {}, WHITE),
        (HALF_RED, {}, (255, 204, 204)),
        (Image.new("RGBA", (32, 32), (9, 9, 9, 0)), {}, WHITE),
        (KEYED, {}, GREEN),
        (KEYED, {"transparency": 1}, WHITE),
        (KEYED, {"transparency": 0}, GREEN),
        (KEYED, {"transparency": bytes([255, 51, 255])}, (204, 255, 204)),
        (GREY, {"transparency": 100}, WHITE),
        (Image.new("RGB", (32, 32), BLUE), {"transparency": BLUE}, WHITE),
        (Image.new("I;16", (32, 32), 100 * 257), {}, (100, 100, 100)),
        (Image.new("I;16", (32, 32), 65535), {}, WHITE),
        (Image.new("I;16", (32, 32), 300), {}, (1, 1, 1)),
    ],
)
def test_every_mode_of_png_gives_its_colour(image, options, colour):
    assert_close(pixels(encoded(image, "PNG", **options)), colour, 1)


@pytest.mark.parametrize(
    ("colour_type", "channels", "colour"),
    [
        (0, [100], (100, 100, 100)),
        (2, [100, 150, 200], (100, 150, 200)),
        (4, [100, 255], (100, 100, 100)),
        (6, [100, 150, 200, 255], (100, 150, 200)),
        (6, [100, 150, 200, 0], WHITE),
    ],
)
def test_a_png_of_16_bits_a_channel_keeps_its_colour(colour_type, channels, colour):
    pixel = struct.pack(f">{len(channels)}H", *(value * 257 for value in channels))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 16, colour_type, 0, 0, 0))
    rows = zlib.compress((b"\0" + pixel * 32) * 32)
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    assert_close(pixels(data), colour, 1)


def test_a_16_bit_grey_ramp_keeps_its_steps():
    ramp = (np.arange(256, dtype=np.uint16) * 257)[None, :].repeat(64, axis=0)
    picture = pixels(encoded(Image.fromarray(ramp), "PNG"))
    assert_close(picture[0, :, 0], np.arange(256), 0)


def test_a_palette_picture_keeps_its_colours():
    assert_close(corners(pixels(encoded(PALETTE, "PNG"))), [RED, GREEN, BLUE, WHITE], 2)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_transparent_webp_lies_on_white(lossless):
    assert_close(pixels(encoded(HALF_RED, "WEBP", lossless=lossless)), (255, 204, 204), 4)


def test_grey_and_cmyk_jpegs_keep_their_colours():
    assert_close(pixels(encoded(GREY, "JPEG", quality=95)), (100, 100, 100), 2)
    # Pillow writes the inverted values that Adobe's programs write, and marks them so.
    cmyk = encoded(quadrants().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in cmyk
    assert_close(corners(pixels(cmyk)), [RED, GREEN, BLUE, WHITE], 6)


def test_only_the_first_frame_is_used():
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN, BLUE)]
    for image_format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
        assert_close(pixels(data), RED, 0)
    assert_close(pixels(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])), RED, 4)


def test_a_stored_photo_keeps_its_pixels_and_warnings():
    stored = Photo(np.asarray(quadrants()), warnings=("clipped", "first_frame"))
    again = unpack_photo(pack_photo(stored))
    assert np.array_equal(again.pixels, stored.pixels)
    assert again.warnings == stored.warnings
    assert unpack_photo(pack_photo(Photo(stored.pixels))).warnings == ()


# Colour profiles


def swapped_profile() -> bytes:
    """sRGB with the tags of red and green swapped: a picture under it shows green for red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_colour_profile_is_applied(image_format):
    options = {"lossless": True} if image_format == "WEBP" else {"quality": 95, "subsampling": 0}
    options = {} if image_format == "PNG" else options
    data = encoded(quadrants(), image_format, icc_profile=swapped_profile(), **options)
    assert_close(corners(pixels(data)), [GREEN, RED, BLUE, WHITE], 8)


@pytest.mark.parametrize("profile", [b"x", b"\0" * 128, swapped_profile()[:200], b"\xff" * 5000])
def test_a_damaged_colour_profile_is_ignored(profile):
    data = encoded(quadrants(), "PNG", icc_profile=profile)
    assert_close(corners(pixels(data)), [RED, GREEN, BLUE, WHITE], 0)


def test_a_colour_profile_for_other_channels_is_ignored():
    data = encoded(GREY, "PNG", icc_profile=swapped_profile())
    assert_close(pixels(data), (100, 100, 100), 0)


# Upright


def exif(orientation: Any) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, [RED, GREEN, BLUE, WHITE]),
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_a_photo_is_turned_upright(image_format, orientation, turned):
    options = {"quality": 95, "subsampling": 0} if image_format == "JPEG" else {}
    options = {"lossless": True} if image_format == "WEBP" else options
    picture = pixels(encoded(quadrants(), image_format, exif=exif(orientation), **options))
    assert picture.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    assert_close(corners(picture), turned, 8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
        exif(0),
        exif(9),
        exif(65535),
        exif(6)[:-10],
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\x7f\x10\0\0\0\0\0\0\0",
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_wrong_exif_leaves_the_photo_as_it_is(image_format, data):
    assert pixels(encoded(quadrants(), image_format, exif=data)).shape == (32, 64, 3)


# Size


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((1536, 1536), (1536, 1536)),
        ((1537, 1537), (1536, 1536)),
        ((3000, 2000), (1536, 1024)),
        ((2000, 4000), (768, 1536)),
        ((4700, 1000), (1536, 327)),
        ((100, 50), (100, 50)),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_large_photo_is_shrunk_to_fit_and_a_small_one_is_not_enlarged(image_format, size, fitted):
    picture = pixels(encoded(quadrants(*size), image_format))
    assert picture.shape == (fitted[1], fitted[0], 3)
    assert_close(corners(picture), [RED, GREEN, BLUE, WHITE], 4)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
def test_a_photo_of_many_bands_is_shrunk_without_seams(mode, monkeypatch):
    monkeypatch.setattr(photo, "BAND_PIXELS", 5_000)
    gradient = np.linspace(0, 255, 1000).astype(np.uint8)[:, None].repeat(700, axis=1)
    image = Image.fromarray(gradient.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(gradient)
    if mode not in ("I;16", "1"):
        image = image.convert(mode)
    if mode == "1":
        image = image.point(lambda value: 255 if value > 127 else 0, mode="1")
    picture = pixels(encoded(image, "PNG"), PhotoSettings(max_side=300)).astype(np.int32)
    assert picture.shape == (300, 210, 3)
    assert (np.diff(picture[:, 100, 0]) >= 0).all() or mode == "1"
    if mode != "1":
        assert_close(picture[:, 100, 0], np.linspace(0, 255, 300), 3)


def test_a_large_jpeg_is_decoded_at_a_reduced_scale(monkeypatch):
    sizes = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: sizes.append(image.size) or load(image))
    assert pixels(encoded(quadrants(2000, 1000), "JPEG"), PhotoSettings(max_side=400)).shape == (200, 400, 3)
    assert sizes[0] == (500, 250)  # a quarter, the smallest that is not below the size asked for


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_too_many_pixels_are_refused_from_the_header(image_format, monkeypatch):
    limits = PhotoSettings(max_pixels=2048, max_webp_pixels=2048, max_jpeg_pixels=2048)
    assert pixels(encoded(quadrants(64, 32), image_format), limits).shape == (32, 64, 3)
    data = encoded(quadrants(64, 33), image_format)
    monkeypatch.setattr(photo, "_decoded", None)  # nothing is decoded any more
    assert reason(data, limits) == "too_many_pixels"


def test_webp_has_its_own_lower_limit():
    limits = PhotoSettings(max_pixels=10_000, max_webp_pixels=100)
    assert pixels(encoded(quadrants(), "PNG"), limits).shape == (32, 64, 3)
    assert reason(encoded(quadrants(), "WEBP"), limits) == "too_many_pixels"


def bomb(width: int, height: int) -> bytes:
    return png_header(width, height) + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(7100, 7100), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused(size):
    assert reason(bomb(*size)) == "too_many_pixels"


def test_no_warning_of_the_decoder_is_printed(tmp_path):
    pictures = [bomb(10_000, 10_000), encoded(quadrants(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")]
    for index, picture in enumerate(pictures):
        (tmp_path / str(index)).write_bytes(picture)
    program = f"""
import pathlib, sys
from serve_app.photos.decode import ImageUrlError, PhotoSettings, decode_photo
for path in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()):
    try:
        print(decode_photo(path.read_bytes(), PhotoSettings()).pixels.shape)
    except ImageUrlError as error:
        print(error.data["reason"])
"""
    # A process of its own, because pytest replaces the filters for warnings.
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["too_many_pixels", "(32, 64, 3)"]
    assert "PIL" not in done.stderr


@pytest.mark.parametrize("size", [(15, 15), (100, 15), (1, 1), (40_000, 100)])
def test_a_photo_too_small_or_too_narrow_is_refused(size):
    assert reason(encoded(Image.new("L", size), "PNG")) == "too_small"


def test_the_smallest_photo_passes():
    assert pixels(encoded(quadrants(16, 16), "PNG")).shape == (16, 16, 3)


# Hostile bytes


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PDF", "EPS", "ICNS", "JPEG2000"])
def test_other_formats_are_not_decoded(image_format):
    assert reason(encoded(quadrants(64, 64), image_format)) == "not_an_image"


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\xff\xd8\xff", b"\0" * 1000]
)
def test_what_is_not_a_picture_is_refused(data):
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_photo_cut_in_half_is_broken(image_format):
    noise = Image.effect_noise((200, 200), 80).convert("RGB")
    data = encoded(noise, image_format)
    assert reason(data[: len(data) // 2]) in ("broken", "not_an_image")


def test_a_jpeg_of_many_scans_is_refused():
    data = encoded(quadrants(), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert pixels(data[:-2] + last_scan * 20 + b"\xff\xd9").shape == (32, 64, 3)
    assert reason(data[:-2] + last_scan * 100 + b"\xff\xd9") == "broken"


@pytest.mark.parametrize(
    "hidden_by",
    [b"", b"\xff\xd0", b"\xff\xd9", b"\xff\x01", b"\xff\xff\xff", b"\xff\xc8\xff\xff", b"\xff\xf0\xff\xff", b"junk"],
)
def test_a_jpeg_of_many_segments_is_refused(hidden_by):
    data = encoded(quadrants(), "JPEG")
    segment = b"\xff\xe1\x00\x09Exif\0\0x"
    assert pixels(data[:2] + segment * 100 + data[2:]).shape == (32, 64, 3)
    with pytest.raises(
        ImageUrlError, match="no picture that can be read" if hidden_by == b"junk" else "too many parts"
    ):
        decode_photo(data[:2] + hidden_by + segment * 2000 + data[2:], LIMITS)


def test_a_jpeg_followed_by_a_film_still_decodes():
    film = random.Random(1).randbytes(5_000_000)  # as phones append it
    assert pixels(encoded(quadrants(), "JPEG") + film).shape == (32, 64, 3)


@pytest.mark.parametrize(
    ("chunk", "count"), [(png_chunk(b"iCCP", b"x\0\0" + zlib.compress(b"x")), 2), (png_chunk(b"prVt", b""), 20_000)]
)
def test_a_png_of_many_chunks_is_refused(chunk, count):
    data = encoded(quadrants(), "PNG")
    assert pixels(data[:33] + chunk + data[33:]).shape == (32, 64, 3)
    assert reason(data[:33] + chunk * count + data[33:]) == "broken"


@pytest.mark.parametrize("error", photo.DECODE_ERRORS)
def test_whatever_a_decoder_throws_is_a_broken_picture(error, monkeypatch):
    def fail(image: Image.Image) -> None:
        raise error("secret")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(ImageUrlError) as caught:
        decode_photo(encoded(quadrants(), "PNG"), LIMITS)
    assert caught.value.data["reason"] in ("broken", "too_many_pixels")
    assert "secret" not in repr(caught.value.data)


SEEDS = [
    encoded(quadrants(), "JPEG", exif=exif(6), icc_profile=swapped_profile()),
    encoded(quadrants(), "JPEG", progressive=True),
    encoded(quadrants().convert("CMYK"), "JPEG"),
    encoded(quadrants(), "PNG", exif=exif(6), icc_profile=swapped_profile()),
    encoded(PALETTE, "PNG", transparency=1),
    encoded(HALF_RED, "PNG"),
    encoded(Image.new("I;16", (32, 32), 999), "PNG"),
    encoded(quadrants(), "PNG", save_all=True, append_images=[quadrants()]),
    encoded(quadrants(), "WEBP", exif=exif(6), icc_profile=swapped_profile()),
    encoded(HALF_RED, "WEBP", lossless=True),
    encoded(quadrants(), "MPO", save_all=True, append_images=[quadrants()]),
    encoded(quadrants(), "AVIF", exif=exif(6), icc_profile=swapped_profile()),
    heic("quadrants-turned"),
    heic_grid(heic("quadrants-profile"), 2, 2),
]


def decodes_or_is_refused(data: bytes) -> None:
    with suppress(ImageUrlError):
        picture = pixels(data)
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert max(picture.shape) <= LIMITS.max_side


@pytest.mark.parametrize("original", SEEDS)
def test_damaged_pictures_decode_or_are_refused(original):
    chance = random.Random(original)
    for _ in range(40):
        decodes_or_is_refused(original[: chance.randrange(len(original))])
        flipped = bytearray(original)
        for _ in range(chance.randint(1, 20)):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        decodes_or_is_refused(bytes(flipped))
        # Most of what a header says stands in the first bytes.
        header = bytearray(original)
        header[chance.randrange(min(80, len(header)))] = chance.randrange(256)
        decodes_or_is_refused(bytes(header))


def with_right_checksums(png: bytes) -> bytes:
    """A PNG decoder stops at a wrong checksum; damage behind right ones goes deeper."""
    fixed, at = png[:8], 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        fixed += png_chunk(png[at + 4 : at + 8], png[at + 8 : at + 8 + length])
        at += 12 + length
    return fixed


@pytest.mark.parametrize("original", [seed for seed in SEEDS if seed.startswith(b"\x89PNG")])
def test_damaged_pngs_with_right_checksums_decode_or_are_refused(original):
    chance = random.Random(original)
    for _ in range(60):
        flipped = bytearray(original)
        for _ in range(chance.randint(1, 4)):
            flipped[chance.randrange(16, len(flipped))] ^= 1 << chance.randrange(8)
        decodes_or_is_refused(with_right_checksums(bytes(flipped)))


MAGIC = st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xc0", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X"])


@settings(max_examples=200, deadline=None)
@given(MAGIC, st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(magic, data):
    decodes_or_is_refused(magic + data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_pictures_spliced_into_each_other_decode_or_are_refused(original, data):
    other = data.draw(st.sampled_from(SEEDS))
    cut, start = data.draw(st.integers(0, len(original))), data.draw(st.integers(0, len(other)))
    decodes_or_is_refused(original[:cut] + other[start:] + original[cut:])


def test_threads_do_not_disturb_each_other():
    seeds = SEEDS * 8
    expected = [pixels(seed) for seed in SEEDS] * 8
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(pixels, seeds), expected, strict=True):
            assert np.array_equal(found, wanted)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="extra"):
        PhotoSettings(max_size=1)
