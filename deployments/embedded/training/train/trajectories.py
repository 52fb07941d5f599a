"""Pictures by the shipped generator with all of its steps, kept from noise to picture for a student of few steps."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from deployments.diffusion.model.guidance import guided
from deployments.diffusion.model.noise_schedule import Step
from deployments.diffusion.model.row_samplers import distilled_sampler
from deployments.diffusion.model.sampler import Positions, Sampler
from deployments.embedded.training.data.words import tokenize
from deployments.embedded.training.train.diffusion import Batches
from deployments.embedded.training.train.lora import Lora, ShippedGenerator
from deployments.embedded.training.train.networks import build_scheduler

TEACHER_STEPS, GUIDANCE = 12, 1.5  # as the app's defaults
STUDENT_STEPS = 4
EACH = TEACHER_STEPS // STUDENT_STEPS  # of the teacher's steps is one of the student's


@cache
def euler() -> Sampler:
    """That of the service for distilled models, on the levels of the generator: latents are x0 + sigma * noise."""
    scheduler = build_scheduler()
    return distilled_sampler("euler-trailing", {**scheduler.config, "_class_name": type(scheduler).__name__})


def positions(steps: list[Step]) -> Positions:
    """Of a batch whose rows are at these steps."""
    return Positions.of(steps, torch.device("cpu"))


@dataclass(frozen=True)
class Trajectories:
    """Of n pictures in one style, or in none: the latents before each of the student's steps, and the last ones.

    latents: (n, STUDENT_STEPS + 1, 12, 32, 32), of variance 1; tokens (n, 77); faces (n, 512).
    """

    latents: Tensor
    tokens: Tensor
    faces: Tensor
    style: str | None

    def save(self, path: Path) -> None:
        """In half precision; replaces a file atomically."""
        draft = path.with_suffix(f".{os.getpid()}")
        torch.save({**vars(self), "latents": self.latents.half(), "faces": self.faces.half()}, draft)
        draft.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Trajectories":
        """A file of `save`. Raises: FileNotFoundError."""
        saved = torch.load(path, weights_only=True)
        return cls(saved["latents"].float(), saved["tokens"], saved["faces"].float(), saved["style"])


@torch.no_grad()
def teach(
    shipped: ShippedGenerator, tokens: Tensor, faces: Tensor, noise: Tensor, style: str | None, worn: tuple[Lora, ...]
) -> Trajectories:
    """The teacher's pictures, by Euler with guidance against no words and no face; `worn` is the LoRA of the style."""
    nothing = tokenize(shipped.tokenizer, [""]).expand(len(tokens), -1)
    both = torch.cat([nothing, tokens]), torch.cat([torch.zeros_like(faces), faces])
    plan = euler().plan(TEACHER_STEPS)
    latents, kept = noise * plan.init_noise_sigma, []
    with shipped.wearing(*worn):
        for number, step in enumerate(plan.steps):
            at = positions([step] * len(noise))
            scaled = euler().scale_model_input(latents, at)
            if number % EACH == 0:
                kept.append(scaled)
            predicted = shipped(scaled.repeat(2, 1, 1, 1), at.timestep.repeat(2), *both)
            latents, _ = euler().step(latents, guided(predicted, [GUIDANCE] * len(noise)), latents, at)
    return Trajectories(torch.stack([*kept, latents], 1), tokens, faces, style)


@dataclass(frozen=True)
class Kept:
    """Batches of trajectories in a folder, each drawn when it is first asked for."""

    folder: Path
    count: int

    def __call__(self, turn: int, shipped: ShippedGenerator, styles: Mapping[str, Lora], draw: Batches) -> Trajectories:
        """Those of a turn, which come again after `count` of them; half of them have a style."""
        number = turn % self.count
        path = self.folder / f"{number:05}.pt"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            clean, tokens, faces = draw(number)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(draw.seed + number))
            style = list(styles)[number // 2 % len(styles)] if styles and number % 2 else None
            teach(shipped, tokens, faces, noise, style, () if style is None else (styles[style],)).save(path)
        return Trajectories.load(path)
