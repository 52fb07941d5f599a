"""Prompts as FLUX.2 klein reads them: layers of a Qwen3 language model, always the same number of tokens."""

from collections import OrderedDict
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from deployments.diffusion.model.transfer import to_device
from deployments.errors import PromptTooLongError

TOKENS = 512  # padding included: the transformer was trained with it, and sees it
LAYERS = (9, 18, 27)
CACHED_PROMPTS = 32  # 8 MB each for the published encoder in bfloat16


class QwenPrompts:
    """Prompt embeddings, the newest of which are kept. Thread-safe."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        """A tokenizer with a chat template, and a `Qwen3ForCausalLM`."""
        self._tokenizer = tokenizer
        self._model = model
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = Lock()  # the tokenizer is not re-entrant

    def encode(self, prompt: str) -> Tensor:
        """(1, TOKENS, 3 * width). Raises: PromptTooLongError; diffusers' own pipeline would cut the prompt."""
        with self._lock:
            if prompt in self._cache:
                self._cache.move_to_end(prompt)
                return self._cache[prompt]
            tokens, mask = self._tokens(prompt)
        embedding = self._embedding(tokens, mask)
        with self._lock:
            self._cache[prompt] = embedding
            while len(self._cache) > CACHED_PROMPTS:
                self._cache.popitem(last=False)
        return embedding

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
    def _embedding(self, tokens: Tensor, mask: Tensor) -> Tensor:
        device = self._model.device
        # The base model: the logits, which the head would compute, are not needed.
        states = self._model.model(
            input_ids=to_device(tokens, device),
            attention_mask=to_device(mask, device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return torch.cat([states[layer] for layer in LAYERS], dim=-1)
