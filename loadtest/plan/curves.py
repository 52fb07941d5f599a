"""Step times by model and size: measured by `loadtest.bench.gpu`, or assumed, and then named so."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deployments.diffusion.engine.latency_model import LatencyModel
from deployments.diffusion.engine.scheduler import Bucket
from loadtest.bench.engine.queues import ASSUMED as SD
from loadtest.bench.engine.queues import KLEIN, Curve
from loadtest.plan.engine import KnownCosts

Size = tuple[int, int]
MEGAPIXEL = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SizeTimes:
    """Seconds of a step at one size, by rows of the denoiser's batch, and of the decoding of an image."""

    pixels: int
    steps_s: Mapping[int, float]
    decode_s: float

    def step_s(self, batch_size: int) -> float:
        """Between two known batch sizes on their line; beyond them on the line of the two nearest."""
        known = sorted(self.steps_s)
        if len(known) == 1:
            return self.steps_s[known[0]] * batch_size / known[0]
        above = min(max(1, int(np.searchsorted(known, batch_size))), len(known) - 1)
        low, high = known[above - 1], known[above]
        slope = (self.steps_s[high] - self.steps_s[low]) / (high - low)
        return max(self.steps_s[low] + slope * (batch_size - low), min(self.steps_s.values()) / known[0] / 2)


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """The step times of a model at the sizes that are known; at others they grow with the pixels."""

    sizes: tuple[SizeTimes, ...]
    source: str
    assumed: tuple[str, ...] = ()  # what of it nobody has measured

    def at(self, size: Size) -> SizeTimes:
        """The times at a size: those of the nearest known one, by its share of the pixels."""
        pixels = size[0] * size[1]
        nearest = min(self.sizes, key=lambda times: abs(times.pixels - pixels))
        share = pixels / nearest.pixels
        steps_s = {batch_size: seconds * share for batch_size, seconds in nearest.steps_s.items()}
        return SizeTimes(pixels, steps_s, nearest.decode_s * share)


def _assumed(device: str, *sizes: tuple[Curve, int, float]) -> ModelTimes:
    """From curves of `loadtest.bench.engine`, each with its pixels and the seconds of a decoding."""
    times = [
        SizeTimes(
            pixels, {curve.rows * images: curve.step_s(images) for images in range(1, curve.images + 1)}, decode_s
        )
        for curve, pixels, decode_s in sizes
    ]
    return ModelTimes(tuple(times), f"assumed: {device}", ("step times",))


# As `loadtest.bench.engine` assumes them, where it says how: klein's for an H200. A VAE has about 2.5 TFLOP at 512
# pixels and four times as many at 1024, of which a third of the peak is 8 and 30 ms. Nobody has measured any of it.
ASSUMED: Mapping[str, ModelTimes] = {
    "klein": _assumed("klein on an H200", (KLEIN[0], 512 * 512, 0.008), (KLEIN[1], MEGAPIXEL, 0.03)),
    "sdxl": _assumed("SDXL on such a GPU", (SD[1], MEGAPIXEL, 0.03)),
    "sd15": _assumed("Stable Diffusion 1.5 on such a GPU", (SD[0], 512 * 512, 0.008)),
}


def assumed_for(model: str) -> ModelTimes | None:
    """The assumed times of the family that a model's name says; None where it says none."""
    return next((times for family, times in ASSUMED.items() if family in model), None)


def read_measured(path: Path, subject: str) -> ModelTimes:
    """The times of one architecture in a file of `python -m loadtest.bench.gpu --json`, in which images have guidance.

    Raises: OSError; ValueError where the file has no such figures.
    """
    try:
        content = json.loads(path.read_text())
        figures = content["figures"][subject]
        decode_s = {each["size_px"]: each["decode_ms"] / 1000 for each in figures.get("decode", ())}
        steps = [each for each in figures["steps"] if each["step_ms"] is not None]
        device = content["setting"]["device"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} has no step times of {subject!r} as loadtest.bench.gpu writes them: {error!r}"
        ) from error
    sizes = tuple(
        SizeTimes(
            size_px * size_px,
            {2 * each["rows"]: each["step_ms"] / 1000 for each in steps if each["size_px"] == size_px},
            decode_s.get(size_px, 0.0),
        )
        for size_px in sorted({each["size_px"] for each in steps})
    )
    if not sizes:
        raise ValueError(f"{path}: no step of {subject!r} fitted into memory")
    return ModelTimes(sizes, f"measured: {subject} on {device}, {path.name}")


@dataclass(frozen=True, slots=True)
class Curves:
    """The step times of all models of a load."""

    models: Mapping[str, ModelTimes]

    def costs(self, buckets: Iterable[Bucket], max_batch_size: int) -> KnownCosts:
        """The latency model of a replica that has made steps of every batch size."""
        model = LatencyModel(max_batch_size)
        for name, size in buckets:
            times = self.models[name].at(size)  # type: ignore[arg-type]
            for batch_size in range(1, max_batch_size + 1):
                model.add((name, size), batch_size, times.step_s(batch_size))
        return KnownCosts(model)

    def decode_s(self, model: str, size: Size) -> float:
        """Seconds of the decoding of an image."""
        return self.models[model].at(size).decode_s

    @property
    def sources(self) -> Sequence[str]:
        """Where the times of each model come from."""
        return [f"{name}: {times.source}" for name, times in self.models.items()]
