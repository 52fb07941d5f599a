"""The hair styles of a cartoon: outlines and strands, in units of the skull, for a parting right in the picture."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from deployments.embedded.training.renderer import hair_styles
from deployments.embedded.training.renderer.cartoon.strands import fan, rings, waved
from deployments.embedded.training.renderer.drawing import Points, arc, ellipse, flipped, mirrored, smooth, spline
from deployments.embedded.training.renderer.hair_styles import HairShape, both_sides, cap, flipped_shape
from deployments.embedded.training.renderer.portrait import HairStyle

Lines = tuple[Points, ...]


@dataclass(frozen=True)
class Style:
    """A shape, its strands, and what else tells the style."""

    shape: HairShape
    strands: Lines = ()
    behind: Lines = ()  # strands of the hair behind the head
    dark: Lines = ()  # shaded sides of curls
    light: Lines = ()  # their lit sides
    bared: float = 1.0  # how much of the hairline's recession is seen
    parting: float | None = None  # where it is, right of the middle


def flipped_style(style: Style) -> Style:
    """Mirrored in the middle line; the light stays at the left."""

    def turned(lines: Lines) -> Lines:
        return tuple(flipped(line) for line in lines)

    return replace(
        style,
        shape=flipped_shape(style.shape),
        strands=turned(style.strands),
        behind=turned(style.behind),
        parting=None if style.parting is None else -style.parting,
    )


def both(lines: list[Points]) -> list[Points]:
    """The lines and their mirror images."""
    return [*lines, *(flipped(line) for line in lines)]


def bald() -> Style:
    """No hair at all; `Hair.draw_front` adds the shine."""
    return Style(HairShape(front=()))


def buzz() -> Style:
    """Skin shows through all of it."""
    hairline = both_sides([(40.0, -1.0), (38.0, -23.0), (31.0, -33.0), (16.0, -38.5), (0.0, -39.5)])
    return Style(HairShape(front=(), shaved=(cap(59.5, 43.8, hairline, 0.0),)))


def crew_cut() -> Style:
    """A short, flat, bristly top over shaved sides."""
    sides = both_sides([(40.5, 2.0), (38.5, -22.0), (32.0, -36.0), (0.0, -41.0)])
    top = [(39.0, -29.0), (42.0, -44.0), (38.5, -61.0), (24.0, -67.0), (0.0, -68.5), (-24.0, -67.0), (-38.5, -61.0),
           (-42.0, -44.0), (-39.0, -29.0), (-33.0, -34.0), (-22.0, -40.0), (0.0, -41.5), (22.0, -40.0),
           (33.0, -34.0)]  # fmt: skip
    low = fan([(-30.0, -38.0), (-31.0, -50.0)], [(30.0, -38.0), (31.0, -50.0)], 6)
    high = fan([(-26.0, -56.0), (-27.0, -66.0)], [(26.0, -56.0), (27.0, -66.0)], 5)
    shape = HairShape(front=(spline(top, 6),), shaved=(cap(58.0, 43.8, sides, 2.0),))
    return Style(shape, tuple(low + high))


def receding() -> Style:
    """Thin, short, with corners at the temples that rise with the recession."""
    hairline = both_sides([(40.5, 4.0), (38.5, -16.0), (34.0, -30.0), (26.0, -41.0), (14.0, -42.0), (0.0, -38.0)])
    lines = fan([(-20.0, -40.0), (-25.0, -52.0), (-20.0, -63.0)], [(20.0, -40.0), (25.0, -52.0), (20.0, -63.0)], 5)
    sides = both([smooth([(40.0, -38.0), (44.0, -22.0), (44.0, 0.0)])])
    return Style(HairShape(front=(cap(62.0, 46.5, hairline, 6.0),)), tuple(lines + sides))


def undercut() -> Style:
    """A thick top, combed aside, over shaved sides."""
    lines = fan([(32.0, -46.0), (8.0, -72.0), (-28.0, -69.0), (-43.0, -44.0)],
                [(16.0, -43.0), (-2.0, -45.0), (-20.0, -41.0), (-34.0, -30.0)], 5)  # fmt: skip
    return Style(hair_styles.undercut(), tuple(lines), bared=0.6)


def parted() -> Style:
    """Short, combed aside from a parting."""
    left = fan([(22.0, -49.0), (4.0, -70.0), (-30.0, -62.0), (-46.0, -30.0), (-45.0, 0.0)],
               [(22.0, -46.0), (4.0, -39.0), (-16.0, -34.0), (-33.0, -29.0), (-40.0, -12.0)], 5)  # fmt: skip
    right = fan([(24.0, -49.0), (36.0, -56.0), (44.0, -30.0), (45.0, 0.0)],
                [(24.0, -47.0), (33.0, -42.0), (40.0, -22.0), (42.0, 0.0)], 3)  # fmt: skip
    return Style(hair_styles.parted(), tuple(left + right), parting=22.0)


def quiff() -> Style:
    """Short sides and a tall tuft that rises from the forehead."""
    hairline = both_sides([(40.5, 0.0), (38.0, -22.0), (32.0, -35.0), (20.0, -40.0), (0.0, -42.0)])
    tuft = [(35.0, -30.0), (41.0, -46.0), (43.0, -66.0), (31.0, -78.0), (8.0, -86.0), (-18.0, -84.0), (-37.0, -74.0),
            (-41.0, -52.0), (-35.0, -31.0), (-29.0, -38.0), (-16.0, -43.0), (0.0, -43.0), (18.0, -42.0),
            (29.0, -37.0)]  # fmt: skip
    lines = fan([(-30.0, -36.0), (-37.0, -56.0), (-26.0, -76.0)], [(28.0, -36.0), (34.0, -54.0), (36.0, -72.0)], 6)
    shape = HairShape(front=(spline(tuft),), shaved=(cap(59.0, 44.2, hairline, 0.0),))
    return Style(shape, tuple(lines))


def swept() -> Style:
    """Combed back from a bare, round forehead, high above it."""
    outer = [(45.5, 6.0), (47.5, -18.0), (46.0, -44.0), (37.0, -67.0), (19.0, -79.0), (0.0, -82.0)]
    hairline = [(40.5, 6.0), (39.0, -18.0), (34.0, -37.0), (22.0, -48.5), (9.0, -50.5), (0.0, -47.0)]
    lines = both([smooth([(px, py), (px * 1.32, py - 13), (px * 1.2, py - 27)]) for px, py in
                  ((4.0, -46.0), (12.0, -48.0), (20.0, -46.0), (28.0, -40.0))])  # fmt: skip
    sides = both(fan([(38.0, -24.0), (44.0, -42.0), (42.0, -56.0)], [(41.0, 4.0), (44.0, -14.0), (46.0, -32.0)], 3))
    shape = HairShape(front=(smooth(both_sides(outer)) + smooth(flipped(both_sides(hairline))),))
    return Style(shape, tuple(lines + sides))


def fringe() -> Style:
    """Short, with points that hang into the forehead."""
    lines = fan([(-8.0, -68.0), (-38.0, -48.0), (-43.0, -8.0)], [(8.0, -68.0), (38.0, -48.0), (43.0, -8.0)], 7)
    return Style(hair_styles.fringe(), tuple(lines), bared=0.35)


def pixie() -> Style:
    """Short, over the ears, combed across the forehead, with pointed ends before and behind the ears."""
    outer = [(-37.0, 38.0), (-47.0, 24.0), (-53.0, 4.0), (-52.0, -20.0), (-47.0, -46.0), (-28.0, -69.0), (2.0, -76.0),
             (30.0, -67.0), (46.0, -44.0), (51.0, -18.0), (52.0, 4.0), (47.0, 24.0), (37.0, 36.0)]  # fmt: skip
    hairline = [(38.0, 8.0), (38.5, -14.0), (31.0, -34.0), (24.0, -44.0), (6.0, -33.0), (-16.0, -23.0), (-34.0, -12.0),
                (-38.0, 2.0), (-39.0, 18.0)]  # fmt: skip
    left = fan([(22.0, -48.0), (-4.0, -66.0), (-42.0, -44.0), (-47.0, 18.0)],
               [(22.0, -44.0), (2.0, -36.0), (-20.0, -25.0), (-37.0, -10.0)], 5)  # fmt: skip
    right = fan([(24.0, -46.0), (42.0, -50.0), (48.0, 20.0)], [(24.0, -44.0), (36.0, -32.0), (41.0, 14.0)], 2)
    shape = HairShape(front=(smooth(outer) + smooth(hairline),), over_ears=True)
    return Style(shape, tuple(left + right), bared=0.35, parting=22.0)


def curly() -> Style:
    """Round curls about the head and along the forehead."""
    dark, light = rings(7.0, -58.0, -74.0, 16.0)
    return Style(hair_styles.curly(), dark=dark, light=light, bared=0.5)


def short_afro() -> Style:
    """Round, close to the head, above the ears, with small coils."""
    dark, light = rings(4.0, -54.0, -76.0, 6.0)
    return Style(hair_styles.short_afro(), dark=dark, light=light)


def afro() -> Style:
    """Round and wide, over the ears, with small coils."""
    dark, light = rings(4.6, -74.0, -84.0, 46.0)
    return Style(hair_styles.afro(), dark=dark, light=light)


def tied() -> list[Points]:
    """Strands of hair drawn up to the crown."""
    return both(fan([(43.0, 2.0), (45.0, -40.0), (6.0, -66.0)], [(5.0, -42.0), (5.0, -54.0), (2.0, -66.0)], 4))


def bun() -> Style:
    """Tied back, with a knot on top."""
    knot = [arc(0.0, -71.0, wide, high, start, start + 210) for wide, high, start in ((17, 12, 150), (9, 6, -20))]
    shape = HairShape(front=(hair_styles.pulled_back(),), back=(ellipse(0.0, -71.0, 24.0, 17.0),))
    return Style(shape, tuple(tied()), behind=tuple(knot))


def ponytail() -> Style:
    """Tied high, with a full tail that falls to one side, to the chest."""
    tail = [(-4.0, -66.0), (-24.0, -79.0), (-52.0, -70.0), (-70.0, -40.0), (-74.0, 0.0), (-70.0, 36.0), (-75.0, 62.0),
            (-60.0, 94.0), (-50.0, 64.0), (-45.0, 30.0), (-46.0, 0.0), (-40.0, -24.0), (-24.0, -48.0)]  # fmt: skip
    lines = fan([(-16.0, -70.0), (-60.0, -50.0), (-68.0, 10.0), (-62.0, 88.0)],
                [(-16.0, -62.0), (-44.0, -32.0), (-50.0, 10.0), (-58.0, 80.0)], 4)  # fmt: skip
    shape = HairShape(front=(hair_styles.pulled_back(),), back=(spline(tail),))
    return Style(shape, tuple(tied()), behind=tuple(lines))


def bob() -> Style:
    """Chin-length, parted, over the ears."""
    left = fan([(19.0, -48.0), (-22.0, -64.0), (-52.0, -24.0), (-56.0, 46.0)],
               [(18.0, -44.0), (-8.0, -33.0), (-36.0, -14.0), (-41.0, 48.0)], 5)  # fmt: skip
    right = fan([(21.0, -48.0), (46.0, -44.0), (55.0, -4.0), (56.0, 46.0)],
                [(20.0, -44.0), (34.0, -30.0), (41.0, 0.0), (41.0, 48.0)], 3)  # fmt: skip
    return Style(hair_styles.bob(), tuple(left + right), bared=0.35, parting=18.0)


def falls(parting: float, low: float) -> list[Points]:
    """Strands of long hair from a parting down both sides."""
    right = fan([(parting + 1, -54.0), (34.0, -60.0), (52.0, -20.0), (56.0, 36.0), (53.0, 100.0)],
                [(parting, -50.0), (parting + (30 - parting) * 0.6, low), (37.0, -16.0), (41.0, 30.0), (43.0, 98.0)],
                4)  # fmt: skip
    left = fan([(parting - 1, -54.0), (-34.0, -62.0), (-52.0, -20.0), (-56.0, 36.0), (-53.0, 100.0)],
               [(parting, -50.0), (-18.0, low), (-36.0, -16.0), (-41.0, 30.0), (-43.0, 98.0)], 4)  # fmt: skip
    return right + left


def long() -> Style:
    """Straight, with a middle parting."""
    return Style(hair_styles.long(), tuple(falls(2.0, -37.0)), parting=2.0)


def wavy() -> Style:
    """With waves, parted a little off the middle."""
    return Style(hair_styles.wavy(), tuple(waved(falls(12.0, -36.0), 4.0, 42.0)), bared=0.6, parting=12.0)


def side_part() -> Style:
    """Nearly straight, parted far off the middle, combed across the forehead."""
    return Style(hair_styles.side_part(), tuple(falls(24.0, -32.0)), bared=0.35, parting=24.0)


def long_curly() -> Style:
    """Round curls from a parting to below the shoulders, wider than any other hair."""
    hairline = [(41.0, 30.0), (39.5, -8.0), (33.0, -27.0), (20.0, -40.0), (10.0, -47.0), (-8.0, -38.0), (-30.0, -25.0),
                (-39.5, -8.0), (-41.0, 30.0)]  # fmt: skip
    sides = [(51.0, -26.0), (58.0, -6.0), (61.0, 16.0), (62.0, 38.0), (60.0, 60.0), (55.0, 80.0), (46.0, 92.0),
             (45.0, 12.0), (46.0, 36.0), (45.0, 62.0)]  # fmt: skip
    locks = [ellipse(x, y, 13.0, 13.0, 16) for x, y in sides]
    back = [(0.0, -60.0), (36.0, -54.0), (54.0, -20.0), (60.0, 30.0), (56.0, 80.0), (36.0, 92.0), (0.0, 80.0)]
    crown = hair_styles.curls(45.0, 51.0, 13.0, 9)
    dark, light = rings(7.4, -76.0, -84.0, 108.0)
    shape = HairShape(front=(cap(68.0, 50.0, hairline, 30.0), *crown, *both(locks)), back=(spline(mirrored(back)),),
                      over_ears=True)  # fmt: skip
    return Style(shape, dark=dark, light=light, bared=0.5, parting=10.0)


def braids() -> Style:
    """A middle parting and a plait of five beads down each side."""
    knots = both([smooth(smooth([(x - 9.0, y + 4.0), (x, y + 9.0), (x + 9.0, y + 4.0)])) for x, y in hair_styles.BEADS])
    lines = both(fan([(2.0, -54.0), (32.0, -58.0), (46.0, -20.0), (46.0, 18.0)],
                     [(2.0, -52.0), (20.0, -38.0), (38.0, -16.0), (41.0, 14.0)], 3))  # fmt: skip
    return Style(hair_styles.braids(), tuple(lines + knots), parting=0.0)


def rope(line: Points, half: float) -> Points:
    """A lock of even width about a line that runs downwards, with a round end."""
    (x, y), right = line[-1], [(px + half, py) for px, py in line]
    return [*right, *arc(x, y, half, half, 0, 180, 7), *((px - half, py) for px, py in reversed(line))]


def locs() -> Style:
    """Ropes of hair from a middle parting to the chest, apart from each other at their ends."""
    hairline = both_sides([(41.0, 16.0), (40.0, -10.0), (33.0, -28.0), (18.0, -37.0), (0.0, -46.0)])
    ends = [(40.0, 92.0), (51.5, 104.0), (62.0, 86.0), (70.0, 62.0)]
    lines = [
        smooth([(30.0 + 3 * n, -44.0 + 3 * n), (40.0 + 5.5 * n, -8.0), (38.0 + 8.5 * n, 26.0), (x, y)])
        for n, (x, y) in enumerate(ends)
    ]
    tops = both(fan([(2.0, -56.0), (30.0, -62.0), (50.0, -28.0)], [(1.0, -48.0), (18.0, -40.0), (38.0, -18.0)], 4))
    edges = [[(x - 5.2, y) for x, y in line] for line in lines]
    turns = [[(px - 4.0, py + 2.0), (px + 4.0, py - 2.0)] for x, low in ends for px, py in
             [(x, y) for y in range(20, round(low), 14)]]  # fmt: skip
    ropes = [rope(line, 5.2) for line in lines]
    behind = [rope([(x, -20.0), (x, 66.0 + 6 * (number % 2))], 6.0) for number, x in enumerate(range(-33, 34, 11))]
    shape = HairShape(front=(cap(67.0, 50.0, hairline, 20.0), *both(ropes)), back=tuple(behind), over_ears=True)
    return Style(
        shape,
        tuple(tops + both(edges + turns)),
        behind=tuple([(x, 10.0), (x, 70.0)] for x in range(-28, 34, 11)),
        parting=0.0,
    )


STYLES: dict[HairStyle, Callable[[], Style]] = {
    "bald": bald, "buzz": buzz, "crew cut": crew_cut, "receding": receding, "undercut": undercut, "parted": parted,
    "quiff": quiff, "swept": swept, "fringe": fringe, "pixie": pixie, "curly": curly, "short afro": short_afro,
    "afro": afro, "bun": bun, "ponytail": ponytail, "bob": bob, "long": long, "wavy": wavy, "side part": side_part,
    "long curly": long_curly, "braids": braids, "locs": locs,
}  # fmt: skip


@cache
def style_of(name: HairStyle, parted_left: bool) -> Style:
    """Cached: every person of a style shares one, which nothing may change."""
    style = STYLES[name]()
    return flipped_style(style) if parted_left else style
