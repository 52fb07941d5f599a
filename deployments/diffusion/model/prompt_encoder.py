"""Encodes prompts of any length with CLIP text encoders: window by window, never truncated."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from deployments.diffusion.model.row_lora import NOTHING, LoraSlots, Worn
from deployments.diffusion.model.transfer import to_device

CACHED_CHUNKS = 128  # total windows of the cached prompts


PromptEmbedding = Mapping[str, torch.Tensor]
"""A prompt as conditions of a UNet, by the names of diffusers' pipelines: `prompt_embeds`
(1, chunks * window, width) and, for SDXL only, `pooled_prompt_embeds` (1, width of the second encoder)."""


class TextEncoder:
    """A CLIP text encoder and its tokenizer.

    A prompt longer than the encoder's window is split into chunks of window - 2 tokens, each encoded between its own
    begin and end tokens. Thread-safe.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        model: CLIPTextModel | CLIPTextModelWithProjection,
        loras: LoraSlots | None = None,
    ) -> None:
        """`loras` are those of the encoder, whose layers they have replaced."""
        self.loras = loras or LoraSlots(model, {})
        self._tokenizer = tokenizer
        self._model = model
        self._window = tokenizer.model_max_length
        self._lock = Lock()  # the tokenizer is not re-entrant

    def chunks(self, prompt: str) -> int:
        """The number of windows that the prompt fills, at least 1."""
        return len(self._split(prompt))

    @torch.inference_mode()
    def encode(self, prompt: str, chunks: int, worn: Worn = NOTHING) -> Any:
        """The model's output for (chunks, window) tokens; shorter prompts are padded with empty windows.

        All windows wear the LoRAs of the slots `worn`.
        """
        windows = self._split(prompt)
        windows += [[] for _ in range(chunks - len(windows))]
        begin, end, pad = (
            self._tokenizer.bos_token_id,
            self._tokenizer.eos_token_id,
            self._tokenizer.pad_token_id,
        )
        ids = [[begin, *window, end] + [pad] * (self._window - 2 - len(window)) for window in windows]
        tokens = to_device(torch.tensor(ids), self._model.device)
        with nullcontext() if worn == NOTHING else self.loras.worn(torch.tensor([worn] * chunks)):
            return self._model(tokens, output_hidden_states=True)

    def _split(self, prompt: str) -> list[list[int]]:
        with self._lock:
            tokens: list[int] = self._tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        size = self._window - 2
        return [tokens[start : start + size] for start in range(0, max(1, len(tokens)), size)]


class PromptEncoder:
    """Prompt embeddings of Stable Diffusion 1.5, with an LRU cache. Thread-safe."""

    def __init__(self, *encoders: TextEncoder) -> None:
        self._encoders = encoders
        self._cache: OrderedDict[tuple[str, int, tuple[Worn, ...]], PromptEmbedding] = OrderedDict()
        self._lock = Lock()

    def chunks(self, prompt: str) -> int:
        """The number of windows that the prompt fills, at least 1."""
        return max(encoder.chunks(prompt) for encoder in self._encoders)

    def encode(self, prompt: str, chunks: int, *loras: str | None) -> PromptEmbedding:
        """The prompt in `chunks` windows, concatenated; the encoders wear these LoRAs, two at most.

        Raises: as `LoraSlots.worn_by`.
        """
        worn = tuple(encoder.loras.worn_by(*loras) for encoder in self._encoders)
        key = (prompt, chunks, worn)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        outputs = [encoder.encode(prompt, chunks, own) for encoder, own in zip(self._encoders, worn, strict=True)]
        embedding = self._embedding(outputs)
        with self._lock:
            self._cache[key] = embedding
            while sum(chunks for _, chunks, _ in self._cache) > CACHED_CHUNKS:
                self._cache.popitem(last=False)
        return embedding

    def encode_negative(self, prompt: str, chunks: int, *loras: str | None) -> PromptEmbedding:
        """The same for a negative prompt, which may be empty."""
        return self.encode(prompt, chunks, *loras)

    def _embedding(self, outputs: Sequence[Any]) -> PromptEmbedding:
        (output,) = outputs
        return {"prompt_embeds": _end_to_end(output.last_hidden_state)}


class XLPromptEncoder(PromptEncoder):
    """Prompt embeddings of SDXL: the penultimate layers of two encoders, concatenated by channel.

    The second encoder also gives a pooled vector, taken from the first window, which carries the subject.
    """

    def __init__(self, first: TextEncoder, second: TextEncoder, zeros_for_empty: bool) -> None:
        super().__init__(first, second)
        self._zeros_for_empty = zeros_for_empty

    def encode_negative(self, prompt: str, chunks: int, *loras: str | None) -> PromptEmbedding:
        """The same for a negative prompt; SDXL was trained with zeros for an empty one."""
        embedding = self.encode(prompt, chunks, *loras)
        if prompt or not self._zeros_for_empty:
            return embedding
        return {name: torch.zeros_like(tensor) for name, tensor in embedding.items()}

    def _embedding(self, outputs: Sequence[Any]) -> PromptEmbedding:
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"prompt_embeds": _end_to_end(hidden), "pooled_prompt_embeds": outputs[-1].text_embeds[:1]}


def _end_to_end(hidden: torch.Tensor) -> torch.Tensor:
    """(chunks, window, width) to (1, chunks * window, width)."""
    return hidden.reshape(1, -1, hidden.shape[-1])
