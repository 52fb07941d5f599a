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
from deployments.embedded.training.renderer.lifelike.grid import Field
from deployments.embedded.training.renderer.lifelike.hair import Strands, draw_back_hair, draw_front_hair, strands_of
from deployments.embedded.training.renderer.lifelike.head import draw_ears, draw_face
from deployments.embedded.training.renderer.lifelike.headgear import draw_headgear
from deployments.embedded.training.renderer.lifelike.light import Light, lit, random_light
from deployments.embedded.training.renderer.lifelike.mouth import draw_mouth
from deployments.embedded.training.renderer.lifelike.pose import Pose, origins, random_pose
from deployments.embedded.training.renderer.lifelike.skin import bumps, ear_distance, skin_colour
from deployments.embedded.training.renderer.lifelike.surface import head_cover, lines_of_age
from deployments.embedded.training.renderer.portrait import Portrait

Pixels = NDArray[np.uint8]


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
