"""LoRAs by the row, against diffusers with the LoRA of each row alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from deployments.config import DiffusionModelConfig, LoraConfig
from deployments.diffusion.engine.denoiser import OutOfMemoryError
from deployments.diffusion.model import row_lora
from deployments.diffusion.model.denoiser import FaceDiffusionModel, Sample
from deployments.diffusion.model.lora_file import UNET, LoraFactors, read_loras, read_parts, styles_of
from deployments.diffusion.model.row_lora import LoraSlots
from deployments.types import AvatarSpec
from loadtest.bench.full_size.library import library_pipeline
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.diffusion_folders import Family, tiny_unet, write_faceid_adapter, write_tiny_model
from tests.support.fakes import avatar_spec
from tests.support.lora_files import ALL, ATTENTION, LINEAR, LoraFormat, write_lora

LIBRARY: dict[Family, type] = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
SMALL: dict[str, Any] = {"width": 64, "height": 72}
STEPS = SMALL | {"num_inference_steps": 3, "guidance_scale": 3.0}


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


def latents_by_library(pipeline: Any, spec: AvatarSpec, files: Mapping[str, Path], scale: float) -> torch.Tensor:
    """Those of the library's own pipeline that has the LoRAs of this row alone; none where there are no files."""
    worn = [name for name in (spec.lora, spec.speed_lora) if name in files]
    for name in worn:
        pipeline.load_lora_weights(files[name].parent, weight_name=files[name].name, adapter_name=name)
    if worn:
        pipeline.set_adapters(worn, [scale] * len(worn))
    vector = torch.from_numpy(random_face(spec.seed).vector)[None, None]
    faces = torch.cat([torch.zeros_like(vector), vector]) if spec.guidance_scale > 1 else vector
    latents: torch.Tensor = pipeline(
        prompt=spec.prompt, negative_prompt=spec.negative_prompt or None, ip_adapter_image_embeds=[faces],
        generator=torch.Generator().manual_seed(spec.seed), guidance_scale=spec.guidance_scale, width=spec.width,
        height=spec.height, num_inference_steps=spec.num_inference_steps, output_type="latent",
    ).images  # fmt: skip
    if worn:
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
    worn = [("all", None), (None, None), ("attention", "linear"), (None, "linear"), ("all", "attention")]
    specs = [
        avatar_spec(
            **SMALL, seed=seed, lora=lora, speed_lora=speed,
            guidance_scale=1.0 + 2 * (seed % 2), num_inference_steps=2 + seed % 3,
        )
        for seed, (lora, speed) in enumerate(worn, 1)
    ]  # fmt: skip
    samples = drawn(model, specs, joins_at=(0, 0, 1, 2, 1))
    pipeline = tiny.library()
    for spec, sample in zip(specs, samples, strict=True):
        expected = latents_by_library(pipeline, spec, files, scale)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.unet)
        if spec.lora or spec.speed_lora:  # they are heard
            assert tolerance.relative(sample.latents, latents_by_library(pipeline, spec, {}, scale)) > 0.01


def test_rows_that_threads_and_graphs_compute_wear_their_own(tiny: TinyStyles) -> None:
    files = {name: tiny.lora(f"spread-{name}", "kohya", rank=3 * seed, seed=seed) for seed, name in enumerate("ab", 1)}
    worn = [("a", None), ("b", "a"), (None, None), (None, "b")]
    specs = [avatar_spec(**STEPS, seed=seed, lora=lora, speed_lora=speed) for seed, (lora, speed) in enumerate(worn, 1)]
    alone = [drawn(tiny.load(files), [spec])[0] for spec in specs]
    spread = tiny.load(files, threads=2)
    compiled = tiny.load(files)
    compiled.compile((SMALL["width"], SMALL["height"]), 8, backend="eager")
    for model in (spread, compiled):
        for sample, expected in zip(drawn(model, specs), alone, strict=True):
            relative = tolerance.relative(sample.latents, expected.latents)
            assert relative <= tolerance.through(model._pipeline.unet)
    (plain,) = drawn(compiled, [specs[2]])  # after batches that wore some
    (expected,) = drawn(tiny.load({}), [specs[2]])
    assert tolerance.relative(plain.latents, expected.latents) <= tolerance.through(compiled._pipeline.unet)


def test_a_row_cannot_wear_what_the_model_lacks_nor_two_styles(tiny: TinyStyles) -> None:
    files = {name: tiny.lora(f"lacks-{name}", "kohya", endings=ATTENTION) for name in "ab"}
    styles = {name: LoraConfig(file=path, is_style=True) for name, path in files.items()}
    model = FaceDiffusionModel.load(tiny.config.model_copy(update={"loras": styles}))
    for worn, message in [
        ({"lora": "c"}, "no LoRA 'c'"),
        ({"speed_lora": "c"}, "no LoRA 'c'"),
        ({"lora": "a", "speed_lora": "a"}, "cannot be worn together"),
        ({"lora": "b", "speed_lora": "a"}, "cannot be worn together"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.start(avatar_spec(**STEPS, **worn), random_face(1))


class UNetRows:
    """A tiny UNet, its own inputs for each of some rows, and what the library makes of a row with its LoRAs alone."""

    def __init__(self, folder: Path, loras: Sequence[Mapping[str, Any]]) -> None:
        torch.manual_seed(3)
        self.unet, self.library = tiny_unet("sd").eval(), tiny_unet("sd").eval()
        self.library.load_state_dict(self.unet.state_dict())
        self.scales = {f"lora{number}": lora["scale"] for number, lora in enumerate(loras)}
        read: dict[str, Any] = {}
        for (name, scale), lora in zip(self.scales.items(), loras, strict=True):
            how = {"endings": lora["endings"], "rank": lora["rank"], "seed": lora["rank"]}
            path = write_lora(folder / f"{name}.safetensors", self.unet, lora["file_format"], **how)
            weights = {key: weight.to(lora["dtype"]) for key, weight in load_file(path).items()}
            left_out = () if lora["has_alphas"] else tuple(key for key in weights if key.endswith(".alpha"))
            save_file({key: weight for key, weight in weights.items() if key not in left_out}, path)
            read[name] = read_parts(path, {UNET: self.unet}, scale)[UNET]
            converted, alphas = StableDiffusionXLPipeline.lora_state_dict(
                folder, weight_name=path.name, unet_config=self.unet.config
            )
            StableDiffusionXLPipeline.load_lora_into_unet(converted, alphas, self.library, adapter_name=name)
        self.slots = LoraSlots(self.unet, read)

    @torch.inference_mode()
    def batch(self, rows: Mapping[int, Sequence[str]]) -> torch.Tensor:
        """(rows, c, h, w): of rows by their numbers, each of which wears the LoRAs of these names."""
        worn = torch.tensor([self.slots.worn_by(*[*names, None, None][:2]) for names in rows.values()])
        with self.slots.worn(worn):
            return self._predicted(self.unet, list(rows))

    @torch.inference_mode()
    def alone(self, row: int, names: Sequence[str]) -> torch.Tensor:
        """(c, h, w), by the library."""
        self.library.enable_lora()
        if names:
            self.library.set_adapters(list(names), [self.scales[name] for name in names])
        else:
            self.library.disable_lora()
        return self._predicted(self.library, [row])[0]

    def _predicted(self, unet: Any, rows: Sequence[int]) -> torch.Tensor:
        seeded = [torch.Generator().manual_seed(row) for row in rows]
        latents = torch.stack([torch.randn(4, 8, 10, generator=seed) for seed in seeded])
        prompts = torch.stack([torch.randn(7, unet.config.cross_attention_dim, generator=seed) for seed in seeded])
        times = torch.tensor([100.0 * (row + 1) for row in rows])
        predicted: torch.Tensor = unet(latents, times, encoder_hidden_states=prompts, return_dict=False)[0]
        return predicted


@st.composite
def wardrobes(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[str]], list[list[int]]]:
    """LoRAs, what each row wears of them, and the rows of one batch after the other: they join and leave."""
    how = {
        "file_format": st.sampled_from(["kohya", "diffusers"]),
        "endings": st.sampled_from([ALL, ATTENTION, LINEAR, ("conv1",)]),
        "rank": st.integers(1, 9),
        "scale": st.floats(-1, 1.5),
        "has_alphas": st.booleans(),
        "dtype": st.sampled_from([torch.float32, torch.float16]),
    }
    loras = draw(st.lists(st.fixed_dictionaries(how), min_size=1, max_size=3))
    names = st.sampled_from([f"lora{number}" for number in range(len(loras))])
    rows = draw(st.lists(st.lists(names, max_size=2, unique=True), min_size=1, max_size=4))
    members = st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4, unique=True)
    return loras, rows, draw(st.lists(members, min_size=1, max_size=3))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wardrobe=wardrobes())
def test_whatever_rows_wear_and_whoever_comes_and_goes_each_row_is_that_of_the_library_alone(
    tmp_path: Path, wardrobe: tuple[list[dict[str, Any]], list[list[str]], list[list[int]]]
) -> None:
    loras, worn, batches = wardrobe
    rows = UNetRows(tmp_path, loras)
    for members in batches:
        predicted = rows.batch({row: worn[row] for row in members})
        for row, ours in zip(members, predicted, strict=True):
            assert tolerance.relative(ours, rows.alone(row, worn[row])) <= tolerance.through(rows.unet)


def test_a_lora_of_many_ranks_costs_those_of_few_no_memory() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(16, 24))
    loras = {
        name: {"0": LoraFactors(torch.randn(rank, 16), torch.randn(24, rank))} for name, rank in [("a", 2), ("b", 100)]
    }
    LoraSlots(layer, loras)
    assert sum(buffer.numel() for buffer in layer.buffers()) == (16 + 24) * (1 + 2 + 100)


def test_a_file_that_several_names_have_at_one_scale_is_in_memory_once(tmp_path: Path) -> None:
    unet, rank = tiny_unet("sd"), 3
    path = write_lora(tmp_path / "lora.safetensors", unet, "kohya", ATTENTION, rank)
    loras = {
        "one-app/clay": LoraConfig(file=path, is_style=True),
        "other-app/fast": LoraConfig(file=path),
        "louder": LoraConfig(file=path, scale=2, is_style=True),
    }
    slots = LoraSlots(unet, read_loras(loras, {UNET: unet})[UNET], styles_of(loras))
    assert slots.worn_by("one-app/clay") == slots.worn_by("other-app/fast")
    assert slots.worn_by("louder", "other-app/fast") == (1, 2)
    factors = [buffer for name, buffer in unet.named_buffers() if name.endswith((".down", ".up"))]
    assert {len(buffer) for buffer in factors} == {1 + 2 * rank}
    memory = DiffusionModelConfig(path=tmp_path, loras=loras).memory()
    assert memory.weights_gb == pytest.approx(2 * path.stat().st_size / 1e9)


@pytest.mark.parametrize("copies", range(1, 4))
def test_without_memory_for_what_rows_wear_the_next_batch_wears_nothing_of_it(
    copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    lora = {name: LoraFactors(torch.randn(rank, 4), torch.randn(4, rank)) for name, rank in [("0", 2), ("1", 3)]}
    slots = LoraSlots(layers, {"a": lora})
    left = iter(range(copies))

    def copied(values: torch.Tensor, device: torch.device) -> torch.Tensor:
        if next(left, None) is None:
            raise OutOfMemoryError
        return values.to(device)

    monkeypatch.setattr(row_lora, "to_device", copied)
    with pytest.raises(OutOfMemoryError), slots.worn(torch.tensor([slots.worn_by("a")])):
        pass
    assert not any(table.in_graphs.any() for table in slots._tables.values())


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
        read_parts(path, {UNET: tiny_unet("sd")}, 1.0)


def test_a_lora_of_another_model_or_a_broken_file_is_an_error_of_its_file(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "lora.safetensors", tiny_unet("sdxl"), "diffusers")
    with pytest.raises(ValueError, match="was made for another model"):
        read_parts(path, {UNET: tiny_unet("sd")}, 1.0)
    half = {name: weight for name, weight in load_file(path).items() if not name.endswith("proj_in.lora.up.weight")}
    save_file(half, path)
    with pytest.raises(ValueError, match=r"is not a LoRA: .*proj_in\.lora_B"):
        read_parts(path, {UNET: tiny_unet("sdxl")}, 1.0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="not a file of weights"):
        read_parts(path, {UNET: tiny_unet("sdxl")}, 1.0)
    with pytest.raises(OSError, match="lacking"):
        read_parts(tmp_path / "lacking.safetensors", {UNET: tiny_unet("sdxl")}, 1.0)
    with pytest.raises(ValueError, match="safetensors files only"):
        read_parts(tmp_path / "lora.pt", {UNET: tiny_unet("sdxl")}, 1.0)
