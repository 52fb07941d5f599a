"""The tokenizer: byte-pair encoding trained on the captions, in the format of CLIP's."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer

from deployments.embedded.training.data.captions import custom_caption, default_caption
from deployments.embedded.training.data.dataset import avatar_of
from deployments.embedded.training.renderer.population import random_portrait

START, END = "<|startoftext|>", "<|endoftext|>"
WINDOW = 77
VOCABULARY = 2048
EXTRA_WORDS = "male female boy girl person child elder non-binary android robot cat dog sun sky"


def caption_corpus(count: int, seed: int) -> list[str]:
    """`count` captions of random avatars, a tenth as many default prompts, and EXTRA_WORDS, which few captions hold."""
    rng = np.random.default_rng(seed)
    words = ["man", "woman", "person"]
    corpus = [custom_caption(avatar_of(random_portrait(rng), rng, default=False), rng) for _ in range(count)]
    return corpus + [default_caption(words[i % 3]) for i in range(count // 10)] + [EXTRA_WORDS] * 10


def train_tokenizer(corpus: Iterable[str]) -> CLIPTokenizer:
    """Every byte, alone and as a word's end, is a token, so any text can be said."""
    letters = sorted(ByteLevel.alphabet())
    alphabet = letters + [f"{letter}</w>" for letter in letters]
    learner = CLIPTokenizer(vocab={token: i for i, token in enumerate([*alphabet, START, END])}, merges=[])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(letters) - 2,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        special_tokens=[],
        show_progress=False,
    )
    learner.backend_tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(learner.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    tokens = list(dict.fromkeys([*alphabet, *("".join(merge) for merge in merges), START, END]))
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=WINDOW)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(captions, 77) token ids with start and end token; shorter captions are padded, longer ones cut."""
    tokens: Tensor = tokenizer(
        captions, padding="max_length", max_length=WINDOW, truncation=True, return_tensors="pt"
    ).input_ids
    return tokens


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The slow format too (vocab.json, merges.txt), which every CLIP loader reads."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]))
