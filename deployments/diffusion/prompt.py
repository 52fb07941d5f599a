"""Prompts of any length for CLIP text encoders: encoded window by window, never cut."""

from collections import OrderedDict
from threading import Lock

import torch
from transformers import CLIPTextModel, CLIPTokenizer

KEPT_CHUNKS = 128  # windows of the prompts that are kept, all together


class PromptEncoder:
    """CLIP embeddings of prompts; the newest ones are kept.

    A prompt longer than the text encoder's window is split into chunks of window - 2 tokens, each encoded between its
    own begin and end tokens, and the results are laid end to end. Thread-safe.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._window = tokenizer.model_max_length
        self._kept: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()
        self._lock = Lock()  # the tokenizer is not re-entrant

    def chunks(self, prompt: str) -> int:
        """How many windows the prompt fills, at least 1."""
        return len(self._split(prompt))

    def encode(self, prompt: str, chunks: int) -> torch.Tensor:
        """(1, chunks * window, width); a prompt that fills fewer windows is followed by empty ones."""
        key = (prompt, chunks)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        windows = self._split(prompt)
        windows += [[] for _ in range(chunks - len(windows))]
        embedding = self._encode_windows(windows)
        with self._lock:
            self._kept[key] = embedding
            while sum(kept for _, kept in self._kept) > KEPT_CHUNKS:
                self._kept.popitem(last=False)
        return embedding

    def _split(self, prompt: str) -> list[list[int]]:
        with self._lock:
            tokens: list[int] = self._tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        size = self._window - 2
        return [tokens[start : start + size] for start in range(0, max(1, len(tokens)), size)]

    @torch.inference_mode()
    def _encode_windows(self, windows: list[list[int]]) -> torch.Tensor:
        begin, end, pad = (
            self._tokenizer.bos_token_id,
            self._tokenizer.eos_token_id,
            self._tokenizer.pad_token_id,
        )
        ids = [[begin, *window, end] + [pad] * (self._window - 2 - len(window)) for window in windows]
        device = self._text_encoder.device
        hidden: torch.Tensor = self._text_encoder(torch.tensor(ids, device=device)).last_hidden_state
        return hidden.reshape(1, -1, hidden.shape[-1])  # (chunks, window, width), laid end to end
