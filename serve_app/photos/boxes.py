"""The boxes of a file of ISO 14496-12 (AVIF, HEIC), counted without reading what is in them."""

from collections.abc import Iterator

MAX_BOXES = 4096  # of cameras and editors: some hundred, for the tiles of a large picture
_CONTAINERS = {  # where the boxes within begin, after the head
    **dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"mvex", b"moof", b"traf"), 0),
    **dict.fromkeys((b"iprp", b"ipco", b"udta", b"tref", b"grpl"), 0),
    b"meta": 4,
    b"iref": 4,
}
_HEAD_BYTES, _LARGE_HEAD_BYTES = 8, 16
MAX_DEPTH = 16


def has_many_boxes(data: bytes) -> bool:
    """Whether it has more than MAX_BOXES, which some readers take quadratic time for; raises nothing."""
    return sum(1 for _ in zip(range(MAX_BOXES + 1), _boxes(data, 0, len(data), 0), strict=False)) > MAX_BOXES


def _boxes(data: bytes, at: int, end: int, depth: int) -> Iterator[bytes]:
    """The types of the boxes in a part of the file, and of those within them."""
    while at + _HEAD_BYTES <= end:
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], _HEAD_BYTES
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), _LARGE_HEAD_BYTES
        last = min(at + size, end) if size else end  # 0: up to the end
        yield kind
        if kind in _CONTAINERS and depth < MAX_DEPTH:
            yield from _boxes(data, at + head + _CONTAINERS[kind], last, depth + 1)
        at = max(last, at + head)
