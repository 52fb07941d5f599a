"""Camera model, from a scene to stored pixels: exposure, white balance, tone, blur, noise, JPEG."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter


def vignetted(picture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Light falls off to one side and to the corners."""
    side = picture.shape[0]
    across, down = np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side))
    slope_x, slope_y = rng.normal(0, 0.1, 2)
    corners = rng.uniform(0, 0.3) if rng.random() < 0.4 else 0.0
    fall = 1 + slope_x * across + slope_y * down - corners * np.maximum(across**2 + down**2 - 0.6, 0)
    return np.asarray(picture * np.maximum(fall, 0.1)[..., None])


def toned(picture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Exposure, white balance, gamma, contrast about the middle and saturation, each unbiased."""
    picture = picture * np.exp(rng.normal(0, 0.035, 3)) * np.exp(rng.normal(0, 0.09))
    picture = np.clip(picture, 0, 1) ** np.exp(rng.normal(0, 0.12))
    curved = picture * picture * (3 - 2 * picture)
    picture = picture + (curved - picture) * rng.uniform(-0.3, 0.6)
    grey = picture.mean(-1, keepdims=True)
    colourful = 0.0 if rng.random() < 0.03 else np.exp(rng.normal(0, 0.16))
    return np.asarray(grey + (picture - grey) * colourful)


def softened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Out of focus, taken small, or sharpened by the camera."""
    kind, side = rng.random(), image.width
    if kind < 0.35:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.3))))
    if kind < 0.6:
        small = int(side * rng.uniform(0.4, 0.9))
        return image.resize((small, small), Image.Resampling.BOX).resize((side, side), Image.Resampling.BILINEAR)
    if kind < 0.75:
        return image.filter(ImageFilter.UnsharpMask(1.2, int(rng.uniform(30, 160)), 0))
    return image


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Through JPEG and back; `quality` as Pillow counts it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def through_a_camera(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """(side, side, 3) -> the same scene as a camera would have stored it."""
    picture = toned(vignetted(pixels / 255.0, rng), rng)
    noise = rng.uniform(0.0, 0.035) if rng.random() < 0.6 else 0.0
    picture += rng.normal(0, 1, picture.shape) * noise
    image = softened(Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8)), rng)
    if rng.random() < 0.5:
        image = compressed(image, int(rng.integers(25, 95)))
    return np.asarray(image, dtype=np.uint8)
