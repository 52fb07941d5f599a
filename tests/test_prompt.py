from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.config import model_path
from deployments.diffusion.prompt import KEPT_CHUNKS, PromptEncoder
from serve_app.catalog import DEFAULT_PROMPT

FOLDER = model_path(Path("embedded:diffusion"))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(FOLDER / "text_encoder").eval()


@pytest.fixture
def prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> PromptEncoder:
    return PromptEncoder(tokenizer, text_encoder)


@pytest.mark.parametrize("prompt", ["", "portrait of a man", DEFAULT_PROMPT.format(gender_word="woman")])
def test_a_prompt_of_one_window_is_encoded_as_the_library_does(
    prompts: PromptEncoder, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompt: str
) -> None:
    inputs = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = text_encoder(inputs.input_ids).last_hidden_state
    assert prompts.chunks(prompt) == 1
    assert torch.allclose(prompts.encode(prompt, 1), expected, atol=1e-6)


def test_a_longer_prompt_is_encoded_window_by_window(prompts: PromptEncoder, tokenizer: CLIPTokenizer) -> None:
    prompt = "blue background " * 100
    tokens = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    chunks = prompts.chunks(prompt)
    assert chunks == -(-tokens // (tokenizer.model_max_length - 2))
    assert prompts.encode(prompt, chunks).shape[1] == chunks * tokenizer.model_max_length


def test_a_shorter_prompt_is_followed_by_empty_windows(prompts: PromptEncoder, tokenizer: CLIPTokenizer) -> None:
    window = tokenizer.model_max_length
    long = prompts.encode("a man", 3)
    assert torch.allclose(long[:, :window], prompts.encode("a man", 1), atol=1e-6)
    assert torch.allclose(long[:, window:], prompts.encode("", 2), atol=1e-6)


def test_only_the_newest_prompts_are_kept(prompts: PromptEncoder) -> None:
    first = prompts.encode("a man", 1)
    assert prompts.encode("a man", 1) is first
    for number in range(KEPT_CHUNKS):
        prompts.encode(str(number), 1)
    again = prompts.encode("a man", 1)
    assert again is not first
    assert torch.equal(again, first)
