"""The photos of one person that are read: plain, in each light, a pair that differs in light and pose, tilted."""

from dataclasses import dataclass

from deployments.embedded.training.renderer.portrait import Portrait
from deployments.types import Pixels
from loadtest.bench.reading.camera import LIGHTS
from loadtest.bench.reading.portrait import sitting

TURNS = ((-24.0, 4.0), (24.0, -6.0), (-16.0, -8.0), (16.0, 7.0))  # yaw and pitch
TILTS = (18.0, -18.0, 32.0, -32.0)


@dataclass(frozen=True, slots=True)
class Photos:
    """`lit` has one a light, of the pose of `plain`; `other` differs from `lit[of_pair]` in light and pose."""

    plain: Pixels
    lit: list[Pixels]
    of_pair: int
    other: Pixels
    tilted: Pixels

    @property
    def all(self) -> list[Pixels]:
        """In a fixed order."""
        return [self.plain, *self.lit, self.other, self.tilted]


def photos_of(person: Portrait, number: int) -> Photos:
    """The same for the same number."""
    first = sitting(person, number)
    yaw, pitch = TURNS[number % len(TURNS)]
    of_pair, other = number % len(LIGHTS), LIGHTS[(number + 3) % len(LIGHTS)]
    return Photos(
        first.photo(),
        [first.photo(light) for light in LIGHTS],
        of_pair,
        sitting(person, number + 1, yaw, pitch).photo(other),
        sitting(person, number, roll=TILTS[number % len(TILTS)]).photo(),
    )
