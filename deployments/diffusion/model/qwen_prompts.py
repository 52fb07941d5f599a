"""Prompts as FLUX.2 klein reads them: layers of a Qwen3 language model, always the same number of tokens."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from deployments.diffusion.model.transfer import to_device
from deployments.errors import PromptTooLongError

TOKENS = 512  # padding included: the transformer was trained with it, and sees it
LAYERS = (9, 18, 27)
CACHED_PROMPTS = 32  # 8 MB each for the published encoder in bfloat16


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """A prompt whose embedding is known, or is computed by the thread that asked first.

    `is_alone`: in a forward pass of its own. Beside others it is the same but for roundings.
    """

    tokens: Tensor  # (1, TOKENS)
    mask: Tensor  # (1, TOKENS)
    is_alone: bool
    embedding: Future[Tensor] = field(default_factory=Future)


class QwenPrompts:
    """Prompt embeddings, the newest of which are kept. Thread-safe: a prompt is not encoded twice at a time."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        """A tokenizer with a chat template, and a `Qwen3ForCausalLM`."""
        self._tokenizer = tokenizer
        self._model = model
        self._cache: OrderedDict[str, Encoding] = OrderedDict()
        self._lock = Lock()  # of the cache, and of the tokenizer, which is not re-entrant

    def encode(self, prompt: str) -> Tensor:
        """(1, TOKENS, 3 * width), of the cache or in a forward pass of its own.

        Raises: PromptTooLongError; diffusers' own pipeline would cut the prompt.
        """
        with self._lock:
            is_known = prompt in self._cache
            encoding = self._cache[prompt] if is_known else self._add(prompt, is_alone=True)
            self._cache.move_to_end(prompt)
        if not is_known:
            self._run([encoding])
        return encoding.embedding.result()

    def encode_ahead(self, prompts: Sequence[str], *, together: bool) -> None:
        """Put prompts into the cache for `encode`, which refuses those that are too long.

        `together`: those that are new share a forward pass. Otherwise each has its own, which one that was encoded
        beside others gets, too: what is drawn alone is the same each time, to the last bit.
        """
        with self._lock:
            new = [prompt for prompt in dict.fromkeys(prompts) if not self._has(prompt, alone=not together)]
            added: list[Encoding] = []
            for prompt in new:
                with suppress(PromptTooLongError):
                    added.append(self._add(prompt, is_alone=not together or len(new) == 1))
        for part in [added] if together else [[each] for each in added]:
            self._run(part)

    def _has(self, prompt: str, *, alone: bool) -> bool:
        return prompt in self._cache and (self._cache[prompt].is_alone or not alone)

    def _add(self, prompt: str, *, is_alone: bool) -> Encoding:
        """The newest of the cache, which the caller is to run. Called with the lock. Raises: PromptTooLongError."""
        encoding = Encoding(*self._tokens(prompt), is_alone)
        self._cache[prompt] = encoding
        self._cache.move_to_end(prompt)
        while len(self._cache) > CACHED_PROMPTS:
            self._cache.popitem(last=False)
        return encoding

    def _run(self, encodings: Sequence[Encoding]) -> None:
        """One forward pass. An error is that of all who wait for one of them; the next to ask tries again."""
        if not encodings:
            return
        try:
            embeddings = self._embeddings(
                torch.cat([each.tokens for each in encodings]), torch.cat([each.mask for each in encodings])
            )
        except BaseException as error:
            with self._lock:
                for prompt in [prompt for prompt, each in self._cache.items() if each in encodings]:
                    del self._cache[prompt]
            for each in encodings:
                each.embedding.set_exception(error)
            raise
        for each, embedding in zip(encodings, embeddings, strict=True):
            each.embedding.set_result(embedding)

    def _tokens(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Both (1, TOKENS)."""
        messages = [{"role": "user", "content": prompt}]
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        read = self._tokenizer(text, return_tensors="pt", padding="max_length", max_length=TOKENS)
        if (length := read["input_ids"].shape[1]) > TOKENS:
            raise PromptTooLongError(
                f"The prompt has {length} tokens, with the {length - self._own(prompt)} that the model puts around it;"
                f" it reads {TOKENS}.",
                accepted={"max_tokens": TOKENS},
            )
        return read["input_ids"], read["attention_mask"]

    def _own(self, prompt: str) -> int:
        return len(self._tokenizer(prompt, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _embeddings(self, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """(1, TOKENS, 3 * width) of each row of (prompts, TOKENS)."""
        device = self._model.device
        # The base model: the logits, which the head would compute, are not needed.
        states = self._model.model(
            input_ids=to_device(tokens, device),
            attention_mask=to_device(mask, device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        # Copies, not views: the cache would keep what it has dropped.
        return [torch.cat([states[layer][row : row + 1] for layer in LAYERS], dim=-1) for row in range(len(tokens))]
