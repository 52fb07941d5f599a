"""Prompts of any length for CLIP text encoders: encoded window by window, never cut."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

KEPT_CHUNKS = 128  # windows of the prompts that are kept, all together


PromptEmbedding = Mapping[str, torch.Tensor]
"""What a UNet is told of a prompt, by the names that diffusers' pipelines give it: `prompt_embeds`
(1, chunks * window, width) and, for SDXL only, `pooled_prompt_embeds` (1, width of the second encoder)."""


class TextEncoder:
    """A CLIP text encoder and its tokenizer.

    A prompt longer than the encoder's window is split into chunks of window - 2 tokens, each encoded between its own
    begin and end tokens. Thread-safe.
    """

    def __init__(self, tokenizer: CLIPTokenizer, model: CLIPTextModel | CLIPTextModelWithProjection) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._window = tokenizer.model_max_length
        self._lock = Lock()  # the tokenizer is not re-entrant

    def chunks(self, prompt: str) -> int:
        """How many windows the prompt fills, at least 1."""
        return len(self._split(prompt))

    @torch.inference_mode()
    def encode(self, prompt: str, chunks: int) -> Any:
        """The model's output for (chunks, window) tokens; after a prompt that fills fewer windows come empty ones."""
        windows = self._split(prompt)
        windows += [[] for _ in range(chunks - len(windows))]
        begin, end, pad = (
            self._tokenizer.bos_token_id,
            self._tokenizer.eos_token_id,
            self._tokenizer.pad_token_id,
        )
        ids = [[begin, *window, end] + [pad] * (self._window - 2 - len(window)) for window in windows]
        return self._model(torch.tensor(ids, device=self._model.device), output_hidden_states=True)

    def _split(self, prompt: str) -> list[list[int]]:
        with self._lock:
            tokens: list[int] = self._tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        size = self._window - 2
        return [tokens[start : start + size] for start in range(0, max(1, len(tokens)), size)]


class PromptEncoder:
    """Embeddings of prompts as Stable Diffusion 1.5 takes them; the newest ones are kept. Thread-safe."""

    def __init__(self, *encoders: TextEncoder) -> None:
        self._encoders = encoders
        self._kept: OrderedDict[tuple[str, int], PromptEmbedding] = OrderedDict()
        self._lock = Lock()

    def chunks(self, prompt: str) -> int:
        """How many windows the prompt fills, at least 1."""
        return max(encoder.chunks(prompt) for encoder in self._encoders)

    def encode(self, prompt: str, chunks: int) -> PromptEmbedding:
        """The prompt in `chunks` windows, laid end to end."""
        key = (prompt, chunks)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        embedding = self._embedding([encoder.encode(prompt, chunks) for encoder in self._encoders])
        with self._lock:
            self._kept[key] = embedding
            while sum(kept for _, kept in self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return embedding

    def encode_negative(self, prompt: str, chunks: int) -> PromptEmbedding:
        """The same for a negative prompt, which may be empty."""
        return self.encode(prompt, chunks)

    def _embedding(self, outputs: Sequence[Any]) -> PromptEmbedding:
        (output,) = outputs
        return {"prompt_embeds": _end_to_end(output.last_hidden_state)}


class XLPromptEncoder(PromptEncoder):
    """Embeddings of prompts as SDXL takes them: the last but one layer of two encoders, side by side.

    The second encoder also sums up a prompt in one vector: that of the first window, which says what it is about.
    """

    def __init__(self, first: TextEncoder, second: TextEncoder, zeros_for_empty: bool) -> None:
        super().__init__(first, second)
        self._zeros_for_empty = zeros_for_empty

    def encode_negative(self, prompt: str, chunks: int) -> PromptEmbedding:
        """The same for a negative prompt; of an empty one SDXL was trained to see zeros."""
        embedding = self.encode(prompt, chunks)
        if prompt or not self._zeros_for_empty:
            return embedding
        return {name: torch.zeros_like(tensor) for name, tensor in embedding.items()}

    def _embedding(self, outputs: Sequence[Any]) -> PromptEmbedding:
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"prompt_embeds": _end_to_end(hidden), "pooled_prompt_embeds": outputs[-1].text_embeds[:1]}


def _end_to_end(hidden: torch.Tensor) -> torch.Tensor:
    """(chunks, window, width) to (1, chunks * window, width)."""
    return hidden.reshape(1, -1, hidden.shape[-1])
