"""Pretrains the text encoder on what its captions name, before the joint training with the UNet.

Attention reads the words as the UNet will: one query a question, softmax over the 77 positions. From noise alone the
colours of background and clothes were still mixed up after 80,000 pictures.
"""

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.embedded.training.data.captions import (
    BACKGROUNDS,
    BEARDS,
    CLOTHES,
    EXPRESSIONS,
    GENDERED,
    GRADIENTS,
    HATS,
    SCENES,
    WINKS,
    custom_caption,
    default_caption,
    gender_word,
)
from deployments.embedded.training.data.dataset import avatar_of
from deployments.embedded.training.data.overrides import changed_traits
from deployments.embedded.training.data.words import tokenize
from deployments.embedded.training.renderer.population import random_portrait
from deployments.embedded.training.renderer.portrait import NAMED_COLOURS, Portrait
from deployments.embedded.training.train.networks import TEXT_WIDTH

COLOURS = list(NAMED_COLOURS)
PLACES = [*COLOURS, *SCENES, "gradient"]
FACES = [*EXPRESSIONS, "winking"]
ANSWERS = {
    "background": len(PLACES),
    "clothes": len(COLOURS),
    "garment": len(CLOTHES),
    "expression": len(FACES),
    "gender": 3,
    "glasses": 2,
    "hat": len(HATS),
    "beard": len(BEARDS),
}
GENDER = list(ANSWERS).index("gender")
UNNAMED = -100  # cross entropy passes over it


def place_of(portrait: Portrait) -> tuple[str, list[str]]:
    """What the background is, of PLACES, and the phrases that say so."""
    if portrait.scene == "plain":
        return portrait.background_name, [form.format(portrait.background_name) for form in BACKGROUNDS]
    if portrait.scene == "gradient":
        return "gradient", [form.format(portrait.background_name, portrait.second_name) for form in GRADIENTS]
    return portrait.scene, list(SCENES[portrait.scene])


def answers(portrait: Portrait, caption: str, word: str) -> list[int]:
    """What the caption says on each question."""
    text = caption.lower()

    def said(phrases: Collection[str], index: int) -> int:
        return index if any(phrase in text for phrase in phrases) else UNNAMED

    place, places = place_of(portrait)
    garments = CLOTHES[portrait.clothes]
    coloured = [f"{portrait.clothes_name} {striped}{name}" for name in garments for striped in ("", "striped ")]
    face = "winking" if portrait.winking else portrait.expression
    return [
        said(places, PLACES.index(place)),
        said(coloured, COLOURS.index(portrait.clothes_name)),
        said(garments, list(CLOTHES).index(portrait.clothes)),
        said(WINKS if portrait.winking else EXPRESSIONS[portrait.expression], FACES.index(face)),
        int(portrait.gender == "man") if word in told_genders(portrait) else 2,
        int(portrait.glasses != "none" and "glasses" in text),
        said(HATS[portrait.hat], list(HATS).index(portrait.hat)),
        said(BEARDS[portrait.beard], list(BEARDS).index(portrait.beard)) if portrait.gender == "man" else UNNAMED,
    ]


def default_answers(portrait: Portrait, word: str) -> list[int]:
    """What the default prompt says: a black background, a gender and no glasses; the rest is unnamed."""
    named = {"background": COLOURS.index("black"), "gender": answers(portrait, "", word)[GENDER], "glasses": 0}
    return [named.get(question, UNNAMED) for question in ANSWERS]


def told_genders(portrait: Portrait) -> set[str]:
    """The words that tell the portrait's gender."""
    return {word for words in GENDERED[portrait.gender].values() for word in words}


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
        person = random_portrait(rng)
        default = rng.random() < 0.15
        portrait = avatar_of(person, rng, default)
        changed = changed_traits(person, portrait)
        word = gender_word(portrait, rng, changed)
        caption = default_caption(word) if default else custom_caption(portrait, rng, word, changed)
        told.append(default_answers(portrait, word) if default else answers(portrait, caption, word))
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
