"""The chunks of a PNG, and the file without texts that would stop its decoder."""

import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

MAX_CHUNKS = 16384  # each is a pass through the decoder's Python; files of cameras and editors have far fewer
MAX_TEXT_BYTES = 256 * 1024  # of one text that is kept: EXIF and XMP may be in it, which say how the photo is turned
MAX_TEXTS = 16
_START = 8  # after the signature
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})


class Chunk(NamedTuple):
    """A chunk: its type, where it begins, where its body does, and where it ends, with the checksum."""

    kind: bytes
    start: int
    body: int
    end: int


def png_chunks(data: bytes) -> list[Chunk]:
    """The chunks, MAX_CHUNKS + 1 at most; the last one may go beyond the file."""
    return list(islice(_chunks(data), MAX_CHUNKS + 1))


def is_bounded(chunks: list[Chunk]) -> bool:
    """Whether a PNG has as few chunks as a photo has; a decoder inflates each colour profile."""
    return len(chunks) <= MAX_CHUNKS and sum(chunk.kind == b"iCCP" for chunk in chunks) <= 1


def without_large_texts(data: bytes, chunks: list[Chunk]) -> bytes:
    """The same picture without the texts that are large, packed or not, or too many: Pillow refuses such a file."""
    texts = [chunk for chunk in chunks if chunk.kind in _TEXTS]
    dropped = [chunk for index, chunk in enumerate(texts) if index >= MAX_TEXTS or _is_large(data, chunk)]
    if not dropped:
        return data
    kept, at = [], 0
    for chunk in dropped:
        kept.append(data[at : chunk.start])
        at = chunk.end
    return b"".join([*kept, data[at:]])


def _is_large(data: bytes, chunk: Chunk) -> bool:
    if chunk.end - chunk.body > MAX_TEXT_BYTES:
        return True
    _keyword, _, text = data[chunk.body : chunk.end - 4].partition(b"\0")
    if chunk.kind == b"zTXt":
        return not _inflates(text[1:])
    if chunk.kind == b"iTXt" and text[:1] == b"\1":
        return not _inflates(text[2:].split(b"\0", 2)[-1])
    return False


def _inflates(packed: bytes) -> bool:
    """Whether it is whole and of MAX_TEXT_BYTES at most."""
    inflater = zlib.decompressobj()
    try:
        inflater.decompress(packed, MAX_TEXT_BYTES)
    except zlib.error:
        return False
    return inflater.eof


def _chunks(data: bytes) -> Iterator[Chunk]:
    at = _START
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield Chunk(data[at + 4 : at + 8], at, at + 8, end)
        at = end
