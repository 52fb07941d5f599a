"""One photo of a person: drawn, lit, turned and set before something."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy, anatomy_of
from deployments.embedded.training.renderer.lifelike.body import draw_clothes, draw_neck
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.eyes import draw_eyes
from deployments.embedded.training.renderer.lifelike.eyewear import draw_glasses
from deployments.embedded.training.renderer.lifelike.facial_hair import draw_facial_hair
from deployments.embedded.training.renderer.lifelike.grid import MIDDLE, UNIT, Field, V
from deployments.embedded.training.renderer.lifelike.hair import Strands, draw_back_hair, draw_front_hair, strands_of
from deployments.embedded.training.renderer.lifelike.head import draw_ears, draw_face
from deployments.embedded.training.renderer.lifelike.headgear import draw_headgear
from deployments.embedded.training.renderer.lifelike.light import Light, lit, random_light
from deployments.embedded.training.renderer.lifelike.mouth import draw_mouth
from deployments.embedded.training.renderer.lifelike.pose import origins, random_pose
from deployments.embedded.training.renderer.lifelike.skin import bumps, ear_distance, skin_colour
from deployments.embedded.training.renderer.lifelike.surface import head_cover, lines_of_age
from deployments.embedded.training.renderer.parts import SKIN
from deployments.embedded.training.renderer.portrait import Portrait

BOX_Y, BOX_Z = 0.3, 0.9  # the middle of the detector's box on a head that looks into the camera
BOX_SIDE = 2.5  # of the box, in units
Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]


def hidden_behind(canvas: Canvas, face: Anatomy, hair: Strands) -> Field:
    """(SIDE, SIDE): height of what hair may lie behind: the head, and ears that hair leaves free."""
    solid = head_cover(face)
    if hair.style.top < 0.8 or hair.style.flow in ("tied", "back", "up"):
        solid = np.maximum(solid, (ear_distance(face, -1) < 0) | (ear_distance(face, 1) < 0))
    return np.where(solid > 0.5, canvas.z, -9).astype(np.float32)


def composed(person: Portrait, face: Anatomy, light: Light, rng: np.random.Generator) -> Canvas:
    """All layers, back to front."""
    canvas = Canvas()
    own = np.random.default_rng((person.identity, 9))
    folds = lines_of_age(face, person.wrinkles, own)
    skin = skin_colour(person, face, folds, rng)
    hair = strands_of(person, face, rng)
    if hair is not None:
        draw_back_hair(canvas, hair)
    draw_neck(canvas, face, skin)
    draw_clothes(canvas, person, face, rng)
    draw_ears(canvas, face, skin, 1.0 + 0.12 * person.age)
    draw_face(canvas, person, face, skin, folds)
    draw_eyes(canvas, person, face, light.towards, rng)
    draw_mouth(canvas, person, face, rng)
    draw_facial_hair(canvas, person, face)
    if hair is not None:
        draw_front_hair(canvas, hair, hidden_behind(canvas, face, hair), own)
    draw_headgear(canvas, person, face, rng)
    draw_glasses(canvas, person, face, rng)
    return canvas


@dataclass(frozen=True)
class Place:
    """Where a photo has the face: the middle of the detector's box, in pixels, and the pixels to a unit."""

    x: float
    y: float
    unit: float
    roll: float  # radians, clockwise as one sees it


@dataclass(frozen=True)
class Shot:
    """A person before nothing: linear light and cover of (size, size), labels, landmarks, and the detector's box."""

    light: Field  # (size, size, 3)
    cover: Field
    labels: Pixels
    landmarks: NDArray[np.float32]  # (5, 2): eyes, nose, mouth's corners, each pair from the left; pixels
    neck: NDArray[np.float32]  # (2,): below the chin
    box: Box


def take(
    person: Portrait, place: Place, size: int, rng: np.random.Generator, light: Light | None = None, eyes: float = 1.0
) -> Shot:
    """A photo of `size` pixels a side; `rng` stands for lens, moment and, without a `light`, the lamp.

    `eyes`: how far open, of what the expression makes them.
    """
    face = anatomy_of(person, rng)
    face = replace(face, lid_up=face.lid_up * eyes, lid_low=face.lid_low * eyes)
    light = random_light(rng) if light is None else light
    pose = random_pose(person, rng)
    canvas = composed(person, face, light, rng)
    received = lit(canvas, bumps(person, rng), light, rng)
    received *= np.float32(exposure(canvas, received, rng))
    roll = place.roll + pose.roll
    cos, sin = np.cos(roll), np.sin(roll)
    turn = np.array([[cos, sin], [-sin, cos]])
    middle = pose.seen(np.array([0.0, BOX_Y, BOX_Z]))
    across, down = np.meshgrid(np.arange(size) + 0.5 - place.x, np.arange(size) + 0.5 - place.y)
    screen = np.stack([across, down], -1) / place.unit @ turn.T + middle
    at = origins(screen, canvas.z, pose).astype(np.float32)
    layers = [received[..., 0], received[..., 1], received[..., 2], canvas.cover]
    *colours, cover = (map_coordinates(layer, at, order=1, mode="nearest") for layer in layers)
    labels = map_coordinates(canvas.labels, at, order=0, mode="nearest")
    points = (pose.seen(landmarks_of(face, canvas.z)) - middle) @ turn * place.unit + [place.x, place.y]
    points = points.astype(np.float32)
    half = BOX_SIDE / 2 * place.unit * pose.distance / (pose.distance + 0.8 - BOX_Z)
    box = place.x - half, place.y - half, place.x + half, place.y + half
    return Shot(np.stack(colours, -1), cover, labels, points[:5], points[5], box)


def exposure(canvas: Canvas, received: Field, rng: np.random.Generator) -> float:
    """The gain that makes the lit side of the face as bright as its skin is, nearly."""
    face = (canvas.labels == SKIN) & (V < 1.2)
    lit_side = np.quantile(received[face].sum(-1), 0.65)
    return float((canvas.colour[face].sum(-1).mean() / max(lit_side, 1e-3)) ** 0.9 * np.exp(rng.normal(0.08, 0.16)))


def landmarks_of(face: Anatomy, z: Field) -> NDArray[np.float64]:
    """(6, 3) of the canvas: eyes, nose, corners of the mouth, neck."""
    flat = [(-face.eye_x, 0.0), (face.eye_x, 0.0), (0.0, face.nose_tip), (-face.mouth_half, face.mouth),
            (face.mouth_half, face.mouth), (0.0, face.chin + 0.15)]  # fmt: skip
    rows = [(x, y, z[int(y * UNIT + MIDDLE[1]), int(x * UNIT + MIDDLE[0])]) for x, y in flat]
    return np.array(rows, dtype=np.float64)
