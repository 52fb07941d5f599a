"""Memory and time of a decoder process for the largest photo of each format, beside the limits of the service.

    python -m loadtest.bench.photos --json photos.json

The pictures are the sample photo beside itself, as often as it fits; making them takes a few minutes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from math import floor, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from loadtest.bench.photos.heic import TILE, heic_grid
from serve_app.photos.decode import QUICK_PIXELS, PhotoSettings
from serve_app.photos.decoder_pool import DecoderProcess
from serve_app.photos.sample import sample_photo
from serve_app.sandbox.process import SandboxSettings

PATIENCE_S = 300.0  # this measures time, and does not judge it by the limits
MB = 1_000_000


class Largest(NamedTuple):
    """The largest picture of a format: how it is made, and the limit that it meets, in pixels."""

    name: str
    kind: str
    max_pixels: int
    file: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Need:
    """What a decoder process needed: peak above its idle memory in MB, processor and wall time in seconds."""

    name: str
    megapixels: float
    file_mb: float
    peak_mb: float
    cpu_s: float
    wall_s: float
    max_megapixels: float
    quick_megapixels: float


def largest_photos(limits: PhotoSettings) -> Iterator[Largest]:
    """One of each format, and of each way in which it can be compressed that takes another amount of memory."""
    whole, some, webp = limits.max_jpeg_pixels, limits.max_pixels, limits.max_webp_pixels
    yield Largest("JPEG", "jpeg", whole, lambda pixels: _encoded(pixels, "JPEG"))
    held = limits.max_coefficient_bytes
    for name, sampling, bytes_each in (("4:2:0", 2, 3), ("4:4:4", 0, 6)):
        most = min(whole, held // bytes_each) * 99 // 100  # blocks at the edges are whole
        yield Largest(
            f"JPEG, progressive, {name}", "jpeg", most, _encoder("JPEG", progressive=True, subsampling=sampling)
        )
    yield Largest("PNG", "png", some, _encoder("PNG", compress_level=1))
    yield Largest("PNG, with alpha", "png", some, _encoder("PNG", mode="RGBA", compress_level=1))
    yield Largest("PNG, grey, 16 bits", "png", some, _encoder("PNG", mode="I;16", compress_level=1))
    yield Largest("WebP", "webp", webp, _encoder("WEBP", quality=60, method=0))
    lossless = _encoder("WEBP", mode="RGBA", lossless=True, quality=0, method=0)
    yield Largest("WebP, lossless, with alpha", "webp", webp, lossless)
    yield Largest("AVIF", "avif", some, _encoder("AVIF", quality=60, speed=10))
    yield Largest("AVIF, with alpha", "avif", some, _encoder("AVIF", mode="RGBA", quality=60, speed=10))
    yield Largest("HEIC", "heic", some, _heic)


def need(largest: Largest, settings: SandboxSettings, limits: PhotoSettings, scale: float = 1.0) -> Need:
    """What a new process needs for a picture of `scale` times the pixels.

    Raises: ImageUrlError and SandboxLostError where it does not decode.
    """
    pixels = int(largest.max_pixels * scale)
    data = largest.file(pixels)
    process = DecoderProcess(limits, settings)
    try:
        process.ask(sample_photo().read_bytes())
        idle_mb, cpu_s = _memory_mb(process.pid, "VmRSS"), _cpu_s(process.pid)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forget the peak of before
        started = time.perf_counter()
        process.ask(data)
        return Need(
            name=largest.name,
            megapixels=round(pixels / MB, 1),
            file_mb=round(len(data) / MB, 1),
            peak_mb=round(_memory_mb(process.pid, "VmHWM") - idle_mb),
            cpu_s=round(_cpu_s(process.pid) - cpu_s, 2),
            wall_s=round(time.perf_counter() - started, 2),
            max_megapixels=round(largest.max_pixels / MB, 1),
            quick_megapixels=round(QUICK_PIXELS[largest.kind] / MB, 1),
        )
    finally:
        process.end()


def _encoder(image_format: str, mode: str = "RGB", **options: Any) -> Callable[[int], bytes]:
    return lambda pixels: _encoded(pixels, image_format, mode, **options)


def _encoded(pixels: int, image_format: str, mode: str = "RGB", **options: Any) -> bytes:
    file = BytesIO()
    _picture(pixels, mode).save(file, image_format, **options)
    return file.getvalue()


def _picture(pixels: int, mode: str) -> Image.Image:
    """4:3, with at most so many pixels, and hardly fewer."""
    height = floor(sqrt(pixels * 3 / 4))
    width = pixels // height
    tile = np.asarray(Image.open(sample_photo()).convert("RGBA" if mode == "RGBA" else "RGB"))
    if mode == "I;16":
        tile = tile[..., 1].astype(np.uint16) * 257
    repeats = (height // tile.shape[0] + 1, width // tile.shape[1] + 1, *[1] * (tile.ndim - 2))
    return Image.fromarray(np.ascontiguousarray(np.tile(tile, repeats)[:height, :width]))


def _heic(pixels: int) -> bytes:
    side = 512  # of a tile
    rows = floor(sqrt(pixels * 3 / 4)) // side
    return heic_grid(TILE.read_bytes(), rows, pixels // (rows * side * side))


def _memory_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000


def _cpu_s(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / 100


def main() -> None:
    """Prints a table; the exit code is 0 whatever is needed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the pixels of each picture, for a quick look")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    limits, settings = PhotoSettings(), SandboxSettings(timeout_s=PATIENCE_S, large_timeout_s=PATIENCE_S)
    needs = []
    print("| format | at once | most | file | peak of a process | processor time |\n|---|---|---|---|---|---|")
    for largest in largest_photos(limits):
        found = need(largest, settings, limits, options.scale)
        needs.append(found)
        print(
            f"| {found.name} | {found.quick_megapixels:g} MP | {found.max_megapixels:g} MP | {found.file_mb:g} MB "
            f"| {found.peak_mb:g} MB | {found.cpu_s:g} s |",
            flush=True,
        )
    print(f"\nA process may take {settings.max_memory_bytes / MB:g} MB, and {SandboxSettings().large_timeout_s:g} s.")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(each) for each in needs], indent=1))


if __name__ == "__main__":
    main()
