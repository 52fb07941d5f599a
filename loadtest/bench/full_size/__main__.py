"""What a start of Stable Diffusion 1.5 and SDXL costs at full size, and whether they draw what diffusers draws.

    python -m loadtest.bench.full_size --json full_size.json

On the CPU, with random weights: both models and their face adapters are written in the published file formats (10 GB,
in a temporary folder unless `--folder` keeps them), and loaded as a generator loads them, from a disk whose cache does
not have them. Stable Diffusion 1.5 then draws two images of different steps, prompts, faces and guidance together, in
float32, and diffusers' own pipeline draws each of them alone. SDXL is loaded in production's bfloat16, but only its
UNet is compared, in float32: a CPU without bfloat16 takes half an hour for a step of it. Each thing takes place in a
process of its own, whose peak memory is in the tables. Ends with 1 where a difference is above 1e-4.
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console

from loadtest.bench.full_size.figures import Measured, comparison_table, start_table

LARGEST_DIFFERENCE = 1e-4
TINY_SIZE_PX = 64
QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes of this machine."""

    disk_gb: float
    memory_gb: float


NEEDS = {"sd15": Needs(disk_gb=2.5, memory_gb=7), "sdxl": Needs(disk_gb=8.5, memory_gb=15)}


def main(arguments: Sequence[str] | None = None) -> int:
    """`arguments` of None: those of the process. Returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    os.environ.update(QUIET)  # of the processes
    names = list(NEEDS) if options.model == "all" else [options.model]
    kept = options.folder
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with nullcontext(kept) if kept is not None else tempfile.TemporaryDirectory() as folder:
        if not options.tiny and (lack := _lack(Path(folder), names)):
            parser.error(lack)
        found = [_measured(name, Path(folder), options) for name in names]
    _print(found)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return int(any(each.comparison.difference > LARGEST_DIFFERENCE for each in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*NEEDS, "all"], default="all")
    parser.add_argument("--size", type=int, choices=range(64, 1537, 64), metavar="PIXELS", default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps the weights, and takes those that are there")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # does it run at all?
    return parser


def _lack(folder: Path, names: Sequence[str]) -> str | None:
    """What this machine has too little of."""
    needed_gb = sum(NEEDS[name].disk_gb for name in names if not (folder / name).exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < needed_gb:
        return f"{folder} has {free_gb:.1f} GB free, but the weights take {needed_gb:g} GB"
    needed_gb, free_gb = max(NEEDS[name].memory_gb for name in names), psutil.virtual_memory().available / 1e9
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
