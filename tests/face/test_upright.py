import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deployments.face.upright import level_square, turn_of, turned_points, wrapped

LEVEL = np.float32([[40, 50], [80, 50], [60, 70], [45, 90], [75, 90]])
TURNS = st.floats(-3.1, 3.1)


@given(TURNS)
def test_a_face_is_turned_by_what_turned_it(turn: float) -> None:
    turned = turned_points(LEVEL, (60.0, 60.0), 120.0, turn, 120)
    assert wrapped(turn_of(turned) - turn) == pytest.approx(0, abs=1e-4)


@given(TURNS, st.floats(20, 300), st.floats(-40, 440), st.floats(-40, 340))
def test_what_lies_at_a_point_of_the_level_square_lies_there_on_the_photo(
    turn: float, side: float, x: float, y: float
) -> None:
    rows, columns = np.mgrid[0:300, 0:400]
    photo = Image.fromarray(np.stack([columns // 2, rows // 2, rows * 0], -1).astype(np.uint8))
    level = np.asarray(level_square(photo, (x, y), side, turn, 32))
    spots = np.float32([[8, 8], [24, 8], [16, 16], [8, 24], [24, 24]])
    for (u, v), (px, py) in zip(spots, turned_points(spots, (x, y), side, turn, 32), strict=True):
        shown = level[int(v) - 1 : int(v) + 1, int(u) - 1 : int(u) + 1].reshape(-1, 3).mean(0)
        wanted = np.clip([px, py], 0, (399, 299)) / 2
        if 4 < px < 395 and 4 < py < 295:  # elsewhere the edge goes on
            assert np.abs(shown[:2] - wanted).max() < 2 + side / 60


@pytest.mark.parametrize("quarters", range(4))
def test_a_quarter_turn_is_undone_to_the_pixel(quarters: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photo, -quarters)))
    level = np.asarray(level_square(turned, (32.0, 32.0), 64, quarters * math.pi / 2, 64))
    assert np.abs(level[2:-2, 2:-2].astype(int) - photo[2:-2, 2:-2]).max() <= 1


def test_beyond_the_photo_its_edge_goes_on() -> None:
    photo = Image.new("RGB", (10, 10), (200, 100, 50))
    assert np.asarray(level_square(photo, (-50.0, 300.0), 40, 0.7, 16)).reshape(-1, 3).std(0).max() == 0
