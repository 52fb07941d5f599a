"""Photo-like reference pictures of a portrait, for the face encoder: other light, camera, day and background."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from deployments.embedded.face_crop import crop_face
from deployments.embedded.training.drawing import FACE_X, FACE_Y, Look, Sketch
from deployments.embedded.training.figure import render
from deployments.embedded.training.portrait import Portrait, another_sitting, random_hair, random_skin

BOX_SIDE = 98.0  # of the cascade's square, in drawing units; measured on renders and on photos
BOX_BELOW = 6.0  # of its centre, below the face's


@dataclass(frozen=True)
class View:
    """One reference photo and where the detector would see the face."""

    picture: Image.Image
    box: tuple[float, float, float, float]


def face_box(portrait: Portrait, size: int) -> tuple[float, float, float, float]:
    sketch = Sketch(portrait, size, Look())
    ((x, y),) = sketch.place([(FACE_X, FACE_Y + BOX_BELOW)])
    ((left, _), (right, _)) = sketch.place([(0.0, 0.0), (BOX_SIDE, 0.0)], head=False)
    x, y, half = x / 2, y / 2, (right - left) / 4
    return x - half, y - half, x + half, y + half


def random_look(rng: np.random.Generator) -> Look:
    angle = rng.uniform(0, 2 * np.pi)
    strength = rng.uniform(0.2, 1.4)
    return Look(
        eye_scale=float(rng.uniform(0.55, 1.0)),
        contrast=float(rng.uniform(0.6, 1.8)),
        light=(float(np.cos(angle) * strength), float(-abs(np.sin(angle)) * strength)),
        strands=float(rng.uniform(0.3, 2.2)),
    )


def cluttered_background(size: int, rng: np.random.Generator) -> Image.Image:
    """A gradient, some shapes, and at times colours that resemble skin or hair."""
    corners = rng.integers(0, 256, (2, 2, 3)) if rng.random() < 0.6 else np.full((2, 2, 3), rng.integers(0, 256, 3))
    corners = corners + (corners.mean(-1, keepdims=True) - corners) * rng.uniform(0, 0.9)
    picture = Image.fromarray(corners.astype(np.uint8)).resize((size, size), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(0, 9)):
        kind = rng.random()
        colour = (
            random_skin(rng)
            if kind < 0.2
            else random_hair(rng)
            if kind < 0.4
            else tuple(map(int, rng.integers(0, 256, 3)))
        )
        x, y = rng.uniform(-0.2, 1, 2) * size
        w, h = rng.uniform(0.05, 0.6, 2) * size
        (draw.rectangle if rng.random() < 0.6 else draw.ellipse)((x, y, x + w, y + h), fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, size / 40))))


def warped(
    picture: Image.Image, box: tuple[float, ...], rng: np.random.Generator
) -> tuple[Image.Image, tuple[float, ...]]:
    """Turned by up to 12 degrees about the face and stretched a little; the box stays."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    angle, wide, high = (
        np.deg2rad(np.clip(rng.normal(0, 5), -12, 12)),
        rng.uniform(0.92, 1.1),
        rng.uniform(0.94, 1.08),
    )
    cos, sin = np.cos(angle), np.sin(angle)
    a, b, d, e = cos * wide, sin * high, -sin * wide, cos * high
    coefficients = (a, b, x - a * x - b * y, d, e, y - d * x - e * y)
    return picture.transform(picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR), box


def through_a_camera(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light from a side, texture, white balance, gamma, saturation, blur, noise and JPEG."""
    side = pixels.shape[0]
    picture = pixels.astype(np.float32) / 255
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    slope_x, slope_y = rng.normal(0, 0.14, 2)
    picture *= (1 + slope_x * across + slope_y * down)[..., None]
    coarse = Image.fromarray(rng.normal(128, 60, (28, 28)).clip(0, 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    picture *= 1 + float(rng.uniform(0, 0.22)) * (np.asarray(coarse, np.float32)[..., None] / 128 - 1)
    picture *= rng.normal(1, 0.05, 3) * rng.uniform(0.85, 1.12)
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.8, 1.25)
    grey = picture.mean(-1, keepdims=True)
    colourful = 0.0 if rng.random() < 0.03 else rng.uniform(0.7, 1.25)
    picture = grey + (picture - grey) * colourful
    picture += rng.normal(0, rng.uniform(0.0, 0.04), picture.shape)
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.6:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.4))))
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(25, 95)))
        image = Image.open(buffer)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image, dtype=np.uint8)


def render_photo(portrait: Portrait, rng: np.random.Generator, size: int = 128) -> View:
    """The person on another day, before clutter; the camera's part is done on the crop."""
    sitting = another_sitting(portrait, rng)
    picture, alpha = render(sitting, size, random_look(rng))
    picture = Image.composite(picture, cluttered_background(size, rng), alpha)
    turned, box = warped(picture, face_box(sitting, size), rng)
    x0, y0, x1, y1 = box
    return View(turned, (x0, y0, x1, y1))


def jittered_box(box: tuple[float, float, float, float], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Detectors disagree: the side by 15%, the place by 8%."""
    side = (box[2] - box[0]) * rng.uniform(0.85, 1.15)
    x = (box[0] + box[2]) / 2 + (box[2] - box[0]) * rng.uniform(-0.08, 0.08)
    y = (box[1] + box[3]) / 2 + (box[2] - box[0]) * rng.uniform(-0.08, 0.08)
    return float(x - side / 2), float(y - side / 2), float(x + side / 2), float(y + side / 2)


def face_views(portrait: Portrait, rng: np.random.Generator, count: int) -> list[NDArray[np.uint8]]:
    """Crops as the encoder sees them, (112, 112, 3) each."""
    crops = []
    for _ in range(count):
        view = render_photo(portrait, rng)
        crop = crop_face(np.asarray(view.picture), jittered_box(view.box, rng))
        crops.append(through_a_camera(crop, rng))
    return crops
