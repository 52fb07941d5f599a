"""Photo-like reference pictures of a portrait, for the face encoder: varied light, camera, day and background."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deployments.embedded.training.renderer.backdrop import any_colour, backdrop
from deployments.embedded.training.renderer.camera import compressed, through_a_camera
from deployments.embedded.training.renderer.drawing import UNITS
from deployments.embedded.training.renderer.figure import render_labelled
from deployments.embedded.training.renderer.lifelike.light import plain_light
from deployments.embedded.training.renderer.lifelike.shot import BOX_SIDE, Place, Shot, take
from deployments.embedded.training.renderer.portrait import Portrait, another_sitting, avatar_sitting
from deployments.face.alignment import CROP_SIZE, ENLARGEMENT, UPWARD_SHIFT, crop_face, crop_square

AVATAR_BOX = (51.7, 45.7, 205.3, 199.3)  # where the cascade sees a cartoon's face, in drawing units
FACE_SHARE = 0.4  # of a photo's side: the detector's box
Box = tuple[float, float, float, float]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """One reference photo, where the detector would see the face, what each pixel shows, and landmarks."""

    picture: Image.Image
    box: Box
    labels: Pixels  # values of `parts`
    landmarks: NDArray[np.float32]  # (5, 2): eyes, nose, mouth's corners, each pair from the left; pixels


def occluded(picture: NDArray[np.float64], labels: Pixels, box: Box, rng: np.random.Generator) -> None:
    """A hand, a cup, a collar at the rim of the face or beside it."""
    size, side = len(labels), box[2] - box[0]
    across, down = np.meshgrid(np.arange(size), np.arange(size))
    for _ in range(rng.integers(1, 3)):
        turn, reach = rng.uniform(-0.4, np.pi + 0.4), rng.uniform(0.55, 1.0) * side
        x = (box[0] + box[2]) / 2 + np.cos(turn) * reach * 0.95
        y = (box[1] + box[3]) / 2 + np.sin(turn) * reach
        angle, wide, high = rng.uniform(0, np.pi), rng.uniform(0.06, 0.2) * side, rng.uniform(0.1, 0.5) * side
        u = (across - x) * np.cos(angle) + (down - y) * np.sin(angle)
        v = (down - y) * np.cos(angle) - (across - x) * np.sin(angle)
        inside = (u / wide) ** 2 + (v / high) ** 2 < 1
        shade = (1 - 0.25 * (u / wide)[inside])[:, None]
        picture[inside] = np.array(any_colour(rng)) * shade
        labels[inside] = 0


def cut_off(picture: Pixels, labels: Pixels, box: Box, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """The photo ends near the face; as `crop_face` does beyond a picture, its last pixels repeat."""
    side, size = box[2] - box[0], len(labels)
    places = np.arange(size)
    rows = np.clip(places, max(0, int(box[1] - side * rng.uniform(0.0, 0.4))) if rng.random() < 0.5 else 0, None)
    columns = places
    if rng.random() < 0.4:
        columns = np.clip(places, max(0, int(box[0] - side * rng.uniform(0, 0.3))), None)
    elif rng.random() < 0.6:
        columns = np.clip(places, None, min(size - 1, int(box[2] + side * rng.uniform(0, 0.3))))
    at = np.ix_(rows, columns)
    beyond = (rows != places)[:, None] | (columns != places)[None]
    return picture[at], np.where(beyond, 0, labels[at]).astype(np.uint8)


def render_photo(portrait: Portrait, rng: np.random.Generator, size: int = 128) -> View:
    """The person on another day, amid things, at times turned and far aside; the camera's part is done on the crop."""
    sitting = another_sitting(portrait, rng)
    middle = size / 2 + rng.normal(0, 0.02, 2) * size
    roll = np.deg2rad(np.clip(rng.normal(0, 8), -25, 25))
    unit = size * FACE_SHARE / BOX_SIDE * rng.uniform(0.9, 1.1)
    shot = take(sitting, Place(middle[0], middle[1] + 0.03 * size, unit, float(roll)), size, rng)
    pixels, labels = before(shot, rng), shot.labels
    if rng.random() < 0.15:
        pixels, labels = cut_off(pixels, labels, shot.box, rng)
    return View(Image.fromarray(pixels), shot.box, labels, shot.landmarks)


def plain_photo(sitting: Portrait, rng: np.random.Generator, size: int, eyes: float = 1.0) -> Shot:
    """In soft white light, with nothing in the way; `eyes` as of `take`."""
    unit = size * FACE_SHARE / BOX_SIDE
    return take(sitting, Place(size / 2, size * 0.53, unit, 0.0), size, rng, plain_light(rng), eyes)


def stored(light: NDArray[np.floating[Any]]) -> Pixels:
    """Linear light as bytes, by a power of 2.2."""
    return np.asarray(255 * rolled_off(light) ** (1 / 2.2), dtype=np.uint8)


def before(shot: Shot, rng: np.random.Generator) -> Pixels:
    """(size, size, 3): the shot in front of something, with something before it at times; its labels change then."""
    size, share = len(shot.labels), shot.cover[..., None]
    behind = (backdrop(size, rng).clip(0, 255) / 255) ** 2.2 * rng.uniform(0.4, 1.3)
    behind += (behind.mean(-1, keepdims=True) - behind) * rng.uniform(0, 0.85)
    picture = 255 * rolled_off(shot.light * share + behind * (1 - share)) ** (1 / 2.2)
    if rng.random() < 0.15:
        occluded(picture, shot.labels, shot.box, rng)
    return np.asarray(picture.clip(0, 255), dtype=np.uint8)


def rolled_off(light: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Linear light up to 1, above which a camera's curve bends: what is far brighter still has a shade."""
    return np.asarray(light / (1 + np.clip(light, 0, None) ** 5) ** 0.2).clip(0, 1)


def jittered_box(box: Box, rng: np.random.Generator, side_share: float = 0.15, shift: float = 0.08) -> Box:
    """Detectors disagree: the side by 15%, the place by 8%."""
    side = (box[2] - box[0]) * rng.uniform(1 - side_share, 1 + side_share)
    x = (box[0] + box[2]) / 2 + (box[2] - box[0]) * rng.uniform(-shift, shift)
    y = (box[1] + box[3]) / 2 + (box[2] - box[0]) * rng.uniform(-shift, shift)
    return float(x - side / 2), float(y - side / 2), float(x + side / 2), float(y + side / 2)


def crop_view(portrait: Portrait, rng: np.random.Generator) -> Pixels:
    """(CROP_SIZE, CROP_SIZE, 4): a photo's levelled crop through a camera, as the detector's error leaves it."""
    side = CROP_SIZE / ENLARGEMENT  # of the detector's box, in pixels
    sitting = another_sitting(portrait, rng)
    unit = side / BOX_SIDE / rng.uniform(0.85, 1.15)
    x = CROP_SIZE / 2 + side * rng.uniform(-0.08, 0.08)
    y = CROP_SIZE / 2 + side * (UPWARD_SHIFT + rng.uniform(-0.08, 0.08))
    shot = take(sitting, Place(x, y, unit, 0.0), CROP_SIZE, rng)
    pixels, labels = before(shot, rng), shot.labels
    if rng.random() < 0.12:
        pixels, labels = cut_off(pixels, labels, shot.box, rng)
    view = np.concatenate([through_a_camera(pixels, rng), labels[..., None]], -1)
    return view[:, ::-1] if rng.random() < 0.5 else view


def labelled_views(portrait: Portrait, rng: np.random.Generator, count: int) -> list[Pixels]:
    """Crops as the encoder sees them and, in a fourth channel, their parts: (CROP_SIZE, CROP_SIZE, 4) each."""
    return [crop_view(portrait, rng) for _ in range(count)]


def avatar_view(portrait: Portrait, rng: np.random.Generator) -> Pixels:
    """The person's avatar, which should read as the person: (CROP_SIZE, CROP_SIZE, 4).

    The fourth channel has its parts.
    """
    size = UNITS // 2
    picture, _, labels = render_labelled(avatar_sitting(portrait, rng), size)
    small = picture.resize((size // 2, size // 2), Image.Resampling.BOX) if rng.random() < 0.5 else picture
    pixels = np.asarray(small.resize((UNITS, UNITS), Image.Resampling.BICUBIC))
    left, top, side = crop_square(jittered_box(AVATAR_BOX, rng))
    crop = Image.fromarray(edged(pixels, left, top, side)).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR)
    parts = edged(np.asarray(labels.resize((UNITS, UNITS), Image.Resampling.NEAREST)), left, top, side)
    parts = np.asarray(Image.fromarray(parts).resize((CROP_SIZE, CROP_SIZE), Image.Resampling.NEAREST))
    return np.concatenate([np.asarray(crop), parts[..., None]], -1)


def edged(pixels: Pixels, left: int, top: int, side: int) -> Pixels:
    """A square of a picture, which may reach beyond it: there its last pixels go on."""
    places = np.arange(side)
    return np.asarray(
        pixels[np.ix_((places + top).clip(0, len(pixels) - 1), (places + left).clip(0, pixels.shape[1] - 1))]
    )


def face_views(portrait: Portrait, rng: np.random.Generator, count: int) -> list[Pixels]:
    """Crops as the encoder sees them, (CROP_SIZE, CROP_SIZE, 3) each."""
    return [view[..., :3] for view in labelled_views(portrait, rng, count)]


def augmented_crops(photo: Pixels, box: Box, rng: np.random.Generator, count: int) -> list[Pixels]:
    """Views of a true photo, (CROP_SIZE, CROP_SIZE, 3) each: box jitter, up to 10 degrees, light and JPEG."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    crops = []
    for _ in range(count):
        turned = Image.fromarray(photo).rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, center=(x, y))
        crop = crop_face(np.asarray(turned), jittered_box(box, rng, 0.08, 0.05)) * rng.uniform(0.85, 1.15)
        shot = compressed(Image.fromarray(crop.clip(0, 255).astype(np.uint8)), int(rng.integers(40, 95)))
        crops.append(np.asarray(shot, dtype=np.uint8))
    return crops
