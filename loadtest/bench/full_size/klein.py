"""FLUX.2 klein: its text encoder, then the rest, each in a process of its own, as one alone fills a small machine."""

import io
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from numpy.typing import NDArray
from PIL import Image
from transformers import Qwen3Config, Qwen3ForCausalLM

from deployments.diffusion.model.face_encoder import heads_of
from deployments.diffusion.model.klein import KleinModel
from deployments.diffusion.model.qwen_prompts import QwenPrompts
from deployments.types import AvatarSpec, FaceEmbedding
from loadtest.bench.full_size.figures import Drawing, MeasuredKlein, StepTime, TextEncoding
from loadtest.bench.full_size.images import relative, timed
from loadtest.bench.full_size.starting import peak_gib
from loadtest.bench.gpu.models import made_on
from loadtest.bench.published_formats import byte_tokenizer
from loadtest.bench.random_face import random_face

STEPS = 4
# From roundings alone: bfloat16 has eight bits, and diffusers rounds latents to them between steps.
LARGEST_DIFFERENCE = {"bfloat16": 0.05, "float32": 1e-4}
PROMPTS = ("Redraw this person as a portrait in oil", "Redraw this person as a statue of marble")
Embeddings = NDArray[np.float32]  # (1, 512, width)
Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KleinArchitecture:
    """The configurations of the three networks, and their number type."""

    text_encoder: Config
    transformer: Config
    vae: Config
    dtype: torch.dtype = torch.bfloat16  # of the published files
    gain: float = 1.0  # of the transformer's weights: in a tiny new one nobody's picture shows


FULL = KleinArchitecture(
    text_encoder={
        "vocab_size": 151_936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    transformer={
        "in_channels": 128,
        "num_layers": 5,
        "num_single_layers": 20,
        "num_attention_heads": 24,
        "joint_attention_dim": 7680,
        "guidance_embeds": False,
    },
    vae={},
)
TINY = KleinArchitecture(
    text_encoder={
        **FULL.text_encoder,
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 28,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
    transformer={**FULL.transformer, "num_layers": 1, "num_single_layers": 2, "num_attention_heads": 1}
    | {"joint_attention_dim": 96},
    vae={"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1},
    dtype=torch.float32,
    gain=3.0,
)


def measure_klein(size_px: int, threads: int, tiny: bool) -> MeasuredKlein:
    """With random weights that are made in memory, one network after the other."""
    spawn, architecture = multiprocessing.get_context("spawn"), TINY if tiny else FULL
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as fresh:
        prompt, text = fresh.submit(encode, architecture, threads).result()
        drawing = fresh.submit(draw, architecture, prompt, size_px, threads).result()
    return MeasuredKlein(str(architecture.dtype).removeprefix("torch."), text, drawing)


def encode(architecture: KleinArchitecture, threads: int) -> tuple[Embeddings, TextEncoding]:
    """The embedding of the first prompt, too."""
    torch.set_num_threads(threads)
    with _seeded(architecture.dtype):
        model = Qwen3ForCausalLM(Qwen3Config(**architecture.text_encoder)).eval()
    encoders = [QwenPrompts(byte_tokenizer(), model) for _ in range(2)]
    alone = [timed(partial(encoders[0].encode, prompt)) for prompt in PROMPTS]
    _, together = timed(partial(encoders[1].encode_ahead, PROMPTS, together=True))
    ours = [encoders[1].encode(prompt).float().numpy() for prompt in PROMPTS]
    theirs = [embedding.float().numpy() for embedding, _ in alone]
    difference = max(map(relative, ours, theirs))
    return theirs[0], TextEncoding(alone[1][1], together, difference, peak_gib())


class KnownPrompt:
    """In place of a text encoder, for which there is no memory."""

    def __init__(self, embedding: torch.Tensor) -> None:
        self._embedding = embedding

    def encode(self, _prompt: str) -> torch.Tensor:
        """The one embedding."""
        return self._embedding


def draw(architecture: KleinArchitecture, prompt: Embeddings, size_px: int, threads: int) -> Drawing:
    """With the project's own model, then with diffusers' pipeline of the same networks."""
    torch.set_num_threads(threads)
    pipeline = random_klein(architecture)
    embedding = torch.from_numpy(prompt).to(architecture.dtype)
    model = KleinModel(pipeline, threads)
    model._prompts = KnownPrompt(embedding)  # type: ignore[assignment]
    spec, faces = _spec(size_px), [_person(number, size_px) for number in (1, 2)]
    latents, start, step = _drawn(model, spec, faces[0])
    other, *_ = _drawn(model, spec, faces[1])
    expected = _drawn_by_library(pipeline, embedding, spec, faces[0])
    return Drawing(
        size_px, STEPS, start, step, relative(latents, expected), relative(other, latents), peak_gib()
    )  # fmt: skip


def random_klein(architecture: KleinArchitecture) -> Flux2KleinPipeline:
    """Without a text encoder."""
    with _seeded(architecture.dtype):
        transformer = Flux2Transformer2DModel(**architecture.transformer).eval()
        vae = AutoencoderKLFlux2(**architecture.vae).eval()
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.mul_(architecture.gain)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline = Flux2KleinPipeline(
        scheduler=scheduler, vae=vae, text_encoder=None, tokenizer=None, transformer=transformer, is_distilled=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _seeded(dtype: torch.dtype) -> AbstractContextManager[None]:
    torch.manual_seed(0)
    return made_on(torch.device("cpu"), dtype)


def _spec(size_px: int) -> AvatarSpec:
    return AvatarSpec(
        model="", seed=1, prompt=PROMPTS[0], negative_prompt="", width=size_px, height=size_px,
        num_inference_steps=STEPS, guidance_scale=1.0, task_id="", image_index=0, submitted_at=0.0, deadline=0.0,
    )  # fmt: skip


def _person(number: int, size_px: int) -> FaceEmbedding:
    """With one head, as large as the image."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file, face = io.BytesIO(), random_face(number)
    Image.fromarray(pixels).resize((size_px, size_px)).save(file, "JPEG")
    return FaceEmbedding(face.vector, face.box, face.score, heads=(file.getvalue(),))


def _drawn(model: KleinModel, spec: AvatarSpec, face: FaceEmbedding) -> tuple[Embeddings, StepTime, StepTime]:
    """The latents, and the times of the start and of a step."""
    sample, start = timed(partial(model.start, spec, face))
    _, steps = timed(lambda: [model.step([sample]) for _ in range(STEPS)])
    return sample.latents.numpy(), start, StepTime(*(seconds / STEPS for seconds in steps))


def _drawn_by_library(pipeline: Any, prompt: torch.Tensor, spec: AvatarSpec, face: FaceEmbedding) -> Embeddings:
    last: dict[str, torch.Tensor] = {}
    pipeline(
        image=[Image.open(io.BytesIO(head)).convert("RGB") for head in heads_of(face)],
        prompt_embeds=prompt,
        width=spec.width,
        height=spec.height,
        num_inference_steps=STEPS,
        guidance_scale=spec.guidance_scale,
        generator=torch.Generator().manual_seed(spec.seed),
        callback_on_step_end=lambda _pipe, _step, _time, values: last.update(values) or {},
        output_type="latent",
    )
    return last["latents"].float().numpy()
