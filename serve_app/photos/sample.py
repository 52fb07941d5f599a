"""The sample photo of the demo and of the playground."""

from pathlib import Path

import skimage


def sample_photo() -> Path:
    """The astronaut Eileen Collins: a NASA photo in the public domain that scikit-image ships."""
    return Path(skimage.__file__).parent / "data" / "astronaut.png"
