"""The hair styles of a flat drawing as outlines, in units of the skull, for a parting right in the picture."""

from collections.abc import Callable
from functools import cache

from deployments.embedded.training.renderer import hair_styles
from deployments.embedded.training.renderer.drawing import ellipse, flipped, smooth, spline
from deployments.embedded.training.renderer.hair_styles import HairShape, both_sides, cap, flipped_shape, pulled_back
from deployments.embedded.training.renderer.portrait import HairStyle


def bald() -> HairShape:
    """No hair at all; `draw_front_hair` adds the shine."""
    return HairShape(front=())


def buzz() -> HairShape:
    """Close to the skull, with an even hairline."""
    hairline = both_sides([(40.0, -2.0), (37.0, -26.0), (30.0, -38.0), (16.0, -41.0), (0.0, -42.0)])
    return HairShape(front=(cap(60.0, 44.5, hairline, 0.0),))


def receding() -> HairShape:
    """Short, with the hairline set back at both temples."""
    hairline = both_sides([(40.5, 4.0), (38.0, -18.0), (35.0, -34.0), (27.0, -50.0), (15.0, -50.0), (0.0, -45.0)])
    return HairShape(front=(cap(63.0, 46.5, hairline, 6.0),))


def quiff() -> HairShape:
    """Short sides and a tuft that stands up over the forehead."""
    hairline = both_sides([(40.5, 0.0), (38.0, -22.0), (32.0, -36.0), (20.0, -42.0), (0.0, -44.0)])
    tuft = [(37.0, -28.0), (42.0, -44.0), (39.0, -62.0), (24.0, -75.0), (0.0, -81.0), (-24.0, -79.0), (-40.0, -66.0),
            (-43.0, -46.0), (-38.0, -28.0), (-32.0, -38.0), (-20.0, -45.0), (0.0, -42.0), (20.0, -42.0),
            (32.0, -37.0)]  # fmt: skip
    return HairShape(front=(cap(62.0, 45.0, hairline, 0.0), spline(tuft)))


def swept() -> HairShape:
    """Combed straight back: the forehead is bare."""
    hairline = both_sides([(40.5, 4.0), (39.0, -20.0), (34.0, -38.0), (22.0, -47.0), (0.0, -48.0)])
    outer = both_sides([(46.5, 4.0), (49.0, -18.0), (47.0, -44.0), (33.0, -68.0), (12.0, -77.0), (0.0, -78.0)])
    return HairShape(front=(smooth(outer) + smooth(flipped(hairline)),))


def pixie() -> HairShape:
    """Short, over the ears, combed across the forehead from a parting."""
    outer = [(-41.0, 26.0), (-49.0, 8.0), (-52.0, -18.0), (-47.0, -46.0), (-28.0, -69.0), (2.0, -75.0), (30.0, -66.0),
             (46.0, -42.0), (49.0, -14.0), (47.0, 8.0), (41.0, 24.0)]  # fmt: skip
    hairline = [(38.0, 8.0), (38.0, -14.0), (31.0, -34.0), (22.0, -44.0), (6.0, -33.0), (-16.0, -25.0), (-33.0, -17.0),
                (-38.0, -4.0), (-41.0, 26.0)]  # fmt: skip
    return HairShape(front=(smooth(outer) + smooth(hairline),), over_ears=True)


def bun() -> HairShape:
    """Tied back, with a knot on top."""
    return HairShape(front=(pulled_back(),), back=(ellipse(0.0, -70.0, 21.0, 15.0),))


def ponytail() -> HairShape:
    """Tied back, with a tail that falls to one side."""
    tail = [(-20.0, -58.0), (-46.0, -54.0), (-66.0, -34.0), (-72.0, 0.0), (-68.0, 36.0), (-72.0, 62.0), (-58.0, 92.0),
            (-50.0, 62.0), (-46.0, 30.0), (-48.0, 0.0), (-40.0, -24.0)]  # fmt: skip
    return HairShape(front=(pulled_back(),), back=(spline(tail),))


STYLES: dict[HairStyle, Callable[[], HairShape]] = {
    "bald": bald, "buzz": buzz, "receding": receding, "undercut": hair_styles.undercut, "parted": hair_styles.parted,
    "quiff": quiff, "swept": swept, "fringe": hair_styles.fringe, "pixie": pixie, "curly": hair_styles.curly,
    "short afro": hair_styles.short_afro, "afro": hair_styles.afro, "bun": bun, "ponytail": ponytail,
    "bob": hair_styles.bob, "side part": hair_styles.side_part, "long": hair_styles.long, "wavy": hair_styles.wavy,
    "braids": hair_styles.braids,
}  # fmt: skip


@cache
def hair_shape(style: HairStyle, parted_left: bool) -> HairShape:
    """Cached: every person of a style shares one shape, which nothing may change."""
    shape = STYLES[style]()
    return flipped_shape(shape) if parted_left else shape
