"""LoRAs of CLIP text encoders by the row, against diffusers with the LoRAs of each prompt alone."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.loaders.lora_base import (
    disable_lora_for_text_encoder,
    enable_lora_for_text_encoder,
    set_adapters_for_text_encoder,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deployments.config import DiffusionModelConfig, LoraConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.lora_file import read_parts
from deployments.diffusion.model.prompt_encoder import TextEncoder, XLPromptEncoder
from deployments.diffusion.model.row_lora import LoraSlots
from loadtest.bench.full_size.library import library_pipeline
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.diffusion_folders import tiny_unet, write_faceid_adapter, write_tiny_model, write_tiny_sdxl
from tests.support.fakes import avatar_spec
from tests.support.lora_files import ATTENTION, CLIP, LoraFormat, add_text_lora, write_lora

ENCODERS = ("text_encoder", "text_encoder_2")
WINDOW = 77


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("sdxl")
    write_tiny_sdxl(folder)
    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)


def encoders_of(pipeline: Any) -> dict[str, Any]:
    return {name: copy.deepcopy(getattr(pipeline, name)) for name in ENCODERS}


def write(path: Path, encoders: dict[str, Any], file_format: LoraFormat, rank: int = 4, seed: int = 1) -> Path:
    """A LoRA of the UNet of a tiny SDXL and of these encoders."""
    write_lora(path, tiny_unet("sdxl"), "kohya" if file_format == "kohya" else "diffusers", ATTENTION, rank, seed)
    add_text_lora(path, encoders, file_format, CLIP, rank, seed)
    return path


def networks_of(encoders: dict[str, Any]) -> dict[str, Any]:
    return {"unet": tiny_unet("sdxl"), **encoders}


class TextRows:
    """Both text encoders with LoRAs by the row, and the library's."""

    def __init__(self, folder: Path, pipeline: Any, loras: Sequence[dict[str, Any]]) -> None:
        self.ours, self.library = encoders_of(pipeline), encoders_of(pipeline)
        self.scales = {f"lora{number}": lora["scale"] for number, lora in enumerate(loras)}
        read: dict[str, Any] = {}
        for (name, scale), lora in zip(self.scales.items(), loras, strict=True):
            path = write(folder / f"{name}.safetensors", self.ours, lora["file_format"], lora["rank"], lora["rank"])
            read[name] = read_parts(path, networks_of(self.ours), scale)
            weights, alphas = StableDiffusionXLPipeline.lora_state_dict(folder, weight_name=path.name)
            for part, encoder in self.library.items():
                StableDiffusionXLPipeline.load_lora_into_text_encoder(
                    weights, alphas, encoder, prefix=part, adapter_name=name
                )
        self.slots = {
            part: LoraSlots(encoder, {name: parts[part] for name, parts in read.items()})
            for part, encoder in self.ours.items()
        }

    @torch.inference_mode()
    def batch(self, part: str, rows: Sequence[Sequence[str]]) -> list[torch.Tensor]:
        """Of one prompt for each row, which wears the LoRAs of these names."""
        slots = self.slots[part]
        with slots.worn(torch.tensor([slots.worn_by(*names) for names in rows])):
            return self._encoded(self.ours[part], range(len(rows)))

    @torch.inference_mode()
    def alone(self, part: str, row: int, names: Sequence[str]) -> list[torch.Tensor]:
        """Of this row, by the library."""
        encoder = self.library[part]
        if names:
            enable_lora_for_text_encoder(encoder)
            set_adapters_for_text_encoder(list(names), encoder, [self.scales[name] for name in names])
        else:
            disable_lora_for_text_encoder(encoder)
        return self._encoded(encoder, [row])

    def _encoded(self, encoder: Any, rows: Sequence[int]) -> list[torch.Tensor]:
        """(rows, window, width), and of the second encoder (rows, width) of the whole prompts."""
        seeded = [torch.Generator().manual_seed(row) for row in rows]
        tokens = torch.stack([torch.randint(3, 512, (WINDOW,), generator=seed) for seed in seeded])
        output = encoder(tokens, output_hidden_states=True)
        return [output.hidden_states[-2], *([output.text_embeds] if "text_embeds" in output else [])]


@st.composite
def wardrobes(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """LoRAs, and what each row of a batch wears of them."""
    how = {
        "file_format": st.sampled_from(["kohya", "diffusers", "peft"]),
        "rank": st.integers(1, 9),
        "scale": st.floats(-1, 1.5).filter(bool),
    }
    loras = draw(st.lists(st.fixed_dictionaries(how), min_size=1, max_size=3))
    names = st.sampled_from([f"lora{number}" for number in range(len(loras))])
    return loras, draw(st.lists(st.lists(names, max_size=2, unique=True), min_size=1, max_size=4))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wardrobe=wardrobes())
def test_prompts_that_wear_different_loras_in_one_batch_are_those_of_the_library_with_each_alone(
    tmp_path: Path, sdxl: Any, wardrobe: tuple[list[dict[str, Any]], list[list[str]]]
) -> None:
    loras, worn = wardrobe
    rows = TextRows(tmp_path, sdxl, loras)
    for part in ENCODERS:
        together, own = rows.batch(part, worn), [rows.alone(part, row, names) for row, names in enumerate(worn)]
        for ours, alone in zip(together, map(torch.cat, zip(*own, strict=True)), strict=True):
            for row, expected in zip(ours, alone, strict=True):
                assert tolerance.relative(row, expected) <= tolerance.through(rows.ours[part])


def test_a_prompt_is_cached_with_the_loras_that_change_it(tmp_path: Path, sdxl: Any) -> None:
    encoders = encoders_of(sdxl)
    heard = write(tmp_path / "heard.safetensors", encoders, "kohya")
    unheard = write_lora(tmp_path / "unheard.safetensors", tiny_unet("sdxl"), "kohya", ATTENTION)
    read = {path.stem: read_parts(path, networks_of(encoders), 1.0) for path in (heard, unheard)}
    first, second = (
        TextEncoder(tokenizer, encoders[part], LoraSlots(encoders[part], {name: of[part] for name, of in read.items()}))
        for part, tokenizer in zip(ENCODERS, (sdxl.tokenizer, sdxl.tokenizer_2), strict=True)
    )
    prompts = XLPromptEncoder(first, second, zeros_for_empty=True)
    plain, worn = prompts.encode("a man", 1), prompts.encode("a man", 1, "heard")
    for name, embedding in plain.items():  # both encoders, and the pooled vector
        assert tolerance.relative(worn[name], embedding) > 0.01
    assert prompts.encode("a man", 1, None, "heard") is worn
    assert prompts.encode("a man", 1, "unheard") is prompts.encode("a man", 1) is plain
    with pytest.raises(ValueError, match="no LoRA 'other'"):
        prompts.encode("a man", 1, "other")


@pytest.mark.parametrize("family", ["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_an_image_amid_others_has_the_loras_of_its_prompts_as_in_the_library_alone(tmp_path: Path, family: Any) -> None:
    write_tiny_model(tmp_path / "model", family)
    adapter = write_faceid_adapter(tmp_path, family, "safetensors", lora=False)
    config = DiffusionModelConfig(path=tmp_path / "model", ip_adapter=adapter, threads=1, dtype="float32")
    library = library_pipeline({"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}[family], config)
    parts = ENCODERS[: 1 if family == "sd" else 2]
    files: dict[str, Path] = {}
    for seed, name in enumerate(("both", "image"), 1):
        files[name] = write_lora(tmp_path / f"{name}.safetensors", tiny_unet(family), "kohya", ATTENTION, 3, seed)
    add_text_lora(files["both"], {part: getattr(library, part) for part in parts}, "kohya", CLIP, 3, 1)
    loras = {name: LoraConfig(file=path, scale=0.8) for name, path in files.items()}
    model = FaceDiffusionModel.load(config.model_copy(update={"loras": loras}))
    worn = [("both", None), (None, None), ("both", "image")]
    specs = [
        avatar_spec(
            width=64, height=72, seed=seed, lora=lora, speed_lora=speed, guidance_scale=3.0, num_inference_steps=2,
            negative_prompt="glasses",
        )
        for seed, (lora, speed) in enumerate(worn, 1)
    ]  # fmt: skip
    samples = [model.start(spec, random_face(spec.seed)) for spec in specs]
    for _ in range(2):
        model.step(samples)
    for spec, sample in zip(specs, samples, strict=True):
        names = [name for name in (spec.lora, spec.speed_lora) if name is not None]
        for name in names:
            library.load_lora_weights(tmp_path, weight_name=files[name].name, adapter_name=name)
        if names:
            library.set_adapters(names, [0.8] * len(names))
        vector = torch.from_numpy(random_face(spec.seed).vector)[None, None]
        expected = library(
            prompt=spec.prompt, negative_prompt=spec.negative_prompt,
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(vector), vector])],
            generator=torch.Generator().manual_seed(spec.seed), guidance_scale=3.0, width=64, height=72,
            num_inference_steps=2, output_type="latent",
        ).images  # fmt: skip
        library.unload_lora_weights()
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)


def test_parts_that_the_text_encoders_cannot_wear_are_refused_by_name(tmp_path: Path, sdxl: Any) -> None:
    encoders = encoders_of(sdxl)
    path = write(tmp_path / "lora.safetensors", encoders, "diffusers")
    one = {"text_encoder": encoders["text_encoder"]}
    with pytest.raises(ValueError, match=r"text_encoder_2\.text_model\.encoder\.layers\.0"):
        read_parts(path, networks_of(one), 1.0)
    added = {"text_encoder.text_model.encoder.layers.9.mlp.fc1.lora_linear_layer.down.weight": torch.zeros(1, 32)}
    save_file({**load_file(path), **added}, path)
    with pytest.raises(ValueError, match=r"is not a LoRA: encoder\.layers\.9\.mlp\.fc1\.lora_B"):
        read_parts(path, networks_of(encoders), 1.0)
