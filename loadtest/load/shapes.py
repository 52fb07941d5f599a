"""The number of users over the time of a load test."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

ShapeName = Literal["steady", "ramp", "spike", "drain", "diurnal"]

SPIKE = (0.4, 0.6)  # begin and end, as fractions of the time
AROUND_SPIKE = 0.2  # fraction of users outside the spike
DRAINED = 0.5  # fraction of the time after which there are no users
NIGHT = 0.1  # minimum fraction of users


def steady(_part: float) -> float:
    """All users all the time."""
    return 1.0


def ramp(part: float) -> float:
    """Linearly from none to all."""
    return part


def spike(part: float) -> float:
    """A few, then all at once, then a few again."""
    return 1.0 if SPIKE[0] <= part < SPIKE[1] else AROUND_SPIKE


def drain(part: float) -> float:
    """All, then none: the queue drains and replicas scale down."""
    return 1.0 if part < DRAINED else 0.0


def diurnal(part: float) -> float:
    """A day from midnight to midnight, with all users at noon."""
    return NIGHT + (1 - NIGHT) * (1 - math.cos(2 * math.pi * part)) / 2


SHAPES: Mapping[ShapeName, Callable[[float], float]] = {
    "steady": steady,
    "ramp": ramp,
    "spike": spike,
    "drain": drain,
    "diurnal": diurnal,
}
"""Each maps the elapsed fraction of the time to the fraction of users, both 0 to 1."""

NAMES: tuple[ShapeName, ...] = get_args(ShapeName)


def users_at(shape: ShapeName, part: float, most: int) -> int:
    """The number of users at a moment; at least one unless the shape is zero."""
    return math.ceil(SHAPES[shape](min(max(part, 0.0), 1.0)) * most - 1e-9)
