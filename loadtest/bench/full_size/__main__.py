"""What a start of Stable Diffusion 1.5 and SDXL costs at full size, and whether they draw what diffusers draws.

    python -m loadtest.bench.full_size --json full_size.json

On the CPU, with random weights: both models and their face adapters are written in the published file formats (10 GB,
in a temporary folder unless `--folder` keeps them), and loaded as a generator loads them, from a disk whose cache does
not have them. Stable Diffusion 1.5 then draws two images of different steps, prompts, faces and guidance together, in
float32, and diffusers' own pipeline draws each of them alone. SDXL is loaded in production's bfloat16, but only its
UNet is compared, in float32: a CPU without bfloat16 takes half an hour for a step of it. Each thing takes place in a
process of its own, whose peak memory is in the tables. Ends with 1 where a difference is above 1e-4.

    python -m loadtest.bench.full_size --model klein

FLUX.2 klein writes no files. Its text encoder reads two prompts, one by one and together; then its transformer and its
VAE draw an image from one picture of a head in four steps, here and by diffusers' own pipeline: all in bfloat16, in
which differences of up to 0.05 are roundings.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console

from loadtest.bench.full_size.figures import Measured, comparison_table, klein_table, start_table

LARGEST_DIFFERENCE = 1e-4
TINY_SIZE_PX = 64
QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes of this machine."""

    disk_gb: float
    memory_gb: float


NEEDS = {"sd15": Needs(disk_gb=2.5, memory_gb=7), "sdxl": Needs(disk_gb=8.5, memory_gb=15)}
KLEIN = "klein"
KLEIN_NEEDS = Needs(disk_gb=0, memory_gb=14)  # a network of 8 GB, what it is made from, and its states


def main(arguments: Sequence[str] | None = None) -> int:
    """`arguments` of None: those of the process. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.update(QUIET)  # of the processes
    if options.model == KLEIN:
        return _klein(parser, options)
    names = list(NEEDS) if options.model == "all" else [options.model]
    kept = options.folder
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with nullcontext(kept) if kept is not None else tempfile.TemporaryDirectory() as folder:
        needed = {name: NEEDS[name] for name in names}
        if not options.tiny and (lack := _lack(Path(folder), needed)):
            parser.error(lack)
        found = [_measured(name, Path(folder), options) for name in names]
    _print(found)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return int(any(each.comparison.difference > LARGEST_DIFFERENCE for each in found))


def _klein(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.folder is not None:
        parser.error("--model klein writes no weights, so it takes no --folder")
    if not options.tiny and (lack := _lack(Path(tempfile.gettempdir()), {KLEIN: KLEIN_NEEDS})):
        parser.error(lack)
    from loadtest.bench.full_size.klein import LARGEST_DIFFERENCE, measure_klein

    found = measure_klein(TINY_SIZE_PX if options.tiny else options.size, options.threads, options.tiny)
    Console(width=130).print(klein_table(found))
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return int(max(found.text_encoder.difference, found.drawing.difference) > LARGEST_DIFFERENCE[found.dtype])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*NEEDS, KLEIN, "all"], default="all", help="all: but klein")
    parser.add_argument("--size", type=int, choices=range(64, 1537, 64), metavar="PIXELS", default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps the weights, and takes those that are there")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # does it run at all?
    return parser


def _lack(folder: Path, needed: Mapping[str, Needs]) -> str | None:
    """What this machine has too little of."""
    needed_gb = sum(needs.disk_gb for name, needs in needed.items() if not (folder / name).exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        return f"{folder} has {free_gb:.1f} GB free, but the weights take {needed_gb:g} GB"
    needed_gb, free_gb = max(needs.memory_gb for needs in needed.values()), psutil.virtual_memory().available / 1e9
    if free_gb < needed_gb:
        return f"{free_gb:.1f} GB of memory are free, but it takes {needed_gb:g} GB"
    return None


def _measured(name: str, folder: Path, options: argparse.Namespace) -> Measured:
    # Not at the top: the processes that it starts import this module, and count what it imports.
    from loadtest.bench.full_size.measure import measure

    size_px = TINY_SIZE_PX if options.tiny else options.size
    found = measure(name, folder / name, size_px, options.threads, options.tiny)
    print(f"{name} is measured", flush=True)
    return found


def _print(found: Sequence[Measured]) -> None:
    console = Console(width=130)
    console.print(start_table(found))
    console.print(comparison_table(found))


if __name__ == "__main__":
    raise SystemExit(main())
