"""Pretrains the text encoder on what its captions name, before the joint training with the UNet.

Attention reads the words as the UNet will: one query a question, softmax over the 77 positions. From noise alone the
colours of background and clothes were still mixed up after 80,000 pictures.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.embedded.training.data.captions import (
    BACKGROUNDS,
    CLOTHES,
    EXPRESSIONS,
    custom_caption,
    default_caption,
    gender_word,
)
from deployments.embedded.training.data.words import tokenize
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import NAMED_COLOURS, Portrait
from deployments.embedded.training.train.networks import TEXT_WIDTH

COLOURS = list(NAMED_COLOURS)
ANSWERS = {
    "background": len(COLOURS),
    "clothes": len(COLOURS),
    "expression": len(EXPRESSIONS),
    "gender": 3,
    "glasses": 2,
}
UNNAMED = -100  # cross entropy passes over it


def answers(portrait: Portrait, caption: str, word: str) -> list[int]:
    """What the caption says on each question."""
    said = caption.lower()
    background = any(form.format(portrait.background_name) in said for form in BACKGROUNDS)
    clothes = any(f"{portrait.clothes_name} {name}" in said for name in CLOTHES[portrait.clothes])
    expression = any(name in said for name in EXPRESSIONS[portrait.expression])
    return [
        COLOURS.index(portrait.background_name) if background else UNNAMED,
        COLOURS.index(portrait.clothes_name) if clothes else UNNAMED,
        list(EXPRESSIONS).index(portrait.expression) if expression else UNNAMED,
        2 if word == "person" else int(portrait.gender == "man"),
        int(portrait.glasses != "none" and "glasses" in said),
    ]


class Questions(nn.Module):
    """Used in this stage only."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ANSWERS), TEXT_WIDTH) * 0.3)
        self.keys = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        self.heads = nn.ModuleList(nn.Linear(TEXT_WIDTH, count) for count in ANSWERS.values())

    def forward(self, words: Tensor) -> list[Tensor]:
        """Encoded words (n, 77, TEXT_WIDTH) -> for each question its answers' logits, (n, options)."""
        weights = torch.softmax(self.queries @ self.keys(words).transpose(1, 2) / TEXT_WIDTH**0.5, dim=-1)
        read = weights @ words  # (n, questions, width)
        return [head(read[:, number]) for number, head in enumerate(self.heads)]


def caption_batch(size: int, rng: np.random.Generator) -> tuple[list[str], Tensor]:
    """Captions of new random persons, and what they say, (size, questions): the option's index, or UNNAMED."""
    captions, told = [], []
    for _ in range(size):
        portrait = random_portrait(rng)
        word = gender_word(portrait, rng)
        if rng.random() < 0.15:
            caption = default_caption(word)
            told.append([COLOURS.index("black"), UNNAMED, UNNAMED, answers(portrait, "", word)[3], 0])
        else:
            caption = custom_caption(portrait, rng, word)
            told.append(answers(portrait, caption, word))
        captions.append(caption)
    return captions, torch.tensor(told)


def train_text_encoder(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, steps: int, seed: int) -> None:
    """Trains `encoder` in place on batches of 64 new captions; the questions' weights are dropped at the end."""
    torch.manual_seed(seed)
    rng, questions = np.random.default_rng(seed), Questions()
    optimiser = torch.optim.AdamW([*encoder.parameters(), *questions.parameters()], lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    bar = tqdm(range(steps), "text", mininterval=5)
    for _ in bar:
        captions, told = caption_batch(64, rng)
        said = questions(encoder(input_ids=tokenize(tokenizer, captions)).last_hidden_state)
        losses = [F.cross_entropy(guess, told[:, number]) for number, guess in enumerate(said)]
        loss = torch.stack(losses).nansum()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        right = [(g.argmax(1) == told[:, n])[told[:, n] >= 0].float().mean() for n, g in enumerate(said)]
        bar.set_postfix({name: f"{float(share):.2f}" for name, share in zip(ANSWERS, right, strict=True)})
