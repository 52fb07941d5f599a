"""Stable Diffusion 1.5 and SDXL with an IP-Adapter FaceID, through diffusers' own pipelines."""

import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.adapter import FaceIDAdapter
from deployments.diffusion.prompt import PromptEncoder, TextEncoder, XLPromptEncoder
from deployments.diffusion.scheduler import Row
from deployments.types import AvatarSpec, Pixels

Stop = Callable[[], bool]


class OneFaceARow:
    """For a pipeline in which each row of a batch has a face of its own.

    The library's own method repeats the whole list of faces once a row, so that every row would see all of them.
    """

    def prepare_ip_adapter_image_embeds(
        self, _image: None, faces: list[torch.Tensor], *_device_and_counts: Any
    ) -> list[torch.Tensor]:
        return faces


class SDFacePipeline(OneFaceARow, StableDiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
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


class SDXLFacePipeline(OneFaceARow, StableDiffusionXLPipeline):  # type: ignore[misc]
    """SDXL. Its time ids are the pipeline's own: the size that is drawn, uncropped.

    Its VAE overflows in float16, where the pipeline decodes in float32 (`force_upcast` of the VAE's config); bfloat16
    has the range of float32 and stays.
    """

    # An invisible watermark would come and go with a package that happens to be installed.
    left_out: ClassVar[dict[str, Any]] = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    def prompt_encoder(self) -> PromptEncoder:
        return XLPromptEncoder(
            TextEncoder(self.tokenizer, self.text_encoder),
            TextEncoder(self.tokenizer_2, self.text_encoder_2),
            zeros_for_empty=self.config.force_zeros_for_empty_prompt,
        )


FacePipeline = SDFacePipeline | SDXLFacePipeline
FAMILIES: dict[str, type[FacePipeline]] = {
    "StableDiffusionPipeline": SDFacePipeline,
    "StableDiffusionXLPipeline": SDXLFacePipeline,
}


class FaceDiffusionModel:
    """Draws rows that agree in size, steps and guidance in one run of the pipeline; one thread at a time.

    Latents stay in the model's dtype between two steps: keeping them in float32 brought bfloat16 1-2 dB nearer to
    float32, from 44-50 dB (20 steps of PNDM, Euler and DPM-Solver++ with random weights).
    """

    def __init__(self, pipeline: FacePipeline) -> None:
        self._pipeline = pipeline
        self._pipeline.set_progress_bar_config(disable=True)
        self._prompts = pipeline.prompt_encoder()

    @classmethod
    def load(cls, config: DiffusionModelConfig) -> "FaceDiffusionModel":
        """Load a diffusers folder (safetensors only), a FaceID adapter and its LoRA; nothing is downloaded.

        Raises: OSError where a file is missing or is not what its name says; ValueError where the folder is of another
            family, or the adapter was made for another model; RuntimeError where the device is not there.
        """
        device = usable_device(config.device)
        torch.set_num_threads(config.threads)
        folder = model_path(config.path)
        family = family_of(folder)
        pipeline = family.from_pretrained(
            folder,
            dtype=getattr(torch, config.dtype),
            variant=config.variant,
            local_files_only=True,
            use_safetensors=True,
            **family.left_out,
        )
        load_face_adapter(pipeline, config)
        pipeline.to(device)
        if device.type == "cuda":
            use_channels_last(pipeline)
        return cls(pipeline)

    def group(self, spec: AvatarSpec) -> Hashable:
        return spec.width, spec.height, spec.num_inference_steps, spec.guidance_scale, self._chunks(spec)

    def draw(self, rows: Sequence[Row], stop: Stop) -> list[Pixels] | None:
        """One picture (h, w, 3) a row, all rows of one group; None when `stop()` turned true between two steps."""
        spec = rows[0].spec
        stopped = False

        def after_step(pipeline: Any, _step: int, _timestep: int, _tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal stopped
            stopped = pipeline._interrupt = stopped or stop()
            return {}

        images = self._pipeline(
            **self._prompt_embeddings(rows),
            ip_adapter_image_embeds=[self._faces(rows)],
            # A generator of its own makes a row's noise independent of its neighbours; on the CPU, of the device.
            generator=[torch.Generator("cpu").manual_seed(row.spec.seed) for row in rows],
            width=spec.width,
            height=spec.height,
            num_inference_steps=spec.num_inference_steps,
            guidance_scale=spec.guidance_scale,
            callback_on_step_end=after_step,
            output_type="np",
        ).images
        return None if stopped else [np.ascontiguousarray((image * 255).round().astype(np.uint8)) for image in images]

    def _chunks(self, spec: AvatarSpec) -> int:
        return max(self._prompts.chunks(spec.prompt), self._prompts.chunks(spec.negative_prompt))

    def _prompt_embeddings(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """The pipeline's arguments `prompt_embeds`, `negative_prompt_embeds`, and the pooled ones of SDXL."""
        chunks = self._chunks(rows[0].spec)
        positive = [self._prompts.encode(row.spec.prompt, chunks) for row in rows]
        negative = [self._prompts.encode_negative(row.spec.negative_prompt, chunks) for row in rows]
        return {
            prefix + name: torch.cat([embedding[name] for embedding in embeddings])
            for prefix, embeddings in (("", positive), ("negative_", negative))
            for name in embeddings[0]
        }

    def _faces(self, rows: Sequence[Row]) -> torch.Tensor:
        """(rows, 1, 512); with guidance the same number of zero vectors, the unconditional faces, come first."""
        faces = torch.from_numpy(np.stack([row.face for row in rows]))[:, None]
        if rows[0].spec.guidance_scale > 1:
            faces = torch.cat([torch.zeros_like(faces), faces])
        return faces.to(self._pipeline.device, self._pipeline.dtype)


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
    """Lay the convolutions' weights out as the tensor cores read them."""
    for network in (pipeline.unet, pipeline.vae):
        network.to(memory_format=torch.channels_last)
