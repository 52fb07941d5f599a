"""What a person wears: glasses of wire or acetate, hats, earrings, clothes."""

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.renderer.portrait import NAMED_COLOURS
from loadtest.bench.reading.hair import BODY, BODY_RADII
from loadtest.bench.reading.skull import EYE_X, TEMPLE, Skull, cranial
from loadtest.bench.reading.surfels import Numbers, Surfels, ball, kept, linear, single, smoothed_path, surfels, tube

BANDS = {"beanie": 0.50, "cap": 0.52, "brimmed": 0.50, "headscarf": 0.62}  # heights of the rims
COLUMNS, ROWS = 640, 320  # points of a shell
HALF_LENS = {"round": (0.195, 0.18), "square": (0.215, 0.145), "sun": (0.235, 0.175)}


def ahead(skull: Skull, x: Numbers, y: Numbers, off: float) -> Numbers:
    """(n, 3) places `off` before the smooth face."""
    wide = skull.half_width(np.full_like(x, skull.eye_y))
    cos = np.sqrt(np.clip(1 - (x / (wide * 1.25)) ** 2, 0, 1))
    return np.stack([x, y, skull.front(np.full_like(x, skull.eye_y)) * (0.75 + 0.25 * cos) + off], axis=1)


def rim(kind: str) -> tuple[Numbers, Numbers]:
    """x and y of a lens's edge about its middle, at even distances."""
    angle = np.linspace(0, 2 * np.pi, 4000)
    wide, high = HALF_LENS[kind]
    power = {"round": 1.0, "square": 0.35, "sun": 0.6}[kind]
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = wide * np.sign(cos) * np.abs(cos) ** power, high * np.sign(sin) * np.abs(sin) ** power
    run = np.concatenate([[0.0], np.hypot(np.diff(x), np.diff(y)).cumsum()])
    even = np.linspace(0, run[-1], 360)
    return single(np.interp(even, run, x)), single(np.interp(even, run, y))


def glasses(skull: Skull) -> list[Surfels]:
    """Two rims, the bridge, temples to the ears; sunglasses have dark lenses."""
    person = skull.person
    if person.glasses == "none":
        return []
    frame = linear(person.glasses_colour)
    thick = 0.009 + 0.024 * person.frame_weight
    x, y = rim(person.glasses)
    parts, level = [], skull.eye_y - 0.02
    for side in (-1, 1):
        middle = side * (EYE_X + 0.005)
        parts.append(tube(ahead(skull, x + middle, y + level, 0.13), thick, frame, 0.5))
        outer = middle + side * HALF_LENS[person.glasses][0]
        hinge = ahead(skull, single([outer]), single([level + 0.06]), 0.12)[0]
        ear = (side * (float(skull.half_width(0.0)) + 0.03), level + 0.06, 0.0)
        path = smoothed_path([hinge.tolist(), (side * abs(ear[0]), hinge[1], hinge[2] - 0.15), ear], 260)
        parts.append(tube(path, thick, frame, 0.4))
        if person.glasses == "sun":
            parts.append(dark_lens(skull, middle, level, x, y))
    inner = EYE_X + 0.005 - HALF_LENS[person.glasses][0]
    across = single(np.linspace(-inner - 0.01, inner + 0.01, 80))
    bow = 0.05 + 0.03 * np.cos(across / inner * np.pi / 2)
    parts.append(tube(ahead(skull, across, single(level + bow), 0.14), thick, frame, 0.5))
    return parts


def dark_lens(skull: Skull, middle: float, level: float, x: Numbers, y: Numbers) -> Surfels:
    """Nearly black, brighter below, with the sky on it."""
    radius = single(np.linspace(0.01, 1, 90))[:, None]
    inner_x, inner_y = (radius * x[None]).ravel(), (radius * y[None]).ravel()
    places = ahead(skull, inner_x + middle, inner_y + level, 0.125)
    colour = linear((34, 30, 32)) * (1 - 1.4 * inner_y[:, None])
    normals = np.stack([inner_x * 1.5, inner_y * 2, 0.6 + 0 * inner_x], axis=1)
    return surfels(places, normals, colour, 0.5)


def shell(skull: Skull, low: float, lift: float, top: float) -> tuple[Numbers, Numbers, Numbers]:
    """Places, their azimuths and heights (0 to 1) of a cover of the head.

    `lift` is off the head, `top` how far the crown is raised.
    """
    azimuth = single(np.linspace(-0.75 * np.pi, 0.75 * np.pi, COLUMNS))
    share = single(np.linspace(0, 1, ROWS))[:, None]
    angle = share * np.pi / 2
    y = low + (1.0 + top - low) * np.sin(angle)
    base = skull.at(azimuth[None], low)
    flat = np.maximum(np.cos(angle), 0) ** 0.85
    scale = 1 + lift / 0.75
    x, z = base[..., 0] * scale * flat, base[..., 2] * scale * flat
    return np.stack([x, np.broadcast_to(y, x.shape), z], axis=-1), np.broadcast_to(azimuth[None], x.shape), share


def covered(places: Numbers, colour: Numbers, gloss: float = 0.04) -> Surfels:
    """A grid of places, facing away from the head."""
    along, across = np.gradient(places, axis=1), np.gradient(places, axis=0)
    normals = np.cross(along, across).reshape(-1, 3)
    flat = places.reshape(-1, 3)
    outward = (normals * (flat - single([0, 0.2, 0]))).sum(1, keepdims=True) > 0
    return surfels(flat, np.where(outward, normals, -normals), colour.reshape(-1, 3), gloss)


def hat(skull: Skull) -> list[Surfels]:
    """A knitted beanie, a cap with a peak, a headscarf about face and neck, or a hat with a brim all around."""
    person = skull.person
    if person.hat == "none":
        return []
    colour = linear(NAMED_COLOURS[person.hat_name])
    rise = BANDS[person.hat]
    match person.hat:
        case "beanie":
            return beanie(skull, colour, rise)
        case "cap":
            return [*crown(skull, colour, rise, 0.10, 0.12), peak(skull, colour)]
        case "brimmed":
            return [*crown(skull, colour, rise, 0.09, 0.28), brim(skull, colour)]
    return headscarf(skull, colour)


def crown(skull: Skull, colour: Numbers, low: float, lift: float, top: float) -> list[Surfels]:
    """Of felt or cotton, with a band."""
    places, azimuth, share = shell(skull, low, lift, top)
    seam = 1 - 0.3 * (np.abs(np.sin(3 * azimuth)) < 0.03) - 0.45 * (share < 0.13)
    return [covered(places, colour * seam[..., None])]


def beanie(skull: Skull, colour: Numbers, low: float) -> list[Surfels]:
    """Knitted in ribs, with a cuff."""
    places, azimuth, share = shell(skull, low, 0.10, 0.2)
    ribs = np.sin(azimuth * 60)
    cuff = share < 0.2
    places = places * (1 + (0.008 * ribs + 0.05 * cuff)[..., None] * single([1, 0, 1]))
    rows = np.sin(share * 160)
    return [covered(places, colour * (1 + 0.22 * ribs + 0.08 * rows - 0.12 * ~cuff)[..., None])]


def peak(skull: Skull, colour: Numbers) -> Surfels:
    """Forwards and a little down."""
    x, out = np.meshgrid(single(np.linspace(-1, 1, 420)), single(np.linspace(0, 1, 220)))
    reach = 0.62 * np.sqrt(np.clip(1 - x**2, 0, 1))
    places = np.stack([0.66 * x, 0.56 - 0.10 * x**2 - 0.17 * out, 0.70 - 0.5 * x**2 + reach * out], axis=-1)
    return covered(single(places), np.broadcast_to(colour * 0.85, places.shape))


def brim(skull: Skull, colour: Numbers) -> Surfels:
    """All around, a little drooping before and behind."""
    angle, out = np.meshgrid(single(np.linspace(-np.pi, np.pi, 700)), single(np.linspace(0, 1, 160)))
    radius = 0.76 + 0.50 * out
    places = np.stack([radius * np.sin(angle), 0.54 + 0.08 * out * np.abs(np.sin(angle)) - 0.06 * out * np.cos(angle),
                       radius * 1.1 * np.cos(angle)], axis=-1)  # fmt: skip
    return covered(single(places), np.broadcast_to(colour * 0.9, places.shape))


def headscarf(skull: Skull, colour: Numbers) -> list[Surfels]:
    """About the face, over hair, ears and neck, in folds."""
    azimuth = single(np.linspace(-0.75 * np.pi, 0.75 * np.pi, COLUMNS))[None]
    y = single(np.linspace(-1.65, 0.999, 620))[:, None]
    within = np.clip(y, skull.chin, None)
    crown = np.where(y > TEMPLE, cranial(y), 1.0)
    fall = np.clip(-0.9 - y, 0, 1)
    wide = np.maximum(skull.half_width(within), 0.62 * crown) + 0.08 * crown + 0.5 * fall**1.5
    deep = np.where(np.cos(azimuth) > 0, np.maximum(skull.front(within), 0.72 * crown), skull.back(within)) + 0.07
    folds = np.sin(y * 22 + 3 * np.cos(azimuth * 2)) * np.clip(0.1 - y, 0.1, 1)
    x = wide * np.sin(azimuth)
    places = np.stack(
        [x, np.where(y > TEMPLE, y * 1.06 - 0.06 * TEMPLE, y) + 0 * x, (deep + 0.02 * folds) * np.cos(azimuth)], -1
    )
    middle, high = (0.60 + skull.chin - 0.02) / 2, (0.60 - skull.chin + 0.02) / 2
    opening = (x / 0.57) ** 2 + ((y - middle) / high) ** 2 < 1
    cloth = covered(single(places), colour * (1 + 0.2 * folds)[..., None])
    return [kept(cloth, ~(opening & (np.cos(azimuth) > 0)).ravel())]


def earrings(skull: Skull) -> list[Surfels]:
    """A gold ball below each ear."""
    x = float(skull.half_width(-0.1)) + 0.03
    gold = linear((226, 180, 84))
    return [ball((side * x, skull.eye_y - 0.38, 0.06), (0.04,) * 3, gold, 0.6, 4000) for side in (-1, 1)]


def clothes(skull: Skull) -> Surfels:
    """Cloth over the shoulders, with a collar's opening for the neck."""
    colour = linear(NAMED_COLOURS[skull.person.clothes_name])
    angle, up = np.meshgrid(single(np.linspace(-np.pi / 2, np.pi / 2, 620)), single(np.linspace(-0.4, np.pi / 2, 400)))
    round_ = np.stack([np.cos(up) * np.sin(angle), np.sin(up), np.cos(up) * np.cos(angle)], axis=-1)
    places = BODY + round_ * BODY_RADII
    low = {"v-neck": 0.55, "turtleneck": -0.1}.get(skull.person.clothes, 0.25)
    opening: NDArray[np.bool_] = (
        (places[..., 1] > -1.33 - low * np.clip(1 - np.abs(places[..., 0]) / 0.5, 0, 1))
        & (places[..., 2] > 0)
        & (np.abs(places[..., 0]) < 0.45)
    )
    weave = 1 + 0.05 * np.sin(places[..., 0] * 23 + 4 * np.sin(places[..., 1] * 5)) * np.sin(places[..., 1] * 9)
    cloth = covered(single(places), colour * weave[..., None])
    return kept(cloth, ~opening.ravel())
