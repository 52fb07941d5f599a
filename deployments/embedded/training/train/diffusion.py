"""Trains UNet, text encoder and FaceID adapter jointly on precomputed latents."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.embedded.training.data.captions import (
    custom_caption,
    default_caption,
    gender_word,
    unconditional_caption,
)
from deployments.embedded.training.data.overrides import changed_traits
from deployments.embedded.training.data.words import tokenize
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.export import adapted_unet
from deployments.embedded.training.train.networks import (
    build_text_encoder,
    build_unet,
    closed_form_latents,
    noise_levels,
    random_adapter,
)
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.precision import autocast
from deployments.embedded.training.train.together import Together
from deployments.embedded.training.train.unsure import as_read

SNR_CAP = 5.0  # Hang et al. 2023
LEAST_WEIGHT = 0.3  # at pure noise, where the words decide the background's colour
LATE_SHARE = 0.15
FACE_REGION = (slice(7, 22), slice(8, 24))  # of the 32 x 32 cells: where eyes and mouth are
FACE_WEIGHT = 3.0
MATRIX_RATE, OTHER_RATE = 2e-3, 8e-4  # peaks of the learning rates


@dataclass(frozen=True)
class Examples:
    """Pictures (n, a, 64, 64, 3), what they show, the n persons as photographed, and each one's embedding (n, 512)."""

    pictures: NDArray[np.uint8]
    portraits: list[list[Portrait]]
    persons: list[Portrait]
    embeddings: NDArray[np.float32]


def use_plain_attention(unet: UNet2DConditionModel) -> None:
    """Fused attention's backward pass is the slower one on a CPU: a step of the whole takes 0.86 s in place of 1.30."""
    plain: dict[str, nn.Module | AttnProcessor] = {}
    for name, fused in unet.attn_processors.items():
        plain[name] = AttnProcessor()
        if isinstance(fused, IPAdapterAttnProcessor2_0):
            adapter = IPAdapterAttnProcessor(
                fused.hidden_size, fused.cross_attention_dim, fused.num_tokens, fused.scale
            )
            adapter.load_state_dict(fused.state_dict())
            plain[name] = adapter
    unet.set_attn_processor(plain)


class Generator(nn.Module):
    """The parts that learn together, so that one average and one checkpoint hold them all."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text: CLIPTextModel = build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.unet: UNet2DConditionModel = build_unet()
        self.unet._load_ip_adapter_weights([random_adapter(self.unet)])
        self.unet.encoder_hid_proj.requires_grad_(True)
        use_plain_attention(self.unet)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, faces: Tensor) -> Tensor:
        """(n, 12, 32, 32) latents, time steps (n,), token ids (n, 77) and faces (n, 512) -> v, like the latents."""
        words = self.text(input_ids=tokens).last_hidden_state
        out: Tensor = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=words,
            added_cond_kwargs={"image_embeds": [faces[:, None]]},
        ).sample
        return out


def caption_of(person: Portrait, portrait: Portrait, default: bool, rng: np.random.Generator) -> str:
    """The default prompt, or a caption of what the portrait shows, which tells where it differs from the person."""
    told = changed_traits(person, portrait)
    word = gender_word(portrait, rng, told)
    return default_caption(word) if default else custom_caption(portrait, rng, word, told)


class Batches:
    """Draws a batch: latents, tokens and faces, with either condition dropped at times."""

    def __init__(self, examples: Examples, tokenizer: CLIPTokenizer, size: int, seed: int) -> None:
        self.examples, self.tokenizer, self.size, self.seed = examples, tokenizer, size, seed
        self.persons, self.avatars = examples.pictures.shape[:2]

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (size, 12, 32, 32), token ids (size, 77) and faces (size, 512), fixed by seed and step."""
        rng = np.random.default_rng((self.seed, step))
        epoch_length = self.persons * self.avatars // self.size
        order = np.random.default_rng((self.seed, 7, step // epoch_length)).permutation(self.persons * self.avatars)
        place = (step % epoch_length) * self.size
        chosen = [divmod(int(i), self.avatars) for i in order[place : place + self.size]]
        pictures = np.stack([self.examples.pictures[person, avatar] for person, avatar in chosen])
        captions = [
            caption_of(
                self.examples.persons[person],
                self.examples.portraits[person][avatar],
                avatar == 0 and rng.random() < 0.75,
                rng,
            )
            for person, avatar in chosen
        ]
        faces = as_read(self.examples.embeddings[[person for person, _ in chosen]], rng)
        dropped = rng.random(self.size)
        captions = [
            unconditional_caption(rng) if drop < 0.1 else caption
            for caption, drop in zip(captions, dropped, strict=True)
        ]
        faces[(dropped > 0.05) & (dropped < 0.15)] = 0.0
        small = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        return closed_form_latents(small), tokenize(self.tokenizer, captions), torch.from_numpy(faces)


def random_timesteps(count: int) -> Tensor:
    """All alike, but for a share near pure noise, where prompt and face decide the colours."""
    late = torch.rand(count) < LATE_SHARE
    return torch.where(late, torch.randint(880, 1000, (count,)), torch.randint(0, 1000, (count,)))


def v_loss(predict: Callable[[Tensor, Tensor], Tensor], clean: Tensor, timesteps: Tensor, alphas: Tensor) -> Tensor:
    """v-prediction (Salimans and Ho 2022) under min-SNR weights for v."""
    level = alphas[timesteps][:, None, None, None]
    noise = torch.randn_like(clean)
    noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
    target = level.sqrt() * noise - (1 - level).sqrt() * clean
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    weight = torch.clamp(snr, max=SNR_CAP) / (snr + 1) + LEAST_WEIGHT
    wrong = (predict(noisy, timesteps) - target).pow(2) * where_it_matters()
    return (weight * wrong.mean((1, 2, 3))).mean()


def where_it_matters() -> Tensor:
    """(32, 32), of mean 1: a wrong eye is seen at once, a wrong sleeve is not."""
    weight = torch.ones(32, 32)
    weight[FACE_REGION] = FACE_WEIGHT
    return weight / weight.mean()


def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Moves `average` towards `model` in place by a share of 19 / (step + 20), but no less than 1/1000."""
    keep = min(0.999, (step + 1) / (step + 20))
    with torch.no_grad():
        for mean, new in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(new, 1 - keep)


@dataclass
class Progress:
    """What a checkpoint holds."""

    model: Generator
    average: Generator
    optimiser: MatrixOptimiser
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Replaces the checkpoint atomically: an interrupted training keeps the last one."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        draft = path.with_suffix(".part")
        torch.save(state, draft)
        draft.replace(path)

    def load(self, path: Path) -> None:
        """Takes over all of a checkpoint, in place. Raises: RuntimeError where it is of other networks."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]


def rate_share(share_done: float, step: int) -> float:
    """Of the peak learning rate: warm up, hold, and fall over the last half."""
    fall = 1.0 if share_done < 0.5 else 0.02 + 0.98 * float(np.cos((share_done - 0.5) * np.pi) ** 2)
    return min(1.0, (step + 1) / 200) * fall


def start(
    tokenizer: CLIPTokenizer, checkpoint: Path, seed: int, text: Path | None = None, exported: Path | None = None
) -> Progress:
    """From the checkpoint where there is one, else from a text encoder that knows its captions, else from noise.

    A new training takes UNet and adapter from `exported`, the folder of a pipeline, where it is given.
    """
    torch.manual_seed(seed)
    model = Generator(tokenizer)
    if exported is not None:
        model.unet.load_state_dict(adapted_unet(exported).state_dict())
    if text is not None and text.exists():
        model.text.load_state_dict(torch.load(text, weights_only=True))
    average = copy.deepcopy(model).requires_grad_(False)
    progress = Progress(model, average, MatrixOptimiser(model, MATRIX_RATE, OTHER_RATE))
    if checkpoint.exists():
        progress.load(checkpoint)
    return progress


def train_diffusion(
    examples: Examples,
    tokenizer: CLIPTokenizer,
    checkpoint: Path,
    text: Path,
    steps: int,
    seed: int,
    minutes: float | None = None,
    batch: int = 24,
    save_every: int = 100,
    exported: Path | None = None,
) -> Progress:
    """Ends after `steps`, or after `minutes` of training where given; a checkpoint resumes it; else as `start`."""
    progress, together = start(tokenizer, checkpoint, seed, text, exported), Together()
    alphas = noise_levels()
    draw = Batches(examples, tokenizer, batch, seed)
    bar = tqdm(total=steps, initial=progress.step, desc="diffusion", mininterval=10, disable=together.rank > 0)
    mean_loss: float | None = None
    while (share := progress.seconds / (60 * minutes) if minutes else progress.step / steps) < 1.0:
        started = time.monotonic()
        turn = progress.step * together.count + together.rank
        torch.manual_seed(seed + 1000 + turn)
        clean, tokens, faces = draw(turn)
        timesteps = random_timesteps(batch)

        def predict(noisy: Tensor, at: Tensor, tokens: Tensor = tokens, faces: Tensor = faces) -> Tensor:
            with autocast():
                predicted: Tensor = progress.model(noisy, at, tokens, faces)
            return predicted.float()

        loss = v_loss(predict, clean, timesteps, alphas)
        torch.autograd.backward(loss)
        progress.seconds = together.average(progress.model, progress.seconds + time.monotonic() - started)
        nn.utils.clip_grad_norm_(progress.model.parameters(), 1.0)
        progress.optimiser.step(rate_share(share, progress.step))
        progress.step += 1
        latest = float(loss.detach())
        mean_loss = latest if mean_loss is None else mean_loss + 0.01 * (latest - mean_loss)
        bar.update()
        bar.set_postfix(loss=f"{mean_loss:.4f}")
        if together.rank == 0:
            update_average(progress.average, progress.model, progress.step)
            if progress.step % save_every == 0:
                progress.save(checkpoint)
    if together.rank == 0:
        progress.save(checkpoint)
    return progress
