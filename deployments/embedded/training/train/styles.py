"""Trains a LoRA for each style: the persons, captions and vectors are those of the generator, the pictures are not."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from deployments.embedded.training.train.checkpoint import Length, restored, save
from deployments.embedded.training.train.diffusion import Batches, Examples, random_timesteps, v_loss
from deployments.embedded.training.train.lora import MATRIX_RATE, OTHER_RATE, Lora, ShippedGenerator
from deployments.embedded.training.train.networks import noise_levels
from deployments.embedded.training.train.optimiser import MatrixOptimiser
from deployments.embedded.training.train.together import Together

SAVE_EVERY = 50


def train_style(
    shipped: ShippedGenerator, examples: Examples, length: Length, seed: int, checkpoint: Path, batch: int = 24
) -> Lora:
    """From the checkpoint where there is one; `examples` has the pictures in the style, whose name no caption tells.

    Captions and faces are dropped at times, as in the generator's training: guidance acts in styles, too.
    """
    torch.manual_seed(seed)
    lora, together = shipped.new_lora(), Together()
    optimiser = MatrixOptimiser(lora, MATRIX_RATE, OTHER_RATE)
    step, seconds = restored(checkpoint, lora, optimiser)
    draw, alphas, mean_loss = Batches(examples, shipped.tokenizer, batch, seed), noise_levels(), float("nan")
    with tqdm(desc=checkpoint.stem, initial=step, mininterval=10, disable=together.rank > 0) as bar:
        while length.done(step, seconds) < 1:
            started, turn = time.monotonic(), step * together.count + together.rank
            torch.manual_seed(seed + 1000 + turn)
            clean, tokens, faces = draw(turn)
            with shipped.wearing(lora):
                loss = v_loss(partial(shipped, tokens=tokens, faces=faces), clean, random_timesteps(batch), alphas)
                torch.autograd.backward(loss)
            seconds = together.average(lora, seconds + time.monotonic() - started)
            nn.utils.clip_grad_norm_(lora.parameters(), 1.0)
            optimiser.step(length.rate(step, seconds))
            step += 1
            latest = float(loss.detach())
            mean_loss = latest if np.isnan(mean_loss) else mean_loss + 0.02 * (latest - mean_loss)
            bar.update()
            bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
            if together.rank == 0 and (step % SAVE_EVERY == 0 or length.done(step, seconds) >= 1):
                save(checkpoint, lora, optimiser, step, seconds)
    return lora
