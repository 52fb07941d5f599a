"""What is painted on the head: skin, eyes, brows, mouth, and the shade of a beard or of cropped hair."""

from dataclasses import dataclass

import numpy as np

from deployments.embedded.training.renderer.portrait import Portrait
from loadtest.bench.reading.camera import noise
from loadtest.bench.reading.skull import COLUMNS, EYE_X, ROWS, Skull, both, bump
from loadtest.bench.reading.surfels import (
    Numbers,
    Surfels,
    Values,
    ball,
    grid_normals,
    linear,
    single,
    surfels,
    together,
)

SCLERA, TEETH, INSIDE = linear((228, 222, 216)), linear((236, 230, 216)), linear((52, 20, 20))
LASHES = linear((22, 17, 15))
SMILE = {"serious": -0.012, "neutral": 0.004, "smiling": 0.05, "laughing": 0.06, "surprised": 0.0}
OPEN = {"laughing": 0.075, "surprised": 0.085}  # half of the gap between the lips


def edge(inside: Values, width: float = 0.012) -> Numbers:
    """0 to 1 over `width` about the border, where `inside` (a distance) is 0."""
    return single(np.clip(inside / width + 0.5, 0, 1))


@dataclass
class Paint:
    """Colours on the head's surface: layer upon layer."""

    skull: Skull
    x: Numbers
    y: Numbers
    front: Numbers  # 1 on the face's side of the head
    colour: Numbers  # (rows, columns, 3)
    gloss: Numbers

    @property
    def person(self) -> Portrait:
        """Whose head it is."""
        return self.skull.person

    def over(self, mask: Numbers, colour: Numbers, gloss: float | None = None) -> None:
        """Covers by `mask` (0 to 1) with one colour or one a place."""
        self.colour += (colour - self.colour) * mask[..., None]
        if gloss is not None:
            self.gloss += (gloss - self.gloss) * mask

    def shade(self, mask: Numbers, factor: Numbers) -> None:
        """Multiplies by an RGB factor where the mask is 1."""
        self.colour *= 1 + (factor - 1) * mask[..., None]


def head(skull: Skull, rng: np.random.Generator) -> Surfels:
    """Skull, skin and features, ears and neck."""
    places = skull.surface()
    skin = linear(skull.person.skin)
    paint = Paint(
        skull,
        places[..., 0],
        places[..., 1],
        single(places[..., 2] > 0),
        np.broadcast_to(skin, places.shape).copy(),
        np.full(places.shape[:2], 0.10, np.float32),
    )
    paint_skin(paint, rng)
    paint_scalp(paint, rng)
    paint_beard_shade(paint, rng)
    paint_mouth(paint)
    for side in (-1, 1):
        paint_eye(paint, side, rng)
        paint_brow(paint, side, rng)
    face = surfels(
        places.reshape(-1, 3), grid_normals(places).reshape(-1, 3), paint.colour.reshape(-1, 3), paint.gloss.ravel()
    )
    return together([face, *ears(skull, skin), neck(skull, skin)])


def paint_skin(paint: Paint, rng: np.random.Generator) -> None:
    """Mottled, redder on cheeks and nose, darker about the eyes; lines and spots of age."""
    x, y, skull = paint.x, paint.y, paint.skull
    mottled = noise((ROWS, COLUMNS), (12, 60, 200), rng)
    paint.colour *= (1 + 0.035 * mottled)[..., None]
    rosy = both(x, y, (0.38, skull.nose_y), (0.15, 0.13)) + bump(x, y, (0, skull.nose_y), (0.1, 0.07))
    paint.shade(single(rosy * paint.front * 0.6), single([1.05, 0.86, 0.84]))
    paint.shade(both(x, y, (EYE_X, skull.eye_y - 0.03), (0.14, 0.1)) * paint.front, single([0.88, 0.84, 0.86]))
    under = bump(x, y, (0, skull.nose_y - 0.075), (0.12, 0.025))
    paint.shade(under * paint.front, single([0.55, 0.48, 0.46]))
    nostrils = both(x, y, (0.055, skull.nose_y - 0.062), (0.03, 0.015))
    paint.shade(np.clip(nostrils * 1.4, 0, 1) * paint.front, single([0.25, 0.2, 0.2]))
    wrinkles = paint.person.wrinkles
    paint.shade(skull.creases(x, y) * paint.front * wrinkles, single([0.62, 0.56, 0.54]))
    spots = np.clip(noise((ROWS, COLUMNS), (45,), rng) - 0.55, 0, 1) * 1.6 * max(0.0, wrinkles - 0.3)
    paint.shade(single(spots), single([0.75, 0.66, 0.58]))


def scalp_mask(skull: Skull, x: Numbers, y: Numbers, z: Numbers) -> Numbers:
    """Where hair grows, as a distance from the hairline: above 0 inside.

    A receding hairline is higher above the temples, less so in the middle.
    """
    back = 0.35 * skull.person.recession
    temple = np.exp(-(((np.abs(x) - 0.34) / 0.17) ** 2))
    top = skull.hairline_y + back * (0.25 + 0.75 * temple) + 0.03 - 0.16 * np.clip(np.abs(x) - 0.3, 0, 1)
    turned = np.clip((0.52 - z) / 0.25, 0, 1)  # from the forehead to the side of the head
    low = np.where(z > -0.05, -0.12, -0.55)  # sideburns end before the ears
    return single(y - (top + (low - top) * turned**2))


def paint_scalp(paint: Paint, rng: np.random.Generator) -> None:
    """Under hair the scalp is dark; cropped hair is that shade alone."""
    person, style = paint.person, paint.person.hair_style
    if style == "bald":
        paint.gloss += 0.25 * edge(paint.y - 0.5, 0.3)
        return
    z = paint.skull.at(np.linspace(-0.72 * np.pi, 0.72 * np.pi, COLUMNS), paint.y)[..., 2]
    inside = edge(scalp_mask(paint.skull, paint.x, paint.y, z), 0.05 if style in ("buzz", "crew cut") else 0.03)
    grain = 0.5 + 0.5 * np.clip(noise((ROWS, COLUMNS), (150, 300), rng), -1, 1)
    much = {"buzz": 0.62, "crew cut": 0.8, "undercut": 0.7}.get(style, 0.9)
    thin = 1 - 0.5 * person.recession * edge(paint.y - 0.75, 0.2) if style == "receding" else 1.0
    paint.over(single(inside * np.clip(much + 0.4 * (grain - 0.5), 0, 1) * thin), linear(person.hair) * 0.85, 0.05)


def beard_mask(skull: Skull, x: Numbers, y: Numbers, kind: str) -> Numbers:
    """Where a beard of a kind grows, 0 to 1: never on the lips."""
    side, mouth = np.abs(x), skull.mouth_y
    lip = edge(0.05 + 0.02 * skull.person.lips - np.hypot(x / 3.6, y - mouth + 0.005), 0.02)
    moustache = edge(mouth + 0.155 - 0.18 * side - y, 0.03) * edge(0.29 - side, 0.05) * edge(y - mouth + 0.03, 0.03)
    goatee = edge(0.25 - side, 0.05) * edge(mouth + 0.05 - y, 0.05)
    cheek = mouth + 0.1 + np.clip(side - 0.24, 0, 1) ** 1.4 * 2.0
    full = edge(cheek - y, 0.06) * edge(0.05 - y, 0.1)
    shape = {"moustache": moustache, "goatee": np.maximum(goatee, moustache), "none": 0 * x}
    return single(shape.get(kind, np.maximum(full, moustache)) * (1 - lip))


def paint_beard_shade(paint: Paint, rng: np.random.Generator) -> None:
    """Stubble is dots in the skin; a grown beard has its hairs besides."""
    person = paint.person
    if person.beard == "none":
        return
    where = beard_mask(paint.skull, paint.x, paint.y, person.beard) * paint.front
    dots = np.clip(noise((ROWS, COLUMNS), (250,), rng) * 1.4 + 0.55, 0, 1)
    much = 0.62 * dots if person.beard == "stubble" else 0.85
    paint.over(single(where * much), linear(person.hair) * 0.8)


def paint_mouth(paint: Paint) -> None:
    """Lips, and what shows between them."""
    person, skull = paint.person, paint.skull
    half = (0.165 + 0.085 * person.mouth_width) * (1.15 if person.expression in ("smiling", "laughing") else 1.0)
    half *= 0.75 if person.expression == "surprised" else 1.0
    across = np.clip(np.abs(paint.x) / half, 0, 1.3)
    y = paint.y - skull.mouth_y - SMILE[person.expression] * (across**2 - 0.3)
    taper = np.sqrt(np.clip(1 - across**2, 0, 1))
    gap = OPEN.get(person.expression, 0.0) * taper
    full = 0.022 + 0.045 * person.lips
    cupid = 1 - 0.25 * np.exp(-((paint.x / 0.03) ** 2))
    outer = np.where(y > 0, full * 0.9 * cupid * taper**0.7, full * 1.15 * taper) + gap
    red = single([0.86, 0.52, 0.52]) if person.gender == "woman" else single([0.88, 0.68, 0.66])
    lips = linear(person.skin) * red
    front = paint.front
    paint.over(edge(outer - np.abs(y), 0.012) * front * (across < 1), lips, 0.25)
    paint.over(edge(gap - np.abs(y), 0.01) * front * (gap > 0.004), INSIDE, 0.1)
    if person.expression == "laughing":
        tooth = 0.9 + 0.1 * np.cos(paint.x * 2 * np.pi / 0.055)[..., None] ** 8
        paint.over(edge(gap * 0.9 - np.abs(y), 0.01) * front * (y > -0.3 * gap) * (gap > 0.01), TEETH * tooth, 0.3)
    line = np.exp(-((y / 0.009) ** 2)) * (across < 1.04) * (gap < 0.004)
    paint.shade(single(line) * front, single([0.35, 0.28, 0.28]))


def paint_eye(paint: Paint, side: int, rng: np.random.Generator) -> None:
    """An almond with iris, pupil, a light in it, lids and lashes."""
    person, skull = paint.person, paint.skull
    x, y = (paint.x - side * EYE_X) * side, paint.y - skull.eye_y  # x outwards
    big = 1.12 if skull.child else 1.0
    wide, high = (0.105 + 0.035 * person.eye_size) * big, (0.042 + 0.034 * person.eye_size) * big
    high *= {"smiling": 0.9, "laughing": 0.75, "surprised": 1.25}.get(person.expression, 1.0)
    across = np.clip(x / wide, -1.2, 1.2)
    upper, lower = high * (1 - across**2) + 0.012 * across, -0.8 * high * (1 - across**2) + 0.012 * across
    inside = np.minimum(upper - y, y - lower)
    opened = edge(inside, 0.01) * (np.abs(across) < 1) * paint.front
    paint.over(single(opened), SCLERA * (0.75 + 0.25 * edge(upper - y - 0.012, 0.04))[..., None], 0.0)
    distance = np.hypot(x + 0.005 * side, y)
    iris, rays = linear(person.eyes), noise((ROWS, COLUMNS), (300,), rng)
    ring = 0.5 + 0.5 * edge(0.046 - distance, 0.03) + 0.12 * rays
    paint.over(single(edge(0.062 * big - distance, 0.008) * opened), iris * ring[..., None])
    paint.over(single(edge(0.023 - distance, 0.006) * opened), LASHES)
    paint.over(single(edge(0.011 - np.hypot(x - 0.02 * side, y - 0.022), 0.006) * opened), single([1, 1, 1]))
    lash = (0.012 if person.gender == "woman" else 0.007) * (0.6 + 0.4 * edge(across, 1.0))
    line = edge(lash - np.abs(y - upper - lash * 0.5), 0.008) * (np.abs(across) < 1.03) * paint.front
    paint.over(single(line), LASHES)
    crease = np.exp(-(((y - upper - 0.045) / 0.009) ** 2)) * (np.abs(across) < 0.95) * paint.front
    paint.shade(single(crease), single([0.6, 0.52, 0.5]))
    paint.shade(
        single(np.exp(-(((y - lower) / 0.01) ** 2)) * (np.abs(across) < 1) * paint.front), single([0.7, 0.6, 0.6])
    )


def paint_brow(paint: Paint, side: int, rng: np.random.Generator) -> None:
    """Hairs in an arch, thicker at the nose."""
    person = paint.person
    lift = {"surprised": 0.06, "serious": -0.015}.get(person.expression, 0.0)
    x = (paint.x - side * EYE_X) * side / 0.2
    middle = paint.skull.eye_y + 0.175 + 0.012 * person.eye_size + lift + 0.03 * (1 - (x - 0.25) ** 2)
    thick = (0.010 + 0.032 * person.brows) * np.clip(1.05 - 0.45 * x, 0.2, 1.3)
    hairs = np.clip(0.8 + 0.5 * noise((ROWS, COLUMNS), (200,), rng), 0, 1)
    mask = edge(thick - np.abs(paint.y - middle), 0.02) * edge(1 - np.abs(x), 0.15) * paint.front
    paint.over(single(mask * hairs * (0.65 + 0.3 * person.brows)), linear(person.hair) * 0.6)


def ears(skull: Skull, skin: Numbers) -> list[Surfels]:
    """Flat shells with a hollow."""
    shells = []
    for side in (-1, 1):
        x = side * (float(skull.half_width(-0.1)) + 0.03)
        middle = (x, skull.eye_y - 0.14, -0.02)
        shells.append(ball(middle, (0.075, 0.2, 0.11), skin * single([1.0, 0.9, 0.88]), count=9000))
        hollow = (x + side * 0.035, middle[1] + 0.02, 0.05)
        shells.append(ball(hollow, (0.04, 0.11, 0.055), skin * single([0.6, 0.5, 0.48]), count=4000))
    return shells


def neck(skull: Skull, skin: Numbers) -> Surfels:
    """From under the jaw into the clothes."""
    wide = (0.36 if skull.person.gender == "woman" or skull.child else 0.42) + 0.06 * skull.person.jaw
    y = np.linspace(skull.chin + 0.45, -2.1, 330, dtype=np.float32)[:, None]
    angle = np.linspace(-np.pi / 2, np.pi / 2, 360, dtype=np.float32)[None]
    flare = wide * (1 + 0.9 * np.clip(-1.2 - y, 0, 1))
    places = np.stack([flare * np.sin(angle), y + 0 * angle, flare * 0.85 * np.cos(angle) - 0.12], axis=-1)
    normals = grid_normals(places[::-1])[::-1]
    return surfels(places.reshape(-1, 3), normals.reshape(-1, 3), skin * single([0.95, 0.9, 0.88]), 0.05)
