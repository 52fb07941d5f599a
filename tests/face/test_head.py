"""The picture of a head that a model with an image encoder draws from."""

import io
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deployments.face.head import ENLARGEMENT, UPWARD_SHIFT, head_jpeg, head_picture
from deployments.types import FaceEmbedding, Pixels

SIDE = 224
SIZE = 600  # pixels of the photo
EYES_APART, BOX = 120, 260


def photo_of(tilt: float, scale: float = 1.0) -> tuple[Pixels, FaceEmbedding]:
    """A face whose eyes are a red and a green disc, turned by `tilt` degrees, and where it is."""
    size = round(SIZE * scale)
    photo = Image.new("RGB", (size, size), "navy")
    draw, centre = ImageDraw.Draw(photo), size / 2
    turn = math.radians(tilt)
    across = np.array([math.cos(turn), math.sin(turn)]) * EYES_APART / 2 * scale
    down = np.array([-math.sin(turn), math.cos(turn)]) * EYES_APART / 2 * scale
    left, right = centre - across - down / 2, centre + across - down / 2
    for (x, y), colour in ((left, "red"), (right, "lime")):
        draw.ellipse((x - 12 * scale, y - 12 * scale, x + 12 * scale, y + 12 * scale), fill=colour)
    half = BOX * scale / 2
    landmarks = np.float32([left, right, [centre, centre], centre - across + down, centre + across + down])
    box = (centre - half, centre - half, centre + half, centre + half)
    return np.asarray(photo), FaceEmbedding(np.zeros(512, np.float32), box, 1.0, landmarks)


def disc(picture: Pixels, channel: int) -> tuple[float, float]:
    """x and y of the middle of the disc of one colour."""
    strong = picture[..., channel].astype(int) - picture[..., 1 - channel] > 100
    ys, xs = np.nonzero(strong)
    return float(xs.mean() + 0.5), float(ys.mean() + 0.5)


@pytest.mark.parametrize("tilt", [0, 20, -35, 90, 180])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_a_head_is_upright_and_in_its_place_however_it_was_turned(tilt: float, scale: float) -> None:
    pixels, face = photo_of(tilt, scale)
    picture = head_picture(pixels, face.box, face.landmarks, SIDE)
    assert picture.shape == (SIDE, SIDE, 3)
    (left_x, left_y), (right_x, right_y) = disc(picture, 0), disc(picture, 1)
    per_pixel = SIDE / (BOX * ENLARGEMENT)
    apart, above = EYES_APART * per_pixel, (UPWARD_SHIFT * BOX - EYES_APART / 4) * per_pixel
    expected = ((SIDE - apart) / 2, SIDE / 2 + above, (SIDE + apart) / 2, SIDE / 2 + above)
    assert (left_x, left_y, right_x, right_y) == pytest.approx(expected, abs=1.5)


def test_without_landmarks_the_photo_is_upright_as_it_is() -> None:
    pixels, face = photo_of(0)
    with_eyes = head_picture(pixels, face.box, face.landmarks, SIDE)
    assert np.array_equal(head_picture(pixels, face.box, None, SIDE), with_eyes)


def test_beyond_the_photo_its_edge_goes_on() -> None:
    pixels = np.full((40, 50, 3), 200, np.uint8)
    picture = head_picture(pixels, (-10.0, -10.0, 60.0, 60.0), None, SIDE)
    assert picture.min() == picture.max() == 200
    assert head_picture(pixels, (10.0, 10.0, 10.0, 10.0), None, SIDE).shape == (SIDE, SIDE, 3)


def test_a_jpeg_of_the_head_travels_with_a_call() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    jpeg = head_jpeg(noise, photo_of(10)[1], SIDE)
    assert Image.open(io.BytesIO(jpeg)).size == (SIDE, SIDE)
    assert len(jpeg) < 100_000  # what Ray sends along with a call; noise is the worst there is
