"""The adapter around diffusers' pipeline, on the models that ship with the package."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from deployments.config import AvatarGeneratorConfig, model_path
from deployments.diffusion.model import FaceDiffusionModel
from deployments.diffusion.scheduler import Row
from deployments.types import Pixels, Vector
from tests.fakes import avatar_spec

CONFIG = AvatarGeneratorConfig().models["embedded"]
SMALL = {"num_inference_steps": 3, "width": 256, "height": 256}


@pytest.fixture(scope="module")
def model() -> FaceDiffusionModel:
    return FaceDiffusionModel.load(CONFIG)


def face(number: int) -> Vector:
    vector = np.random.default_rng(number).normal(size=512).astype(np.float32)
    return vector / np.linalg.norm(vector)


def row_of(model: FaceDiffusionModel, number: int, **changes: Any) -> Row:
    spec = avatar_spec(**(SMALL | {"seed": number} | changes))
    return Row(spec, face(number), model.group(spec), arrived_at=0)


def draw(model: FaceDiffusionModel, *rows: Row) -> list[Pixels]:
    pictures = model.draw(rows, lambda: False)
    assert pictures is not None
    return pictures


def difference(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_a_row_equals_the_librarys_own_pipeline(model: FaceDiffusionModel, guidance_scale: float) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(
        model_path(CONFIG.path), safety_checker=None, requires_safety_checker=False, dtype=torch.float32
    )
    adapter = model_path(CONFIG.ip_adapter)
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None)
    vector = torch.from_numpy(face(1))[None, None]
    expected = pipeline(
        prompt="a man, blue background",
        negative_prompt="glasses",
        ip_adapter_image_embeds=[torch.cat([torch.zeros_like(vector), vector]) if guidance_scale > 1 else vector],
        generator=torch.Generator().manual_seed(1),
        guidance_scale=guidance_scale,
        output_type="np",
        **SMALL,
    ).images[0]
    prompts = {"prompt": "a man, blue background", "negative_prompt": "glasses"}
    drawn = draw(model, row_of(model, 1, guidance_scale=guidance_scale, **prompts))
    assert difference(drawn[0], (expected * 255).round().astype(np.uint8)) <= 1


def test_a_row_amid_others_is_the_row_alone(model: FaceDiffusionModel) -> None:
    prompts = ["a woman, red background", "a man", "a person, white background"]
    rows = [row_of(model, number, prompt=prompt) for number, prompt in enumerate(prompts)]
    together = draw(model, *rows)
    for row, picture in zip(rows, together, strict=True):
        assert difference(picture, draw(model, row)[0]) <= 1
    assert difference(together[0], together[1]) > 1


def test_the_face_alone_changes_the_picture(model: FaceDiffusionModel) -> None:
    row = row_of(model, 1)
    other = Row(row.spec, face(2), row.group, arrived_at=0)
    assert difference(draw(model, row)[0], draw(model, other)[0]) > 1


def test_the_negative_prompt_counts(model: FaceDiffusionModel) -> None:
    plain, against = row_of(model, 1), row_of(model, 1, negative_prompt="red shirt, glasses, beard")
    assert difference(draw(model, plain)[0], draw(model, against)[0]) > 1


def test_drawing_stops_between_two_steps_when_told_to(model: FaceDiffusionModel) -> None:
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == 2

    assert model.draw([row_of(model, 1, num_inference_steps=10)], stop) is None
    assert len(asked) == 2


def test_only_rows_that_fit_one_run_are_of_one_group(model: FaceDiffusionModel) -> None:
    base = model.group(avatar_spec(**SMALL))
    assert model.group(avatar_spec(**SMALL, seed=9, prompt="somebody else")) == base
    others: list[dict[str, Any]] = [
        {"num_inference_steps": 4},
        {"guidance_scale": 3.0},
        {"width": 512},
        {"prompt": "word " * 200},
    ]
    for changes in others:
        assert model.group(avatar_spec(**(SMALL | changes))) != base
