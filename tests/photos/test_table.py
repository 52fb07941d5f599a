"""Files as people send them, and what becomes of each: one line a case.

A new case is a line in a table: a name, the bytes, and the colours of the four quadrants of what is decoded, or what is
said of a file that is no photo.
"""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loadtest.bench.photos.heic import TILE, heic_grid
from serve_app.errors import ImageUrlError
from serve_app.photos.decode import PhotoSettings, decode_photo
from serve_app.photos.sample import sample_photo
from serve_app.sandbox.process import LargePictureError
from tests.support.heic import heic
from tests.support.hostile_pictures import chunk, encoded, exif, header, srgb

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

LIMITS = PhotoSettings()
RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (100, 100, 100)
UPRIGHT = [RED, GREEN, BLUE, WHITE]
BLACK = Image.new("RGB", (128, 64))
TURNED = [BLUE, RED, WHITE, GREEN]  # by a quarter to the right, as orientation 6 asks for
SWAPPED = [GREEN, RED, BLUE, WHITE]  # under a profile that has red and green swapped
IN_P3, IN_2020 = (215, 93, 31), (241, 76, 29)  # what (200, 100, 50) in these is in sRGB
PINK = [(255, 204, 204)] * 4


def quadrants(width: int = 128, height: int = 64) -> Image.Image:
    """Red, green / blue, white."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def avif(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "AVIF", quality=95, subsampling="4:4:4", **options)


def swapped_profile() -> bytes:
    profile = bytearray(srgb())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def in_primaries(number: int, data: bytes) -> bytes:
    """The same file, said to have other primaries (H.273) than sRGB."""
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", number, 13) + data[at + 4 :]


def with_text(kind: bytes, body: bytes) -> bytes:
    png = encoded(quadrants(), "PNG")
    return png[:33] + chunk(kind, body) + png[33:]


def raw_profile(data: bytes) -> bytes:
    """EXIF in a packed text, as ImageMagick writes it."""
    return b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n" % len(data) + data.hex().encode())


def person(side: int = 512) -> Image.Image:
    return Image.open(sample_photo()).convert("RGB").resize((side, side))


def clipped(share: float, **options: Any) -> bytes:
    """The sample photo as a JPEG without its last bytes."""
    data = encoded(person(), "JPEG", quality=90, **options)
    return data[: int(len(data) * share)]


def after_its_first_scan(progressive: bytes) -> bytes:
    """A progressive JPEG that ends in the middle of its second scan."""
    second = progressive.index(b"\xff\xda", progressive.index(b"\xff\xda") + 2)
    return progressive[: second + 200]


def packed(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return file.getvalue()


BOMB = zlib.compress(bytes(30_000_000))

PHOTOS: list[tuple[str, Callable[[], bytes], list[tuple[int, int, int]]]] = [
    ("avif", lambda: avif(quadrants()), UPRIGHT),
    ("avif, grey", lambda: avif(Image.new("L", (64, 64), 100)), [GREY] * 4),
    ("avif, a fifth of red over white", lambda: avif(Image.new("RGBA", (64, 64), (255, 0, 0, 51))), PINK),
    ("avif, turned: irot alone", lambda: avif(quadrants(), exif=exif(6)), TURNED),
    ("avif, with a profile", lambda: avif(quadrants(), icc_profile=swapped_profile()), SWAPPED),
    ("avif, in Display P3", lambda: in_primaries(12, avif(Image.new("RGB", (64, 64), (200, 100, 50)))), [IN_P3] * 4),
    ("avif, in BT.2020", lambda: in_primaries(9, avif(Image.new("RGB", (64, 64), (200, 100, 50)))), [IN_2020] * 4),
    ("heic, in Display P3, grey", lambda: in_primaries(12, heic("grey")), [GREY] * 4),
    ("avif, of several frames", lambda: avif(quadrants(), save_all=True, append_images=[BLACK]), UPRIGHT),
    ("heic", lambda: heic("quadrants"), UPRIGHT),
    ("heic, 10 bits a channel", lambda: heic("quadrants-10-bit"), UPRIGHT),
    ("heic, turned: irot, and EXIF says it again", lambda: heic("quadrants-turned"), TURNED),
    ("heic, with a profile", lambda: heic("quadrants-profile"), SWAPPED),
    ("heic, grey", lambda: heic("grey"), [GREY] * 4),
    ("heic, a fifth of red over white", lambda: heic("fifth-of-red"), PINK),
    ("heic, of tiles", lambda: heic_grid(heic("quadrants"), 4, 2), [WHITE, WHITE, WHITE, WHITE]),
    ("heic, of tiles, turned", lambda: heic_grid(heic("quadrants"), 1, 1, turns=3), TURNED),
    ("png, 30 MB of packed text", lambda: with_text(b"zTXt", b"k\0\0" + BOMB), UPRIGHT),
    ("png, 30 MB of packed international text", lambda: with_text(b"iTXt", b"k\0\1\0\0\0" + BOMB), UPRIGHT),
    ("png, 5 MB of text", lambda: with_text(b"tEXt", b"parameters\0" + b"a girl, " * 600_000), UPRIGHT),
    ("png, text that is damaged", lambda: with_text(b"zTXt", b"k\0\0damaged"), UPRIGHT),
    ("png, turned, by EXIF in a text", lambda: with_text(b"zTXt", raw_profile(exif(6))), TURNED),
    ("jpeg followed by a film", lambda: encoded(quadrants(), "JPEG", subsampling=0) + bytes(1_000_000), UPRIGHT),
    ("jpeg of 60 megapixels", lambda: encoded(quadrants(10_000, 6000), "JPEG", quality=30, subsampling=0), UPRIGHT),
]  # fmt: skip

OTHERS: list[tuple[str, Callable[[], bytes], str]] = [
    ("web_page", lambda: b"<!doctype html><html><img src=me.jpg></html>", "a web page: send the picture itself"),
    ("web_page", lambda: b"\xef\xbb\xbf\r\n<HTML lang=en><head><title>Not found", "a web page"),
    ("web_page", lambda: b"<!-- saved from https://example.org --><html>", "a web page"),
    ("pdf", lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF: save the page"),
    ("pdf", lambda: b"\r\n%PDF-1.4\n", "a PDF"),
    ("pdf", lambda: encoded(quadrants(), "PDF"), "a PDF"),
    ("empty", lambda: b"", "an empty file: choose the photo again"),
    ("empty", lambda: b"\r\n", "an empty file"),
    ("empty", lambda: bytes(100_000)[:1000], "an empty file"),
    ("video", lambda: b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video: send one frame"),
    ("video", lambda: b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
    ("video", lambda: b"\x1a\x45\xdf\xa3\x01\0\0\0webm", "a video"),
    ("video", lambda: b"RIFF\x24\0\0\0AVI LIST" + bytes(100), "a video"),
    ("zip", lambda: packed("me.jpg"), "a ZIP archive: unpack it"),
    ("zip", lambda: packed("photos/1.png", "photos/2.png"), "a ZIP archive"),
    ("zip", lambda: packed(), "a ZIP archive"),
    ("office", lambda: packed("[Content_Types].xml", "word/document.xml"), "an Office document: save the photo in it"),
    ("office", lambda: packed("mimetype", "content.xml"), "an Office document"),
    ("office", lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an Office document"),
    ("archive", lambda: gzip.compress(encoded(quadrants(), "PNG")), "a compressed archive: unpack it"),
    ("archive", lambda: b"Rar!\x1a\x07\x01\0", "a compressed archive"),
    ("archive", lambda: b"7z\xbc\xaf\x27\x1c\0\4", "a compressed archive"),
    ("svg", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing: save it as JPEG or PNG"),
    ("svg", lambda: b"<?xml version='1.0'?>\n<!-- by hand -->\n<svg width='9'>", "an SVG drawing"),
    ("svg", lambda: b"<?xml version='1.0'?><!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN'><svg>", "an SVG drawing"),
    ("text", lambda: b'{"error": "not found"}', "a text: send the picture itself"),
    ("text", lambda: b"https://example.org/me.jpg", "a text"),
    ("text", lambda: b"me.jpg konnte nicht ge\xc3\xb6ffnet werden", "a text"),
    ("gif", lambda: encoded(quadrants(), "GIF"), "a GIF: save it as JPEG or PNG"),
    ("bmp", lambda: encoded(quadrants(), "BMP"), "a BMP picture"),
    ("tiff", lambda: encoded(quadrants(), "TIFF"), "a TIFF or a camera's raw file"),
    ("tiff", lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a TIFF or a camera's raw file"),
    ("jpeg_2000", lambda: encoded(quadrants(), "JPEG2000"), "a JPEG 2000 picture"),
    ("jpeg_xl", lambda: b"\xff\x0a" + bytes(range(100)), "a JPEG XL picture"),
    ("icon", lambda: encoded(quadrants(), "ICO"), "an icon"),
    ("sound", lambda: b"ID3\4\0\0\0\0\0\x21TSSE", "a sound"),
    ("program", lambda: b"\x7fELF\2\1\1\0" + bytes(100), "a program"),
    ("unknown", lambda: bytes(range(256)), "no picture that can be read: send it as JPEG, PNG, WebP, AVIF or HEIC"),
    ("unknown", lambda: b"\xff\xd8\xff", "no picture that can be read"),
]  # fmt: skip

CLIPPED: list[tuple[str, Callable[[], bytes], int]] = [  # and the least of 512 rows that are used
    ("98% of a JPEG", lambda: clipped(0.98), 487),
    ("99.9% of a JPEG", lambda: clipped(0.999), 487),
    ("98% of a grey JPEG", lambda: encoded(person().convert("L"), "JPEG")[:-200], 487),
    ("half of a progressive JPEG", lambda: clipped(0.5, progressive=True), 512),
    ("the first scan of a progressive JPEG", lambda: after_its_first_scan(clipped(1, progressive=True)), 512),
    ("90% of a progressive grey JPEG", lambda: encoded(person().convert("L"), "JPEG", progressive=True)[:-3000], 512),
]

TOO_SHORT: list[tuple[str, Callable[[], bytes]]] = [
    ("half of a JPEG", lambda: clipped(0.5)),
    ("90% of a JPEG", lambda: clipped(0.9)),
    ("2% of a progressive JPEG", lambda: clipped(0.02, progressive=True)),
    ("half of a PNG", lambda: encoded(person(), "PNG")[:200_000]),
    ("half of an AVIF", lambda: (lambda data: data[: len(data) // 2])(avif(person()))),
    ("half of a HEIC", lambda: TILE.read_bytes()[:15_000]),
]

SAID_TO_BE: list[tuple[str, Callable[[], bytes], bool]] = [  # whether it has more pixels than are accepted
    ("png of 50 megapixels", lambda: header(8192, 6144) + chunk(b"IDAT", zlib.compress(b"")), False),
    ("png of 51 megapixels", lambda: header(8192, 6230) + chunk(b"IDAT", zlib.compress(b"")), True),
    ("jpeg of 200 megapixels", lambda: jpeg_of(16320, 12240), False),
    ("jpeg of 221 megapixels", lambda: jpeg_of(16384, 13500), True),
    ("progressive jpeg of 218 megapixels, 4:2:0", lambda: jpeg_of(16384, 13312, progressive=True), False),
    ("progressive jpeg of 108 megapixels, 4:4:4", lambda: jpeg_of(12000, 9000, progressive=True, subsampling=0), False),
    ("progressive jpeg of 144 megapixels, 4:4:4", lambda: jpeg_of(12000, 12000, progressive=True, subsampling=0), True),
    ("heic of 50 megapixels", lambda: heic_grid(TILE.read_bytes(), 12, 16), False),
    ("heic of 52 megapixels", lambda: heic_grid(TILE.read_bytes(), 12, 17), True),
]  # fmt: skip


def jpeg_of(width: int, height: int, **options: Any) -> bytes:
    """A JPEG that says that it is so large."""
    data = encoded(quadrants(), "JPEG", **options)
    size = data.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + 5
    return data[:size] + struct.pack(">HH", height, width) + data[size + 4 :]


def corners(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The colours of the four quadrants: upper left, upper right, lower left, lower right."""
    height, width = picture.shape[:2]
    at = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [tuple(int(value) for value in picture[y, x]) for y, x in at]


@pytest.mark.parametrize(("name", "file", "colours"), PHOTOS, ids=[case[0] for case in PHOTOS])
def test_a_photo_is_upright_and_has_its_colours(
    name: str, file: Callable[[], bytes], colours: list[tuple[int, int, int]]
) -> None:
    photo = decode_photo(file(), LIMITS)
    assert photo.warnings == (("first_frame",) if "several frames" in name else ())
    if name != "heic, of tiles":  # whose quadrants are each of all colours
        found = np.array(corners(photo.pixels))
        assert np.abs(found - np.array(colours)).max() <= 12, found.tolist()
    else:
        assert photo.pixels.shape == (256, 256, 3)


@pytest.mark.parametrize(("kind", "file", "words"), OTHERS, ids=[f"{case[0]} {at}" for at, case in enumerate(OTHERS)])
def test_what_is_no_photo_is_called_what_it_is(kind: str, file: Callable[[], bytes], words: str) -> None:
    with pytest.raises(ImageUrlError, match=words) as caught:
        decode_photo(file(), LIMITS)
    assert caught.value.data["kind"] == kind
    assert caught.value.data["reason"] == "not_an_image"


@pytest.mark.parametrize(("name", "file", "rows"), CLIPPED, ids=[case[0] for case in CLIPPED])
def test_a_jpeg_that_lost_its_end_is_used_where_most_of_it_is_there(
    name: str, file: Callable[[], bytes], rows: int
) -> None:
    photo = decode_photo(file(), LIMITS)
    assert photo.warnings == ("clipped",)
    height, width = photo.pixels.shape[:2]
    assert rows <= height <= width == 512
    whole = np.asarray(person() if "grey" not in name else person().convert("L").convert("RGB"))
    difference = np.abs(photo.pixels[-24:].astype(int) - whole[height - 24 : height]).mean()
    assert difference < 20, "its last rows show something else than the photo"


@pytest.mark.parametrize(("name", "file"), TOO_SHORT, ids=[case[0] for case in TOO_SHORT])
def test_a_photo_of_which_too_much_is_lost_is_damaged(name: str, file: Callable[[], bytes]) -> None:
    with pytest.raises(ImageUrlError) as caught:
        decode_photo(file(), LIMITS)
    assert caught.value.data["reason"] == "broken"


@pytest.mark.parametrize(("name", "file", "too_many"), SAID_TO_BE, ids=[case[0] for case in SAID_TO_BE])
def test_a_size_is_judged_by_the_format_before_anything_is_decoded(
    name: str, file: Callable[[], bytes], too_many: bool
) -> None:
    with pytest.raises(ImageUrlError if too_many else LargePictureError) as caught:
        decode_photo(file(), LIMITS, large=False)
    if isinstance(caught.value, ImageUrlError):
        assert caught.value.data["reason"] == "too_many_pixels"
