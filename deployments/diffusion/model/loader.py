"""Loads diffusers' Stable Diffusion pipelines from a folder, together with an IP-Adapter."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.model.face_encoder import FaceEncoder, FaceVectors, HeadPictures
from deployments.diffusion.model.ip_adapter import IPAdapter
from deployments.diffusion.model.lora_file import UNET, read_loras, styles_of
from deployments.diffusion.model.precision import dtype_of
from deployments.diffusion.model.prompt_encoder import PromptEncoder, TextEncoder, XLPromptEncoder
from deployments.diffusion.model.row_lora import LoraSlots

Tensors = Mapping[str, torch.Tensor]
LoadPart = Literal["weights", "adapter", "lora"]
Timed = Callable[[LoadPart], AbstractContextManager[None]]
"""Measures the time of a part of loading a model, the block."""

NO_LORAS: Mapping[str, LoraSlots] = MappingProxyType({})

log = logging.getLogger(__name__)


class SDFacePipeline(StableDiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """Stable Diffusion 1.5 and models of its architecture."""

    family = "StableDiffusionPipeline"
    text_encoders = ("text_encoder",)

    # Only the face vector conditions the model, so a folder need not have these parts.
    left_out: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "requires_safety_checker": False,
        "feature_extractor": None,
        "image_encoder": None,
    }

    def prompt_encoder(self, loras: Mapping[str, LoraSlots] = NO_LORAS) -> PromptEncoder:
        """A new encoder with an empty cache, on this pipeline's text encoder, by whose name `loras` are."""
        return PromptEncoder(TextEncoder(self.tokenizer, self.text_encoder, loras.get("text_encoder")))

    def size_condition(self, width: int, height: int) -> Tensors:
        """Empty: these models are not told the size of the image."""
        return {}


class SDXLFacePipeline(StableDiffusionXLPipeline):  # type: ignore[misc]
    """SDXL."""

    family = "StableDiffusionXLPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")

    # Otherwise an invisible watermark would depend on whether a package happens to be installed.
    left_out: ClassVar[dict[str, Any]] = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def prompt_encoder(self, loras: Mapping[str, LoraSlots] = NO_LORAS) -> PromptEncoder:
        """A new encoder with an empty cache, on both text encoders, by whose names `loras` are.

        The folder says if an empty prompt is zeros.
        """
        return XLPromptEncoder(
            TextEncoder(self.tokenizer, self.text_encoder, loras.get("text_encoder")),
            TextEncoder(self.tokenizer_2, self.text_encoder_2, loras.get("text_encoder_2")),
            zeros_for_empty=self.config.force_zeros_for_empty_prompt,
        )

    def size_condition(self, width: int, height: int) -> Tensors:
        """Original size = target size, uncropped."""
        return {"time_ids": torch.tensor([[height, width, 0, 0, height, width]])}


FacePipeline = SDFacePipeline | SDXLFacePipeline
FAMILIES: dict[str, type[FacePipeline]] = {
    SDFacePipeline.family: SDFacePipeline,
    SDXLFacePipeline.family: SDXLFacePipeline,
}


def untimed(_part: LoadPart) -> AbstractContextManager[None]:
    """Measures nothing."""
    return nullcontext()


def load_pipeline(config: DiffusionModelConfig, timed: Timed = untimed) -> FacePipeline:
    """Load a diffusers folder (safetensors only), an IP-Adapter and its LoRA; nothing is downloaded.

    Raises: OSError where a file is missing or invalid; ValueError where the folder is of another family, or the adapter
        was made for another model; RuntimeError where the device is not available.
    """
    if config.fp8_weights:
        raise ValueError("`fp8_weights` is for FLUX.2 klein")
    family = family_of(model_path(config.path))
    with timed("weights"):
        pipeline: FacePipeline = read_pipeline(family, config, family.left_out)
    with timed("adapter"):
        load_face_adapter(pipeline, config)
    with timed("lora"):
        fuse_lora_weights(pipeline, config)  # on a GPU at once, on a CPU in up to half a minute
    use_channels_last(pipeline)
    if pipeline.vae.dtype == torch.float16 and pipeline.vae.config.get("force_upcast"):
        pipeline.vae.to(torch.float32)  # it overflows in float16; bfloat16 has float32's range
    return pipeline


def read_pipeline(
    kind: type[Any], config: DiffusionModelConfig, parts: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """A pipeline of this class of diffusers on the model's device: safetensors only, and nothing is downloaded.

    `parts` take the place of those in the folder. Raises: OSError where a file is missing or invalid; RuntimeError
        where the device is not available.
    """
    device = usable_device(config.device)
    pipeline = kind.from_pretrained(
        model_path(config.path),
        dtype=dtype_of(config),
        variant=config.variant,
        local_files_only=True,
        use_safetensors=True,
        device_map=device.type if device.index is None else None,  # diffusers takes no index here
        **parts,
    )
    return pipeline.to(device)


def family_of(folder: Path) -> type[FacePipeline]:
    """Raises: OSError where it is not a diffusers folder, ValueError where it is of another family."""
    name = class_name(folder)
    if name not in FAMILIES:
        raise ValueError(f"{folder} is made for {name}; only {' and '.join(FAMILIES)} take a face adapter")
    return FAMILIES[name]


def class_name(folder: Path) -> str:
    """The pipeline class that a diffusers folder is made for. Raises: OSError where it is not such a folder."""
    name: str = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    return name


def usable_device(name: str) -> torch.device:
    """Raises: RuntimeError where a CUDA device is requested but unavailable: no silent fallback to the CPU."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {name} was asked for, but torch {torch.__version__} finds no CUDA device")
    return device


def load_face_adapter(pipeline: FacePipeline, config: DiffusionModelConfig) -> None:
    """Load the adapter's attention layers and the LoRA's layers, from their own file or from the adapter's."""
    if config.ip_adapter is None:
        raise ValueError(f"{config.path} needs `ip_adapter`")
    adapter = IPAdapter.read(model_path(config.ip_adapter))
    adapter.check_fits(pipeline.unet)
    if adapter.takes_pictures != (config.image_encoder is not None):
        needs = "needs `image_encoder`" if adapter.takes_pictures else "takes face vectors, so no `image_encoder`"
        raise ValueError(f"{config.ip_adapter} {needs}")
    # As published both files hold the same LoRA, which must not be applied twice.
    weights = adapter.state_dict(with_lora=config.lora is None)
    if config.lora is not None and adapter.has_lora:
        log.warning("The LoRA of %s is left out: that of %s takes its place.", config.ip_adapter, config.lora)
    pipeline.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    pipeline.set_ip_adapter_scale(config.ip_adapter_scale)
    if config.lora is not None:
        lora = model_path(config.lora)
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name, local_files_only=True, use_safetensors=True)
    if config.lora is not None and not pipeline.get_list_adapters():
        raise ValueError(f"{config.lora} holds no LoRA weights for this model")


def fuse_lora_weights(pipeline: FacePipeline, config: DiffusionModelConfig) -> None:
    """Add the LoRA weights to those of the UNet: as separate layers they would cost time in every step."""
    if parts := list(pipeline.get_list_adapters()):
        pipeline.fuse_lora(parts, lora_scale=config.lora_scale)
        pipeline.unload_lora_weights()


def load_face_encoder(pipeline: FacePipeline, config: DiffusionModelConfig) -> FaceEncoder:
    """What the adapter in this pipeline's UNet takes for a face.

    Raises: OSError where a file is missing; ValueError where the image encoder is not the adapter's.
    """
    if config.image_encoder is None:
        return FaceVectors()
    encoder = HeadPictures.load(model_path(config.image_encoder), dtype_of(config), pipeline.device)
    (projection,) = pipeline.unet.encoder_hid_proj.image_projection_layers
    if projection.proj_in.in_features != encoder.width:
        raise ValueError(
            f"{config.ip_adapter} takes pictures as {projection.proj_in.in_features} numbers a patch, and"
            f" {config.image_encoder} gives {encoder.width}"
        )
    return encoder


def load_loras(pipeline: FacePipeline, config: DiffusionModelConfig) -> dict[str, LoraSlots]:
    """Those that rows may wear, by the names of the UNet and the text encoders. Raises: as `read_loras`."""
    networks = {name: getattr(pipeline, name) for name in (UNET, *pipeline.text_encoders)}
    read, styles = read_loras(config.loras, networks), styles_of(config.loras)
    return {name: LoraSlots(network, read[name], styles) for name, network in networks.items()}


def use_channels_last(pipeline: FacePipeline) -> None:
    """Convert the convolutions' weights to the layout that tensor cores and oneDNN read."""
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
