from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.config import model_path
from deployments.diffusion.model.prompt_encoder import CACHED_CHUNKS, PromptEncoder, TextEncoder, XLPromptEncoder
from serve_app.catalog.apps import DEFAULT_PROMPT
from tests.support import tolerance
from tests.support.diffusion_folders import write_tiny_sdxl

FOLDER = model_path(Path("embedded:diffusion"))


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(FOLDER / "text_encoder").eval()


@pytest.fixture
def prompts(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> PromptEncoder:
    return PromptEncoder(TextEncoder(tokenizer, text_encoder))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionXLPipeline:
    folder = tmp_path_factory.mktemp("sdxl")
    write_tiny_sdxl(folder)
    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)


def xl_encoder(sdxl: StableDiffusionXLPipeline, zeros_for_empty: bool = True) -> XLPromptEncoder:
    first = TextEncoder(sdxl.tokenizer, sdxl.text_encoder)
    return XLPromptEncoder(first, TextEncoder(sdxl.tokenizer_2, sdxl.text_encoder_2), zeros_for_empty)


def hidden(encoder: PromptEncoder, prompt: str, chunks: int) -> torch.Tensor:
    return encoder.encode(prompt, chunks)["prompt_embeds"]


@pytest.mark.parametrize("prompt", ["", "portrait of a man", DEFAULT_PROMPT.format(gender_word="woman")])
def test_a_prompt_of_one_window_is_encoded_as_the_library_does(
    prompts: PromptEncoder, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompt: str
) -> None:
    inputs = tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
    with torch.no_grad():
        expected = text_encoder(inputs.input_ids).last_hidden_state
    assert prompts.chunks(prompt) == 1
    assert tolerance.relative(hidden(prompts, prompt, 1), expected) <= tolerance.through(text_encoder)


def test_a_longer_prompt_is_encoded_window_by_window(prompts: PromptEncoder, tokenizer: CLIPTokenizer) -> None:
    prompt = "blue background " * 100
    tokens = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    chunks = prompts.chunks(prompt)
    assert chunks == -(-tokens // (tokenizer.model_max_length - 2))
    assert hidden(prompts, prompt, chunks).shape[1] == chunks * tokenizer.model_max_length


def test_a_shorter_prompt_is_followed_by_empty_windows(
    prompts: PromptEncoder, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel
) -> None:
    window = tokenizer.model_max_length
    long = hidden(prompts, "a man", 3)
    within = tolerance.through(text_encoder)
    assert tolerance.relative(long[:, :window], hidden(prompts, "a man", 1)) <= within
    assert tolerance.relative(long[:, window:], hidden(prompts, "", 2)) <= within


def test_only_the_newest_prompts_are_kept(prompts: PromptEncoder) -> None:
    first = prompts.encode("a man", 1)
    assert prompts.encode("a man", 1) is first
    for number in range(CACHED_CHUNKS):
        prompts.encode(str(number), 1)
    again = prompts.encode("a man", 1)
    assert again is not first
    assert torch.equal(again["prompt_embeds"], first["prompt_embeds"])


@pytest.mark.parametrize("prompt", ["", "portrait of a man"])
@pytest.mark.parametrize("negative_prompt", ["", "glasses"])
@pytest.mark.parametrize("zeros_for_empty", [True, False])
def test_sdxl_prompts_of_one_window_are_encoded_as_the_library_does(
    sdxl: StableDiffusionXLPipeline, prompt: str, negative_prompt: str, zeros_for_empty: bool
) -> None:
    sdxl.register_to_config(force_zeros_for_empty_prompt=zeros_for_empty)
    with torch.no_grad():
        # An empty negative prompt is a missing one.
        expected = sdxl.encode_prompt(prompt, negative_prompt=negative_prompt or None)
    encoder = xl_encoder(sdxl, zeros_for_empty)
    positive, negative = encoder.encode(prompt, 1), encoder.encode_negative(negative_prompt, 1)
    names = ["prompt_embeds", "pooled_prompt_embeds"]
    embeddings = [positive[names[0]], negative[names[0]], positive[names[1]], negative[names[1]]]
    for tensor, library in zip(embeddings, expected, strict=True):
        assert tensor.shape == library.shape
        assert (tensor - library).abs().max() <= tolerance.through(sdxl.text_encoder_2) * library.abs().max()


def test_a_long_sdxl_prompt_goes_to_both_encoders_window_by_window(sdxl: StableDiffusionXLPipeline) -> None:
    encoder = xl_encoder(sdxl)
    head, tail = "a" * 75, "b" * 40  # a token a letter
    assert encoder.chunks(head + " " + tail) == 2
    long = encoder.encode(f"{head} {tail}", 2)
    pieces = [encoder.encode(head, 1), encoder.encode(tail, 1)]
    expected = torch.cat([piece["prompt_embeds"] for piece in pieces], dim=1)
    within = tolerance.through(sdxl.text_encoder_2)
    assert tolerance.relative(long["prompt_embeds"], expected) <= within
    pooled = pieces[0]["pooled_prompt_embeds"]
    assert tolerance.relative(long["pooled_prompt_embeds"], pooled) <= within
