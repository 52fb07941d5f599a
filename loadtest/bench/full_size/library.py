"""diffusers' own pipelines, set up as their documentation says."""

from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from deployments.config import DiffusionModelConfig

LEFT_OUT: dict[type, dict[str, Any]] = {
    StableDiffusionPipeline: {"safety_checker": None, "feature_extractor": None},
    StableDiffusionXLPipeline: {"add_watermarker": False},
}


def library_pipeline(pipeline_class: type, config: DiffusionModelConfig) -> Any:
    """A pipeline with the files of a model, in float32; the LoRA is not fused."""
    parts = LEFT_OUT[pipeline_class]
    pipeline = pipeline_class.from_pretrained(  # type: ignore[attr-defined]
        config.path, variant=config.variant, dtype=torch.float32, **parts
    )
    # As `sampler_of` says: what is neither Euler nor DPM-Solver++ is drawn with Euler on the same levels.
    levels = {"timestep_spacing": "leading", **pipeline.scheduler.config}
    pipeline.scheduler = EulerDiscreteScheduler.from_config(levels)
    adapter, lora = config.ip_adapter, config.lora
    assert adapter is not None  # every model here has one
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None)
    if lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="faceid_0")
    if pipeline.get_list_adapters():
        pipeline.set_adapters(["faceid_0"], [config.lora_scale])
    return pipeline
