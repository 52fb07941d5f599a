"""Generation metadata for the receipts of images: digests of the model files, sampler, library versions."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from deployments.common.checksums import sha256_by_name
from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.model.precision import precision_in_receipts
from deployments.diffusion.model.row_samplers import distilled_sampler
from deployments.diffusion.model.sampler import Sampler, sampler_of
from deployments.types import AvatarSpec, GenerationMetadata

PARTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
WORN = "lora/"  # before the names of LoRAs that rows may wear
DECODERS = "decoder/"  # before those of tiny VAEs that may decode in the place of the model's own
OWN_DECODER = "vae/"
LIBRARIES = ("torch", "diffusers", "transformers")


def generation_metadata(name: str, config: DiffusionModelConfig) -> GenerationMetadata:
    """Reads every byte of the weights: seconds for a large model. Raises: OSError where a file is missing."""
    sampler, schedule = _sampler(_scheduler(config))
    return GenerationMetadata(
        model=name,
        weights=sha256_by_name(weight_files(config)),
        sampler=sampler,
        schedule=schedule,
        adapter_scale=config.ip_adapter_scale,
        lora_scale=config.lora_scale if config.lora is not None else None,
        precision=precision_in_receipts(config),
        device=_device_name(config.device),
        versions={library: version(library) for library in LIBRARIES},
        lora_scales={f"{WORN}{name}": lora.scale for name, lora in config.loras.items()},
    )


def weight_files(config: DiffusionModelConfig) -> Iterator[tuple[str, Path]]:
    """The files that the pixels depend on, by their names in a receipt: `unet/….safetensors`, ..."""
    folder, variant = model_path(config.path), "" if config.variant is None else f".{config.variant}"
    for part in PARTS:
        for path in sorted((folder / part).glob(f"*{variant}.safetensors")):
            if variant or path.name.count(".") == 1:  # the others belong to variants
                yield f"{part}/{path.name}", path
    for file in (config.ip_adapter, config.lora):
        if file is not None:
            path = model_path(file)
            yield path.name, path
    for name, lora in config.loras.items():
        yield f"{WORN}{name}", model_path(lora.file)
    for name, decoder in config.decoders.items():
        yield f"{DECODERS}{name}", model_path(decoder)
    if config.image_encoder is not None:
        for path in sorted(model_path(config.image_encoder).glob("*.safetensors")):
            yield f"image_encoder/{path.name}", path


def of_image(metadata: GenerationMetadata, config: DiffusionModelConfig, spec: AvatarSpec) -> GenerationMetadata:
    """Of one image of a model: without LoRAs and decoders that it was not drawn with, and with its own sampler."""
    used = {f"{WORN}{name}" for name in (spec.lora, spec.speed_lora)} | {f"{DECODERS}{spec.decoder}"}
    others = (WORN, DECODERS) if spec.decoder is None else (WORN, DECODERS, OWN_DECODER)
    weights = {name: digest for name, digest in metadata.weights.items() if name in used or not name.startswith(others)}
    scales = {name: scale for name, scale in metadata.lora_scales.items() if name in used}
    metadata = replace(metadata, weights=weights, lora_scales=scales)
    if spec.sampler is None:
        return metadata
    sampler, schedule = _named(distilled_sampler(spec.sampler, _scheduler(config)))
    return replace(metadata, sampler=sampler, schedule=schedule)


def _scheduler(config: DiffusionModelConfig) -> dict[str, Any]:
    path = model_path(config.path) / "scheduler" / "scheduler_config.json"
    scheduler: dict[str, Any] = json.loads(path.read_text())
    return scheduler


def _sampler(scheduler: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Its name, and what differs from the defaults of its noise levels."""
    if scheduler.get("_class_name") == FlowMatchEulerDiscreteScheduler.__name__:
        usual = dict(FlowMatchEulerDiscreteScheduler().config)
        return "FlowMatchEuler", {name: value for name, value in scheduler.items() if usual.get(name, value) != value}
    return _named(sampler_of(scheduler))


def _named(sampler: Sampler) -> tuple[str, dict[str, Any]]:
    return type(sampler).__name__, sampler.schedule.model_dump(mode="json", exclude_defaults=True)


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
