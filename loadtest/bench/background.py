"""How fast the background is found at the real size, with one run of the model at a time or more.

    python -m loadtest.bench.background --json background.json

The pretrained model cannot be had here. In its place stands an encoder of the size of Swin-T with random weights
(BiRefNet-lite's encoder; its decoder comes on top), exported to ONNX for 1024x1024 pixels, and run as in the
deployment: by rembg's session, on `--threads` threads. `--images` wait at once, in a process for each number of runs.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.config import MattingModelConfig

SIDE = 1024
SESSION = "birefnet-general-lite"
RUNS = (1, 2, 4, 8)
EMBED_DIM, DEPTHS, HEADS, WINDOW, PATCH = 96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 4  # Swin-T (arXiv 2103.14030, table 7)
STRIDE = PATCH * 2 ** (len(DEPTHS) - 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """One number of runs at once. `longest_s` is the wait of the image that came last."""

    runs: int
    images_per_s: float
    longest_s: float
    peak_mb: float


def write_encoder(path: Path, side: int, embed_dim: int) -> None:
    """An ONNX file with `input` (1, 3, side, side) and `output` (1, 1, side, side), logits; seeded weights.

    `side` is a multiple of 32.
    """
    import torch
    from transformers import SwinConfig, SwinModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = SwinConfig(
                image_size=side, patch_size=PATCH, embed_dim=embed_dim, depths=list(DEPTHS), num_heads=list(HEADS),
                window_size=WINDOW,
            )  # fmt: skip
            self.swin = SwinModel(config, add_pooling_layer=False)
            self.head = torch.nn.Conv2d(self.swin.num_features, 1, 1)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            tokens = self.swin(pixels).last_hidden_state
            squares = tokens.transpose(1, 2).reshape(1, -1, side // STRIDE, side // STRIDE)
            return torch.nn.functional.interpolate(self.head(squares), size=(side, side), mode="bilinear")

    torch.manual_seed(0)
    with torch.no_grad():
        torch.onnx.export(
            Encoder().eval(), (torch.zeros(1, 3, side, side),), str(path), dynamo=False, opset_version=17,
            input_names=["input"], output_names=["output"],
        )  # fmt: skip


def measure(path: Path, runs: int, images: int, threads: int) -> Measured:
    """In this process: `images` that all wait from the start, `runs` of them in the model at a time."""
    from deployments.background.model import RembgModel

    model = RembgModel(MattingModelConfig(session=SESSION, model_path=path, threads=threads))
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    model.alpha(pixels)
    with ThreadPoolExecutor(runs) as pool:
        started = time.perf_counter()
        list(pool.map(model.alpha, [pixels] * images))
        whole_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(runs, images / whole_s, whole_s, peak_mb)


def compare(images: int, threads: int, embed_dim: int = EMBED_DIM) -> list[Measured]:
    """Every number of runs, each in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as fresh:
            fresh.submit(write_encoder, path, SIDE, embed_dim).result()
            return [fresh.submit(measure, path, runs, images, threads).result() for runs in RUNS]


def show(found: Sequence[Measured], images: int, threads: int) -> Table:
    """A row for each number of runs."""
    table = Table("runs at once", "images/s", "the last of all waits, s", "peak memory, MB")
    table.title = f"{images} images of {SIDE}x{SIDE} wait, {threads} threads a run"
    for each in found:
        table.add_row(str(each.runs), f"{each.images_per_s:.2f}", f"{each.longest_s:.1f}", f"{each.peak_mb:.0f}")
    return table


def main() -> None:
    """Prints the table, and writes the file that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, default=8, help="that wait, as many as a replica takes in production.yaml"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--embed-dim", type=int, default=EMBED_DIM, help="a multiple of 24; small for a quick look")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    found = compare(options.images, options.threads, options.embed_dim)
    Console().print(show(found, options.images, options.threads))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
