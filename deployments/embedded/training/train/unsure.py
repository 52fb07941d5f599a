"""What reading a photo does to a face's vector: a little noise, and traits that the encoder is not sure of.

The generator sees vectors like that in training, so that in doubt it draws the likeliest option, the same each time.
"""

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from deployments.embedded.training.renderer.appearance import CODE_WIDTH, TRAITS, Choice, basis

NOISE = 0.2  # at most, of a vector's length, among what vectors can say
UNSURE = 0.35  # of the traits of a vector that is not sure of all
MIXED = 0.45  # at most, of a choice's part that goes to other options: its own stays the largest
SHORTENED = 0.7  # at most, of a scale's part
ENDS = list(accumulate(trait.width for trait in TRAITS.values()))
Vectors = NDArray[np.float32]


def as_read(faces: Vectors, rng: np.random.Generator) -> Vectors:
    """(n, 512), each of length 1: half of them with noise, half of them unsure; a vector may be either, both, none."""
    moved = noised(unsure(faces, rng), rng)
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)


def noised(faces: Vectors, rng: np.random.Generator) -> Vectors:
    """Half of the vectors moved a little, so that photos off the renderer's ground still draw clean faces."""
    amount = rng.uniform(0, NOISE, (len(faces), 1)) * (rng.random((len(faces), 1)) < 0.5)
    return np.asarray(faces + amount * (rng.normal(0, CODE_WIDTH**-0.5, (len(faces), CODE_WIDTH)) @ basis()))


def unsure(faces: Vectors, rng: np.random.Generator) -> Vectors:
    """Half of the vectors with some traits told less surely: scales shorter, choices mixed with other options."""
    count, codes = len(faces), faces @ basis().T
    some = rng.random((count, 1)) < 0.5
    for trait, end in zip(TRAITS.values(), ENDS, strict=True):
        part = codes[:, end - trait.width : end]
        doubt = rng.random((count, 1)) * (some & (rng.random((count, 1)) < UNSURE))
        other = 0.0
        if isinstance(trait, Choice):
            other = part.sum(1, keepdims=True) * rng.dirichlet(np.full(trait.width, 0.5), count)
        most = MIXED if isinstance(trait, Choice) else SHORTENED
        part += most * doubt * (other - part)
    return np.asarray(codes @ basis())
