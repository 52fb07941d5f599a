"""How many users there are at each moment of a load test."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

ShapeName = Literal["steady", "ramp", "spike", "drain", "diurnal"]

SPIKE = (0.4, 0.6)  # when it is, in parts of the time
AROUND_SPIKE = 0.2  # of the users: those that are always there
DRAINED = 0.5  # from then on nobody asks for anything new
NIGHT = 0.1  # of the users, when there are fewest


def steady(_part: float) -> float:
    """All of them, all the time."""
    return 1.0


def ramp(part: float) -> float:
    """From none to all, evenly."""
    return part


def spike(part: float) -> float:
    """A few, then all at once, then a few again."""
    return 1.0 if SPIKE[0] <= part < SPIKE[1] else AROUND_SPIKE


def drain(part: float) -> float:
    """All, then none: what is queued is worked off, and replicas that are too many leave."""
    return 1.0 if part < DRAINED else 0.0


def diurnal(part: float) -> float:
    """A day: from midnight over noon, when all are there, to midnight."""
    return NIGHT + (1 - NIGHT) * (1 - math.cos(2 * math.pi * part)) / 2


SHAPES: Mapping[ShapeName, Callable[[float], float]] = {
    "steady": steady,
    "ramp": ramp,
    "spike": spike,
    "drain": drain,
    "diurnal": diurnal,
}
"""Each gives the share of the users, of the part of the time that has passed; both 0 to 1."""

NAMES: tuple[ShapeName, ...] = get_args(ShapeName)


def users_at(shape: ShapeName, part: float, most: int) -> int:
    """Whole users, of at most so many; at least one unless the shape says none."""
    return math.ceil(SHAPES[shape](min(max(part, 0.0), 1.0)) * most - 1e-9)
