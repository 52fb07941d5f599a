"""The parts of diffusers' Stable Diffusion pipelines, loaded from a folder and joined by a FaceID adapter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.model.ip_adapter import FaceIDAdapter
from deployments.diffusion.model.precision import dtype_of
from deployments.diffusion.model.prompt_encoder import PromptEncoder, TextEncoder, XLPromptEncoder

Tensors = Mapping[str, torch.Tensor]


class SDFacePipeline(StableDiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Stable Diffusion 1.5 and what is built like it."""

    # Nothing but the face vector is looked at, so a folder need not have these parts.
    left_out: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "requires_safety_checker": False,
        "feature_extractor": None,
        "image_encoder": None,
    }

    def prompt_encoder(self) -> PromptEncoder:
        return PromptEncoder(TextEncoder(self.tokenizer, self.text_encoder))

    def size_condition(self, width: int, height: int) -> Tensors:
        return {}


class SDXLFacePipeline(StableDiffusionXLPipeline):  # type: ignore[misc]
    """SDXL."""

    # An invisible watermark would come and go with a package that happens to be installed.
    left_out: ClassVar[dict[str, Any]] = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def prompt_encoder(self) -> PromptEncoder:
        return XLPromptEncoder(
            TextEncoder(self.tokenizer, self.text_encoder),
            TextEncoder(self.tokenizer_2, self.text_encoder_2),
            zeros_for_empty=self.config.force_zeros_for_empty_prompt,
        )

    def size_condition(self, width: int, height: int) -> Tensors:
        """An original of the size that is drawn, uncropped."""
        return {"time_ids": torch.tensor([[height, width, 0, 0, height, width]])}


FacePipeline = SDFacePipeline | SDXLFacePipeline
FAMILIES: dict[str, type[FacePipeline]] = {
    "StableDiffusionPipeline": SDFacePipeline,
    "StableDiffusionXLPipeline": SDXLFacePipeline,
}


def load_pipeline(config: DiffusionModelConfig) -> FacePipeline:
    """Load a diffusers folder (safetensors only), a FaceID adapter and its LoRA; nothing is downloaded.

    Raises: OSError where a file is missing or is not what its name says; ValueError where the folder is of another
        family, or the adapter was made for another model; RuntimeError where the device is not there.
    """
    device = usable_device(config.device)
    folder = model_path(config.path)
    family = family_of(folder)
    pipeline: FacePipeline = family.from_pretrained(
        folder,
        dtype=dtype_of(config),
        variant=config.variant,
        local_files_only=True,
        use_safetensors=True,
        **family.left_out,
    )
    load_face_adapter(pipeline, config)
    pipeline.to(device)
    use_channels_last(pipeline)
    if pipeline.vae.dtype == torch.float16 and pipeline.vae.config.get("force_upcast"):
        pipeline.vae.to(torch.float32)  # it overflows in float16; bfloat16 has the range of float32
    return pipeline


def family_of(folder: Path) -> type[FacePipeline]:
    """Raises: OSError where the folder is not one of diffusers, ValueError where its pipeline is of another class."""
    name = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    if name not in FAMILIES:
        raise ValueError(f"{folder} is made for {name}; only {' and '.join(FAMILIES)} can be loaded")
    return FAMILIES[name]


def usable_device(name: str) -> torch.device:
    """Raises: RuntimeError where a CUDA device is asked for that this process cannot use: never a silent CPU."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {name} was asked for, but torch {torch.__version__} finds no CUDA device")
    return device


def load_face_adapter(pipeline: FacePipeline, config: DiffusionModelConfig) -> None:
    """Give the UNet the face's attention layers and the LoRA weights, of a file of their own or inside the adapter.

    The LoRA weights are added to the UNet's own: as layers beside them they would cost time in every step.
    """
    adapter = FaceIDAdapter.read(model_path(config.ip_adapter))
    adapter.check_fits(pipeline.unet)
    # The two places hold the same LoRA, which must not count twice.
    weights = adapter.state_dict(with_lora=config.lora is None)
    pipeline.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(config.ip_adapter_scale)
    if config.lora is not None:
        lora = model_path(config.lora)
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name, local_files_only=True, use_safetensors=True)
    parts = list(pipeline.get_list_adapters())
    if config.lora is not None and not parts:
        raise ValueError(f"{config.lora} holds no LoRA weights for this model")
    if parts:
        pipeline.fuse_lora(parts, lora_scale=config.lora_scale)
        pipeline.unload_lora_weights()


def use_channels_last(pipeline: FacePipeline) -> None:
    """Lay the convolutions' weights out as tensor cores and oneDNN read them."""
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
