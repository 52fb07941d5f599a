"""The cold start of a generator with one model, by part."""

import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.common.startup_metrics import ColdStart, Part
from deployments.config import DiffusionModelConfig
from loadtest.bench.full_size.figures import Start

if TYPE_CHECKING:
    from deployments.diffusion.model.denoiser import FaceDiffusionModel
    from loadtest.bench.full_size.images import Drawn

READ_BYTES = 16 << 20


def start(config: DiffusionModelConfig, files: Sequence[Path]) -> Start:
    """Load a model as a generator does, with files that are read from the disk.

    For a fresh process, as this module imports no model library: the libraries, the time of the process so far and its
    peak memory count.
    """
    return _loaded(config, files)[1]


def start_and_draw(config: DiffusionModelConfig, files: Sequence[Path], size_px: int) -> tuple[Start, "Drawn", float]:
    """The same, then the two images; the last number is the peak memory of both, in GiB."""
    model, started = _loaded(config, files)
    from loadtest.bench.full_size.images import draw

    return started, draw(model, size_px), peak_gib()


def peak_gib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _loaded(config: DiffusionModelConfig, files: Sequence[Path]) -> tuple["FaceDiffusionModel", Start]:
    wall, processor = ColdStart(), ColdStart(time.process_time)

    @contextmanager
    def part(name: Part) -> Iterator[None]:
        with wall.part(name), processor.part(name):
            yield

    _evict(files)
    began_s, used_s = time.perf_counter(), time.process_time()
    _read(files)
    files_s, files_processor_s = time.perf_counter() - began_s, time.process_time() - used_s
    with part("import"):
        from deployments.diffusion.model.denoiser import FaceDiffusionModel
    with part("load"):
        model = FaceDiffusionModel.load(config, timed=part)
    files_gb = sum(path.stat().st_size for path in files) / 1e9
    parts_s = {"files": files_s} | {str(name): s for name, s in wall.seconds.items()}
    processor_s = {"files": files_processor_s} | {str(name): s for name, s in processor.seconds.items()}
    return model, Start(config.dtype, parts_s, processor_s, files_gb, peak_gib())


def _evict(files: Sequence[Path]) -> None:
    """From the page cache."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # only pages that are written can be removed
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(files: Sequence[Path]) -> None:
    """From the disk into the page cache."""
    buffer = bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
