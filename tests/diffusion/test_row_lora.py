"""LoRAs by the row, against diffusers with the LoRA of each row alone."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from deployments.config import DiffusionModelConfig, LoraConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.lora_file import read_lora
from deployments.types import AvatarSpec
from loadtest.bench.full_size.library import library_pipeline
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.diffusion_folders import Family, tiny_unet, write_faceid_adapter, write_tiny_model
from tests.support.fakes import avatar_spec
from tests.support.lora_files import ATTENTION, LINEAR, LoraFormat, write_lora

LIBRARY: dict[Family, type] = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
SMALL = {"width": 64, "height": 72, "num_inference_steps": 3, "guidance_scale": 3.0}


class TinyStyles:
    """A tiny model, and LoRAs for it."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder = folder
        self.family = family
        write_tiny_model(folder / "model", family)
        adapter = write_faceid_adapter(folder, family, "safetensors", lora=False)
        self.config = DiffusionModelConfig(path=folder / "model", ip_adapter=adapter, threads=1, dtype="float32")

    def lora(self, name: str, file_format: LoraFormat, **how: Any) -> Path:
        return write_lora(self.folder / f"{name}.safetensors", tiny_unet(self.family), file_format, **how)

    def load(self, loras: Mapping[str, Path], scale: float = 1.0, **changes: Any) -> FaceDiffusionModel:
        worn = {name: LoraConfig(file=path, scale=scale) for name, path in loras.items()}
        return FaceDiffusionModel.load(self.config.model_copy(update={"loras": worn, **changes}))

    def library(self) -> Any:
        """The library's own pipeline with the same adapter."""
        return library_pipeline(LIBRARY[self.family], self.config)


def latents_by_library(pipeline: Any, spec: AvatarSpec, lora: Path | None, scale: float) -> torch.Tensor:
    """Those of the library's own pipeline that has this LoRA alone."""
    if lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="style")
        pipeline.set_adapters(["style"], [scale])
    vector = torch.from_numpy(random_face(spec.seed).vector)[None, None]
    faces = torch.cat([torch.zeros_like(vector), vector]) if spec.guidance_scale > 1 else vector
    latents: torch.Tensor = pipeline(
        prompt=spec.prompt, negative_prompt=spec.negative_prompt or None, ip_adapter_image_embeds=[faces],
        generator=torch.Generator().manual_seed(spec.seed), guidance_scale=spec.guidance_scale, width=spec.width,
        height=spec.height, num_inference_steps=spec.num_inference_steps, output_type="latent",
    ).images  # fmt: skip
    if lora is not None:
        pipeline.unload_lora_weights()
    return latents


@pytest.fixture(scope="module", params=["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyStyles:
    return TinyStyles(tmp_path_factory.mktemp(request.param), request.param)


def drawn(model: FaceDiffusionModel, specs: Sequence[Any], joins_at: Sequence[int] = ()) -> list[Sample]:
    """All together, each until it is done; image i joins at step `joins_at[i]` of the whole."""
    samples = [model.start(spec, random_face(spec.seed)) for spec in specs]
    joins, step = dict(enumerate(joins_at)), 0
    while left := [sample for sample in samples if sample.steps_done < len(sample.plan.steps)]:
        model.step([sample for sample in left if joins.get(samples.index(sample), 0) <= step])
        step += 1
    return samples


@pytest.mark.parametrize("file_format", ["kohya", "peft", pytest.param("diffusers", marks=pytest.mark.slow)])
def test_rows_that_wear_different_loras_are_those_of_the_library_with_each_alone(
    tiny: TinyStyles, file_format: LoraFormat
) -> None:
    files = {
        "all": tiny.lora(f"all-{file_format}", file_format, rank=4, seed=1),
        "attention": tiny.lora(f"attention-{file_format}", file_format, endings=ATTENTION, rank=2, seed=2),
        "linear": tiny.lora(f"linear-{file_format}", file_format, endings=LINEAR, rank=6, seed=3),
    }
    scale = 0.8
    model = tiny.load(files, scale)
    worn = ["all", None, "attention", "linear", "all"]
    specs = [
        avatar_spec(
            **SMALL
            | {"seed": seed, "lora": lora, "guidance_scale": 1.0 + 2 * (seed % 2), "num_inference_steps": 2 + seed % 3}
        )
        for seed, lora in enumerate(worn, 1)
    ]
    samples = drawn(model, specs, joins_at=(0, 0, 1, 2, 1))
    pipeline = tiny.library()
    for spec, sample in zip(specs, samples, strict=True):
        path = None if spec.lora is None else files[spec.lora]
        expected = latents_by_library(pipeline, spec, path, scale)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)
        if spec.lora is not None:  # it is heard
            assert tolerance.relative(sample.latents, latents_by_library(pipeline, spec, None, scale)) > 0.01


def test_rows_that_threads_and_graphs_compute_wear_their_own(tiny: TinyStyles) -> None:
    files = {name: tiny.lora(f"spread-{name}", "kohya", seed=seed) for seed, name in enumerate("ab", 1)}
    specs = [avatar_spec(**SMALL | {"seed": seed, "lora": lora}) for seed, lora in enumerate(["a", "b", None, "b"], 1)]
    alone = [drawn(tiny.load(files), [spec])[0] for spec in specs]
    spread = tiny.load(files, threads=2)
    compiled = tiny.load(files)
    compiled.compile((SMALL["width"], SMALL["height"]), 8, backend="eager")
    for model in (spread, compiled):
        for sample, expected in zip(drawn(model, specs), alone, strict=True):
            relative = tolerance.relative(sample.latents, expected.latents)
            assert relative <= tolerance.through(model._pipeline.unet)
    (plain,) = drawn(compiled, [replace(specs[0], lora=None)])  # after batches that wore some
    (expected,) = drawn(tiny.load({}), [replace(specs[0], lora=None)])
    assert tolerance.relative(plain.latents, expected.latents) <= tolerance.through(compiled._pipeline.unet)


def test_a_row_cannot_wear_what_the_model_lacks(tiny: TinyStyles) -> None:
    model = tiny.load({"a": tiny.lora("lacks", "kohya", endings=ATTENTION)})
    with pytest.raises(ValueError, match="no LoRA 'b'"):
        model.start(avatar_spec(**SMALL | {"lora": "b"}), random_face(1))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "a LoRA of a text encoder"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "a LoRA of a text encoder"),
    ],
)
def test_what_is_no_lora_of_the_unet_is_refused_by_its_name(tmp_path: Path, name: str, kind: str) -> None:
    path = write_lora(tmp_path / "lora.safetensors", tiny_unet("sd"), "kohya", endings=ATTENTION)
    save_file({**load_file(path), name: torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=rf"{kind} \({name}\)"):
        read_lora(path, tiny_unet("sd"), 1.0)


def test_a_lora_of_another_model_or_a_broken_file_is_an_error_of_its_file(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "lora.safetensors", tiny_unet("sdxl"), "diffusers")
    with pytest.raises(ValueError, match="was made for another model"):
        read_lora(path, tiny_unet("sd"), 1.0)
    half = {name: weight for name, weight in load_file(path).items() if not name.endswith("proj_in.lora.up.weight")}
    save_file(half, path)
    with pytest.raises(ValueError, match=r"is not a LoRA: .*proj_in\.lora_B"):
        read_lora(path, tiny_unet("sdxl"), 1.0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="not a file of weights"):
        read_lora(path, tiny_unet("sdxl"), 1.0)
    with pytest.raises(OSError, match="lacking"):
        read_lora(tmp_path / "lacking.safetensors", tiny_unet("sdxl"), 1.0)
    with pytest.raises(ValueError, match="safetensors files only"):
        read_lora(tmp_path / "lora.pt", tiny_unet("sdxl"), 1.0)
