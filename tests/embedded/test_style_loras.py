"""LoRAs of the embedded UNet: trained on it as it ships, read by the service, and gone on with after a stop."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.config import WEIGHTS, DiffusionModelConfig, LoraConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.sampler import euler_step
from deployments.embedded.training.data.dataset import person_of, sittings_of
from deployments.embedded.training.data.styled import in_styles
from deployments.embedded.training.evaluate.inference import Studio
from deployments.embedded.training.renderer.appearance import embeddings_of
from deployments.embedded.training.renderer.shaders.styles import STYLES
from deployments.embedded.training.train.checkpoint import Length
from deployments.embedded.training.train.diffusion import Batches, Examples
from deployments.embedded.training.train.export import ADAPTER_FILE
from deployments.embedded.training.train.fewstep import train_fewstep, wanted_v
from deployments.embedded.training.train.lora import Lora, ShippedGenerator
from deployments.embedded.training.train.styles import train_style
from deployments.embedded.training.train.trajectories import STUDENT_STEPS, Kept, euler, positions
from loadtest.bench.random_face import random_face
from tests.support.fakes import avatar_spec

DIFFUSION = WEIGHTS / "diffusion"
MOST_BYTES = 1_200_000
Step = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def shipped() -> ShippedGenerator:
    return ShippedGenerator(DIFFUSION)


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Two persons as comics."""
    persons, sittings = [person_of(1, index)[0] for index in range(2)], [sittings_of(1, index) for index in range(2)]
    comic = STYLES.index("comic")
    pictures = np.stack([np.stack([in_styles(each)[comic] for each in both]) for both in sittings])
    return Examples(pictures, sittings, persons, embeddings_of(persons))


@pytest.fixture(scope="module")
def style(shipped: ShippedGenerator, examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> Lora:
    checkpoint = tmp_path_factory.mktemp("style") / "style.pt"
    return train_style(shipped, examples, Length(2), 0, checkpoint, batch=2)


@pytest.fixture(scope="module")
def folder(style: Lora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That LoRA, and one of which more is heard than of two steps."""
    folder = tmp_path_factory.mktemp("loras") / "loras"
    style.save(folder / "style.safetensors")
    for each in style.factors.values():
        torch.nn.init.normal_(each.up.weight, 0.0, 0.02, generator=torch.Generator().manual_seed(1))
    style.save(folder / "loud.safetensors")
    style.load(folder / "style.safetensors")
    return folder


def step_of(examples: Examples, shipped: ShippedGenerator) -> Step:
    noise, tokens, faces = Batches(examples, shipped.tokenizer, 2, 5)(0)
    return noise, torch.tensor([400, 900]), tokens, faces


def weights(lora: Lora) -> Mapping[str, torch.Tensor]:
    return lora.state_dict()


@torch.no_grad()
def test_a_new_lora_changes_nothing_and_a_trained_one_does(
    shipped: ShippedGenerator, examples: Examples, style: Lora
) -> None:
    step = step_of(examples, shipped)
    plain = shipped(*step)
    with shipped.wearing(shipped.new_lora()):
        assert torch.equal(shipped(*step), plain)
    with shipped.wearing(style):
        assert not torch.equal(shipped(*step), plain)
    assert torch.equal(shipped(*step), plain)


@torch.no_grad()
def test_a_file_is_small_and_diffusers_draws_with_it_as_the_training_does(
    shipped: ShippedGenerator, examples: Examples, folder: Path
) -> None:
    path = folder / "loud.safetensors"
    assert path.stat().st_size < MOST_BYTES
    noisy, timesteps, tokens, faces = step_of(examples, shipped)
    pipeline = Studio(WEIGHTS).pipeline
    pipeline.load_lora_weights(folder, weight_name=path.name)
    expected = pipeline.unet(
        noisy,
        timesteps,
        encoder_hidden_states=pipeline.text_encoder(tokens).last_hidden_state,
        added_cond_kwargs={"image_embeds": [faces[:, None]]},
    ).sample
    plain = shipped.generator(noisy, timesteps, tokens, faces)
    with shipped.wearing(shipped.read_lora(path)):
        drawn = shipped.generator(noisy, timesteps, tokens, faces)
    assert (drawn - plain).abs().max() > 0.1
    torch.testing.assert_close(drawn, expected, atol=2e-3, rtol=0)


def test_the_service_draws_rows_with_style_and_speed(folder: Path) -> None:
    loras = {"loud": LoraConfig(file=folder / "loud.safetensors", is_style=True)}
    loras["fewstep"] = LoraConfig(file=folder / "style.safetensors")
    model = FaceDiffusionModel.load(
        DiffusionModelConfig(path=DIFFUSION, ip_adapter=DIFFUSION / ADAPTER_FILE, threads=1, loras=loras)
    )
    how = {"width": 256, "height": 256, "num_inference_steps": STUDENT_STEPS, "guidance_scale": 1.0}
    worn = [(None, None), ("loud", None), (None, "fewstep"), ("loud", "fewstep")]
    samples = [
        model.start(avatar_spec(**how, lora=lora, speed_lora=speed, sampler="euler-trailing"), random_face(1))
        for lora, speed in worn
    ]
    model.step(samples)
    plain, *others = (sample.latents for sample in samples)
    for other in others:
        assert torch.isfinite(other).all()
        assert not torch.equal(other, plain)
    assert not torch.equal(others[0], others[2])


def test_a_style_that_was_stopped_goes_on_as_if_it_had_not_been(
    shipped: ShippedGenerator, examples: Examples, style: Lora, tmp_path: Path, folder: Path
) -> None:
    checkpoint = tmp_path / "stopped.pt"
    half = weights(train_style(shipped, examples, Length(1), 0, checkpoint, batch=2))
    resumed = weights(train_style(shipped, examples, Length(2), 0, checkpoint, batch=2))
    whole = shipped.new_lora()
    whole.load(folder / "style.safetensors")
    assert any(not torch.equal(half[name], resumed[name]) for name in half)
    for name, value in weights(whole).items():
        torch.testing.assert_close(resumed[name].half().float(), value)


def test_few_steps_are_learnt_with_a_style_from_kept_trajectories_and_gone_on_with(
    shipped: ShippedGenerator, examples: Examples, folder: Path, tmp_path: Path
) -> None:
    styles = {"comic": shipped.read_lora(folder / "loud.safetensors")}
    draw, kept = Batches(examples, shipped.tokenizer, 2, 0), Kept(tmp_path / "trajectories", 2)
    first = train_fewstep(shipped, styles, draw, Length(2), 0, tmp_path / "fewstep.pt", kept)
    drawn = {path: path.stat().st_mtime_ns for path in kept.folder.iterdir()}
    assert [kept(turn, shipped, styles, draw).style for turn in range(3)] == [None, "comic", None]
    learnt = {name: value.clone() for name, value in weights(first).items()}
    second = train_fewstep(shipped, styles, draw, Length(3), 0, tmp_path / "fewstep.pt", kept)
    assert any(not torch.equal(value, learnt[name]) for name, value in weights(second).items())
    assert {path: path.stat().st_mtime_ns for path in kept.folder.iterdir()} == drawn
    assert torch.load(tmp_path / "fewstep.pt", weights_only=True)["step"] == 3


@given(st.integers(0, STUDENT_STEPS - 1), st.integers(0, 1000))
def test_by_the_wanted_v_one_step_leads_to_where_the_teacher_was_after_three(number: int, seed: int) -> None:
    at = positions([euler().plan(STUDENT_STEPS).steps[number]])
    picture, noise, last = torch.randn(3, 1, 12, 32, 32, generator=torch.Generator().manual_seed(seed))
    before, after = picture + at.sigma * noise, last + at.sigma_next * noise
    v = wanted_v(before, after, at)
    denoised = before / at.norm**2 - v * at.sigma / at.norm
    reached = euler_step(before, denoised, at.sigma, at.sigma_next)
    torch.testing.assert_close(reached / at.norm_next, after / at.norm_next, atol=2e-3, rtol=0)


def test_the_steps_of_the_student_are_every_third_of_the_teachers() -> None:
    teacher, student = euler().plan(12).steps, euler().plan(STUDENT_STEPS).steps
    assert [step.timestep for step in student] == [step.timestep for step in teacher[::3]]
    assert [step.sigma for step in student] == [step.sigma for step in teacher[::3]]
