"""HEIC files of many tiles, as phones write them, put together: what is installed here only decodes HEIC."""

import struct
from collections.abc import Iterator
from pathlib import Path

TILE = Path(__file__).parent / "tile.heic"
"""The sample photo, 512 x 512, written by pillow-heif."""

Box = tuple[bytes, bytes]
"""The type of a box of ISO 14496-12, and what is in it."""


def heic_grid(tile: bytes, rows: int, columns: int, turns: int = 0) -> bytes:
    """A HEIC of rows x columns times the picture of another one, which is in the file once.

    `turns`: by how many quarters it is to be turned to the left when shown (`irot`).
    """
    hvcc, size = _properties(tile)
    width, height = struct.unpack(">II", size[4:])
    tiles = rows * columns
    ids = range(2, tiles + 2)
    shape = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, columns * width, rows * height)
    entries = [_entry(1, b"grid"), *(_entry(each, b"hvc1", hidden=1) for each in ids)]
    properties = [
        _box(b"hvcC", hvcc),
        _box(b"ispe", size),
        _full(b"ispe", struct.pack(">II", columns * width, rows * height)),
        _box(b"irot", bytes([turns])),
    ]
    uses = [struct.pack(">HBBB", 1, 2, 3, 0x80 | 4), *(struct.pack(">HBBB", each, 2, 0x80 | 1, 2) for each in ids)]
    hevc = _picture(tile)

    def meta(at: int) -> bytes:
        places = [struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(shape))]
        places += [struct.pack(">HHHHII", each, 0, 0, 1, at, len(hevc)) for each in ids]
        return _full(
            b"meta",
            _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            _full(b"pitm", struct.pack(">H", 1)),
            _full(b"iloc", struct.pack(">HH", 0x4400, len(places)), *places, version=1),
            _full(b"iinf", struct.pack(">H", len(entries)), *entries),
            _box(
                b"iprp",
                _box(b"ipco", *properties),
                _full(b"ipma", struct.pack(">I", len(uses)), *uses),
            ),
            _full(b"iref", _box(b"dimg", struct.pack(">HH", 1, tiles), *(struct.pack(">H", each) for each in ids))),
            _box(b"idat", shape),
        )

    start = _box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    return start + meta(len(start) + len(meta(0)) + 8) + _box(b"mdat", hevc)


def _entry(item: int, kind: bytes, hidden: int = 0) -> bytes:
    return _full(b"infe", struct.pack(">HH", item, 0) + kind + b"\0", version=2, flags=hidden)


def _properties(tile: bytes) -> tuple[bytes, bytes]:
    """What is in `hvcC` and `ispe` of a HEIC of one picture."""
    ipco = dict(_boxes(dict(_boxes(dict(_boxes(_meta(tile)))[b"iprp"]))[b"ipco"]))
    return ipco[b"hvcC"], ipco[b"ispe"]


def _picture(tile: bytes) -> bytes:
    return dict(_boxes(tile))[b"mdat"]


def _meta(data: bytes) -> bytes:
    return dict(_boxes(data))[b"meta"][4:]


def _boxes(data: bytes) -> Iterator[Box]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + size]
        at += size


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)
