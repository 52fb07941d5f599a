"""How many boxes a file has, however they are nested; hostile sizes end the walk."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.photos.boxes import MAX_BOXES, has_many_boxes

FREE = struct.pack(">I4s", 8, b"free")


def box(kind: bytes, content: bytes, full: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(full) + len(content), kind) + full + content


@pytest.mark.parametrize(
    ("data", "many"),
    [
        (b"", False),
        (FREE * MAX_BOXES, False),
        (FREE * (MAX_BOXES + 1), True),
        (box(b"meta", FREE * MAX_BOXES, bytes(4)), True),
        (box(b"moov", box(b"trak", FREE * MAX_BOXES)), True),
        (box(b"mdat", FREE * MAX_BOXES), False),  # pixels, not boxes
        (struct.pack(">I4sQ", 1, b"mdat", 2**63) + FREE * MAX_BOXES, False),
        (struct.pack(">I4s", 0, b"mdat") + FREE * MAX_BOXES, False),
        (struct.pack(">I4s", 3, b"free") * (MAX_BOXES + 1), True),  # sizes that lead nowhere
    ],
)
def test_boxes_are_counted_within_others_too(data: bytes, many: bool) -> None:
    assert has_many_boxes(data) == many


@given(st.binary(max_size=400))
def test_any_bytes_end_the_walk(data: bytes) -> None:
    assert not has_many_boxes(data)
