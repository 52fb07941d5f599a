"""The figures of the GPU benchmark: printed line by line, and written as JSON while it runs."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """The product of two square matrices of normal numbers, in the dtype of the models."""

    side: int
    product_ms: float
    tflop_per_s: float


@dataclass(frozen=True, slots=True)
class ModelSize:
    """`weights_gib` are those of all parts, text encoders included."""

    unet_parameters: int  # without the face adapter
    adapter_parameters: int
    weights_gib: float


@dataclass(frozen=True, slots=True)
class StartTime:
    """The start of a row with an uncached prompt: text encoders, face projection, noise."""

    size_px: int
    start_ms: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """One denoising step of all rows; None where they do not fit into memory. FLOPs are those of the rows alone."""

    size_px: int
    rows: int
    padded_to: int  # rows of the compiled graph that makes it; `rows` where none does
    step_ms: float | None
    tflop: float
    mfu: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """The linear fit of the step times at one size: base + rows * per row."""

    size_px: int
    base_ms: float
    per_row_ms: float

    @classmethod
    def through(cls, times: Sequence[StepTime]) -> Iterator["Curve"]:
        """One for each size with at least two times."""
        for size_px in dict.fromkeys(time.size_px for time in times):
            known = {time.rows: time.step_ms for time in times if time.size_px == size_px and time.step_ms is not None}
            if len(known) > 1:
                per_row_ms, base_ms = np.polyfit(list(known), list(known.values()), 1)
                yield cls(size_px, float(base_ms), float(per_row_ms))


@dataclass(frozen=True, slots=True)
class Gaps:
    """The service's engine at one size, with more images than a step has, which join and leave all the time.

    A gap is the time between two steps in which the device made neither.
    """

    size_px: int
    steps: int
    images_per_s: float
    rows_a_step: float
    step_ms: float  # mean
    gap_p50_ms: float
    gap_p99_ms: float
    gap_longest_ms: float
    gaps: float  # fraction of the whole time


@dataclass(frozen=True, slots=True)
class DecodeTime:
    """The VAE, from latents to pixels in the host's memory."""

    size_px: int
    decode_ms: float
    tflop: float
    mfu: float


@dataclass(frozen=True, slots=True)
class Images:
    """Whole images with a cached prompt: start, batched steps, decoding one by one."""

    size_px: int
    rows: int
    steps: int
    images_per_s: float | None  # None: they do not fit into memory
    peak_gib: float | None  # of the device's memory, weights included; None on a CPU


@dataclass(frozen=True, slots=True)
class VariantTime:
    """A step and a decode in another variant of running the model; None where that failed."""

    variant: str
    size_px: int
    rows: int
    first_step_s: float | None = None  # including compilation and autotuning
    step_ms: float | None = None
    mfu: float | None = None
    decode_ms: float | None = None
    failure: str = ""


Figure = MatrixProduct | ModelSize | StartTime | StepTime | Curve | Gaps | DecodeTime | Images | VariantTime
TABLES: dict[type[Figure], str] = {
    MatrixProduct: "product",
    ModelSize: "model",
    StartTime: "start",
    StepTime: "steps",
    Curve: "curves",
    Gaps: "gaps",
    DecodeTime: "decode",
    Images: "images",
    VariantTime: "variants",
}


class Report:
    """Prints each figure as it arrives and rewrites the file: an early end loses nothing."""

    def __init__(self, setting: dict[str, Any], path: Path | None) -> None:
        self._content: dict[str, Any] = {"setting": setting, "figures": {}}
        self._path = path
        self._printed: tuple[str, str] | None = None
        print(", ".join(f"{name} {value}" for name, value in setting.items()), flush=True)

    def add(self, subject: str, figure: Figure) -> None:
        """Rewrites the whole file with `figure` under its subject and the table of its type, then prints it."""
        table, values = TABLES[type(figure)], asdict(figure)
        self._content["figures"].setdefault(subject, {}).setdefault(table, []).append(values)
        if self._path:
            self._path.write_text(json.dumps(self._content, indent=2) + "\n")
        if self._printed != (subject, table):
            self._printed = (subject, table)
            print(f"\n{subject}: {table}\n{_line(dict(zip(values, values, strict=True)))}")
        print(_line(values), flush=True)


def _line(values: dict[str, Any]) -> str:
    return "  ".join(_cell(value).rjust(max(len(name), 9)) for name, value in values.items()).rstrip()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
