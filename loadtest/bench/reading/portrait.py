"""A person photographed: the withheld rendering, which shares nothing with the training's but the person's traits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.renderer.portrait import NAMED_COLOURS, Portrait
from loadtest.bench.reading.camera import PLAIN, Exposure, Light, exposed, turn_of, wall_of
from loadtest.bench.reading.face import head
from loadtest.bench.reading.hair import beard, hair
from loadtest.bench.reading.skull import Skull
from loadtest.bench.reading.surfels import Numbers, linear, single, together
from loadtest.bench.reading.worn import BANDS, clothes, earrings, glasses, hat

BUST = single([0, -0.05, 0])


@dataclass(frozen=True, slots=True)
class Sitting:
    """A person in a pose, to be lit and photographed any number of times."""

    exposure: Exposure
    wall: Numbers
    seed: int

    def photo(self, light: Light = PLAIN) -> NDArray[np.uint8]:
        """(SIDE, SIDE, 3)."""
        return self.exposure.lit(light, self.wall, np.random.default_rng(self.seed))


def sitting(person: Portrait, seed: int, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Sitting:
    """Angles in degrees; the same seed gives the same strands, wall and noise."""
    rng = np.random.default_rng(seed)
    skull = Skull(person)
    parts = [head(skull, rng), *hair(skull, BANDS.get(person.hat), rng), *beard(skull, rng)]
    parts += [*glasses(skull), *hat(skull), clothes(skull)]
    if person.earrings:
        parts += earrings(skull)
    wall = wall_of(linear(NAMED_COLOURS[person.background_name]), rng)
    return Sitting(exposed(together(parts).moved(turn_of(yaw, pitch, roll), BUST)), wall, seed)
