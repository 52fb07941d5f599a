"""A person's hair: guides by the style, strands about them, what lies behind the head and what before it."""

from dataclasses import dataclass

import numpy as np

from deployments.embedded.training.renderer.lifelike.anatomy import Anatomy
from deployments.embedded.training.renderer.lifelike.canvas import Canvas
from deployments.embedded.training.renderer.lifelike.grid import Field, Numbers, linear
from deployments.embedded.training.renderer.lifelike.scalp import (
    Hairline,
    bare_crown,
    hairline_of,
    scalp_cover,
    scattered_roots,
)
from deployments.embedded.training.renderer.lifelike.skin import noise
from deployments.embedded.training.renderer.lifelike.strands import (
    Curves,
    Growth,
    grown,
    outwards,
    pictured,
    tufted,
)
from deployments.embedded.training.renderer.lifelike.styles import STYLES, Style
from deployments.embedded.training.renderer.lifelike.tails import knot_of, tail_curves
from deployments.embedded.training.renderer.parts import HAIR
from deployments.embedded.training.renderer.portrait import Portrait

BEHIND = 0.1  # strands whose roots lie farther back are drawn behind the head


@dataclass(frozen=True)
class Strands:
    """Curves (n, points, 3) and the brightness of each, behind and before the head."""

    back: Curves
    front: Curves
    back_tone: Curves
    front_tone: Curves
    style: Style
    line: Hairline
    colour: Field


def topness(roots: Curves) -> Curves:
    """0 at the sides and the nape, 1 on top."""
    return np.asarray(np.clip((-0.72 - roots[:, 1]) / 0.42, 0, 1), dtype=np.float32)


def starts(person: Portrait, style: Style, roots: Curves, rng: np.random.Generator) -> tuple[Numbers, Numbers]:
    """(guides, 3) each: the first direction, and where hair is combed to."""
    out, n = outwards(roots), len(roots)
    x = roots[:, 0]
    part = parting_of(person)
    side = np.where(x > part, 1.0, -1.0)
    one = np.ones(n)
    if style.top <= 1.2 and style.flow != "out":
        way, comb = short_starts(person, style, roots)
        sides = np.stack([0.25 * np.sign(x), 0.9 * one, -0.6 * one], 1) + 0.3 * out
        share = topness(roots)[:, None]
        return way * share + sides * (1 - share), comb * share
    if style.flow == "aside":
        return np.stack([side, -0.2 * one, -0.1 * one], 1) + 0.35 * out, np.zeros((n, 3))
    if style.flow == "tied":
        way = aims(person, style, roots) - roots
        way = way / np.linalg.norm(way, axis=1, keepdims=True)
        return way + 0.25 * out, way * 1.5 - [[0, style.down, 0]]
    return out + rng.normal(0, 0.3, (n, 3)), np.zeros((n, 3))


def aims(person: Portrait, style: Style, roots: Curves) -> Curves:
    """(guides, 3): the knot that each is tied into."""
    mirrored = (style.tail == "braids") & (roots[:, :1] < 0)
    return np.asarray(knot_of(person, style) * np.where(mirrored, [[-1, 1, 1]], [[1, 1, 1]]), dtype=np.float32)


def short_starts(person: Portrait, style: Style, roots: Curves) -> tuple[Numbers, Numbers]:
    """As `starts`, of short hair on top."""
    out, x, one = outwards(roots), roots[:, 0], np.ones(len(roots))
    zero, part = 0 * one, np.sign(person.parting + 1e-9)
    if style.flow == "aside":
        sweep = np.where((x - parting_of(person)) * part > 0, part, -part)
        way = np.stack([sweep, -0.1 * one, 0.35 * one], 1) + 0.4 * out
        return way, np.stack([0.5 * sweep, zero, zero], 1)
    if style.flow == "forward":
        return np.stack([0.3 * x - 0.35 * part, 0.2 * one, one], 1) + 0.2 * out, np.stack([zero, zero, 0.35 * one], 1)
    if style.flow == "back":
        return np.stack([0.3 * x, -0.5 * one, -0.9 * one], 1) + 0.6 * out, np.stack([zero, -0.8 * one, -one], 1)
    return np.stack([-0.3 * part - 0.55 * x, -0.75 * one, -0.2 * one], 1) + 0.7 * out, np.zeros((len(roots), 3))


def parting_of(person: Portrait) -> float:
    """Where it lies, in units: seldom quite in the middle."""
    reach = {"side part": 0.32, "pixie": 0.38, "parted": 0.42, "undercut": 0.42}.get(person.hair_style, 0.14)
    return float(np.sign(person.parting + 1e-9) * (0.35 + 0.65 * abs(person.parting)) * reach)


def strands_of(person: Portrait, face: Anatomy, rng: np.random.Generator) -> Strands | None:
    """None for a bald head. The hair falls in nearly the same way in all sittings."""
    style = STYLES[person.hair_style]
    if not style.guides:
        return None
    own = np.random.default_rng((person.identity, 11))
    line = hairline_of(person, face)
    long = style.top > 1.2
    roots = scattered_roots(line, int(style.guides * (1.25 if long else 1.0)), own, 0.6 if long else 0.8)
    thinned = own.random(len(roots)) > bare_crown(person) * topness(roots)
    roots = roots[thinned]
    share = topness(roots)
    much = 0.6 + 0.8 * person.volume
    scale = own.uniform(0.85, 1.15) if long else own.uniform(0.75, 1.2)
    length = (style.side + (style.top - style.side) * share) * scale
    length = (length * own.uniform(0.85, 1.1, len(roots))).astype(np.float32)
    if style.flow == "tied":
        length = np.linalg.norm(aims(person, style, roots) - roots, axis=1).astype(np.float32) * np.float32(1.12)
    start, comb = starts(person, style, roots, own)
    parted = np.where(roots[:, 0] > parting_of(person), 1, -1).astype(np.float32)
    growth = Growth(
        length,
        start.astype(np.float32),
        style.down,
        style.bend,
        style.lift * much,
        points=22 if long else 14,
        comb=comb.astype(np.float32),
        parted=parted if long and style.flow == "aside" else None,
        reach=0.98 + 0.25 * person.volume,
        hold=0.0 if style.flow in ("out", "up") else 0.3,
    )
    guides = grown(roots, growth)
    if long and style.flow == "aside" and bangs(person):
        guides = np.concatenate([guides, fringe_guides(person, line, guides.shape[1], own)])
        length = np.concatenate([length, np.full(len(guides) - len(length), 0.8, dtype=np.float32)])
    curves = tufted(guides, style.tuft, length, own)
    tone = np.exp(own.normal(0, 0.13, len(guides)))[:, None] * np.exp(own.normal(0, 0.16, (1, style.tuft.count)))
    tone = tone.reshape(-1).astype(np.float32)
    if person.hair_style == "locs":
        off = np.linalg.norm((curves[:, 0] - np.repeat(guides[:, 0], style.tuft.count, 0))[:, :2], axis=1)
        tone = tone * np.float32(1.5) * np.exp(-((off / (1.2 * style.tuft.wide)) ** 2)).astype(np.float32)
    behind = np.repeat(guides[:, 0, 2] < BEHIND, style.tuft.count)
    back, back_tone, front, front_tone = curves[behind], tone[behind], curves[~behind], tone[~behind]
    if style.tail:
        tail, forward = tail_curves(person, style, own)
        tail_tone = np.exp(own.normal(0, 0.3, len(tail))).astype(np.float32)
        if forward:
            tail, tail_tone = fitted(tail, front.shape[1]), tail_tone
            front, front_tone = np.concatenate([front, tail]), np.concatenate([front_tone, tail_tone])
        else:
            tail = fitted(tail, back.shape[1])
            back, back_tone = np.concatenate([back, tail]), np.concatenate([back_tone, tail_tone])
    return Strands(back, front, back_tone, front_tone, style, line, linear(person.hair))


def fitted(curves: Curves, points: int) -> Curves:
    """The same curves with another number of points."""
    at = np.linspace(0, curves.shape[1] - 1.001, points)
    low, share = at.astype(int), (at % 1)[None, :, None].astype(np.float32)
    return np.asarray(curves[:, low] + (curves[:, low + 1] - curves[:, low]) * share, dtype=np.float32)


def bangs(person: Portrait) -> bool:
    """Whether long hair has a fringe besides: more than one woman in five."""
    return bool(np.random.default_rng((person.identity, 12)).random() < (0.24 if person.gender == "woman" else 0.08))


def fringe_guides(person: Portrait, line: Hairline, points: int, own: np.random.Generator) -> Curves:
    """(n, points, 3): from the hairline's middle down to the brows."""
    x = own.uniform(-0.6, 0.6, 46)
    roots = np.stack([x, line.at(abs(x)) - own.uniform(0.05, 0.3, 46), 0.9 + 0 * x], 1).astype(np.float32)
    start = np.stack([0.25 * x, 0 * x + 0.2, 0 * x + 1.0], 1).astype(np.float32)
    length = own.uniform(0.75, 0.95, 46).astype(np.float32) * own.uniform(0.75, 1.05)
    return grown(roots, Growth(length, start, 1.0, 0.22, 0.06, points))


def draw_back_hair(canvas: Canvas, hair: Strands) -> None:
    """Behind neck and head."""
    if len(hair.back):
        lay_strands(canvas, hair, hair.back, hair.back_tone * np.float32(0.7), None)


def draw_front_hair(canvas: Canvas, hair: Strands, head: Field, rng: np.random.Generator) -> None:
    """Over the face, first what is cut close; `head`: height of the head where it covers, else far behind."""
    style = hair.style
    rough = noise(rng, 0.5)
    base = scalp_cover(hair.line, 3.0, rough) * (head > -1)
    close = style.cropped if style.cropped else 0.9
    grain = np.clip(1 + 0.25 * noise(rng, -0.2), 0, 1.2) if style.cropped else 1.0
    under = (base * close * grain).clip(0, 1).astype(np.float32)
    depth = 0.7 if style.cropped else 0.45
    canvas.lay(under, hair.colour * np.float32(depth), HAIR, gloss=0.05)
    lay_strands(canvas, hair, hair.front, hair.front_tone, head)


def lay_strands(canvas: Canvas, hair: Strands, curves: Curves, tone: Curves, head: Field | None) -> None:
    """One picture of strands over the canvas; those behind `head` are hidden."""
    seen = pictured(curves, tone, hair.style.wide, head)
    own = 0.5 + 0.5 * seen.shade
    colour = hair.colour * own[..., None] ** np.float32(1.3)
    gloss = np.clip(0.32 - 0.2 * hair.colour.mean(), 0.1, 0.32) * (0.45 if hair.style.flow == "out" else 1.0)
    canvas.lay(seen.cover, colour.astype(np.float32), HAIR, z=seen.z, gloss=float(gloss), strand=seen.way)
