"""Where a cartoon's features lie: by the length of the face, and by age from child to old."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from deployments.embedded.training.renderer.clothes import BUILDS
from deployments.embedded.training.renderer.portrait import Gender, Portrait

GROWN = 0.17  # age from which nothing of a child is left
CHILD_BUILD = (15.0, 56.0)
AGEING = 0.55  # age from which lids, jaw and lips begin to sink


@dataclass(frozen=True)
class Proportions:
    """Heights and distances in drawing units, counted from the face's centre downwards."""

    skull: tuple[float, float]  # size of the head against a photo's, across and down
    chin: float  # in units of the skull
    apart: float  # of an eye from the middle
    eyes: float
    nose: float  # its tip
    mouth: float
    childlike: float  # 0..1
    aged: float  # 0..1

    @classmethod
    def of(cls, person: Portrait) -> Self:
        """A long face is narrow and high; a child's features are low and small in a large round head."""
        childlike = float(np.clip((GROWN - person.age) / 0.09, 0, 1))
        across, down = 1.39 - 0.17 * person.face_length, 1.1 + 0.1 * person.face_length
        chin = 54.5 + 7.5 * person.face_length
        depth = chin * down
        eyes = 3.0 + 5.0 * childlike
        mouth = depth * (0.68 + 0.02 * childlike)
        return cls(
            skull=(across, down),
            chin=chin,
            apart=19.1 * across + 0.6 * childlike,
            eyes=eyes,
            nose=eyes + (mouth - eyes) * (0.56 - 0.06 * childlike) + 0.5,
            mouth=mouth,
            childlike=childlike,
            aged=float(np.clip((person.age - AGEING) / (1 - AGEING), 0, 1)),
        )

    def build(self, gender: Gender) -> tuple[float, float]:
        """Half the width of the neck and of the shoulders."""
        (neck, broad), (small, narrow) = BUILDS[gender], CHILD_BUILD
        return neck + (small - neck) * self.childlike, broad + (narrow - broad) * self.childlike
