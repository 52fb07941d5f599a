"""The figures of the full-size benchmark, and their tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
