"""The UNet of SDXL alone, for a step of two images with guidance, here in one batch and by diffusers row by row."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.loader import SDXLFacePipeline, Tensors, fuse_lora_weights, load_face_adapter
from deployments.diffusion.model.optimized_layers import replace_layers
from deployments.diffusion.model.unet import RowUNet
from loadtest.bench.full_size.figures import Comparison
from loadtest.bench.full_size.images import OTHER_FACE, relative, timed
from loadtest.bench.full_size.starting import peak_gib
from loadtest.bench.published_formats import TOKENS
from loadtest.bench.random_face import random_face

TIMESTEPS = (801.0, 301.0)  # of the two images
NO_PARTS = dict.fromkeys(("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
PIXELS_OF_LATENT = 8


class Inputs(NamedTuple):
    """The rows of one step: both images with their negative prompts and no face, then both with prompt and face."""

    latents: Tensor  # (4, c, h, w)
    timesteps: Tensor  # (4,)
    prompts: Tensor  # (4, tokens, width)
    added: Tensors  # SDXL's other conditions, by diffusers' names
    faces: Tensor  # (4, 512)

    @classmethod
    def random(cls, config: Any, size_px: int) -> Self:
        """For a UNet of this config."""
        generator = torch.Generator().manual_seed(1)
        side, count = size_px // PIXELS_OF_LATENT, 2 * len(TIMESTEPS)
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[size_px, size_px, 0, 0, size_px, size_px]], dtype=torch.float32)
        faces = torch.stack([torch.from_numpy(random_face(number).vector) for number in range(len(TIMESTEPS))])
        return cls(
            torch.randn(len(TIMESTEPS), config.in_channels, side, side, generator=generator).repeat(2, 1, 1, 1),
            torch.tensor(TIMESTEPS).repeat(2),
            torch.randn(count, TOKENS, config.cross_attention_dim, generator=generator),
            {"text_embeds": torch.randn(count, pooled, generator=generator), "time_ids": sizes.repeat(count, 1)},
            torch.cat([torch.zeros_like(faces), faces]),
        )

    def row(self, number: int) -> Self:
        """One of them as a batch of its own."""
        row = slice(number, number + 1)
        added = {name: values[row] for name, values in self.added.items()}
        return type(self)(self.latents[row], self.timesteps[row], self.prompts[row], added, self.faces[row])


@torch.inference_mode()
def compare_unet(config: DiffusionModelConfig, size_px: int) -> Comparison:
    """In float32. diffusers' UNet has the LoRA as layers of its own; then ours is made of the same weights."""
    torch.set_num_threads(config.threads)
    pipeline = SDXLFacePipeline.from_pretrained(
        config.path, variant=config.variant, dtype=torch.float32, **NO_PARTS, **SDXLFacePipeline.left_out
    )
    load_face_adapter(pipeline, config)
    inputs = Inputs.random(pipeline.unet.config, size_px)
    theirs = torch.cat([_by_library(pipeline.unet, inputs.row(row)) for row in range(len(inputs.latents))])
    fuse_lora_weights(pipeline, config)
    replace_layers(pipeline.unet.to(memory_format=torch.channels_last))
    unet = RowUNet(pipeline.unet, config.threads)
    ours, step_time = timed(lambda: _by_rows(unet, inputs))
    last = inputs.row(len(ours) - 1)
    other_face = _by_rows(unet, last._replace(faces=torch.from_numpy(random_face(OTHER_FACE).vector)[None]))
    other_prompt = _by_rows(unet, last._replace(prompts=inputs.prompts[:1]))
    return Comparison(
        compared="UNet alone",
        dtype="float32",
        size_px=size_px,
        unet_rows=len(ours),
        step_s=step_time.step_s,
        step_processor_s=step_time.processor_s,
        difference=relative(ours.numpy(), theirs.numpy()),
        face_difference=relative(other_face.numpy(), ours[-1:].numpy()),
        prompt_difference=relative(other_prompt.numpy(), ours[-1:].numpy()),
        peak_gib=peak_gib(),
    )


def _by_library(unet: Any, row: Inputs) -> Tensor:
    predicted: Tensor = unet(
        row.latents,
        row.timesteps,
        encoder_hidden_states=row.prompts,
        added_cond_kwargs={**row.added, "image_embeds": [row.faces[:, None]]},
    ).sample
    return predicted


def _by_rows(unet: RowUNet, rows: Inputs) -> Tensor:
    conditions = {
        "prompt_embeds": rows.prompts,
        "pooled_prompt_embeds": rows.added["text_embeds"],
        "time_ids": rows.added["time_ids"],
        "face_tokens": torch.cat([unet.face_tokens(face[None]) for face in rows.faces]),
        "adapter_scale": torch.full((len(rows.faces), 1, 1), unet.adapter_scale),
    }
    return unet(rows.latents, rows.timesteps, conditions)
