"""Trains the LoRA by which the generator draws in four steps without guidance what it draws in twelve with it.

Progressive distillation (Salimans and Ho 2022) from kept trajectories; then the student's own steps, from the noise to
the picture that the teacher made of it, so that it learns to mend what its first steps did wrong.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm

from deployments.diffusion.model.sampler import Positions
from deployments.embedded.training.train.checkpoint import Length, restored, save
from deployments.embedded.training.train.diffusion import Batches, where_it_matters
from deployments.embedded.training.train.lora import MATRIX_RATE, OTHER_RATE, Lora, ShippedGenerator
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.styles import SAVE_EVERY
from deployments.embedded.training.train.together import Together
from deployments.embedded.training.train.trajectories import (
    STUDENT_STEPS,
    Kept,
    Trajectories,
    euler,
    positions,
)

OWN_STEPS_FROM = 0.65  # of the training
HUBER = 0.2  # errors from which on the loss grows no faster than they do


def huber(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Of latents or v, (n, 12, 32, 32): more where faces are."""
    each = F.smooth_l1_loss(drawn, wanted, reduction="none", beta=HUBER)
    return (each * where_it_matters()).mean()


def wanted_v(before: Tensor, after: Tensor, at: Positions) -> Tensor:
    """The v by which one Euler step leads from `before` to `after`, latents x0 + sigma * noise (n, 12, 32, 32)."""
    kept = at.sigma_next / at.sigma
    denoised = (after - kept * before) / (1 - kept)
    return (before / at.norm**2 - denoised) * (at.norm / at.sigma)


def step_loss(shipped: ShippedGenerator, taught: Trajectories, rng: np.random.Generator) -> Tensor:
    """Of one step of each row, from where the teacher was to where it was three steps later."""
    rows = np.arange(len(taught.tokens))
    number = rng.integers(STUDENT_STEPS, size=len(rows))
    at = positions([euler().plan(STUDENT_STEPS).steps[each] for each in number])
    scaled, after = taught.latents[rows, number], taught.latents[rows, number + 1] * at.norm_next
    predicted = shipped(scaled, at.timestep, taught.tokens, taught.faces)
    return huber(predicted, wanted_v(scaled * at.norm, after, at))


def own_loss(shipped: ShippedGenerator, taught: Trajectories, rng: np.random.Generator) -> Tensor:
    """Of the picture that a part of the rows come to by the student's steps alone, so that it costs no more."""
    rows = rng.choice(len(taught.tokens), max(1, len(taught.tokens) // STUDENT_STEPS), replace=False)
    plan = euler().plan(STUDENT_STEPS)
    latents = taught.latents[rows, 0] * positions([plan.steps[0]]).norm
    for step in plan.steps:
        at = positions([step] * len(rows))
        predicted = shipped(
            euler().scale_model_input(latents, at), at.timestep, taught.tokens[rows], taught.faces[rows]
        )
        latents, _ = euler().step(latents, predicted, latents, at)
    return huber(latents, taught.latents[rows, -1])


def train_fewstep(
    shipped: ShippedGenerator,
    styles: Mapping[str, Lora],
    draw: Batches,
    length: Length,
    seed: int,
    checkpoint: Path,
    kept: Kept,
) -> Lora:
    """From the checkpoint where there is one; `draw` gives what the pictures are to show.

    Teacher and student wear the LoRA of one of the styles at a time, or none. The teacher's time does not count.
    """
    torch.manual_seed(seed)
    lora, together = shipped.new_lora(), Together()
    optimiser = MatrixOptimiser(lora, MATRIX_RATE, OTHER_RATE)
    step, seconds = restored(checkpoint, lora, optimiser)
    means: dict[str, float] = {}
    with tqdm(desc=checkpoint.stem, initial=step, mininterval=10, disable=together.rank > 0) as bar:
        while (share := length.done(step, seconds)) < 1:
            turn = step * together.count + together.rank
            taught = kept(turn, shipped, styles, draw)
            started, rng = time.monotonic(), np.random.default_rng((seed, turn))
            loss_of = step_loss if share < OWN_STEPS_FROM else own_loss
            with shipped.wearing(*([] if taught.style is None else [styles[taught.style]]), lora):
                loss = loss_of(shipped, taught, rng)
                torch.autograd.backward(loss)
            seconds = together.average(lora, seconds + time.monotonic() - started)
            nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
            optimiser.step(length.rate(step, seconds))
            step += 1
            latest, name = float(loss.detach()), loss_of.__name__
            means[name] = means.get(name, latest) + 0.02 * (latest - means.get(name, latest))
            bar.update()
            bar.set_postfix({key: f"{value:.4f}" for key, value in means.items()}, refresh=False)
            if together.rank == 0 and (step % SAVE_EVERY == 0 or length.done(step, seconds) >= 1):
                save(checkpoint, lora, optimiser, step, seconds)
    return lora
