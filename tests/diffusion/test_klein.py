"""FLUX.2 klein: a tiny model in the published format, against the library's own pipeline run with one row's inputs."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from deployments.config import AvatarGeneratorConfig
from deployments.diffusion.compile_cache import VARIABLE
from deployments.diffusion.deployment import AvatarGenerator
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.model.face_encoder import HEAD_SIDE
from deployments.diffusion.model.families import check_files, load_model
from deployments.diffusion.model.klein import KleinModel, KleinSample
from deployments.diffusion.model.latent_colours import LatentColours
from deployments.diffusion.model.qwen_prompts import TOKENS
from deployments.diffusion.model.receipt import generation_metadata
from deployments.diffusion.precompilation import precompile
from deployments.errors import PromptTooLongError
from loadtest.bench.random_face import random_face
from tests.support.klein_folders import LATENT_CHANNELS, write_tiny_klein
from tests.support.klein_rows import (
    SIZE,
    apart,
    close,
    config_of,
    drawn,
    drawn_by_library,
    person,
    spec_of,
)

ONE_LEVEL = 1
SHAPE = (SIZE["width"], SIZE["height"])
NEARLY_DB = 25.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_klein(tmp_path_factory.mktemp("klein") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[KleinModel]:
    threads = torch.get_num_threads()
    loaded = load_model(config_of(folder))
    assert isinstance(loaded, KleinModel)
    yield loaded
    torch.set_num_threads(threads)


@pytest.mark.parametrize("photos", [(1,), (1, 2)], ids=["one photo", "two photos"])
@pytest.mark.parametrize("changes", [{}, {"width": 96, "num_inference_steps": 7, "prompt": "an old woman, blue"}])
def test_a_row_equals_the_librarys_own_pipeline(
    folder: Path, model: KleinModel, photos: tuple[int, ...], changes: dict[str, Any]
) -> None:
    spec, face = spec_of(1, **changes), person(*photos)
    latents, image = drawn_by_library(folder, spec, face)
    (sample,) = drawn(model, (spec, face))
    assert apart(sample.latents, latents) <= close(model)
    assert image.std() > 10  # a picture with something on it
    assert np.abs(model.decode(sample).astype(int) - image).max() <= ONE_LEVEL


def test_rows_amid_others_that_come_and_go_equal_the_librarys_own_pipeline(folder: Path, model: KleinModel) -> None:
    rows = [
        (spec_of(1), person(1)),
        (spec_of(2, num_inference_steps=6, prompt="a woman with a hat"), person(2)),
        (spec_of(3, num_inference_steps=2), person(3)),
    ]
    assert len({model.bucket(spec, face) for spec, face in rows}) == 1
    for sample, (spec, face) in zip(drawn(model, *rows, joins_at=(0, 1, 3)), rows, strict=True):
        assert apart(sample.latents, drawn_by_library(folder, spec, face)[0]) <= close(model)


def test_after_the_last_step_a_preview_shows_the_image_itself_a_pixel_for_each_cell(
    model: KleinModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(7)
    (sample,) = drawn(model, (spec, person(1)))
    assert model.preview(sample) is None  # nobody knows the colours of so few channels
    red, green, blue = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    first_three = LatentColours((red, green, blue, *[(0.0, 0.0, 0.0)] * (LATENT_CHANNELS - 3)), (0.0, 0.0, 0.0))
    monkeypatch.setattr(model, "_colours", first_three)
    shown = model.preview(sample)
    tokens = sample.latents[0].reshape(*sample.grids.image, LATENT_CHANNELS, 2, 2).numpy()  # a token has 2 x 2 cells
    cells = (
        tokens[:, :, :3]
        .transpose(0, 3, 1, 4, 2)
        .reshape(2 * sample.grids.image.height, 2 * sample.grids.image.width, 3)
    )
    assert shown is not None
    assert shown.shape == (spec.height // 8, spec.width // 8, 3)
    assert np.abs(shown - np.clip((cells + 1) * 127.5, 0, 255)).max() <= ONE_LEVEL


def test_two_people_in_one_step_never_share_a_token(model: KleinModel) -> None:
    specs, one, other = (spec_of(1), spec_of(2)), person(1), person(2)
    together = drawn(model, (specs[0], one), (specs[1], other))
    swapped = drawn(model, (specs[0], other), (specs[1], one))
    for spec, face, sample in [
        (specs[0], one, together[0]), (specs[1], other, together[1]),
        (specs[0], other, swapped[0]), (specs[1], one, swapped[1]),
    ]:  # fmt: skip
        assert apart(sample.latents, drawn(model, (spec, face))[0].latents) <= close(model)
    assert min(apart(a.latents, b.latents) for a, b in zip(together, swapped, strict=True)) > 0.001


def test_the_distilled_model_has_no_guidance_and_the_other_has(folder: Path, model: KleinModel, tmp_path: Path) -> None:
    plain, guided = spec_of(1), spec_of(1, guidance_scale=4.0)
    assert [set(model.batch_sizes(spec)) for spec in (plain, guided)] == [{1}, {1}]
    alike = [drawn(model, (spec, person(1)))[0].latents for spec in (plain, guided)]
    assert torch.equal(*alike)
    base = write_tiny_klein(tmp_path / "base", distilled=False)
    undistilled = load_model(config_of(base))
    assert isinstance(undistilled, KleinModel)
    assert [set(undistilled.batch_sizes(spec)) for spec in (plain, guided)] == [{1}, {2}]
    rows = [(replace(guided, negative_prompt=""), person(1)), (plain, person(2))]
    for sample, (spec, face) in zip(drawn(undistilled, *rows), rows, strict=True):
        assert apart(sample.latents, drawn_by_library(base, spec, face)[0]) <= close(undistilled, guided.guidance_scale)


def test_a_row_of_a_batch_invariant_model_is_the_row_alone_to_the_last_bit(folder: Path) -> None:
    model = KleinModel.load(config_of(folder), batch_invariant=True)
    rows = [(spec_of(number), person(number)) for number in range(3)]
    for sample, row in zip(drawn(model, *rows), rows, strict=True):
        assert torch.equal(sample.latents, drawn(model, row)[0].latents)


def test_rows_share_a_step_only_with_those_of_their_size_and_number_of_photos(model: KleinModel) -> None:
    base = model.bucket(spec_of(1), person(1))
    assert model.bucket(spec_of(2, num_inference_steps=9, prompt="else"), person(2)) == base
    assert model.bucket(spec_of(1, width=96), person(1)) != base
    assert model.bucket(spec_of(1), person(1, 2)) != base


def passes(model: KleinModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each forward pass of the text encoder reads from now on."""
    counts: list[int] = []
    encoder = model._pipeline.text_encoder.model
    read = encoder.forward

    def counting(input_ids: torch.Tensor, **others: Any) -> Any:
        counts.append(len(input_ids))
        return read(input_ids=input_ids, **others)

    monkeypatch.setattr(encoder, "forward", counting)
    return counts


def test_new_prompts_of_one_moment_are_encoded_in_one_pass_and_each_as_alone(
    folder: Path, model: KleinModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = KleinModel.load(config_of(folder))
    counts = passes(encoded, monkeypatch)
    specs = [spec_of(number, prompt=f"person {number}" * number) for number in (1, 2, 3, 3)]
    encoded.prepare(specs)
    assert counts == [3]
    for spec in specs:
        ours, alone = (each.start(spec, person(1)).prompt for each in (encoded, model))
        assert apart(ours, alone) <= close(model)
    assert counts == [3]


def test_what_is_drawn_alone_is_the_same_to_the_last_bit_though_its_prompt_was_encoded_beside_others(
    folder: Path, model: KleinModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = KleinModel.load(config_of(folder))
    counts = passes(encoded, monkeypatch)
    specs = [spec_of(number, prompt=f"person {number}") for number in (1, 2)]
    encoded.prepare(specs)
    for _ in range(2):
        encoded.prepare(specs[:1])
        assert torch.equal(*(each.start(specs[0], person(1)).prompt for each in (encoded, model)))
    assert counts == [2, 1]
    invariant = KleinModel.load(config_of(folder), batch_invariant=True)
    counts = passes(invariant, monkeypatch)
    invariant.prepare(specs)
    assert counts == [1, 1]


def test_a_prompt_that_is_being_encoded_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, counts = KleinModel.load(config_of(folder)), threading.Event(), []
    encoder = model._pipeline.text_encoder.model
    read = encoder.forward

    def start_again() -> KleinSample:
        asked.set()
        return model.start(spec_of(2), person(2))

    with ThreadPoolExecutor(1) as other:

        def reading(**inputs: Any) -> Any:
            counts.append(1)
            if len(counts) == 1:
                again.append(other.submit(start_again))
                assert asked.wait(10)
            return read(**inputs)

        again: list[Future[KleinSample]] = []
        monkeypatch.setattr(encoder, "forward", reading)
        first = model.start(spec_of(1), person(1))
        assert again[0].result(10).prompt is first.prompt
    assert counts == [1]


def test_an_encoding_that_fails_is_tried_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, specs = KleinModel.load(config_of(folder)), [spec_of(1, prompt="one"), spec_of(2, prompt="two")]
    with monkeypatch.context() as broken:
        encoder = model._pipeline.text_encoder.model
        broken.setattr(encoder, "forward", raiser(torch.OutOfMemoryError("no memory")))
        for work in (lambda: model.prepare(specs), lambda: model.start(specs[0], person(1))):
            with pytest.raises(OutOfMemoryError):
                work()
    model.prepare(specs)
    assert model.start(specs[0], person(1)).prompt.abs().max() > 0


def raiser(error: Exception) -> Callable[..., Any]:
    def fails(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return fails


def test_a_prompt_that_the_model_cannot_read_whole_is_refused(model: KleinModel) -> None:
    with pytest.raises(PromptTooLongError, match=rf"The prompt has \d+ tokens, .* it reads {TOKENS}\.") as refused:
        model.start(spec_of(1, prompt="x" * TOKENS), person(1))
    assert refused.value.data["accepted"] == {"max_tokens": TOKENS}
    model.start(spec_of(1, prompt="x" * 400), person(1))
    model.prepare([spec_of(1, prompt="x" * TOKENS), spec_of(2, prompt="y")])  # it is refused where it is drawn


def test_new_prompts_of_a_model_with_guidance_are_encoded_with_the_negative_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = KleinModel.load(config_of(write_tiny_klein(tmp_path / "base", distilled=False)))
    counts = passes(model, monkeypatch)
    model.prepare([spec_of(1, prompt="one", guidance_scale=4.0), spec_of(2, prompt="two")])
    assert counts == [3]


def test_a_face_without_its_picture_is_an_error(model: KleinModel) -> None:
    with pytest.raises(ValueError, match="pictures of the head"):
        model.start(spec_of(1), random_face(1))


class Compiled(NamedTuple):
    model: KleinModel
    graphs: int  # when it was ready
    failures: list[None]  # one for each shape that was given up


def graphs() -> int:
    """How many were compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def loaded(folder: Path, **changes: Any) -> Compiled:
    failures: list[None] = []
    model = load_model(config_of(folder, **changes), on_compile_failure=lambda: failures.append(None))
    assert isinstance(model, KleinModel)
    return Compiled(model, graphs(), failures)


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Iterator[Compiled]:
    fresh = loaded(folder)
    with ThreadPoolExecutor(1) as loader:  # as a replica does
        for batch_size in (1, 3):
            loader.submit(fresh.model.compile, SHAPE, batch_size, "eager").result()
    yield fresh._replace(graphs=graphs() - fresh.graphs)
    torch._dynamo.reset()


def test_rows_of_any_number_equal_themselves_uncompiled_and_nothing_is_compiled_for_them(
    compiled: Compiled, model: KleinModel
) -> None:
    assert compiled.graphs == 2
    before = graphs()
    several = [(spec_of(number, num_inference_steps=number), person(number, side=HEAD_SIDE)) for number in (1, 2, 3)]
    for rows in (several[:1], several):  # 3, 2 and 1 rows
        for ours, theirs in zip(drawn(compiled.model, *rows), drawn(model, *rows), strict=True):
            assert apart(ours.latents, theirs.latents) <= close(model)
    assert (graphs(), compiled.failures) == (before, [])


def test_what_no_graph_was_compiled_for_is_drawn_without_one(compiled: Compiled, model: KleinModel) -> None:
    before = graphs()
    other_size = [(spec_of(1, width=96, num_inference_steps=1), person(1, side=HEAD_SIDE))]
    two_photos = [(spec_of(1, num_inference_steps=1), person(1, 2, side=HEAD_SIDE))]
    many = [(spec_of(number, num_inference_steps=1), person(number, side=HEAD_SIDE)) for number in range(4)]
    for each in (other_size, two_photos, many):
        for ours, theirs in zip(drawn(compiled.model, *each), drawn(model, *each), strict=True):
            assert apart(ours.latents, theirs.latents) <= close(model)
    assert graphs() == before


def test_a_shape_whose_compiler_fails_is_drawn_without_a_graph_and_counted_once(
    folder: Path, model: KleinModel, caplog: pytest.LogCaptureFixture
) -> None:
    broken = loaded(folder)

    def fails(_graph: object, _inputs: object) -> Any:
        raise AssertionError("this compiler has a bug")

    broken.model.compile(SHAPE, 1, fails)  # type: ignore[arg-type]  # torch.compile takes both
    row = spec_of(1, num_inference_steps=2), person(1, side=HEAD_SIDE)
    for _ in range(2):
        assert apart(drawn(broken.model, row)[0].latents, drawn(model, row)[0].latents) <= close(model)
    assert len(broken.failures) == 1
    (said,) = [record.message for record in caplog.records if "run uncompiled" in record.message]
    assert said == "5 x 4 tokens beside references of 32 x 32 in batches of 1 run uncompiled from now on"
    torch._dynamo.reset()


def test_a_shape_that_memory_is_too_short_to_compile_is_left_out(folder: Path, model: KleinModel) -> None:
    short = loaded(folder)

    def no_memory(_graph: object, _inputs: object) -> Any:
        return raiser(torch.OutOfMemoryError("no memory"))

    short.model.compile(SHAPE, 1, no_memory)  # type: ignore[arg-type]
    row = spec_of(1, num_inference_steps=2), person(1, side=HEAD_SIDE)
    assert apart(drawn(short.model, row)[0].latents, drawn(model, row)[0].latents) <= close(model)
    assert short.failures == []
    torch._dynamo.reset()


def test_compiled_blocks_draw_the_same_and_what_was_not_compiled_compiles_nothing(
    folder: Path, model: KleinModel
) -> None:
    blocks = loaded(folder, compile_scope="blocks")
    blocks.model.compile(SHAPE, 1, "eager")
    after = graphs()
    assert after - blocks.graphs == 2  # blocks of a kind share one
    for row in ((spec_of(1), person(1, side=HEAD_SIDE)), (spec_of(1, width=96), person(1))):
        ours, theirs = (drawn(each, row)[0].latents for each in (blocks.model, model))
        assert apart(ours, theirs) <= close(model)
    assert (graphs(), blocks.failures) == (after, [])
    torch._dynamo.reset()


def test_a_replica_and_the_command_compile_it_as_other_models(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[tuple[int, int], int]] = []
    monkeypatch.setattr(KleinModel, "compile", lambda _model, size, batch_size: compiled.append((size, batch_size)))
    model = config_of(folder, compile=True, compile_guided=False)
    config = AvatarGeneratorConfig(models={"klein": model}, max_rows=1, compile_cache=tmp_path / "kernels")

    async def start() -> None:
        generator = AvatarGenerator.__new__(AvatarGenerator)
        await generator.__init__(config)  # type: ignore[misc]  # as Serve does
        generator._engine.close()

    with monkeypatch.context() as environment:
        environment.setenv(VARIABLE, "")  # both set it
        asyncio.run(start())
        assert compiled == [((64, 64), 1), ((64, 64), 2)]
        assert [shape.is_compiled for shape in precompile(config, tmp_path / "kernels")] == [True, True]
    assert compiled == 2 * [((64, 64), 1), ((64, 64), 2)]


def test_weights_kept_as_fp8_take_a_quarter_of_the_memory_and_draw_nearly_the_same_picture(
    folder: Path, model: KleinModel
) -> None:
    small = loaded(folder, fp8_weights=True).model
    row = spec_of(1), person(1)
    pictures = [each.decode(drawn(each, row)[0]).astype(float) for each in (small, model)]
    assert not np.array_equal(*pictures)
    assert 20 * np.log10(255 / np.sqrt(np.square(pictures[0] - pictures[1]).mean())) > NEARLY_DB
    other = model.decode(drawn(model, (spec_of(2), person(2)))[0]).astype(float)
    assert 20 * np.log10(255 / np.sqrt(np.square(pictures[1] - other).mean())) < NEARLY_DB
    kept = {name: weight.dtype for name, weight in small._pipeline.transformer.named_parameters()}
    linear = {name for name in kept if name.startswith("transformer_blocks") and "norm" not in name}
    assert linear
    assert {kept[name] for name in linear} == {torch.float8_e4m3fn}  # after the steps as before
    sizes = [sum(each.nbytes for each in m._pipeline.transformer.parameters()) for m in (small, model)]
    assert sizes[0] < 0.4 * sizes[1]
    assert (
        generation_metadata("klein", config_of(folder, fp8_weights=True)).precision == "float32, float8_e4m3fn weights"
    )


def test_pictures_whose_sides_are_no_multiple_of_a_token_are_shrunk(model: KleinModel) -> None:
    assert model.start(spec_of(1), person(1, side=70)).references.shape == (1, 16, 16)


def test_steps_are_timed_and_files_are_looked_for(folder: Path, model: KleinModel, tmp_path: Path) -> None:
    assert set(model.profile([1, 2])) == {1, 2}
    check_files(config_of(folder))
    metadata = generation_metadata("klein", config_of(folder))
    assert metadata.sampler == "FlowMatchEuler"
    assert metadata.schedule == {"shift": 3.0, "use_dynamic_shifting": True}
    assert {name.partition("/")[0] for name in metadata.weights} == {"transformer", "vae", "text_encoder"}
    for changes, message in [
        ({"ip_adapter": tmp_path / "adapter.bin"}, "takes no `ip_adapter`"),
        ({"lora": tmp_path / "lora"}, "takes no `lora`"),
        ({"compile": True, "fp8_weights": True}, "cannot be compiled"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_model(config_of(folder, **changes))
    with pytest.raises(OSError, match="absent"):
        check_files(config_of(tmp_path / "absent"))
