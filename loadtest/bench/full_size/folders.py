"""Models with random weights as files, in the published names, shapes and number types."""

import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from deployments.diffusion.model.ip_adapter import IPAdapter
from loadtest.bench.full_size.files import VARIANT, ModelFiles
from loadtest.bench.gpu.models import FULL, TINY, random_adapter, random_pipeline
from loadtest.bench.published_formats import save_adapter, save_pipeline

DTYPE = torch.float16
LORA_RANK = 128
SEED = 0


def write_model(folder: Path, name: str, tiny: bool, threads: int) -> None:
    """The same weights in every run. The folder appears when all of it is written."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    partial = ModelFiles(folder.with_name(f"{folder.name}.partial"))
    shutil.rmtree(partial.folder, ignore_errors=True)  # of a run that broke off
    pipeline = random_pipeline((TINY if tiny else FULL)[name], torch.device("cpu"), DTYPE)
    save_pipeline(pipeline, partial.pipeline, VARIANT)
    save_adapter(published_adapter(pipeline.unet), partial.adapter)
    partial.folder.rename(folder)


def published_adapter(unet: UNet2DConditionModel) -> IPAdapter:
    """An IP-Adapter FaceID with a LoRA of the published rank."""
    return random_adapter(unet, LORA_RANK)
