"""What is made of diffusers' pipelines: with the models that ship with the package, and with tiny ones of both families
in the formats of the real ones. Always against the library's own pipeline, or a row against itself alone.
"""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch._dynamo
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from deployments.config import AvatarGeneratorConfig, DiffusionModelConfig, model_path
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.loader import use_channels_last
from deployments.diffusion.model.unet import RowAttention
from deployments.errors import DeviceLostError
from deployments.types import AvatarSpec, FaceEmbedding, Pixels
from loadtest.bench.full_size.library import LEFT_OUT, library_pipeline
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.diffusion_folders import (
    Family,
    FileFormat,
    write_faceid_adapter,
    write_faceid_lora,
    write_tiny_model,
)
from tests.support.fakes import avatar_spec
from tests.support.lost_devices import ILLEGAL_ACCESS, LostTorchDevice
from tests.support.tolerance import ONE_LEVEL

CONFIG = AvatarGeneratorConfig().models["embedded"].model_copy(update={"dtype": "float32"})
SMALL = {"num_inference_steps": 2, "width": 256, "height": 256}
TINY = {"num_inference_steps": 4, "width": 64, "height": 72, "guidance_scale": 3.0}
FAMILIES: list[Family] = ["sd", "sdxl"]
LIBRARY: dict[Family, type] = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def model() -> FaceDiffusionModel:
    return FaceDiffusionModel.load(CONFIG)


class Row(NamedTuple):
    """What is drawn: one image of one face."""

    spec: AvatarSpec
    face: FaceEmbedding


def row_of(number: int, **changes: Any) -> Row:
    return Row(avatar_spec(**(SMALL | {"seed": number} | changes)), random_face(number))


def draw(model: FaceDiffusionModel, *rows: Row, joins_at: Sequence[int] = ()) -> list[Pixels]:
    """All rows together, each until it is done; row i joins at step `joins_at[i]` of the whole, or at once."""
    assert len({model.bucket(row.spec, row.face) for row in rows}) == 1
    samples = [model.start(row.spec, row.face) for row in rows]
    joins = dict(enumerate(joins_at))
    for step in itertools.count():
        left = [sample for sample in samples if sample.steps_done < len(sample.plan.steps)]
        if not left:
            return [model.decode(sample) for sample in samples]
        if now := [sample for sample in left if joins.get(samples.index(sample), 0) <= step]:
            model.step(now)
    raise AssertionError("the count does not end")


def difference(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_a_row_equals_the_librarys_own_pipeline(model: FaceDiffusionModel, guidance_scale: float) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(
        model_path(CONFIG.path), safety_checker=None, requires_safety_checker=False, dtype=torch.float32
    )
    adapter = model_path(CONFIG.ip_adapter)
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None)
    vector = torch.from_numpy(random_face(1).vector)[None, None]
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
    drawn = draw(model, row_of(1, guidance_scale=guidance_scale, **prompts))
    assert difference(drawn[0], (expected * 255).round().astype(np.uint8)) <= ONE_LEVEL


def test_a_row_amid_others_is_the_row_alone(model: FaceDiffusionModel) -> None:
    rows = [row_of(number, prompt=prompt) for number, prompt in enumerate(["a woman, red background", "a man"])]
    together = draw(model, *rows)
    for row, picture in zip(rows, together, strict=True):
        assert difference(picture, draw(model, row)[0]) <= ONE_LEVEL
    assert difference(together[0], together[1]) > 1


def test_a_row_of_a_batch_invariant_model_is_the_row_alone_to_the_last_bit() -> None:
    """Without, the two differ in float32 on AVX2: a batch's matrices are summed in another order."""
    model = FaceDiffusionModel.load(CONFIG, batch_invariant=True)
    rows = [row_of(number, num_inference_steps=2, guidance_scale=1.0 + number % 2) for number in range(3)]
    samples = [model.start(row.spec, row.face) for row in rows]
    for _ in range(2):
        model.step(samples)
    for row, sample in zip(rows, samples, strict=True):
        alone = undecoded(model, row)
        assert torch.equal(sample.latents, alone.latents)
        assert np.array_equal(model.decode(sample, overlapped=True), model.decode(alone))


def test_the_face_alone_changes_the_picture(model: FaceDiffusionModel) -> None:
    row = row_of(1)
    other = Row(row.spec, random_face(2))
    assert difference(draw(model, row)[0], draw(model, other)[0]) > 1


def test_the_negative_prompt_counts(model: FaceDiffusionModel) -> None:
    plain, against = row_of(1), row_of(1, negative_prompt="red shirt, glasses, beard")
    assert difference(draw(model, plain)[0], draw(model, against)[0]) > 1


def test_only_rows_that_fit_one_step_are_of_one_bucket(model: FaceDiffusionModel) -> None:
    alone = random_face(1)
    base = model.bucket(avatar_spec(**SMALL), alone)
    alike: list[dict[str, Any]] = [
        {"seed": 9, "prompt": "somebody else"}, {"num_inference_steps": 4}, {"guidance_scale": 1.0},
    ]  # fmt: skip
    for changes in alike:
        assert model.bucket(avatar_spec(**(SMALL | changes)), alone) == base
    others: list[dict[str, Any]] = [{"width": 512}, {"prompt": "word " * 200}]
    for changes in others:
        assert model.bucket(avatar_spec(**(SMALL | changes)), alone) != base


class TinyModel:
    """The files of one family's tiny model."""

    def __init__(self, folder: Path, family: Family) -> None:
        self.folder = folder
        self.family = family
        self.path = folder / "model"
        write_tiny_model(self.path, family)
        self.lora = write_faceid_lora(folder, family)

    def adapter(self, file_format: FileFormat = "safetensors", lora: bool = False) -> Path:
        return write_faceid_adapter(self.folder, self.family, file_format, lora)

    def load(self, **changes: Any) -> FaceDiffusionModel:
        values: dict[str, Any] = {"path": self.path, "ip_adapter": self.adapter(), "threads": 1, "dtype": "float32"}
        batch_invariant = changes.pop("batch_invariant", False)
        on_compile_failure = changes.pop("on_compile_failure", lambda: None)
        return FaceDiffusionModel.load(DiffusionModelConfig(**(values | changes)), batch_invariant, on_compile_failure)

    def library(self, adapter: Path, lora: Path | None = None, lora_scale: float = 1.0) -> Any:
        """The library's own pipeline, set up as its documentation says."""
        files = {"path": self.path, "ip_adapter": adapter, "lora": lora}
        return library_pipeline(LIBRARY[self.family], DiffusionModelConfig(**files, lora_scale=lora_scale))


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    before = torch.get_num_threads()
    yield TinyModel(tmp_path_factory.mktemp(request.param), request.param)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_model(tiny: TinyModel) -> FaceDiffusionModel:
    return tiny.load()


def tiny_row(number: int, **changes: Any) -> Row:
    return row_of(number, **(TINY | {"prompt": "a man, blue background"} | changes))


def drawn_by_library(pipeline: Any, number: int, prompt: str, negative_prompt: str | None, **changes: Any) -> Pixels:
    values = TINY | changes
    vector = torch.from_numpy(random_face(number).vector)[None, None]
    images = pipeline(
        prompt=prompt,
        negative_prompt=negative_prompt,
        ip_adapter_image_embeds=[
            torch.cat([torch.zeros_like(vector), vector]) if values["guidance_scale"] > 1 else vector
        ],
        generator=torch.Generator().manual_seed(number),
        output_type="np",
        **values,
    ).images
    return (images[0] * 255).round().astype(np.uint8)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("negative_prompt", ["", "glasses"])
def test_a_row_of_either_family_equals_the_librarys_own_pipeline(
    tiny: TinyModel, tiny_model: FaceDiffusionModel, guidance_scale: float, negative_prompt: str
) -> None:
    row = tiny_row(1, guidance_scale=guidance_scale, negative_prompt=negative_prompt)
    expected = drawn_by_library(
        tiny.library(tiny.adapter()), 1, row.spec.prompt, negative_prompt or None, guidance_scale=guidance_scale
    )
    assert expected.std() > 20  # a picture with something on it
    assert difference(draw(tiny_model, row)[0], expected) <= ONE_LEVEL


@pytest.mark.parametrize(("file_format", "lora_scale"), [("bin", 0.5), ("safetensors", 1.0)])
def test_lora_weights_inside_an_adapter_are_used(tiny: TinyModel, file_format: FileFormat, lora_scale: float) -> None:
    adapter = tiny.adapter(file_format, lora=True)
    model = tiny.load(ip_adapter=adapter, lora_scale=lora_scale)
    expected = drawn_by_library(tiny.library(adapter, lora_scale=lora_scale), 1, "a man", "glasses")
    drawn = draw(model, tiny_row(1, prompt="a man", negative_prompt="glasses"))[0]
    assert difference(drawn, expected) <= ONE_LEVEL


def test_rows_that_threads_share_are_the_same_pictures(tiny: TinyModel, tiny_model: FaceDiffusionModel) -> None:
    rows = [tiny_row(number, guidance_scale=1.0 + 2 * (number % 2)) for number in range(5)]
    together = zip(draw(tiny.load(threads=3), *rows), draw(tiny_model, *rows), strict=True)
    assert max(difference(ours, theirs) for ours, theirs in together) <= ONE_LEVEL


def test_the_thread_that_asks_computes_with_all_threads_and_beside_a_step_with_one(tiny: TinyModel) -> None:
    model = tiny.load(threads=3)
    rows = [tiny_row(number) for number in range(6)]
    model.step([model.start(row.spec, row.face) for row in rows])  # the last threads to begin have one each
    counts: list[int] = []
    for network in (model._pipeline.unet, model._pipeline.vae.decoder):
        network.register_forward_pre_hook(lambda *_: counts.append(torch.get_num_threads()))

    def draw_alone() -> None:
        sample = model.start(tiny_row(1).spec, tiny_row(1).face)
        model.step([sample])
        model.decode(sample, overlapped=True)
        model.decode(sample)

    with ThreadPoolExecutor(1) as new:
        new.submit(draw_alone).result()
    assert counts == [3, 1, 3]


def test_an_adapter_in_pickle_format_is_the_same(tiny: TinyModel, tiny_model: FaceDiffusionModel) -> None:
    model = tiny.load(ip_adapter=tiny.adapter("bin"))
    assert difference(draw(model, tiny_row(1))[0], draw(tiny_model, tiny_row(1))[0]) == 0


def test_lora_weights_in_a_file_of_their_own_are_used(tiny: TinyModel) -> None:
    lora_scale = 0.5
    model = tiny.load(lora=tiny.lora, lora_scale=lora_scale)
    pipeline = tiny.library(tiny.adapter(), tiny.lora, lora_scale)
    drawn = draw(model, tiny_row(1, prompt="a man", negative_prompt="glasses"))[0]
    assert difference(drawn, drawn_by_library(pipeline, 1, "a man", "glasses")) <= ONE_LEVEL


def test_lora_weights_that_come_twice_count_once_and_the_log_says_so(
    tiny: TinyModel, tiny_model: FaceDiffusionModel, caplog: pytest.LogCaptureFixture
) -> None:
    both = tiny.load(ip_adapter=tiny.adapter(lora=True), lora=tiny.lora)
    assert [record.levelname for record in caplog.records if "is left out" in record.message] == ["WARNING"]
    one = tiny.load(lora=tiny.lora)
    assert difference(draw(both, tiny_row(1))[0], draw(one, tiny_row(1))[0]) <= ONE_LEVEL
    assert difference(draw(both, tiny_row(1))[0], draw(tiny_model, tiny_row(1))[0]) > 5


def test_lora_weights_become_part_of_the_unet(tiny: TinyModel) -> None:
    unet = tiny.load(lora=tiny.lora)._pipeline.unet
    assert not [name for name, _ in unet.named_parameters() if "lora" in name]


def test_lora_weights_are_fused_where_the_model_is_to_run(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    family, moves = LIBRARY[tiny.family], []
    for name in ("to", "fuse_lora"):
        original = getattr(family, name)

        def noted(*given: Any, _name: str = name, _original: Any = original, **options: Any) -> Any:
            moves.append(_name)
            return _original(*given, **options)

        monkeypatch.setattr(family, name, noted)
    tiny.load(ip_adapter=tiny.adapter(lora=True))
    assert moves == ["to", "fuse_lora"]


def test_the_scale_of_the_adapter_counts(tiny: TinyModel, tiny_model: FaceDiffusionModel) -> None:
    faceless = tiny.load(ip_adapter_scale=0)
    first = tiny_row(1)
    second = Row(first.spec, random_face(2))
    assert difference(draw(faceless, first)[0], draw(faceless, second)[0]) == 0
    assert difference(draw(tiny_model, first)[0], draw(tiny_model, second)[0]) > 20


def test_each_face_of_a_batch_is_drawn_on_its_own_row(tiny_model: FaceDiffusionModel) -> None:
    prompts = ["a woman, red background", "a man", "a person, white background"]
    rows = [tiny_row(number, prompt=prompt, negative_prompt=f"{number} hats") for number, prompt in enumerate(prompts)]
    alone = [draw(tiny_model, row)[0] for row in rows]
    assert max(map(difference, draw(tiny_model, *rows), alone)) <= ONE_LEVEL
    # With the faces in another order, as the library's tiling would have them, they would be far away.
    others = [Row(row.spec, rows[index - 1].face) for index, row in enumerate(rows)]
    assert min(map(difference, draw(tiny_model, *others), alone)) > 20


def test_rows_of_any_length_guidance_and_position_are_themselves_alone(tiny_model: FaceDiffusionModel) -> None:
    changes: list[dict[str, Any]] = [
        {"num_inference_steps": 1, "guidance_scale": 5.0},
        {"num_inference_steps": 9, "guidance_scale": 1.0, "prompt": "a woman"},
        {"num_inference_steps": 6, "guidance_scale": 2.0, "negative_prompt": "glasses"},
        {"num_inference_steps": 3, "guidance_scale": 1.0},
    ]
    rows = [tiny_row(number, **change) for number, change in enumerate(changes)]
    together = draw(tiny_model, *rows, joins_at=[0, 2, 1, 7])
    for row, picture in zip(rows, together, strict=True):
        assert difference(picture, draw(tiny_model, row)[0]) <= ONE_LEVEL


@pytest.mark.parametrize(
    ("threads", "dtype"),
    [
        (1, "bfloat16"),
        (3, "float32"),
        pytest.param(1, "float32", marks=pytest.mark.slow),
        pytest.param(3, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_rows_of_a_batch_invariant_model_never_matter_to_each_other(tiny: TinyModel, dtype: str, threads: int) -> None:
    model = tiny.load(dtype=dtype, threads=threads, batch_invariant=True)
    row = tiny_row(1, negative_prompt="glasses")
    alone = undecoded(model, row)
    for others in (1, 2, 4, 7):
        sample = model.start(row.spec, row.face)
        beside = [tiny_row(number, guidance_scale=1.0 + 2 * (number % 2)) for number in range(2, 2 + others)]
        beside_samples = [model.start(other.spec, other.face) for other in beside]
        for _ in range(row.spec.num_inference_steps):
            model.step([*beside_samples, sample])
        assert torch.equal(sample.latents, alone.latents)
    assert np.array_equal(model.decode(sample, overlapped=True), model.decode(alone))


SCHEDULERS = ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_latents_amid_others_equal_those_of_the_librarys_own_pipeline(
    tiny: TinyModel, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "model"
    shutil.copytree(tiny.path, path)
    levels = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "use_karras_sigmas": True}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": kind, **levels}))
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", kind]}))
    pipeline_class: Any = LIBRARY[tiny.family]
    pipeline = pipeline_class.from_pretrained(path, **LEFT_OUT[pipeline_class])
    adapter = tiny.adapter()
    pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, image_encoder_folder=None)
    model = tiny.load(path=path)

    rows = [
        tiny_row(1, num_inference_steps=4, negative_prompt="glasses"),
        tiny_row(2, num_inference_steps=6, guidance_scale=1.0),
        tiny_row(3, num_inference_steps=20, guidance_scale=5.0, prompt="a woman", negative_prompt="a hat"),
    ]
    samples = [model.start(row.spec, row.face) for row in rows]
    while left := [sample for sample in samples if sample.steps_done < len(sample.plan.steps)]:
        model.step(left)
    for row, sample in zip(rows, samples, strict=True):
        expected = latents_by_library(pipeline, row)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)


def latents_by_library(pipeline: Any, row: Row) -> torch.Tensor:
    spec, vector = row.spec, torch.from_numpy(row.face.vector)[None, None]
    faces = torch.cat([torch.zeros_like(vector), vector]) if spec.guidance_scale > 1 else vector
    latents: torch.Tensor = pipeline(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt or None,
        ip_adapter_image_embeds=[faces],
        generator=torch.Generator().manual_seed(spec.seed),
        guidance_scale=spec.guidance_scale,
        width=spec.width,
        height=spec.height,
        num_inference_steps=spec.num_inference_steps,
        output_type="latent",
    ).images
    return latents


def test_samples_that_threads_start_beside_steps_are_the_same(tiny: TinyModel, tiny_model: FaceDiffusionModel) -> None:
    model, rows = tiny.load(), [tiny_row(number, prompt=f"a man, {number} hats") for number in range(6)]
    stepped = model.start(rows[0].spec, rows[0].face)
    with ThreadPoolExecutor(2) as threads:
        starting = [threads.submit(model.start, row.spec, row.face) for row in rows]
        for _ in range(rows[0].spec.num_inference_steps):
            model.step([stepped])
    for row, started in zip(rows, starting, strict=True):
        expected, sample = tiny_model.start(row.spec, row.face), started.result()
        assert torch.equal(sample.latents, expected.latents)
        assert all(torch.equal(sample.conditions[name], values) for name, values in expected.conditions.items())
    assert torch.equal(stepped.latents, undecoded(tiny_model, rows[0]).latents)


def test_a_step_that_fails_leaves_every_row_as_it_was(
    tiny_model: FaceDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tiny_row(1)
    sample = tiny_model.start(row.spec, row.face)
    tiny_model.step([sample])
    before = sample.latents.clone()

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_model._pipeline.unet, "forward", fails)
        with pytest.raises(OutOfMemoryError):
            tiny_model.step([sample])
    assert sample.steps_done == 1
    assert torch.equal(sample.latents, before)
    for _ in range(row.spec.num_inference_steps - 1):
        tiny_model.step([sample])
    assert difference(tiny_model.decode(sample), draw(tiny_model, row)[0]) == 0


def undecoded(model: FaceDiffusionModel, row: Row) -> Sample:
    sample = model.start(row.spec, row.face)
    for _ in range(row.spec.num_inference_steps):
        model.step([sample])
    return sample


def in_tiles(model: FaceDiffusionModel, sample: Sample) -> Pixels:
    """The picture, where memory lacks for the decoding of anything as large as all of it."""
    vae, sides = model._pipeline.vae, []
    decode = vae.decoder.forward

    def decode_small(latents: torch.Tensor, *rest: Any) -> torch.Tensor:
        sides.append(max(latents.shape[-2:]))
        if sides[-1] == sides[0]:
            raise torch.OutOfMemoryError("no memory")
        picture: torch.Tensor = decode(latents, *rest)
        return picture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae.decoder, "forward", decode_small)
        picture = model.decode(sample)
    assert max(sides[1:]) < sides[0]
    return picture


def test_a_picture_that_does_not_fit_into_memory_is_decoded_in_tiles(tiny_model: FaceDiffusionModel) -> None:
    sample = undecoded(tiny_model, tiny_row(1))
    whole = tiny_model.decode(sample)
    # The weights are noise: each pixel of a picture depends on all others.
    assert in_tiles(tiny_model, sample).shape == whole.shape
    assert difference(tiny_model.decode(sample), whole) == 0


def test_a_picture_of_the_embedded_model_in_tiles_is_nearly_the_whole_one(model: FaceDiffusionModel) -> None:
    sample = undecoded(model, row_of(1, width=640, height=640, num_inference_steps=1))
    whole = model.decode(sample)
    assert peak_signal_to_noise([in_tiles(model, sample)], [whole]) > 30


def test_a_picture_that_does_not_fit_in_tiles_either_leaves_its_sample_as_it_was(
    tiny_model: FaceDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tiny_row(1)
    sample = undecoded(tiny_model, row)

    def fails(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_model._pipeline.vae.decoder, "forward", fails)
        with pytest.raises(OutOfMemoryError):
            tiny_model.decode(sample)
    assert difference(tiny_model.decode(sample), draw(tiny_model, row)[0]) == 0


def test_step_times_are_measured(tiny_model: FaceDiffusionModel) -> None:
    profile = tiny_model.profile([1, 2])
    assert profile.keys() == {1, 2}
    assert min(profile.values()) > 0


def test_a_long_prompt_is_not_cut(tiny_model: FaceDiffusionModel) -> None:
    head = "a" * 40 + " " + "b" * 40
    long, cut, other = (tiny_row(1, prompt=head + tail) for tail in (" red hair", "", " fed hair"))
    pictures = draw(tiny_model, long, cut, other)
    assert difference(pictures[0], pictures[1]) > 5
    assert difference(pictures[0], pictures[2]) > 1


def test_rows_with_long_and_short_prompts_share_a_batch(tiny_model: FaceDiffusionModel) -> None:
    long, short = "a man with glasses " * 8, "a woman"
    rows = [
        tiny_row(number, prompt=prompt, negative_prompt=negative_prompt)
        for number, (prompt, negative_prompt) in enumerate([(long, ""), (short, long), (long, short)])
    ]
    for row, picture in zip(rows, draw(tiny_model, *rows), strict=True):
        assert difference(picture, draw(tiny_model, row)[0]) <= ONE_LEVEL


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_nearly_the_same(tiny: TinyModel, tiny_model: FaceDiffusionModel, dtype: str) -> None:
    half = tiny.load(dtype=dtype, lora=tiny.lora, lora_scale=0)
    assert peak_signal_to_noise(draw(half, tiny_row(1)), draw(tiny_model, tiny_row(1))) > 25


def test_bfloat16_holds_the_noise_of_a_schedule_that_begins_at_pure_noise(model: FaceDiffusionModel) -> None:
    half = FaceDiffusionModel.load(CONFIG.model_copy(update={"dtype": "bfloat16"}))
    rows = [row_of(1, num_inference_steps=4)]
    assert half._pipeline.scheduler.init_noise_sigma > 4000
    assert peak_signal_to_noise(draw(half, *rows), draw(model, *rows)) > 40


def peak_signal_to_noise(pictures: list[Pixels], truths: list[Pixels]) -> float:
    """In decibels."""
    error = np.mean((np.stack(pictures).astype(float) - np.stack(truths)) ** 2)
    return float(10 * np.log10(255**2 / error))


def test_attention_is_torchs_own(tiny: TinyModel) -> None:
    pipeline = tiny.load(ip_adapter=tiny.adapter(lora=True))._pipeline
    processors = {type(each) for each in pipeline.unet.attn_processors.values()}
    assert processors == {AttnProcessor2_0, RowAttention}
    assert {type(each) for each in pipeline.vae.attn_processors.values()} == {AttnProcessor2_0}


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_each_row_of_a_batch_has_the_librarys_adapter_at_its_own_scale(tiny: TinyModel, guidance_scale: float) -> None:
    model = tiny.load(ip_adapter_scale=0.3)
    pipeline = tiny.library(tiny.adapter())
    scales = {0.0: 0.0, 0.7: 0.7, 1.0: 1.0, None: 0.3}
    row = tiny_row(1, guidance_scale=guidance_scale, negative_prompt="glasses")
    rows = [Row(replace(row.spec, ip_adapter_scale=scale), row.face) for scale in scales]
    samples = [model.start(each.spec, each.face) for each in rows]
    for _ in range(row.spec.num_inference_steps):
        model.step(samples)
    for sample, scale in zip(samples, scales.values(), strict=True):
        pipeline.set_ip_adapter_scale(scale)
        expected = latents_by_library(pipeline, row)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)
    assert (samples[1].latents - samples[2].latents).abs().max() > 0.01


class Compiled(NamedTuple):
    model: FaceDiffusionModel
    graphs: int  # when it was ready
    failures: list[None]  # one for each shape that was given up


def graphs() -> int:
    """How many were compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.fixture(scope="module")
def compiled(tiny: TinyModel) -> Iterator[Compiled]:
    failures: list[None] = []
    model, before = tiny.load(on_compile_failure=lambda: failures.append(None)), graphs()
    with ThreadPoolExecutor(1) as loader:  # as a replica does
        for batch_size in (2, 4):
            loader.submit(model.compile, (64, 72), batch_size, "eager").result()
    yield Compiled(model, graphs() - before, failures)
    torch._dynamo.reset()


# Half a minute a family, which differ by a condition: the other one is for the slow tests.
COMPILED = pytest.mark.parametrize(
    "tiny", ["sdxl", pytest.param("sd", marks=pytest.mark.slow)], indirect=True, scope="module"
)


@COMPILED
def test_a_graph_is_compiled_for_each_width_before_the_first_request(compiled: Compiled) -> None:
    assert compiled.graphs == 2


@COMPILED
def test_rows_of_any_number_equal_themselves_uncompiled_and_nothing_is_compiled_for_them(
    compiled: Compiled, tiny_model: FaceDiffusionModel
) -> None:
    before = graphs()
    long = {"prompt": "a man with glasses " * 8, "guidance_scale": 1.0}
    changes: list[dict[str, Any]] = [{"num_inference_steps": 3}, {"num_inference_steps": 2, "guidance_scale": 2.0}, {}]
    for rows in ([tiny_row(1)], [tiny_row(number, **(long | change)) for number, change in enumerate(changes)]):
        samples = [compiled.model.start(row.spec, row.face) for row in rows]
        while left := [sample for sample in samples if sample.steps_done < len(sample.plan.steps)]:
            compiled.model.step(left)  # 1 to 4 rows of the UNet
        for sample, row in zip(samples, rows, strict=True):
            alone = tiny_model.start(row.spec, row.face)
            for _ in range(row.spec.num_inference_steps):
                tiny_model.step([alone])
            assert tolerance.relative(sample.latents, alone.latents) <= tolerance.through(tiny_model._pipeline.unet)
    assert graphs() == before


@COMPILED
def test_what_no_graph_was_compiled_for_is_drawn_without_one(
    compiled: Compiled, tiny_model: FaceDiffusionModel
) -> None:
    before = graphs()
    other_size = tiny_row(1, width=96)
    assert difference(draw(compiled.model, other_size)[0], draw(tiny_model, other_size)[0]) <= ONE_LEVEL
    many = [tiny_row(number) for number in range(3)]  # 6 rows of the UNet
    for ours, theirs in zip(draw(compiled.model, *many), draw(tiny_model, *many), strict=True):
        assert difference(ours, theirs) <= ONE_LEVEL
    assert graphs() == before


# What happens after a failure does not depend on how much of a UNet is compiled; its blocks alone take a fifth as long.
SCOPES = pytest.mark.parametrize("scope", ["blocks", pytest.param("unet", marks=pytest.mark.slow)])


@COMPILED
@SCOPES
def test_a_shape_whose_compiler_fails_is_drawn_without_a_graph_and_counted_once(
    tiny: TinyModel, tiny_model: FaceDiffusionModel, caplog: pytest.LogCaptureFixture, scope: str
) -> None:
    failures: list[None] = []
    model = tiny.load(on_compile_failure=lambda: failures.append(None), compile_scope=scope)

    def fails_once(graph: Any, _inputs: object) -> Any:
        if not failures:
            raise AssertionError("this compiler has a bug")
        return graph.forward

    model.compile((64, 72), 2, fails_once)  # type: ignore[arg-type]  # torch.compile takes both
    assert len(failures) == 1
    assert [record.exc_info is not None for record in caplog.records if "run uncompiled" in record.message] == [True]
    assert difference(draw(model, tiny_row(1))[0], draw(tiny_model, tiny_row(1))[0]) <= ONE_LEVEL
    model.compile((64, 72), 4, fails_once)  # type: ignore[arg-type]
    pair = [tiny_row(number) for number in range(2)]
    for ours, theirs in zip(draw(model, *pair), draw(tiny_model, *pair), strict=True):
        assert difference(ours, theirs) <= ONE_LEVEL
    assert len(failures) == 1


@COMPILED
@SCOPES
def test_a_shape_that_memory_is_too_short_to_compile_is_left_out(
    tiny: TinyModel, tiny_model: FaceDiffusionModel, scope: str
) -> None:
    def no_memory(_graph: object, _inputs: object) -> Any:
        def run(*_tensors: object) -> None:
            raise torch.OutOfMemoryError("no memory")

        return run

    model = tiny.load(compile_scope=scope)
    model.compile((64, 72), 4, no_memory)  # type: ignore[arg-type]
    pair = [tiny_row(number) for number in range(2)]
    for ours, theirs in zip(draw(model, *pair), draw(tiny_model, *pair), strict=True):
        assert difference(ours, theirs) <= ONE_LEVEL


@COMPILED
def test_a_guard_that_a_graph_no_longer_meets_costs_the_graph_and_no_row(
    compiled: Compiled, tiny_model: FaceDiffusionModel
) -> None:
    before = graphs()
    torch.use_deterministic_algorithms(True)  # torch guards every graph with it
    try:
        for _ in range(2):
            ours, theirs = (draw(model, tiny_row(1))[0] for model in (compiled.model, tiny_model))
            assert difference(ours, theirs) <= ONE_LEVEL
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(compiled.failures) == 1
    assert graphs() == before  # nothing was compiled while rows were drawn


@pytest.mark.parametrize("tiny", ["sd"], indirect=True, scope="module")
def test_compiled_blocks_draw_the_same_and_what_was_not_compiled_compiles_nothing(
    tiny: TinyModel, tiny_model: FaceDiffusionModel
) -> None:
    failures: list[None] = []
    model, before = tiny.load(on_compile_failure=lambda: failures.append(None), compile_scope="blocks"), graphs()
    model.compile((64, 72), 2, "eager")
    blocks = sum(isinstance(module, BasicTransformerBlock) for module in model._pipeline.unet.modules())
    after = graphs()
    assert 0 < after - before < blocks  # those of one shape share one
    compiled, other_size, larger = tiny_row(1), tiny_row(1, width=96), [tiny_row(number) for number in range(3)]
    for rows in ([compiled], [other_size], larger):
        for ours, theirs in zip(draw(model, *rows), draw(tiny_model, *rows), strict=True):
            assert difference(ours, theirs) <= ONE_LEVEL
    assert (graphs(), failures) == (after, [])
    torch._dynamo.reset()


@pytest.mark.parametrize("tiny", ["sd"], indirect=True, scope="module")
def test_a_step_on_a_lost_device_says_so_and_changes_no_sample(
    tiny_model: FaceDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tiny_row(1)
    sample = tiny_model.start(row.spec, row.face)
    for work in (lambda: tiny_model.step([sample]), lambda: tiny_model.decode(sample)):
        with pytest.raises(DeviceLostError), LostTorchDevice():
            work()
    with pytest.raises(DeviceLostError), LostTorchDevice():
        tiny_model.start(row.spec, row.face)
    assert sample.steps_done == 0

    def fails(*_inputs: object) -> None:
        raise ILLEGAL_ACCESS

    with monkeypatch.context() as broken:
        broken.setattr(tiny_model, "_unet", fails)
        with pytest.raises(torch.AcceleratorError):  # the device itself responds
            tiny_model.step([sample])
    tiny_model.step([sample])
    assert sample.steps_done == 1


def test_channels_last_draws_the_same(tiny: TinyModel, tiny_model: FaceDiffusionModel) -> None:
    other = tiny.load()
    use_channels_last(other._pipeline)
    for network in (other._pipeline.unet, other._pipeline.vae):
        kernels = [weight for weight in network.parameters() if weight.ndim == 4]
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    assert difference(draw(other, tiny_row(1))[0], draw(tiny_model, tiny_row(1))[0]) <= ONE_LEVEL


def test_no_attention_block_changes_the_layout(tiny_model: FaceDiffusionModel) -> None:
    blocks = [module for module in tiny_model._pipeline.unet.modules() if isinstance(module, Transformer2DModel)]
    last = []
    hooks = [
        block.register_forward_hook(
            lambda _block, _given, out: last.append(out[0].is_contiguous(memory_format=torch.channels_last))
        )
        for block in blocks
    ]
    tiny_model.step([tiny_model.start(tiny_row(1).spec, tiny_row(1).face)])
    for hook in hooks:
        hook.remove()
    assert last == [True] * len(blocks) != []


def test_a_gpu_that_is_not_there_is_never_replaced(tiny: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="cuda:0 was asked for"):
        tiny.load(device="cuda:0")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fp16_files_of_a_folder_are_taken_when_asked_for(tmp_path: Path, family: Family) -> None:
    write_tiny_model(tmp_path / "model", family, variant="fp16")
    config = DiffusionModelConfig(
        path=tmp_path / "model",
        ip_adapter=write_faceid_adapter(tmp_path, family, "bin", lora=False),
        variant="fp16",
        threads=1,
    )
    model = FaceDiffusionModel.load(config)
    assert draw(model, tiny_row(1))[0].shape == (72, 64, 3)
    with pytest.raises(OSError, match=r"no file named \w+\.safetensors"):
        FaceDiffusionModel.load(config.model_copy(update={"variant": None}))


def test_a_folder_of_another_family_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    shutil.copytree(tiny.path, tmp_path / "model")
    index = json.loads((tiny.path / "model_index.json").read_text())
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match="FluxPipeline; only StableDiffusionPipeline and StableDiffusionXLPipeline"):
        tiny.load(path=tmp_path / "model")


def test_an_adapter_of_the_other_family_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    other: Family = "sd" if tiny.family == "sdxl" else "sdxl"
    with pytest.raises(ValueError, match=r"made for another UNet: for \d+ cross-attention layers of width"):
        tiny.load(ip_adapter=write_faceid_adapter(tmp_path, other, "safetensors", lora=False))


def test_a_lora_file_without_lora_weights_is_refused(tiny: TinyModel) -> None:
    with pytest.raises(ValueError, match="LoRA"):
        tiny.load(lora=tiny.adapter())


@pytest.mark.parametrize("field", ["path", "ip_adapter", "lora"])
def test_a_missing_file_is_named(tiny: TinyModel, field: str) -> None:
    with pytest.raises(OSError, match="nowhere"):
        tiny.load(**{field: tiny.folder / "nowhere.safetensors"})


def test_weights_in_pickle_format_are_refused_in_a_folder(tiny: TinyModel, tmp_path: Path) -> None:
    shutil.copytree(tiny.path, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(OSError, match="safetensors"):
        tiny.load(path=tmp_path / "model")
