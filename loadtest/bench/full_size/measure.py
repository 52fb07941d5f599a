"""Measures one model, each thing in a process of its own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from deployments.config import DiffusionModelConfig
from loadtest.bench.full_size.figures import Comparison, Measured
from loadtest.bench.full_size.files import VARIANT, ModelFiles
from loadtest.bench.full_size.folders import write_model
from loadtest.bench.full_size.images import draw_by_library, relative
from loadtest.bench.full_size.starting import start, start_and_draw
from loadtest.bench.full_size.unet import compare_unet


def measure(name: str, folder: Path, size_px: int, threads: int, tiny: bool) -> Measured:
    """Write the model into its folder, unless that is there; then load it and compare what it draws."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as fresh:
        if not folder.exists():
            fresh.submit(write_model, folder, name, tiny, threads).result()
        return (_of_images if name == "sd15" else _of_unet)(fresh, name, ModelFiles(folder), size_px, threads)


def _of_images(fresh: ProcessPoolExecutor, name: str, files: ModelFiles, size_px: int, threads: int) -> Measured:
    config = _config(files, "float32", threads)
    started, drawn, peak_gib = fresh.submit(start_and_draw, config, files.all(), size_px).result()
    expected = fresh.submit(draw_by_library, config, size_px).result()
    comparison = Comparison(
        compared="latents",
        dtype=config.dtype,
        size_px=size_px,
        unet_rows=2 * len(drawn.latents),
        step_s=drawn.step.step_s,
        step_processor_s=drawn.step.processor_s,
        difference=max(map(relative, drawn.latents, expected)),
        face_difference=relative(drawn.other_face, drawn.latents[0]),
        prompt_difference=relative(drawn.other_prompt, drawn.latents[0]),
        peak_gib=peak_gib,
    )
    return Measured(name, started, comparison)


def _of_unet(fresh: ProcessPoolExecutor, name: str, files: ModelFiles, size_px: int, threads: int) -> Measured:
    started = fresh.submit(start, _config(files, "bfloat16", threads), files.all()).result()
    comparison = fresh.submit(compare_unet, _config(files, "float32", threads), size_px).result()
    return Measured(name, started, comparison)


def _config(files: ModelFiles, dtype: str, threads: int) -> DiffusionModelConfig:
    values = {"path": files.pipeline, "ip_adapter": files.adapter, "variant": VARIANT, "dtype": dtype}
    return DiffusionModelConfig.model_validate({**values, "threads": threads})
