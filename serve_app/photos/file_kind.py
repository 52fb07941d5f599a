"""What a file is by its first bytes: a picture that is decoded here, or something else, and what to do about that."""

import re
from typing import NamedTuple

from serve_app.errors import ImageUrlError

SNIFFED_BYTES = 1445  # as browsers read ahead (mimesniff.spec.whatwg.org)
ACCEPTED = "JPEG, PNG, WebP, AVIF or HEIC"
FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "avif": "AVIF", "heic": "HEIF"}
"""Pillow's names of the formats that are decoded, by those of `kind_of`."""

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"mif2"})  # AVIF or HEIC: the other brands say which
MAX_BRANDS = 64

# A page may begin with white space, comments, and any of these elements.
_PAGE_START = re.compile(
    rb"(?i:(?:\xef\xbb\xbf)?\s*(?:<!--|(?:<\?xml[^>]*>\s*)?"
    rb"<(?:!doctype\s+html|html|head|title|script|style|body|meta|link|iframe|h1|div|font|table|a|b|br|p)[\s>/]))"
)
# No text holds these, and every photo format has some in its first bytes.
_BINARY_BYTE = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


class _Other(NamedTuple):
    """A kind of file that is no photo: what it is, what to do, and how it begins."""

    name: str
    what: str
    advice: str
    start: re.Pattern[bytes]


def _other(name: str, what: str, advice: str, *starts: bytes) -> _Other:
    """`starts` are regular expressions for the first bytes."""
    return _Other(name, what, advice, re.compile(b"|".join(starts), re.DOTALL))


_SAVE = "save it as JPEG or PNG"
_UNPACK = "unpack it, and send the photo in it"
_SVG_START = rb"(?i:(?:\xef\xbb\xbf)?\s*(?:<[?!](?:[^>])*>\s*)*<svg\b)"
_OTHERS = (
    _other("empty", "an empty file", "choose the photo again, it may not have been copied whole", rb"[\s\0]*\Z"),
    _other("svg", "an SVG drawing", _SAVE, _SVG_START),
    _other("web_page", "a web page", "send the picture itself, or link to the file itself", _PAGE_START.pattern),
    _other("pdf", "a PDF", "save the page with the photo as JPEG or PNG", rb".{0,1023}?%PDF-"),
    _other("postscript", "a PostScript file", _SAVE, rb"%!PS", rb"\xc5\xd0\xd3\xc6"),
    _other(
        "office",
        "an Office document",
        "save the photo in it as JPEG or PNG",
        rb"\xd0\xcf\x11\xe0",
        rb"PK\x03\x04.{26,120}?(?:\[Content_Types\]|word/|ppt/|xl/|mimetype)",
    ),
    _other("zip", "a ZIP archive", _UNPACK, rb"PK(?:\x03\x04|\x05\x06)"),
    _other("archive", "a compressed archive", _UNPACK, rb"\x1f\x8b", rb"7z\xbc\xaf", rb"Rar!", rb"BZh", rb"\xfd7zXZ"),
    _other("gif", "a GIF", _SAVE, rb"GIF8[79]a"),
    _other("bmp", "a BMP picture", _SAVE, rb"BM.{4}\0{4}"),
    _other(
        "tiff", "a TIFF or a camera's raw file", _SAVE, rb"II[*+]\0", rb"MM\0[*+]", rb"FUJIFILMCCD", rb".{4}ftypcrx"
    ),
    _other("jpeg_xl", "a JPEG XL picture", _SAVE, rb"\xff\x0a", rb"\0\0\0\x0cJXL "),
    _other("jpeg_2000", "a JPEG 2000 picture", _SAVE, rb"\0\0\0\x0cjP  ", rb"\xff\x4f\xff\x51"),
    _other("photoshop", "a Photoshop file", _SAVE, rb"8BPS"),
    _other("icon", "an icon", _SAVE, rb"\0\0[\x01\x02]\0[^\0]", rb"icns"),
    _other("sound", "a sound", "send a photo", rb"ID3", rb"OggS", rb"fLaC", rb"RIFF.{4}WAVE", rb".{4}ftypM4[AB]"),
    _other(
        "video",
        "a video",
        "send one frame of it as JPEG or PNG",
        rb".{4}(?:ftyp|moov|mdat|wide|pnot)",
        rb"\x1a\x45\xdf\xa3",  # Matroska and WebM
        rb"RIFF.{4}AVI ",
        rb"\0\0\x01[\xb3\xba]",  # MPEG
        rb"FLV\x01",
    ),
    _other("program", "a program", "send a photo", rb"\x7fELF", rb"MZ.{56}", rb"\xcf\xfa\xed\xfe"),
)
_TEXT = _other("text", "a text", "send the picture itself")
_UNKNOWN = _other("unknown", "no picture that can be read", f"send it as {ACCEPTED}")


def kind_of(data: bytes) -> str:
    """jpeg, png, webp, avif or heic by the first bytes, otherwise unknown."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return _kind_by_brands(data) if data[4:8] == b"ftyp" else "unknown"


def _kind_by_brands(data: bytes) -> str:
    """avif, heic or unknown by the brands of a file of ISO 14496-12: the first that says which decides."""
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * MAX_BRANDS)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "avif"
        if brand in _HEIC_BRANDS:
            return "heic"
    return "heic" if brands[0] in _HEIF_BRANDS else "unknown"


def is_web_page(body: bytes, content_type: str) -> bool:
    """Whether it begins like a page, or is text that its server calls a page; a photo that is called one is none."""
    start = body[:SNIFFED_BYTES]
    if _PAGE_START.match(start):
        return True
    return content_type in ("text/html", "application/xhtml+xml") and not _BINARY_BYTE.search(start)


def web_page_error() -> ImageUrlError:
    """The error for a URL that leads to a web page; its reason is `not_an_image`."""
    return ImageUrlError(
        "the URL leads to a web page, not to a picture: link to the file itself", reason="not_an_image", kind="web_page"
    )


def not_a_picture(data: bytes) -> ImageUrlError:
    """The error for what is no picture, or none of a format that is decoded here: says what it is and what to do."""
    start = data[:SNIFFED_BYTES]
    other = next((each for each in _OTHERS if each.start.match(start)), None)
    if other is None:
        other = _UNKNOWN if _BINARY_BYTE.search(start) or kind_of(start) != "unknown" else _TEXT
    message = f"this is {other.what}: {other.advice}"
    return ImageUrlError(message, reason="not_an_image", kind=other.name, formats=list(FORMATS.values()))
