"""Step times that a running service made, from what its generators export for Prometheus."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loadtest.plan.curves import ModelTimes, Size, SizeTimes, assumed_for

STEPS, SECONDS = "ray_avatar_denoising_steps_total", "ray_avatar_denoising_seconds_total"
TIMEOUT_S = 10.0

Shape = tuple[str, Size, int]
"""Model, size of an image, rows of the denoiser's batch."""


def read_page(source: str) -> str:
    """A page of metrics in Prometheus' text format, by its URL or from a file. Raises: OSError; ValueError."""
    if not source.startswith(("http://", "https://")):
        return Path(source).read_text()
    try:
        return httpx.get(source, timeout=TIMEOUT_S).raise_for_status().text
    except httpx.HTTPError as error:
        raise ValueError(f"{source}: {error}") from error


def served_times(pages: Sequence[tuple[str, str]]) -> Mapping[str, ModelTimes]:
    """The mean step times of each model whose generators made steps, of all sizes and batches that they made.

    `pages` are of the nodes of a service, each with its name. How long images take to decode they do not say: that is
    assumed. Raises: ValueError where one has no steps.
    """
    for page, source in pages:
        if not _totals([page], STEPS):
            raise ValueError(f"{source} has no {STEPS}: no generator there has drawn an image")
    texts, sources = [page for page, _ in pages], ", ".join(source for _, source in pages)
    steps, seconds = _totals(texts, STEPS), _totals(texts, SECONDS)
    return {model: _times_of(model, steps, seconds, sources) for model in sorted({name for name, *_ in steps})}


def _times_of(model: str, steps: Mapping[Shape, float], seconds: Mapping[Shape, float], sources: str) -> ModelTimes:
    assumed = assumed_for(model)
    sizes: dict[Size, dict[int, float]] = {}
    for (name, size, batch_size), count in sorted(steps.items()):
        if name == model and count:
            sizes.setdefault(size, {})[batch_size] = seconds[name, size, batch_size] / count
    times = tuple(
        SizeTimes(size[0] * size[1], steps_s, assumed.at(size).decode_s if assumed else 0.0)
        for size, steps_s in sizes.items()
    )
    made = sum(count for (name, *_), count in steps.items() if name == model)
    return ModelTimes(times, f"measured: {made:,.0f} steps of a service, {sources}", ("decodings",))


def _totals(pages: Iterable[str], name: str) -> Mapping[Shape, float]:
    """Sums over the replicas, and over what else steps of one size may differ in."""
    lines = [line for page in pages for line in page.splitlines() if line.startswith(f"{name}{{")]
    totals: defaultdict[Shape, float] = defaultdict(float)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            width, height = map(int, re.findall(r"\d+", sample.labels["size"])[:2])
            totals[sample.labels["model"], (width, height), int(sample.labels["batch_size"])] += sample.value
    return totals
