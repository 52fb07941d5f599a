"""Samplers by the row, against diffusers' pipelines that draw each row alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from deployments.config import DiffusionModelConfig, LoraConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.guidance import guided_steps
from deployments.diffusion.model.receipt import generation_metadata, of_image
from deployments.diffusion.model.row_samplers import RowSamplers, distilled_sampler
from deployments.diffusion.model.sampler import Positions
from deployments.diffusion.model.unet import RowUNet
from deployments.types import AvatarSpec, SamplerName
from loadtest.bench.full_size.library import library_pipeline
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.diffusion_folders import Family, tiny_unet, write_faceid_adapter, write_tiny_model
from tests.support.fakes import avatar_spec
from tests.support.lora_files import write_lora

# The library hands tensors to numpy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:(diffusers|numpy)")

SIZE = {"width": 64, "height": 72}
FAST = {"guidance_scale": 1.0, "speed_lora": "fast"}
LIBRARY: dict[Family, type] = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
SDXL = {  # as published
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def library_scheduler(name: SamplerName | None, config: Any) -> Any:
    if name == "lcm":
        return LCMScheduler.from_config(config)
    return EulerDiscreteScheduler.from_config(config, **({} if name is None else {"timestep_spacing": "trailing"}))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 50])
@pytest.mark.parametrize("name", ["euler-trailing", "lcm"])
def test_a_sampler_for_few_steps_is_the_one_of_the_library(name: SamplerName, steps: int, prediction: str) -> None:
    config = SDXL | {"prediction_type": prediction}
    sampler, scheduler = distilled_sampler(name, config), library_scheduler(name, config)
    scheduler.set_timesteps(steps)
    plan = sampler.plan(steps)
    ours, theirs = (torch.Generator().manual_seed(steps) for _ in range(2))
    shape = (1, 4, 8, 8)
    latents = torch.randn(shape, generator=ours) * plan.init_noise_sigma
    expected = torch.randn(shape, generator=theirs) * scheduler.init_noise_sigma
    assert [step.timestep for step in plan.steps] == scheduler.timesteps.tolist()
    for step, timestep in zip(plan.steps, scheduler.timesteps, strict=True):
        at = Positions.of([step], torch.device("cpu"))
        seen = sampler.scale_model_input(latents, at)
        assert tolerance.relative(seen, scheduler.scale_model_input(expected, timestep)) < 1e-5
        noise = torch.randn(shape, generator=ours) if sampler.adds_noise and step.sigma_next else latents
        latents, _ = sampler.step(latents, torch.tanh(seen), latents, at, noise if sampler.adds_noise else None)
        output = torch.tanh(scheduler.scale_model_input(expected, timestep))
        expected = scheduler.step(output, timestep, expected, generator=theirs, return_dict=False)[0]
        assert tolerance.relative(latents, expected) < 1e-5


def test_a_sampler_that_there_is_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sampler 'else'"):
        RowSamplers(SDXL)["else"]  # type: ignore[index]
    with pytest.raises(ValueError, match="at most 50 steps"):
        RowSamplers(SDXL)["lcm"].plan(51)


@dataclass(frozen=True)
class Tiny:
    """A tiny model, with a LoRA for few steps and one of a style."""

    family: Family
    config: DiffusionModelConfig

    def latents_by_library(self, spec: AvatarSpec, guidance: Sequence[float] = ()) -> torch.Tensor:
        """Those of diffusers' own pipeline, which draws nothing else; `guidance` is that of each step."""
        pipeline = library_pipeline(LIBRARY[self.family], self.config)
        pipeline.scheduler = library_scheduler(spec.sampler, pipeline.scheduler.config)
        worn = [name for name in (spec.lora, spec.speed_lora) if name is not None]
        for name in worn:
            file = self.config.loras[name].file
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
        if worn:
            pipeline.set_adapters(worn)
        vector = torch.from_numpy(random_face(spec.seed).vector)[None, None]
        faces = torch.cat([torch.zeros_like(vector), vector]) if spec.guidance_scale > 1 else vector
        scales = [*(guidance or [spec.guidance_scale] * spec.num_inference_steps), spec.guidance_scale]
        latents: torch.Tensor = pipeline(
            prompt=spec.prompt, negative_prompt=spec.negative_prompt or None, ip_adapter_image_embeds=[faces],
            generator=torch.Generator().manual_seed(spec.seed), guidance_scale=scales[0], width=spec.width,
            height=spec.height, num_inference_steps=spec.num_inference_steps, output_type="latent",
            callback_on_step_end=lambda pipeline, step, _timestep, state: guide(pipeline, scales[step + 1], state),
        ).images  # fmt: skip
        return latents


def guide(pipeline: Any, scale: float, state: Any) -> Any:
    pipeline._guidance_scale = scale
    return state


@pytest.fixture(scope="module", params=["sd", pytest.param("sdxl", marks=pytest.mark.slow)])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder, family = tmp_path_factory.mktemp(request.param), request.param
    write_tiny_model(folder / "model", family)
    adapter = write_faceid_adapter(folder, family, "safetensors", lora=False)
    loras = {
        "fast": LoraConfig(file=write_lora(folder / "fast.safetensors", tiny_unet(family), "kohya")),
        "style": LoraConfig(
            file=write_lora(folder / "style.safetensors", tiny_unet(family), "kohya", rank=2, seed=2), is_style=True
        ),
    }
    config = DiffusionModelConfig(path=folder / "model", ip_adapter=adapter, threads=1, dtype="float32", loras=loras)
    return Tiny(family, config)


def drawn(model: FaceDiffusionModel, specs: Sequence[AvatarSpec], joins_at: Sequence[int]) -> list[Sample]:
    """All together, each until it is done; image i joins at step `joins_at[i]` of the whole."""
    samples = [model.start(spec, random_face(spec.seed)) for spec in specs]
    for step in range(max(joins_at) + max(spec.num_inference_steps for spec in specs)):
        left = [
            sample
            for sample, join in zip(samples, joins_at, strict=True)
            if join <= step and sample.steps_done < len(sample.plan.steps)
        ]
        if left:
            model.step(left)
    return samples


def test_rows_with_different_samplers_in_one_step_are_those_of_the_library_alone(tiny: Tiny) -> None:
    specs = [
        avatar_spec(**SIZE, seed=seed, **how)
        for seed, how in enumerate(
            [
                {"num_inference_steps": 5, "guidance_scale": 3.0},
                {"num_inference_steps": 4, "sampler": "euler-trailing", **FAST},
                {"num_inference_steps": 4, "sampler": "lcm", **FAST},
                {"num_inference_steps": 3, "guidance_scale": 1.0},
                {"num_inference_steps": 3, "sampler": "lcm", **FAST, "guidance_scale": 2.0},
                {"num_inference_steps": 1, "sampler": "euler-trailing", **FAST},
                {"num_inference_steps": 3, "sampler": "euler-trailing", **FAST, "lora": "style"},
                {"num_inference_steps": 2, "guidance_scale": 3.0, "lora": "style"},
            ],
            1,
        )
    ]
    model = FaceDiffusionModel.load(tiny.config)
    for spec, sample in zip(specs, drawn(model, specs, joins_at=(0, 0, 1, 1, 2, 2, 0, 1)), strict=True):
        expected = tiny.latents_by_library(spec)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)


def test_a_receipt_has_the_sampler_and_the_lora_of_its_own_image(tiny: Tiny) -> None:
    metadata = generation_metadata("tiny", tiny.config)
    usual, lcm, trailing = (
        of_image(metadata, tiny.config, avatar_spec(**how))
        for how in ({}, {"sampler": "lcm", **FAST}, {"sampler": "euler-trailing"})
    )
    assert [each.sampler for each in (usual, lcm, trailing)] == ["Euler", "LCM", "Euler"]
    assert trailing.schedule["timestep_spacing"] == "trailing" != usual.schedule.get("timestep_spacing")
    assert "lora/fast" in lcm.weights
    assert "lora/fast" not in usual.weights.keys() | trailing.weights.keys()
    assert lcm.lora_scales == {"lora/fast": tiny.config.loras["fast"].scale}
    assert usual.lora_scales == trailing.lora_scales == {}


def test_a_step_that_fails_leaves_the_noise_of_the_next_attempt_as_it_was(tiny: Tiny) -> None:
    spec = avatar_spec(**SIZE, num_inference_steps=3, sampler="lcm", **FAST)
    model = FaceDiffusionModel.load(tiny.config)
    (expected,) = drawn(model, [spec], [0])
    sample = model.start(spec, random_face(spec.seed))
    model.step([sample])
    other = model.start(avatar_spec(width=128, height=72, num_inference_steps=3), random_face(1))
    with pytest.raises(RuntimeError):
        model.step([sample, other])  # rows of two sizes
    model.step([sample])
    model.step([sample])
    assert torch.equal(sample.latents, expected.latents)


NONE = 1 + 1e-9  # guidance that is none, for a pipeline that predicts both in every step
INTERVAL = (0.5, 6.0)


def test_in_an_interval_guidance_is_that_of_a_plain_loop_and_elsewhere_an_image_takes_one_row(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = [
        avatar_spec(**SIZE, seed=seed, **how)
        for seed, how in enumerate(
            [
                {"num_inference_steps": 9, "guidance_scale": 3.0},
                {"num_inference_steps": 6, "guidance_scale": 4.0},
                {"num_inference_steps": 4, "guidance_scale": 1.0},
                {"num_inference_steps": 3, "sampler": "lcm", "guidance_scale": 2.0},
                {"num_inference_steps": 1, "guidance_scale": 3.0},
            ],
            1,
        )
    ]
    model = FaceDiffusionModel.load(tiny.config.model_copy(update={"guidance_interval": INTERVAL}))
    sizes = [model.batch_sizes(spec) for spec in specs]
    assert [set(each) for each in sizes] == [{1, 2}, {1, 2}, {1}, {2}, {1}]
    seen: list[int] = []
    predict = RowUNet._batch

    def counted(unet: RowUNet, latents: torch.Tensor, *inputs: Any) -> torch.Tensor:
        seen.append(len(latents))
        return predict(unet, latents, *inputs)

    monkeypatch.setattr(RowUNet, "_batch", counted)
    samples = drawn(model, specs, joins_at=(0, 0, 1, 2, 3))
    assert sum(seen) == sum(map(sum, sizes))
    for spec, sample, rows in zip(specs, samples, sizes, strict=True):
        guidance = [spec.guidance_scale if size == 2 else NONE for size in rows] if spec.guidance_scale > 1 else ()
        expected = tiny.latents_by_library(spec, guidance)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)
    whole = tiny.latents_by_library(specs[0])
    assert tolerance.relative(samples[0].latents, whole) > 0.01  # it is seen


def test_an_interval_begins_above_its_lower_noise_level_and_ends_with_its_higher_one() -> None:
    plan = RowSamplers(SDXL).plan(None, 5)
    sigmas = [step.sigma for step in plan.steps]
    assert guided_steps(plan, None) == (True,) * 5
    assert guided_steps(plan, (sigmas[3], sigmas[1])) == (False, True, True, False, False)
    with pytest.raises(ValueError, match="lower noise level comes first"):
        DiffusionModelConfig(path=Path("m"), guidance_interval=(5.0, 5.0))
