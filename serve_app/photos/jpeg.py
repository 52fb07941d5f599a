"""The structure of a JPEG (ITU-T T.81), read without decoding it: what its decoder would need, and what is there.

Every loop over the parts of a file is bounded by `MAX_SEGMENTS`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import NamedTuple

# Each of these costs a few bytes in the file and a pass over the picture or its header in the decoder, so a file within
# the size limit could take an hour. Files of cameras and editors stay far below these limits.
MAX_SEGMENTS = 1024
MAX_SCANS = 64
END = b"\xff\xd9"

# The markers that start a segment, as Pillow reads them: all except fill bytes, restarts, start and end of image, and
# extensions. What follows one of these has no length, and may be a segment at once.
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xff\xc8\xd0-\xd9\xf0-\xfd])")
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_PROGRESSIVE_MARKERS = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN_MARKER = 0xDA
_BLOCK = 8  # pixels; 64 coefficients of two bytes each
_BLOCK_BYTES = 128


class Segment(NamedTuple):
    """A part of the file: its marker's second byte, and where its contents are, without the two bytes of length."""

    marker: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Component:
    """A colour channel: its number, and how finely it is sampled across and down, beside the others."""

    number: int
    across: int
    down: int


@dataclass(frozen=True, slots=True)
class JpegStructure:
    """The segments of a file, MAX_SEGMENTS + 1 at most, and what its first frame says."""

    segments: tuple[Segment, ...]
    width: int
    height: int
    components: tuple[Component, ...]
    is_progressive: bool
    scans: tuple[frozenset[int], ...]  # the components of each
    first_scan_ends: bool  # every component has a scan of its coarsest coefficients, and something follows these

    @property
    def is_bounded(self) -> bool:
        """Whether it has as few parts as a photo has."""
        return len(self.segments) <= MAX_SEGMENTS and len(self.scans) <= MAX_SCANS

    @property
    def coefficient_bytes(self) -> int:
        """What the decoder holds at once besides rows of pixels: all coefficients, where they come in several scans."""
        if not self.is_progressive and (not self.scans or len(self.scans[0]) == len(self.components)):
            return 0
        across = max((each.across for each in self.components), default=1) or 1
        down = max((each.down for each in self.components), default=1) or 1
        return sum(
            ceil(self.width * each.across / across / _BLOCK)
            * ceil(self.height * each.down / down / _BLOCK)
            * _BLOCK_BYTES
            for each in self.components
        )


def jpeg_structure(data: bytes) -> JpegStructure:
    """Reads nothing but the heads of the segments; raises nothing."""
    segments = tuple(islice(_segments(data), MAX_SEGMENTS + 1))
    frame = next((each for each in segments if each.marker in _FRAME_MARKERS), None)
    head = data[frame.start : frame.end] if frame else b""
    components = tuple(
        Component(head[at], head[at + 1] >> 4, head[at + 1] & 15) for at in range(6, min(len(head) - 2, 6 + 3 * 4), 3)
    )
    return JpegStructure(
        segments=segments,
        width=int.from_bytes(head[3:5], "big"),
        height=int.from_bytes(head[1:3], "big"),
        components=components,
        is_progressive=frame is not None and frame.marker in _PROGRESSIVE_MARKERS,
        scans=tuple(_scan_components(data, each) for each in segments if each.marker == _SCAN_MARKER),
        first_scan_ends=_first_scan_ends(data, segments, {each.number for each in components}),
    )


def _segments(data: bytes) -> Iterator[Segment]:
    at = 2
    while found := _SEGMENT.search(data, at):
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield Segment(found[1][0], found.end() + 2, min(at, len(data)))


def _scan_components(data: bytes, scan: Segment) -> frozenset[int]:
    count = data[scan.start] if scan.start < scan.end else 0
    return frozenset(data[scan.start + 1 : min(scan.end, scan.start + 1 + 2 * count)][::2])


def _first_scan_ends(data: bytes, segments: tuple[Segment, ...], components: set[int]) -> bool:
    missing = set(components)
    for segment in segments:
        if components and not missing:
            return True  # the segment after the last of these scans: they are whole
        if segment.marker == _SCAN_MARKER and _begins_with_dc(data, segment):
            missing -= _scan_components(data, segment)
    return bool(components) and not missing and data.find(END, segments[-1].end) >= 0


def _begins_with_dc(data: bytes, scan: Segment) -> bool:
    """Whether a scan has the first bits of the mean of each block: spectral selection from 0, no earlier bits."""
    return scan.end - scan.start >= 6 and data[scan.end - 3] == 0 and data[scan.end - 1] >> 4 == 0
