"""Compiles the models of a generator ahead of its start, into the folder where it keeps compiled kernels."""

import gc
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from deployments.config import AvatarGeneratorConfig, model_path
from deployments.diffusion.compilation import Size, compiled_batch_sizes
from deployments.diffusion.compile_cache import use_compile_cache


class CompiledShape(NamedTuple):
    """A shape that was compiled, or whose compiler failed: then it will run uncompiled."""

    model: str
    size: Size
    batch_size: int
    is_compiled: bool


def precompile(config: AvatarGeneratorConfig, cache: Path) -> Iterator[CompiledShape]:
    """All shapes of all models that are compiled, model by model, on the device that they will run on. Takes minutes.

    Raises: what `load_model` raises.
    """
    from deployments.diffusion.model.families import load_model

    for name, model_config in config.models.items():
        if not model_config.compile:
            continue
        use_compile_cache(model_path(cache), model_config.device)
        failures: list[str] = []
        model = load_model(model_config, config.batch_invariant, partial(failures.append, name))
        batch_sizes = compiled_batch_sizes(
            config, guided=model_config.compile_guided is not False, single=model_config.compile_single is True
        )
        for size, batch_size in product(model_config.compile_sizes or (model.own_size,), batch_sizes):
            failures.clear()
            model.compile(size, batch_size)
            yield CompiledShape(name, size, batch_size, not failures)
        del model
        gc.collect()  # or the next model would find no memory
