"""The matting model against the renderer's own alpha, and on avatars against a segmentation by background colour."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from deployments.background.model import MattingModel
from deployments.embedded.training.evaluate.figures import HELD_OUT, held_out
from deployments.embedded.training.renderer.figure import render
from deployments.embedded.training.renderer.portrait import Portrait, avatar_sitting
from loadtest.bench.avatars.scores import Picture, Score, flat_figure, intersection_over_union

DISTANCE = 12.0  # CIEDE2000 from the background


def matting_scores(
    model: MattingModel, avatars: Sequence[Picture], colours: Sequence[str], count: int
) -> Iterator[Score]:
    """`avatars` have flat backgrounds in `colours`, which no figure wears."""
    truth_alone, on_renders = [], []
    for number, somebody in enumerate(held_out(count, HELD_OUT + 7000)):
        person = avatar_sitting(somebody, np.random.default_rng(number))
        picture, alpha = drawn(person if number % 2 else replace(person, background_name="black"))
        on_renders.append(intersection_over_union(model.alpha(picture) > 127, alpha))
        picture, alpha = drawn(replace(person, background_name=colours[number % len(colours)], clothes_name="white"))
        truth_alone.append(intersection_over_union(flat_figure(picture, DISTANCE), alpha))
    on_avatars = [
        intersection_over_union(model.alpha(avatar) > 127, flat_figure(avatar, DISTANCE)) for avatar in avatars
    ]
    yield Score("matting IoU, renders", float(np.mean(on_renders)), 0.98, note=_lowest(on_renders))
    yield Score("matting IoU, avatars on colour", float(np.mean(on_avatars)), 0.95, note=_lowest(on_avatars))
    yield Score("the latter's truth on renders, IoU", float(np.mean(truth_alone)), note=_lowest(truth_alone))


def drawn(person: Portrait) -> tuple[Picture, np.ndarray]:
    """The picture, (256, 256, 3), and where its person is, (256, 256)."""
    picture, alpha = render(person)
    return np.asarray(picture, dtype=np.uint8), np.asarray(alpha) > 127


def _lowest(values: Sequence[float]) -> str:
    return f"5th percentile {np.percentile(values, 5):.3f}" if values else "none"
