"""Rows of a tiny FLUX.2 klein, drawn by the generator's model and by the library's own pipeline."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.klein import KleinModel, KleinSample
from deployments.types import AvatarSpec, FaceEmbedding
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.fakes import avatar_spec

SIZE: dict[str, Any] = {"num_inference_steps": 4, "width": 64, "height": 80, "guidance_scale": 1.0}


def head(number: int, side: int = 64) -> bytes:
    """A JPEG coarse enough that it survives the format; the library takes none below 64 pixels."""
    blocks = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(file, "JPEG", quality=95)
    return file.getvalue()


def person(*numbers: int, side: int = 64) -> FaceEmbedding:
    """Somebody with a photo for each number."""
    return replace(random_face(numbers[0]), heads=tuple(head(number, side) for number in numbers))


def spec_of(seed: int, **changes: Any) -> AvatarSpec:
    return avatar_spec(**(SIZE | {"seed": seed, "prompt": "a man", "negative_prompt": "a hat"} | changes))


def config_of(folder: Path, **changes: Any) -> DiffusionModelConfig:
    return DiffusionModelConfig(**({"path": folder, "threads": 1, "dtype": "float32"} | changes))


def drawn(model: KleinModel, *rows: tuple[AvatarSpec, FaceEmbedding], joins_at: tuple[int, ...] = ()) -> list[Any]:
    """The samples after all their steps; row i joins at step `joins_at[i]` of the whole, or at once."""
    samples: list[KleinSample] = [model.start(spec, face) for spec, face in rows]
    joins = dict(enumerate(joins_at))
    step = 0
    while left := [sample for sample in samples if sample.steps_done < len(sample.steps)]:
        if now := [sample for sample in left if joins.get(samples.index(sample), 0) <= step]:
            model.step(now)
        step += 1
    return samples


def drawn_by_library(
    folder: Path, spec: AvatarSpec, face: FaceEmbedding, loras: Mapping[Path, float] = MappingProxyType({})
) -> tuple[torch.Tensor, np.ndarray]:
    """The packed latents (1, tokens, channels) and the image (h, w, 3), with LoRAs by their files and scales."""
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    for file in loras:
        pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=file.stem)
    if loras:
        pipeline.set_adapters([file.stem for file in loras], [*loras.values()])
    last: dict[str, torch.Tensor] = {}
    image = pipeline(
        image=[Image.open(io.BytesIO(picture)).convert("RGB") for picture in face.heads],
        prompt=spec.prompt,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.num_inference_steps,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(spec.seed),
        callback_on_step_end=lambda _pipe, _step, _time, values: last.update(values) or {},
        output_type="np",
    ).images[0]
    return last["latents"], (image * 255).round().astype(np.uint8)


def close(model: KleinModel, guidance_scale: float = 1.0) -> float:
    """How far latents may be apart of the largest one: float32 sums in another order, which guidance magnifies."""
    return tolerance.through(model._pipeline.transformer) * guidance_scale


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((a - b).abs().max() / b.abs().max())
