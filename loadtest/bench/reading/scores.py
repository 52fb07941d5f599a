"""Scores of readings and their bars, computed from classes alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LIGHTS_BAR, BOTH_BAR = 0.85, 0.8
Class = str | None


def macro_recall(truth: Sequence[Class], read: Sequence[Class]) -> float:
    """The mean over the classes of the share of their members that are read right; NaN where nothing is counted.

    A constant answer scores 1 / classes, whatever their frequencies. Members of no class (None) are not counted.
    """
    recalls = []
    for each in {one for one in truth if one is not None}:
        answers = [told for true, told in zip(truth, read, strict=True) if true == each]
        recalls.append(sum(told == each for told in answers) / len(answers))
    return float(np.mean(recalls)) if recalls else float("nan")


def chance(truth: Sequence[Class]) -> float:
    """The macro recall of a constant answer; NaN where nothing is counted."""
    classes = {one for one in truth if one is not None}
    return 1 / len(classes) if classes else float("nan")


def both_right(truth: Sequence[Class], first: Sequence[Class], second: Sequence[Class]) -> float:
    """The share of those with a class that are read right twice; NaN where nothing is counted."""
    counted = [pair for pair in zip(truth, first, second, strict=True) if pair[0] is not None]
    return float(np.mean([one == true == other for true, one, other in counted])) if counted else float("nan")


@dataclass(frozen=True, slots=True)
class Row:
    """A trait's line of the table, each figure from 0 to 1."""

    trait: str
    persons: int
    classes: int
    chance: float
    recall: float
    bar: float
    lights: float  # recall under all lights, over `recall`
    both: float
    tilted: float

    @property
    def met(self) -> dict[str, bool]:
        """Which of the bars are met; a figure that equals its bar meets it, NaN never does."""
        return {"recall": self.recall >= self.bar, "lights": self.lights >= LIGHTS_BAR, "both": self.both >= BOTH_BAR}


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one trait, one class a person in each: what is true, and what was read of each photo."""

    truth: list[Class]
    plain: list[Class]
    lit: list[list[Class]]  # a list a light
    pair: tuple[list[Class], list[Class]]
    tilted: list[Class]

    def row(self, trait: str, bar: float) -> Row:
        """All figures."""
        recall = macro_recall(self.truth, self.plain)
        lights = macro_recall(self.truth * len(self.lit), [told for light in self.lit for told in light])
        counted = [one for one in self.truth if one is not None]
        return Row(
            trait,
            len(counted),
            len(set(counted)),
            chance(self.truth),
            recall,
            bar,
            lights / recall if recall else 0.0,
            both_right(self.truth, *self.pair),
            macro_recall(self.truth, self.tilted),
        )
