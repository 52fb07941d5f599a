"""Hundreds of pictures as an attacker, a broken program or a strange camera would send them; the same at every call."""

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from loadtest.bench.photos.heic import heic_grid
from tests.support.heic import heic

Pictures = Iterator[tuple[str, bytes]]
"""A name and the bytes of each."""

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
IEND = b"\0\0\0\0IEND\xaeB`\x82"
SIDE = 64


def hostile_pictures() -> dict[str, bytes]:
    """All of them, by name; none takes more than a few megabytes."""
    seeds = dict(_seeds())
    return dict(
        pair
        for pictures in (
            seeds.items(),
            _truncated(seeds),
            _flipped(seeds),
            _with_wrong_headers(seeds),
            _deeply_flipped_pngs(seeds),
            _bombs(),
            _wrong_types(seeds),
            _odd_pngs(),
            _odd_jpegs(),
            _odd_webps(),
            _odd_heics(),
            _giant_profiles(),
            _of_many_parts(),
        )
        for pair in pictures
    )


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def noise(mode: str = "RGB", width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Blocks of random colours: a picture in which every part of a decoder has work."""
    colours = np.random.default_rng(1).integers(0, 256, (height // 8 + 1, width // 8 + 1, 4), dtype=np.uint8)
    blocks = colours.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    image = Image.fromarray(blocks)
    return image if mode == "RGBA" else image.convert(mode)


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    """The start of a PNG. Colour types: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA."""
    return PNG_MAGIC + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def flat_png(width: int, height: int, depth: int, channels: int, colour: int, interlaced: int = 0) -> bytes:
    """A PNG of zeros: of any size, in a thousandth of its bytes."""
    rows = (depth * channels * width + 7) // 8 + 1
    packer = zlib.compressobj(9)
    zeros = bytes(rows)
    packed = b"".join(packer.compress(zeros) for _ in range(height + 16 * interlaced)) + packer.flush()
    return header(width, height, depth, colour, interlaced) + chunk(b"IDAT", packed) + IEND


def _seeds() -> Pictures:
    yield "jpeg", encoded(noise(), "JPEG", exif=exif(6), icc_profile=srgb())
    yield "jpeg progressive", encoded(noise(), "JPEG", progressive=True)
    yield "jpeg grey", encoded(noise("L"), "JPEG")
    yield "jpeg cmyk", encoded(noise("CMYK"), "JPEG")
    yield "jpeg restarts", encoded(noise(), "JPEG", restart_marker_blocks=2)
    yield "png", encoded(noise(), "PNG", exif=exif(6), icc_profile=srgb())
    yield "png rgba", encoded(noise("RGBA"), "PNG")
    yield "png palette", encoded(noise().quantize(16), "PNG", transparency=1)
    yield "png 16 bit", encoded(Image.new("I;16", (SIDE, SIDE), 999), "PNG")
    yield "png animated", encoded(noise(), "PNG", save_all=True, append_images=[noise().rotate(90)])
    yield "webp", encoded(noise(), "WEBP", exif=exif(6), icc_profile=srgb())
    yield "webp lossless", encoded(noise("RGBA"), "WEBP", lossless=True)
    yield "webp animated", encoded(noise(), "WEBP", save_all=True, append_images=[noise().rotate(90)])
    yield "avif", encoded(noise(), "AVIF", exif=exif(6), icc_profile=srgb())
    yield "avif rgba", encoded(noise("RGBA"), "AVIF")
    yield "avif animated", encoded(noise(), "AVIF", save_all=True, append_images=[noise().rotate(90)])
    yield "heic", heic("quadrants-profile")
    yield "heic turned", heic("quadrants-turned")
    yield "heic of tiles", heic_grid(heic("quadrants"), 3, 2)
    yield "mpo", encoded(noise(), "MPO", save_all=True, append_images=[noise().rotate(90)])


def _truncated(seeds: dict[str, bytes]) -> Pictures:
    for name, data in seeds.items():
        for length in (1, 12, 30, len(data) // 4, len(data) // 2, len(data) - 1):
            yield f"{name} of {length} bytes", data[:length]


def _flipped(seeds: dict[str, bytes]) -> Pictures:
    chance = random.Random(1)
    for name, data in seeds.items():
        for bits in (1, 2, 5, 20, 100):
            flipped = bytearray(data)
            for _ in range(bits):
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            yield f"{name} with {bits} bits flipped", bytes(flipped)


def _with_wrong_headers(seeds: dict[str, bytes]) -> Pictures:
    chance = random.Random(2)
    for name, data in seeds.items():
        for value in (0, 1, 127, 255):
            at = chance.randrange(2, 60)
            yield f"{name} with {value} at {at}", data[:at] + bytes([value]) + data[at + 1 :]


def _deeply_flipped_pngs(seeds: dict[str, bytes]) -> Pictures:
    """Damage behind right checksums, where a decoder no longer expects it."""
    chance = random.Random(3)
    for name, data in seeds.items():
        if not data.startswith(PNG_MAGIC):
            continue
        for attempt in range(8):
            flipped = bytearray(data)
            for _ in range(3):
                flipped[chance.randrange(16, len(flipped))] ^= 1 << chance.randrange(8)
            yield f"{name} with wrong contents {attempt}", _with_right_checksums(bytes(flipped))


def _with_right_checksums(png: bytes) -> bytes:
    fixed, at = png[:8], 8
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        fixed += chunk(png[at + 4 : at + 8], png[at + 8 : at + 8 + length])
        at += 12 + length
    return fixed


def _bombs() -> Pictures:
    sizes = [(6325, 6325), (30_000, 30_000), (2**31 - 1, 2**31 - 1), (2**31, 1), (1, 39_000_000), (39_000_000, 1)]
    for width, height in [*sizes, (0, 0), (0, 9)]:
        yield f"png said to be {width}x{height}", header(width, height) + chunk(b"IDAT", zlib.compress(b"")) + IEND
    yield (
        "png said to be large, with few pixels",
        header(6000, 6000) + chunk(b"IDAT", zlib.compress(bytes(9999))) + IEND,
    )
    yield "png with too many pixels", header(32, 32) + chunk(b"IDAT", zlib.compress(bytes(20_000_000))) + IEND
    for depth, channels, colour, interlaced in ((1, 1, 0, 0), (8, 3, 2, 0), (16, 4, 6, 0), (16, 4, 6, 1)):
        name = f"png of 40 million zeros, {depth} bit x {channels}, interlaced {interlaced}"
        yield name, flat_png(6324, 6324, depth, channels, colour, interlaced)
    jpeg = encoded(noise(), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    for width, height in ((65535, 65535), (65535, 600), (0, 64), (64, 0), (6300, 6300)):
        yield f"jpeg said to be {width}x{height}", jpeg[:size] + struct.pack(">HH", height, width) + jpeg[size + 4 :]
    webp = encoded(noise(), "WEBP", exif=exif(1))
    for side in (4000, 16_384, 2**24):
        yield f"webp said to be {side}x{side}", webp[:24] + (side - 1).to_bytes(3, "little") * 2 + webp[30:]
    yield "webp of one colour", encoded(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True, quality=0, method=0)


def _wrong_types(seeds: dict[str, bytes]) -> Pictures:
    for image_format in (
        "GIF",
        "BMP",
        "TIFF",
        "PPM",
        "ICO",
        "TGA",
        "PDF",
        "EPS",
        "ICNS",
        "JPEG2000",
        "PCX",
        "SGI",
        "DDS",
    ):
        yield image_format, encoded(noise(), image_format)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("photo.png", seeds["png"])
    texts = {
        "nothing": b"",
        "one byte": b"\xff",
        "zeros": bytes(100_000),
        "text": b"not a picture " * 1000,
        "html": b"<!doctype html><img src=x onerror=alert(1)>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>",
        "mvg": b"push graphic-context\nviewbox 0 0 640 480\nfill 'url(https://127.0.0.1/)'\npop graphic-context",
        "postscript": b"%!PS\n(/etc/passwd) (r) file",
        "zip": archive.getvalue(),
        "gzip": gzip.compress(seeds["png"]),
        "elf": b"\x7fELF" + bytes(1000),
        "avif of zeros": b"\0\0\0\x20ftypavif" + bytes(1000),
        "heic of zeros": b"\0\0\0\x20ftypheic" + bytes(1000),
        "jpeg xl": b"\xff\x0a" + bytes(1000),
        "riff of sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(100),
        "pickle": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x93\x8c\x02id\x85R.",
    }
    yield from texts.items()
    for magic in (
        b"\xff\xd8\xff\xe0",
        PNG_MAGIC,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"RIFF\0\0\0\0WEBPVP8X",
        b"\xff\xd8\xff\xc0",
    ):
        yield f"random after {magic!r}", magic + random.Random(magic).randbytes(5000)
    for first in ("jpeg", "png", "webp"):
        for second in ("jpeg", "png", "webp", "mpo"):
            yield f"{first} followed by {second}", seeds[first] + seeds[second]
        yield f"{first} followed by zip", seeds[first] + archive.getvalue()


def _odd_pngs() -> Pictures:
    for depth, channels, colour in (
        *((depth, 1, 0) for depth in (1, 2, 4, 8, 16)),
        *((depth, 1, 3) for depth in (1, 2, 4, 8)),
        *((depth, 3, 2) for depth in (8, 16)),
        *((depth, 2, 4) for depth in (8, 16)),
        *((depth, 4, 6) for depth in (8, 16)),
    ):
        for interlaced in (0, 1):
            data = flat_png(SIDE, SIDE, depth, channels, colour, interlaced)
            palette = chunk(b"PLTE", bytes(range(12))) if colour == 3 else b""
            yield f"png of {depth} bit, colour type {colour}, interlaced {interlaced}", data[:33] + palette + data[33:]
    for depth, colour, interlaced in (
        (3, 2, 0),
        (0, 0, 0),
        (16, 3, 0),
        (1, 6, 0),
        (8, 1, 0),
        (8, 5, 0),
        (8, 255, 0),
        (8, 2, 9),
    ):
        start = header(SIDE, SIDE, depth, colour, interlaced)
        yield f"png of {depth} bit, colour {colour}, interlaced {interlaced}", start + chunk(b"IDAT", b"x") + IEND
    plain = encoded(noise(), "PNG")
    start, rest = plain[:33], plain[33:]
    yield "png without palette", flat_png(SIDE, SIDE, 8, 1, 3)
    yield "png with a palette of 0 colours", start + chunk(b"PLTE", b"") + rest
    yield "png with a palette of 999 colours", start + chunk(b"PLTE", bytes(2997)) + rest
    yield "png with two headers", start + chunk(b"IHDR", struct.pack(">IIBBBBB", 9999, 9999, 8, 6, 0, 0, 0)) + rest
    yield "png without pixels", start + IEND
    yield "png with pixels that are no zlib", start + chunk(b"IDAT", b"\0" * 1000) + IEND
    yield "png with a chunk of 4 GB", start + b"\xff\xff\xff\xfftEXt" + rest
    yield "png with a chunk of -1 bytes", start + struct.pack(">I", 2**31) + b"IDAT" + rest
    yield "png without an end", plain[:-12]
    for kind in (
        b"tRNS",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"pHYs",
        b"iCCP",
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"eXIf",
        b"acTL",
        b"fcTL",
        b"fdAT",
    ):
        yield f"png with an empty {kind.decode()}", start + chunk(kind, b"") + rest
        yield f"png with a wrong {kind.decode()}", start + chunk(kind, b"\xff" * 100) + rest
    animation = start + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield "png of two billion frames", animation + rest
    frame = struct.pack(">IIIIIHHBB", 0, 9999, 9999, 9999, 9999, 0, 0, 9, 9)
    yield "png with a frame outside", start + chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", frame) + rest


def _odd_jpegs() -> Pictures:
    plain = encoded(noise(), "JPEG")
    frame = plain.index(b"\xff\xc0")
    for kind in (0xC1, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
        yield f"jpeg with frame type {kind:x}", plain[: frame + 1] + bytes([kind]) + plain[frame + 2 :]
    for precision in (0, 1, 12, 16, 255):
        yield f"jpeg of {precision} bit", plain[: frame + 4] + bytes([precision]) + plain[frame + 5 :]
    for components in (0, 2, 4, 255):
        yield f"jpeg of {components} components", plain[: frame + 9] + bytes([components]) + plain[frame + 10 :]
    for sampling in (0x00, 0x44, 0xFF):
        yield f"jpeg with sampling {sampling:x}", plain[: frame + 11] + bytes([sampling]) + plain[frame + 12 :]
    for mode, transform in (("CMYK", 2), ("CMYK", 255), ("RGB", 0), ("RGB", 2)):
        adobe = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
        data = encoded(noise(mode), "JPEG")
        yield f"jpeg of {mode} with Adobe transform {transform}", data[:2] + adobe + data[2:]
    tables = plain.index(b"\xff\xdb"), plain.index(b"\xff\xc4")
    yield "jpeg without quantisation", plain[: tables[0]] + plain[tables[0] + 69 :]
    yield "jpeg with a quantisation by 0", plain[: tables[0] + 5] + bytes(64) + plain[tables[0] + 69 :]
    yield "jpeg with wrong codes", plain[: tables[1] + 5] + b"\xff" * 16 + plain[tables[1] + 21 :]
    yield "jpeg with two frames", plain[:frame] + plain[frame : frame + 19] * 2 + plain[frame + 19 :]
    yield "jpeg with a scan before its frame", plain[:2] + plain[plain.index(b"\xff\xda") :]
    yield "jpeg of fill bytes", b"\xff\xd8" + b"\xff" * 3_000_000
    yield "jpeg of restarts", plain[:-2] + b"\xff\xd0" * 500_000
    yield "jpeg that only starts", b"\xff\xd8" * 500_000
    yield "jpeg with a scan of zeros", plain[: plain.index(b"\xff\xda") + 14] + bytes(3_000_000)
    for name in (
        b"JFIF\0",
        b"Exif\0\0",
        b"ICC_PROFILE\0",
        b"MPF\0",
        b"Adobe",
        b"Photoshop 3.0\x00",
        b"http://ns.adobe.com/xap/1.0/\0",
    ):
        for number, body in ((0xE1, b""), (0xE2, b"\xff" * 50), (0xED, bytes(200))):
            segment = bytes([0xFF, number]) + struct.pack(">H", 2 + len(name) + len(body)) + name + body
            yield f"jpeg with {len(body)} bytes of {name!r} in {number:x}", plain[:2] + segment + plain[2:]


def _odd_webps() -> Pictures:
    plain, lossless = encoded(noise(), "WEBP"), encoded(noise("RGBA"), "WEBP", lossless=True)
    extended = encoded(noise(), "WEBP", save_all=True, append_images=[noise().rotate(90)])
    for size in (0, 1, 100, 2**32 - 1):
        for name, data in (("lossy", plain), ("lossless", lossless), ("animated", extended)):
            yield f"webp {name} of a file of {size}", data[:4] + struct.pack("<I", size) + data[8:]
            yield f"webp {name} of a chunk of {size}", data[:16] + struct.pack("<I", size) + data[20:]
    for flags in (0, 2, 16, 32, 255):
        yield f"webp with flags {flags}", extended[:20] + bytes([flags]) + extended[21:]
    frame = extended.index(b"ANMF")
    for value in (0, 255):
        for at, field in ((8, "x"), (11, "y"), (14, "width"), (17, "height"), (20, "duration")):
            place = frame + at
            yield f"webp with a frame of {field} {value}", extended[:place] + bytes([value] * 3) + extended[place + 3 :]
    frames = [Image.new("RGB", (32, 32), (index, 0, 0)) for index in range(200)]
    yield "webp of 200 frames", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield "webp that repeats its frame", extended + extended[frame:] * 2000


def _odd_heics() -> Pictures:
    tile = heic("quadrants")
    size = tile.index(b"ispe") + 8
    for width, height in ((0, 0), (1, 1), (9000, 9000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1)):
        name = f"heic said to be {width}x{height}"
        yield name, tile[:size] + struct.pack(">II", width, height) + tile[size + 8 :]
    grid = heic_grid(tile, 4, 4)
    shape = grid.index(b"idat") + 4
    for rows, columns in ((0, 0), (255, 255), (3, 200)):
        name = f"heic said to be of {rows + 1}x{columns + 1} tiles"
        yield name, grid[: shape + 2] + bytes([rows, columns]) + grid[shape + 4 :]
    itself = grid.index(b"dimg") + 6
    yield "heic of tiles that is one of its own tiles", grid[: itself + 2] + b"\0\1" + grid[itself + 4 :]
    yield "heic of 65000 tiles", heic_grid(tile, 250, 256)
    yield "heic of many boxes", tile[:28] + struct.pack(">I4s", 8, b"free") * 100_000 + tile[28:]
    yield "avif of many brands", struct.pack(">I4s", 400_008, b"ftyp") + b"mif1" * 100_000 + bytes(100)


def _giant_profiles() -> Pictures:
    rubbish = random.Random(4).randbytes(5_000_000)
    yield "png with a profile of 5 MB", encoded(noise(), "PNG", icc_profile=srgb() + rubbish)
    yield "png with a profile of rubbish", encoded(noise(), "PNG", icc_profile=rubbish)
    yield "jpeg with a profile of 5 MB", encoded(noise(), "JPEG", icc_profile=srgb() + rubbish)
    yield "webp with a profile of 5 MB", encoded(noise(), "WEBP", icc_profile=srgb() + rubbish)
    for tags in (0, 100, 2**32 - 1):
        profile = srgb()
        yield (
            f"png with a profile of {tags} tags",
            encoded(noise(), "PNG", icc_profile=profile[:128] + struct.pack(">I", tags) + profile[132:]),
        )
    for mode in ("L", "CMYK"):
        yield f"jpeg of {mode} with a profile of RGB", encoded(noise(mode), "JPEG", icc_profile=srgb())
    plain = encoded(noise(), "PNG")
    packed = zlib.compress(bytes(100_000_000), 9)
    yield "png with a profile bomb", plain[:33] + chunk(b"iCCP", b"x\0\0" + packed) + plain[33:]
    for count in (1000, 65535):
        entries = b"".join(struct.pack(">HHII", 0x0112, 3, 1, 6 << 16) for _ in range(count))
        tiff = b"MM\0*\0\0\0\x08" + struct.pack(">H", count) + entries + b"\0\0\0\x08"  # and then itself again
        yield f"png with {count} tags of EXIF", plain[:33] + chunk(b"eXIf", tiff) + plain[33:]
    yield "png with 5 MB of EXIF", plain[:33] + chunk(b"eXIf", b"MM\0*\0\0\0\x08" + rubbish) + plain[33:]
    long = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\x7f\x10\0\0\0\0\0\0\0"
    for image_format in ("PNG", "JPEG", "WEBP"):
        yield f"{image_format} with two billion orientations", encoded(noise(), image_format, exif=b"Exif\0\0" + long)


def _of_many_parts() -> Pictures:
    plain = encoded(noise(), "PNG")
    start, rest = plain[:33], plain[33:]
    bomb = zlib.compress(bytes(2_000_000))
    yield "png of 20000 texts", start + chunk(b"tEXt", b"k\0v") * 20_000 + rest
    yield "png of 10000 unknown chunks", start + chunk(b"prVt", b"") * 10_000 + rest
    yield "png of packed texts", start + chunk(b"zTXt", b"k\0\0" + bomb) * 30 + rest
    yield "png of packed international texts", start + chunk(b"iTXt", b"k\0\1\0\0\0" + bomb) * 30 + rest
    yield "png of many profiles", start + chunk(b"iCCP", b"x\0\0" + bomb) * 50 + rest
    yield "png of many palettes", start + chunk(b"PLTE", bytes(768)) * 5000 + rest
    packed = zlib.compress(np.asarray(noise()).tobytes() + bytes(SIDE))
    yield "png of 1-byte pieces", start + b"".join(chunk(b"IDAT", bytes([byte])) for byte in packed) + IEND
    yield "png of empty pieces", start + chunk(b"IDAT", b"") * 15_000 + rest
    jpeg = encoded(noise(), "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    for count in (40, 100, 10_000):
        yield f"jpeg of {count} scans", jpeg[:-2] + scan * count + b"\xff\xd9"
    yield "jpeg of 5000 comments", jpeg[:2] + b"\xff\xfe\x00\x04xx" * 5000 + jpeg[2:]
    yield "jpeg of 900 packets of EXIF", jpeg[:2] + b"\xff\xe1\x00\x09Exif\0\0x" * 900 + jpeg[2:]
    yield "large jpeg of 60 scans", large_jpeg_of_many_scans()


def large_jpeg_of_many_scans() -> bytes:
    """30 megapixels, said to be refined again and again: a few kilobytes that take many seconds to decode."""
    jpeg = encoded(Image.new("RGB", (6000, 5000)), "JPEG", progressive=True, quality=1)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + scan * 50 + b"\xff\xd9"
