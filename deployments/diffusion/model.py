"""Stable Diffusion with an IP-Adapter FaceID, through diffusers' own pipeline."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from deployments.config import DiffusionModelConfig, model_path
from deployments.diffusion.prompt import PromptEncoder
from deployments.diffusion.scheduler import Row
from deployments.types import AvatarSpec, Pixels

Stop = Callable[[], bool]


class OneFaceARowPipeline(StableDiffusionPipeline):  # type: ignore[misc]  # diffusers has no types
    """diffusers' pipeline, but each row of a batch has a face of its own.

    The library's own method repeats the whole list of faces once a row, so that every row would see all of them.
    """

    def prepare_ip_adapter_image_embeds(
        self, _image: None, faces: list[torch.Tensor], *_device_and_counts: Any
    ) -> list[torch.Tensor]:
        return faces


class FaceDiffusionModel:
    """Draws rows that agree in size, steps and guidance in one run of the pipeline; one thread at a time."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self._pipeline = pipeline
        self._pipeline.set_progress_bar_config(disable=True)
        self._prompts = PromptEncoder(pipeline.tokenizer, pipeline.text_encoder)

    @classmethod
    def load(cls, config: DiffusionModelConfig) -> "FaceDiffusionModel":
        """Load a diffusers folder and a FaceID adapter file; nothing is downloaded.

        Raises: OSError where a file is missing or is not what its name says.
        """
        torch.set_num_threads(config.threads)
        pipeline = OneFaceARowPipeline.from_pretrained(
            model_path(config.path),
            dtype=getattr(torch, config.dtype),
            safety_checker=None,
            requires_safety_checker=False,
            local_files_only=True,
            use_safetensors=True,
        )
        adapter = model_path(config.ip_adapter)
        pipeline.load_ip_adapter(
            str(adapter.parent),
            subfolder="",
            weight_name=adapter.name,
            image_encoder_folder=None,
            local_files_only=True,
        )
        pipeline.set_ip_adapter_scale(config.ip_adapter_scale)
        return cls(pipeline.to(config.device))

    def group(self, spec: AvatarSpec) -> Hashable:
        return spec.width, spec.height, spec.num_inference_steps, spec.guidance_scale, self._chunks(spec)

    def draw(self, rows: Sequence[Row], stop: Stop) -> list[Pixels] | None:
        """One picture (h, w, 3) a row, all rows of one group; None when `stop()` turned true between two steps."""
        spec = rows[0].spec
        chunks = self._chunks(spec)
        stopped = False

        def after_step(pipeline: Any, _step: int, _timestep: int, _tensors: dict[str, Any]) -> dict[str, Any]:
            nonlocal stopped
            stopped = pipeline._interrupt = stopped or stop()
            return {}

        images = self._pipeline(
            prompt_embeds=self._encode([row.spec.prompt for row in rows], chunks),
            negative_prompt_embeds=self._encode([row.spec.negative_prompt for row in rows], chunks),
            ip_adapter_image_embeds=[self._faces(rows)],
            # A generator of its own makes a row's noise independent of its neighbours.
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

    def _encode(self, prompts: list[str], chunks: int) -> torch.Tensor:
        return torch.cat([self._prompts.encode(prompt, chunks) for prompt in prompts])

    def _faces(self, rows: Sequence[Row]) -> torch.Tensor:
        """(rows, 1, 512); with guidance the same number of zero vectors, the unconditional faces, come first."""
        faces = torch.from_numpy(np.stack([row.face for row in rows]))[:, None]
        if rows[0].spec.guidance_scale > 1:
            faces = torch.cat([torch.zeros_like(faces), faces])
        return faces.to(self._pipeline.device, self._pipeline.dtype)
