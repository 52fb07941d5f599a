"""Hair and beards as strands: guides grow over the head and the shoulders, and locks gather about each guide."""

import numpy as np

from deployments.embedded.training.renderer.portrait import Portrait
from loadtest.bench.reading.face import beard_mask, scalp_mask
from loadtest.bench.reading.skull import CRANIUM, TEMPLE, Skull
from loadtest.bench.reading.styles import MIDDLE, PARTING, STYLES, Style, forwards, outwards, quiffed, upwards
from loadtest.bench.reading.surfels import (
    Numbers,
    Surfels,
    Values,
    kept,
    linear,
    single,
    smoothed_path,
    surfels,
    together,
    tube,
    unit,
)

BODY, BODY_RADII = single([0, -2.38, -0.12]), single([1.5, 1.12, 0.62])
POINTS_A_UNIT = 110  # along a strand


def hair(skull: Skull, band: float | None, rng: np.random.Generator) -> list[Surfels]:
    """All hair of the head; `band` is the height of a hat's rim, above which none is seen."""
    person = skull.person
    if person.hair_style == "bald" or person.hat == "headscarf":
        return []
    style = STYLES[person.hair_style]
    parting = np.copysign(PARTING.get(person.hair_style, MIDDLE), person.parting)
    guides = grown(skull, style, float(parting), rng)
    if person.hair_style == "locs":
        parts = [loc(path, person, rng) for path in guides]
    else:
        parts = [below(locks(guides, style, person, rng), None, style.cut), *tied(skull, rng)]
    return [below(part, band) for part in parts]


def below(part: Surfels, band: float | None, cut: float = -9.0) -> Surfels:
    """What hat and scissors leave."""
    y = part.place[:, 1]
    return kept(part, (y > cut) & (y < (9.0 if band is None else band)))


def roots(skull: Skull, count: int, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """(n, 3) places of the scalp and their normals, evenly strewn."""
    azimuth = rng.uniform(-np.pi, np.pi, count * 8)
    y = TEMPLE + rng.uniform(-1, 1, count * 8) * 0.99 * CRANIUM[1]  # even on a sphere
    places = skull.at(azimuth, y)
    inside = scalp_mask(skull, *places.T) > 0.01
    places = places[inside][:count]
    return places, unit(places / CRANIUM**2 - single([0, TEMPLE, 0]) / CRANIUM**2)


def grown(skull: Skull, style: Style, parting: float, rng: np.random.Generator) -> Numbers:
    """(guides, steps, 3): paths that start on the scalp and lie on head, neck and shoulders."""
    person = skull.person
    places, normals = roots(skull, style.guides, rng)
    if style.fringe:
        places, normals = with_fringe(skull, places, normals, rng)
    count = len(places)
    longer = np.where((places[:, 1] > 0.5) & (places[:, 2] > -0.6), style.top, style.side)
    falls = (places[:, 1] > 0.62) & (places[:, 2] > 0.2) & (np.abs(places[:, 0]) < 0.5) & (style.fringe > 0)
    longer = np.where(falls, style.fringe, longer) * (1 - style.ragged * rng.random(count))
    stands = style.comb in (outwards, upwards, quiffed)
    longer = longer * (0.55 + 0.9 * person.volume if stands and style.top > 0.1 else 1.0)
    direction = unit(style.comb(places, normals, parting))
    direction = np.where(falls[:, None], unit(forwards(places, normals, parting)), direction)
    along = direction - (direction * normals).sum(1, keepdims=True) * normals * (0.0 if stands else 0.85)
    direction = unit(unit(along) + rng.normal(0, 0.35 if stands else 0.12, (count, 3)))
    lift = style.lift * (0.3 + 1.4 * person.volume) * rng.random(count)
    steps = max(4, int(max(style.top, style.side) * POINTS_A_UNIT / 3))
    side = np.where(places[:, 0] > parting * 0.42, 1.0, -1.0)
    path = [places]
    for step in range(1, steps):
        share = step / steps
        direction = unit(direction + single([0, -style.gravity * 9.0 / steps * share**0.5, 0]))
        free = path[-1] + direction * (longer / steps)[:, None]
        pushed = outside(skull, free, lift * min(1.0, 5 * share), style.hold)
        if style.curtain is not None:
            pushed = beside_the_face(pushed, side, style.curtain)
        direction = unit(direction + unit(pushed - path[-1]))
        path.append(pushed)
    return np.stack(path, axis=1)


def with_fringe(skull: Skull, places: Numbers, normals: Numbers, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """More roots behind the hairline, so that the forehead is covered."""
    more, their = roots(skull, 1500, rng)
    ahead = (more[:, 1] > 0.62) & (more[:, 2] > 0.2) & (np.abs(more[:, 0]) < 0.5)
    return np.concatenate([places, more[ahead]]), np.concatenate([normals, their[ahead]])


def beside_the_face(places: Numbers, side: Numbers, half: float) -> Numbers:
    """Hair before the face, below the forehead, goes to its own side of it."""
    x, y, z = places.T
    free = half * np.sqrt(np.clip((0.52 - y) / 0.5, 0, 1)) * (z > -0.1)
    return single(np.stack([np.where(x * side < free, side * free, x), y, z], axis=1))


def outside(skull: Skull, places: Values, lift: Values, hold: float) -> Numbers:
    """Pushed out of head, neck and body, `lift` away from the head; held at that distance down to the chin."""
    x, y, z = places.T
    up = np.maximum(y - TEMPLE, 0) / (CRANIUM[1] + lift)
    within = np.clip(y, skull.chin, TEMPLE)
    wide = np.maximum(skull.half_width(within), 0.46) + lift
    deep = np.where(z > 0, np.maximum(skull.front(within), 0.4), np.maximum(skull.back(within), 0.4)) + lift
    radius = np.sqrt((x / wide) ** 2 + up**2 + (z / deep) ** 2)
    near = hold * np.clip((y - skull.chin) / 0.3, 0, 1)
    scale = np.where(radius < 1, 1 / np.maximum(radius, 1e-3), 1 + (1 / np.maximum(radius, 1) - 1) * near)
    height = np.where(y > TEMPLE, TEMPLE + (y - TEMPLE) * scale, y)
    moved = np.stack([x * scale, height, z * scale], axis=1)
    off = (moved - BODY) / (BODY_RADII + 0.04)
    inside = np.clip(np.linalg.norm(off, axis=1), 0.5, 1)
    ahead = np.where(z > -0.4, 1.0, -1.0) * (1 - inside) * 1.6
    return single(moved + np.stack([0 * ahead, 0 * ahead, ahead], axis=1))


def resampled(paths: Numbers, count: int) -> Numbers:
    """(n, steps, 3) -> (n, count, 3), linearly."""
    at = np.linspace(0, paths.shape[1] - 1.001, count)
    first, t = at.astype(int), single(at % 1)[None, :, None]
    return paths[:, first] * (1 - t) + paths[:, first + 1] * t


def locks(guides: Numbers, style: Style, person: Portrait, rng: np.random.Generator) -> Surfels:
    """Strands about each guide, curled together."""
    length = max(style.top, style.side)
    paths = resampled(guides, max(5, int(length * POINTS_A_UNIT)))
    count, steps, _ = paths.shape
    share = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
    radius, turns = style.curl
    if radius:
        phase = single(rng.uniform(0, 2 * np.pi, (count, 1, 1)))
        angle = share * single(turns * length * 2 * np.pi * rng.uniform(0.85, 1.15, (count, 1, 1))) + phase
        first, second = (unit(single(rng.normal(size=(count, 1, 3)))) for _ in range(2))
        paths = paths + radius * np.minimum(1, share * 6) * (first * np.cos(angle) + second * np.sin(angle))
    apart = single(rng.normal(size=(count, style.strands, 1, 3))) * style.lock
    strands = paths[:, None] + apart * (0.45 + 0.55 * share[None])
    tint = single(rng.uniform(0.78, 1.15, (count, 1, 1, 1)) * rng.uniform(0.8, 1.2, (count, style.strands, 1, 1)))
    return as_surfels(strands.reshape(-1, steps, 3), tint.reshape(-1, 1, 1) * (0.7 + 0.3 * share), person)


def as_surfels(strands: Numbers, tint: Numbers, person: Portrait) -> Surfels:
    """(n, steps, 3) -> points whose normals face away from the head's axis."""
    axis = np.stack([0 * strands[..., 0], np.clip(strands[..., 1], -3.0, 0.3), 0 * strands[..., 0]], axis=-1)
    colour = linear(person.hair) * np.broadcast_to(tint, (*strands.shape[:2], 1))
    tangent = np.gradient(strands, axis=1) if strands.shape[1] > 1 else 0 * strands
    gloss = 0.05 + 0.10 * float(np.sqrt(linear(person.hair).max()))
    return surfels(
        strands.reshape(-1, 3), (strands - axis).reshape(-1, 3), colour.reshape(-1, 3), gloss, tangent.reshape(-1, 3)
    )


def bundle(path: Numbers, radius: Numbers, count: int, person: Portrait, rng: np.random.Generator) -> Surfels:
    """Strands along a path (steps, 3), which fill a rope of `radius` (steps,)."""
    offset = unit(rng.normal(size=(count, 3))) * rng.uniform(0.5, 1, (count, 1)) ** 0.5
    strands = path[None] + single(offset)[:, None] * radius[None, :, None]
    tint = rng.uniform(0.6, 1.25, (count, 1, 1))
    part = as_surfels(single(strands), single(tint), person)
    normals = np.broadcast_to(single(offset)[:, None], strands.shape).reshape(-1, 3)
    return surfels(part.place, normals, part.albedo, part.gloss, part.tangent)


def loc(path: Numbers, person: Portrait, rng: np.random.Generator) -> Surfels:
    """One matted rope."""
    steps = 90
    rings = 1 + 0.22 * np.sin(np.arange(steps) * 1.7 + rng.uniform(0, 6)) + rng.normal(0, 0.08, steps)
    tint = single(rng.uniform(0.7, 1.3) * rings)[:, None]
    return tube(resampled(path[None], steps)[0], 0.040 * rings, linear(person.hair) * tint, 0.08, around=26)


def tied(skull: Skull, rng: np.random.Generator) -> list[Surfels]:
    """The bun, tail or plaits of hair that is tied."""
    person = skull.person
    side = 1.0 if person.parting < 0 else -1.0
    big = 0.75 + 0.5 * person.volume
    match person.hair_style:
        case "bun":
            angle = np.linspace(0, 4 * np.pi, 260)
            ring = np.stack([0.15 * big * np.sin(angle), 1.13 + 0.09 * big * np.cos(angle), -0.3 + 0 * angle], axis=1)
            return [bundle(single(ring), single(np.full(260, 0.15 * big)), 260, person, rng)]
        case "ponytail":
            tail = [(0, 0.6, -0.95), (side * 0.6, 0.72, -0.95), (side * 0.98, 0.1, -0.55), (side * 0.98, -0.7, -0.15),
                    (side * 0.85, -1.45, 0.35)]  # fmt: skip
            thick = 0.17 * big * np.sin(np.linspace(0.5, np.pi - 0.12, 360)) ** 0.7
            return [bundle(smoothed_path(tail, 360), single(thick), 420, person, rng)]
        case "braids":
            return [plait(which, person, rng) for which in (-1.0, 1.0)]
    return []


def plait(side: float, person: Portrait, rng: np.random.Generator) -> Surfels:
    """Three ropes over and under each other, before the shoulder."""
    path = smoothed_path([(side * 0.68, 0.1, 0.0), (side * 0.76, -0.5, 0.22), (side * 0.74, -1.1, 0.5),
                          (side * 0.68, -1.9, 0.62)], 330)  # fmt: skip
    angle = np.linspace(0, 9 * 2 * np.pi, 330)
    ropes = []
    for third in range(3):
        turned = angle / 2 + third * 2 * np.pi / 3
        woven = np.stack([0.075 * np.sin(turned), 0 * angle, 0.05 * np.sin(2 * turned)], axis=1)
        ropes.append(bundle(single(path + woven), single(np.full(330, 0.068)), 90, person, rng))
    return together(ropes)


def beard(skull: Skull, rng: np.random.Generator) -> list[Surfels]:
    """The hairs of a grown beard; stubble is painted."""
    person = skull.person
    if person.beard in ("none", "stubble"):
        return []
    x, y = single(rng.uniform(-0.75, 0.75, 90_000)), single(rng.uniform(skull.chin, 0.1, 90_000))
    wide = skull.half_width(y)
    grows = (np.abs(x) < wide * 0.985) & (beard_mask(skull, x, y, person.beard) > rng.uniform(0.3, 0.8, 90_000))
    x, y, wide = x[grows][:6500], y[grows][:6500], wide[grows][:6500]
    cos = np.sqrt(1 - np.clip(np.abs(x) / wide, 0, 1) ** 2)
    places = np.stack([x, y, skull.front(y) * cos + skull.relief(x, y) * np.clip(cos * 2, 0, 1)], axis=1)
    out = unit(np.stack([x * 0.9, 0 * x, 0.5 * cos + 0.1], axis=1))
    low = np.clip((skull.mouth_y + 0.1 - y) / 0.35, 0, 1)
    long = {"moustache": 0.10, "goatee": 0.09 + 0.09 * low, "full": 0.08 + 0.12 * low}[person.beard]
    long = np.broadcast_to(long, x.shape) * rng.uniform(0.6, 1, len(x))
    aside = 0.5 * np.sign(x) * (person.beard == "moustache")
    down = np.stack([x * 0.15 + aside, -1 + 0 * x, 0 * x], axis=1)
    share = np.linspace(0, 1, 24, dtype=np.float32)[None, :, None]
    bend = unit(out + rng.normal(0, 0.25, out.shape))[:, None] * share * (1 - 0.5 * share) + down[:, None] * share**1.3
    strands = single(places[:, None] + bend * long[:, None, None] * 0.8)
    tint = single(rng.uniform(0.55, 1.2, (len(x), 1, 1))) * (0.7 + 0.4 * share)
    return [as_surfels(strands, tint, person)]
