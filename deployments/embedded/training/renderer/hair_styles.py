"""Outlines of hair that all drawings share, in units of the skull: 85 wide, from -57 at the crown to about 60 below."""

from dataclasses import dataclass, replace

import numpy as np

from deployments.embedded.training.renderer.drawing import Points, arc, ellipse, flipped, mirrored, smooth, spline

BEADS = tuple((46.0 - 0.4 * number, 26.0 + 17.0 * number) for number in range(5))  # middles of a right plait's


@dataclass(frozen=True)
class HairShape:
    """Drawn for a parting on the right of the picture."""

    front: tuple[Points, ...]
    back: tuple[Points, ...] = ()
    shaved: tuple[Points, ...] = ()  # skin shows through
    over_ears: bool = False


def flipped_shape(shape: HairShape) -> HairShape:
    """Mirrored in the middle line."""

    def all_flipped(outlines: tuple[Points, ...]) -> tuple[Points, ...]:
        return tuple(flipped(outline) for outline in outlines)

    return replace(
        shape,
        front=all_flipped(shape.front),
        back=all_flipped(shape.back),
        shaved=all_flipped(shape.shaved),
    )


def cap(top: float, side: float, hairline: Points, down: float) -> Points:
    """Hair over the skull, `top` high and `side` wide, down to `down` before the ears; the hairline runs leftwards."""
    outer = [(-side, down), (-side - 0.5, -14.0), (-side * 0.88, -top * 0.6), (-side * 0.52, -top * 0.91), (0.0, -top),
             (side * 0.52, -top * 0.91), (side * 0.88, -top * 0.6), (side + 0.5, -14.0), (side, down)]  # fmt: skip
    return smooth(outer) + smooth(hairline)


def both_sides(right: Points) -> Points:
    """An open line from right to left."""
    return right + flipped([point for point in reversed(right) if abs(point[0]) > 1e-6])


def undercut() -> HairShape:
    """A thick top over shaved sides."""
    sides = both_sides([(40.5, 2.0), (38.0, -24.0), (32.0, -40.0), (0.0, -44.0)])
    top = [(40.0, -30.0), (42.5, -46.0), (36.0, -64.0), (14.0, -75.0), (-16.0, -77.0), (-38.0, -67.0),
           (-45.0, -50.0), (-42.0, -30.0), (-36.0, -26.0), (-30.0, -33.0), (-8.0, -37.0), (14.0, -43.0), (30.0, -42.0),
           (37.0, -32.0)]  # fmt: skip
    return HairShape(front=(spline(top),), shaved=(cap(58.0, 44.0, sides, 2.0),))


def parted() -> HairShape:
    """Short, combed aside from a parting."""
    outer = [(-45.5, 2.0), (-47.5, -16.0), (-45.0, -46.0), (-28.0, -69.0), (2.0, -75.0), (28.0, -66.0), (42.0, -42.0),
             (45.5, -16.0), (45.0, 2.0)]  # fmt: skip
    hairline = [(40.5, 2.0), (38.0, -20.0), (31.0, -38.0), (22.0, -47.0), (8.0, -37.0), (-14.0, -31.0), (-33.0, -28.0),
                (-39.5, -18.0), (-41.0, 2.0)]  # fmt: skip
    return HairShape(front=(smooth(outer) + smooth(hairline),))


def fringe() -> HairShape:
    """Short, with points that hang into the forehead."""
    hairline = [(41.5, 8.0), (39.0, -12.0), (34.0, -24.0), (24.0, -19.0), (17.0, -27.0), (4.0, -19.0), (-4.0, -27.0),
                (-18.0, -19.0), (-26.0, -26.0), (-37.0, -16.0), (-41.5, 8.0)]  # fmt: skip
    return HairShape(front=(cap(70.0, 48.5, hairline, 8.0),))


def curls(right: float, top: float, size: float, count: int) -> tuple[Points, ...]:
    """A wreath of round curls from ear to ear."""
    centres = arc(0.0, -18.0, right, top, 172, 368, count)
    return tuple(ellipse(x, y, size, size * 1.06, 16) for x, y in centres)


def curly() -> HairShape:
    """Round curls about the head and along the forehead."""
    hairline = both_sides([(40.5, 2.0), (37.0, -24.0), (26.0, -34.0), (0.0, -36.0)])
    brow = tuple(ellipse(x, -37.0 + abs(x) * 0.18, 9.5, 8.5, 16) for x in (-27.0, -9.0, 9.0, 27.0))
    return HairShape(front=(cap(64.0, 45.0, hairline, 2.0), *curls(43.0, 47.0, 11.5, 11), *brow))


def scalloped(wide: float, high: float, y: float, bumps: int) -> Points:
    """An ellipse with a soft wavy edge."""
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    radius = 1 + 0.028 * np.cos(angles * bumps)
    return list(
        zip((wide * radius * np.sin(angles)).tolist(), (y - high * radius * np.cos(angles)).tolist(), strict=True)
    )


def halo(outline: Points, ear: float) -> Points:
    """A round head of hair, open for the face: the outline above `ear`, then the hairline."""
    middle = len(outline) // 2
    turned = [*outline[middle:], *outline[:middle]]  # from below, up the left side, to below
    rim = [point for point in turned if point[1] < ear]
    hairline = both_sides([(40.5, ear), (38.0, -22.0), (29.0, -34.0), (14.0, -37.0), (0.0, -37.0)])
    return rim + smooth(hairline)


def short_afro() -> HairShape:
    """Round, close to the head, above the ears."""
    return HairShape(front=(halo(scalloped(51.0, 52.0, -20.0, 18), 2.0),))


def afro() -> HairShape:
    """Round and wide, over the ears."""
    outline = scalloped(68.0, 62.0, -18.0, 22)
    return HairShape(front=(halo(outline, 30.0),), back=(outline,), over_ears=True)


def pulled_back() -> Points:
    """The front outline of hair tied behind: for a bun or a ponytail."""
    hairline = both_sides([(41.0, 4.0), (39.0, -20.0), (31.0, -37.0), (16.0, -43.0), (0.0, -44.0)])
    return cap(65.0, 45.5, hairline, 4.0)


def bob() -> HairShape:
    """Chin-length, parted, over the ears."""
    back = [(0.0, -66.0), (34.0, -56.0), (53.0, -22.0), (58.0, 16.0), (59.0, 40.0), (48.0, 54.0), (0.0, 54.0)]
    outer = [(-40.0, 52.0), (-55.0, 50.0), (-60.0, 34.0), (-57.0, 4.0), (-53.0, -26.0), (-36.0, -58.0), (0.0, -72.0),
             (36.0, -58.0), (53.0, -26.0), (57.0, 4.0), (60.0, 34.0), (55.0, 50.0), (40.0, 52.0)]  # fmt: skip
    hairline = [(40.0, 52.0), (38.5, 30.0), (40.5, 8.0), (39.0, -14.0), (32.0, -30.0), (18.0, -45.0), (2.0, -32.0),
                (-20.0, -23.0), (-36.0, -14.0), (-40.5, 8.0), (-38.5, 30.0), (-40.0, 52.0)]  # fmt: skip
    return HairShape(front=(smooth(outer) + smooth(hairline),), back=(spline(mirrored(back)),), over_ears=True)


def falling(wave: float, length: float) -> tuple[Points, Points]:
    """The right side of long hair before the shoulder, outwards and back: (outer downwards, inner upwards)."""
    outer = [(30.0, -61.0), (49.0, -34.0), (54.0 + wave, -4.0), (55.0 - wave, 24.0), (58.0 + wave, 50.0),
             (57.0 - wave, 78.0), (50.0 + wave, length)]  # fmt: skip
    inner = [
        (44.0, length - 2),
        (37.0 - wave, 84.0),
        (38.0 + wave * 0.6, 54.0),
        (39.0, 28.0),
        (41.0, 6.0),
        (39.0, -14.0),
    ]
    return outer, inner


def long_shape(wave: float, middle: Points, top: Points) -> HairShape:
    """Long hair with the crown's outline `top` and the hairline's middle part, both from right to left."""
    outer, inner = falling(wave, 106.0)
    rim = [*reversed(outer), *top, *flipped(outer)]
    line = [*flipped(inner), *reversed(middle), *reversed(inner)]
    back = [(0.0, -60.0), (34.0, -54.0), (50.0, -20.0), (53.0, 30.0), (52.0, 80.0), (36.0, 92.0), (0.0, 80.0)]
    return HairShape(front=(smooth(rim) + smooth(line),), back=(spline(mirrored(back)),), over_ears=True)


def long() -> HairShape:
    """Straight, with a middle parting."""
    middle = [(30.0, -29.0), (14.0, -39.0), (2.0, -50.0), (-10.0, -39.0), (-30.0, -29.0)]
    return long_shape(0.0, middle, [(2.0, -69.0)])


def wavy() -> HairShape:
    """With wavy sides, parted a little off the middle."""
    middle = [(32.0, -28.0), (22.0, -38.0), (12.0, -48.0), (-6.0, -36.0), (-30.0, -25.0)]
    return long_shape(5.0, middle, [(4.0, -74.0)])


def side_part() -> HairShape:
    """Nearly straight, parted far off the middle, combed across the forehead."""
    middle = [(34.0, -28.0), (29.0, -40.0), (24.0, -49.0), (8.0, -34.0), (-16.0, -23.0), (-34.0, -12.0)]
    return long_shape(2.0, middle, [(14.0, -70.0), (-12.0, -73.0)])


def braids() -> HairShape:
    """A middle parting and a plait of five beads down each side."""
    hairline = both_sides([(41.0, 16.0), (40.0, -12.0), (32.0, -31.0), (15.0, -41.0), (0.0, -52.0)])
    plaits = [ellipse(x, y, 12.0 - 0.6 * number, 11.5, 16) for number, (x, y) in enumerate(BEADS)]
    beads = (*plaits, *(flipped(plait) for plait in plaits))
    return HairShape(front=(cap(66.0, 49.0, hairline, 24.0), *beads), over_ears=True)
