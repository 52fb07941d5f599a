"""The figures of the full-size benchmark, and their tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table

PARTS = ("process", "import", "files", "weights", "adapter", "lora", "load")


@dataclass(frozen=True, slots=True)
class Start:
    """A cold start in seconds by part, without compiling and first steps; the parts are those of `ColdStart`.

    `files` comes on top: reading all files from the disk once, into the page cache.
    """

    dtype: str
    parts_s: Mapping[str, float]
    processor_s: Mapping[str, float]  # the same parts; says more where other programs use the same cores
    files_gb: float
    peak_gib: float  # resident, mapped files included


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two images that share their steps, against diffusers with each image or row alone.

    Differences are the largest, relative to the largest number. Those with another face and another prompt are of the
    same image drawn here: as long as they are much larger, a mistake in these would show.
    """

    compared: str
    dtype: str
    size_px: int
    unet_rows: int
    step_s: float
    step_processor_s: float
    difference: float
    face_difference: float
    prompt_difference: float
    peak_gib: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One model."""

    model: str
    start: Start
    comparison: Comparison


class StepTime(NamedTuple):
    """Wall and processor seconds of one step."""

    step_s: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """Two prompts, one by one and together; `difference` is between the two, relative to the largest number."""

    alone: StepTime  # of one prompt
    together: StepTime  # of both
    difference: float
    peak_gib: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image from one picture of a head, and its latents' relative difference from diffusers' own pipeline."""

    size_px: int
    steps: int
    start: StepTime  # the noise, and the head's latents
    step: StepTime  # mean
    difference: float
    person_difference: float  # from the same image of somebody else: a mistake in the former would show
    peak_gib: float


@dataclass(frozen=True, slots=True)
class MeasuredKlein:
    """Both parts."""

    dtype: str
    text_encoder: TextEncoding
    drawing: Drawing


def start_table(found: Sequence[Measured]) -> Table:
    """Two rows for each model."""
    table = Table(title="A cold start on the CPU, in seconds")
    table.add_column("model, type")
    table.add_column("time")
    for name in (*PARTS, "sum", "files, GB", "peak, GiB"):
        table.add_column(name, justify="right")
    for each in found:
        start = each.start
        sizes = [f"{start.files_gb:.1f}", f"{start.peak_gib:.1f}"]
        table.add_row(f"{each.model}, {start.dtype}", "wall", *_cells(start.parts_s), *sizes)
        table.add_row("", "processor", *_cells(start.processor_s))
    return table


def _cells(parts_s: Mapping[str, float]) -> list[str]:
    seconds = [parts_s[part] for part in PARTS]
    return [f"{each:.1f}" for each in (*seconds, sum(seconds))]


def comparison_table(found: Sequence[Measured]) -> Table:
    """A row for each model."""
    table = Table(title="Two images that share their steps, against diffusers with each alone")
    table.add_column("model, type")
    table.add_column("compared")
    for name in ("pixels", "rows", "s a step", "processor", "difference", "other face", "other prompt", "peak, GiB"):
        table.add_column(name, justify="right")
    for each in found:
        row = each.comparison
        differences = (row.difference, row.face_difference, row.prompt_difference)
        table.add_row(
            f"{each.model}, {row.dtype}", row.compared, str(row.size_px), str(row.unet_rows), f"{row.step_s:.1f}",
            f"{row.step_processor_s:.1f}", *(f"{number:.1e}" for number in differences), f"{row.peak_gib:.1f}",
        )  # fmt: skip
    return table


def klein_table(found: MeasuredKlein) -> Table:
    """A row for each part of it."""
    table = Table(title=f"FLUX.2 klein in {found.dtype} with random weights, one part after the other")
    table.add_column("part")
    for name in ("s", "processor", "difference", "other person", "peak, GiB"):
        table.add_column(name, justify="right")
    text, drawing = found.text_encoder, found.drawing
    pixels = f"{drawing.size_px} px, one head of the same size"
    table.add_row("text encoder, one prompt", *_seconds(text.alone), "", "", "")
    peaks = f"{text.peak_gib:.1f}", f"{drawing.peak_gib:.1f}"
    table.add_row("two together, against one by one", *_seconds(text.together), f"{text.difference:.1e}", "", peaks[0])
    table.add_row("noise, and the head by the VAE", *_seconds(drawing.start), "", "", "")
    differences = f"{drawing.difference:.1e}", f"{drawing.person_difference:.1e}"
    step = f"a step of {drawing.steps} ({pixels}), against diffusers"
    table.add_row(step, *_seconds(drawing.step), *differences, peaks[1])
    return table


def _seconds(time: StepTime) -> tuple[str, str]:
    return f"{time.step_s:.2f}", f"{time.processor_s:.2f}"
