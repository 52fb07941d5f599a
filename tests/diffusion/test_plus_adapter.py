"""IP-Adapter Plus, which sees pictures of a head: tiny models of both families against the library's own pipelines."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.families import check_files
from deployments.diffusion.model.receipt import generation_metadata
from deployments.types import AvatarSpec, FaceEmbedding
from loadtest.bench.random_face import random_face
from tests.support.diffusion_folders import (
    CLIP_WIDTH,
    PLUS_TOKENS,
    Family,
    write_faceid_adapter,
    write_image_encoder,
    write_plus_adapter,
    write_tiny_model,
)
from tests.support.fakes import avatar_spec

SIZE = {"num_inference_steps": 4, "width": 64, "height": 72}
CLOSE = 1e-5  # of the largest latent: float32 sums in another order
LIBRARY = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def head(number: int) -> bytes:
    """A JPEG of 32 pixels, coarse enough that it survives the format."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(8, axis=0).repeat(8, axis=1)).save(file, "JPEG", quality=95)
    return file.getvalue()


def person(*numbers: int) -> FaceEmbedding:
    """Somebody with a photo for each number."""
    return replace(random_face(numbers[0]), heads=tuple(head(number) for number in numbers))


def spec_of(seed: int, **changes: Any) -> AvatarSpec:
    return avatar_spec(**(SIZE | {"seed": seed, "prompt": "a man", "negative_prompt": "hat"} | changes))


class PlusFolder:
    """The files of one family's tiny model with its adapter."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder, self.family = folder, family
        self.path = folder / "model"
        write_tiny_model(self.path, family)
        self.adapter = write_plus_adapter(folder, family)
        self.encoder = write_image_encoder(folder)

    def config(self, **changes: Any) -> DiffusionModelConfig:
        values = {"path": self.path, "ip_adapter": self.adapter, "image_encoder": self.encoder}
        return DiffusionModelConfig(**(values | {"threads": 1, "dtype": "float32"} | changes))

    def library(self) -> Any:
        """The library's own pipeline, set up as its documentation says."""
        pipeline = LIBRARY[self.family].from_pretrained(
            self.path,
            image_encoder=CLIPVisionModelWithProjection.from_pretrained(self.encoder),
            feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
            **({"safety_checker": None} if self.family == "sd" else {"add_watermarker": False}),
        )
        levels = {"timestep_spacing": "leading", **pipeline.scheduler.config}
        pipeline.scheduler = EulerDiscreteScheduler.from_config(levels)
        pipeline.load_ip_adapter(
            str(self.adapter.parent), subfolder="", weight_name=self.adapter.name, image_encoder_folder=None
        )
        return pipeline


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlusFolder]:
    threads = torch.get_num_threads()
    yield PlusFolder(tmp_path_factory.mktemp(request.param), request.param)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(folder: PlusFolder) -> FaceDiffusionModel:
    return FaceDiffusionModel.load(folder.config())


def drawn(model: FaceDiffusionModel, *rows: tuple[AvatarSpec, FaceEmbedding]) -> list[torch.Tensor]:
    """The latents (1, c, h, w) of rows that take all their steps together."""
    samples: list[Sample] = [model.start(spec, face) for spec, face in rows]
    for _ in range(SIZE["num_inference_steps"]):
        model.step(samples)
    return [sample.latents for sample in samples]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("photos", [(1,), (1, 2)], ids=["one photo", "two photos"])
def test_a_row_equals_the_librarys_own_pipeline(
    folder: PlusFolder, model: FaceDiffusionModel, guidance_scale: float, photos: tuple[int, ...]
) -> None:
    spec = spec_of(1, guidance_scale=guidance_scale)
    pictures = [Image.open(io.BytesIO(head(number))) for number in photos]
    expected = folder.library()(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        ip_adapter_image=[pictures],
        generator=torch.Generator().manual_seed(1),
        guidance_scale=guidance_scale,
        output_type="latent",
        **SIZE,
    ).images
    (latents,) = drawn(model, (spec, person(*photos)))
    assert apart(latents, expected) <= CLOSE


def test_two_people_in_one_step_never_share_a_token(model: FaceDiffusionModel) -> None:
    specs = spec_of(1), spec_of(2, guidance_scale=1.0)
    one, other = person(1), person(2)
    together = drawn(model, (specs[0], one), (specs[1], other))
    swapped = drawn(model, (specs[0], other), (specs[1], one))
    for spec, face, latents in [
        (specs[0], one, together[0]), (specs[1], other, together[1]),
        (specs[0], other, swapped[0]), (specs[1], one, swapped[1]),
    ]:  # fmt: skip
        assert apart(latents, drawn(model, (spec, face))[0]) <= CLOSE
    assert min(apart(ours, theirs) for ours, theirs in zip(together, swapped, strict=True)) > 0.01


def test_people_share_a_step_with_those_of_as_many_photos(model: FaceDiffusionModel) -> None:
    buckets = [model.bucket(spec_of(1), face) for face in (person(1), person(2), person(1, 2))]
    assert buckets[0] == buckets[1] != buckets[2]


def test_a_face_without_its_picture_is_an_error(model: FaceDiffusionModel) -> None:
    with pytest.raises(ValueError, match="pictures of the head"):
        model.start(spec_of(1), random_face(1))


def test_steps_are_timed_and_the_receipt_names_the_image_encoder(folder: PlusFolder, model: FaceDiffusionModel) -> None:
    assert model.profile([1])[1] > 0
    check_files(folder.config())
    weights = generation_metadata("plus", folder.config()).weights
    assert {folder.adapter.name, "image_encoder/model.safetensors"} <= weights.keys()


def test_adapter_and_image_encoder_must_belong_together(folder: PlusFolder, tmp_path: Path) -> None:
    faceid = write_faceid_adapter(tmp_path, folder.family, "safetensors", lora=False)
    narrow = tmp_path / "narrow.safetensors"
    weights = load_file(folder.adapter)
    save_file(weights | {"image_proj.proj_in.weight": weights["image_proj.proj_in.weight"][:, 8:].clone()}, narrow)
    for changes, message in [
        ({"image_encoder": None}, "needs `image_encoder`"),
        ({"ip_adapter": faceid}, "takes face vectors"),
        ({"ip_adapter": narrow}, f"as {CLIP_WIDTH - 8} numbers a patch, and .* gives {CLIP_WIDTH}"),
    ]:
        with pytest.raises(ValueError, match=message):
            FaceDiffusionModel.load(folder.config(**changes))
    absent = folder.config(image_encoder=tmp_path / "absent")
    with pytest.raises(OSError, match="absent"):
        check_files(absent)
    with pytest.raises(OSError, match="absent"):
        FaceDiffusionModel.load(absent)


def test_no_face_counts_as_many_tokens_as_the_face(model: FaceDiffusionModel) -> None:
    sample = model.start(spec_of(1), person(1, 2, 3))
    assert sample.against is not None
    assert sample.against["face_tokens"].shape == sample.conditions["face_tokens"].shape
    assert sample.conditions["face_tokens"].shape[1] == 3 * PLUS_TOKENS
