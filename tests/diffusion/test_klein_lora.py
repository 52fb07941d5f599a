"""LoRAs by the row of FLUX.2 klein, against the library's own pipeline with the LoRAs of each row alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from safetensors.torch import load_file, save_file

from deployments.config import LoraConfig
from deployments.diffusion.model.face_encoder import HEAD_SIDE
from deployments.diffusion.model.klein import KleinModel
from deployments.diffusion.model.lora_file import TRANSFORMER, read_parts
from deployments.diffusion.model.receipt import generation_metadata, of_image
from tests.support import tolerance
from tests.support.klein_folders import write_tiny_klein
from tests.support.klein_lora_files import KleinLoraFormat, write_klein_lora
from tests.support.klein_rows import SIZE, apart, config_of, drawn, drawn_by_library, person, spec_of

SCALE = 0.8
SHAPE = (SIZE["width"], SIZE["height"])


class TinyKlein:
    """A tiny model, and LoRAs for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_tiny_klein(folder / "model")
        self.files = {
            name: write_klein_lora(folder / f"{name}.safetensors", self.transformer(), file_format, rank, seed)
            for seed, (name, file_format, rank) in enumerate(
                [("peft", "peft", 3), ("original", "original", 8), ("kohya", "kohya", 4)], 1
            )
        }

    def transformer(self) -> Any:
        return Flux2Transformer2DModel.from_pretrained(self.folder / "transformer")

    def config(self, **changes: Any) -> Any:
        loras = {name: LoraConfig(file=file, scale=SCALE) for name, file in self.files.items()}
        return config_of(self.folder, loras=loras, **changes)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyKlein:
    return TinyKlein(tmp_path_factory.mktemp("klein"))


def test_rows_that_wear_different_loras_are_those_of_the_library_with_each_alone(tiny: TinyKlein) -> None:
    model = KleinModel.load(tiny.config())
    worn = [("peft", None), (None, None), ("original", "kohya"), (None, "kohya"), ("original", None)]
    rows = [
        (spec_of(seed, lora=lora, speed_lora=speed, num_inference_steps=2 + seed % 2), person(seed))
        for seed, (lora, speed) in enumerate(worn, 1)
    ]
    assert len({model.bucket(*row) for row in rows}) == 1
    for (spec, face), sample in zip(rows, drawn(model, *rows, joins_at=(0, 0, 1, 1, 0)), strict=True):
        loras = {tiny.files[name]: SCALE for name in (spec.lora, spec.speed_lora) if name is not None}
        expected, _ = drawn_by_library(tiny.folder, spec, face, loras)
        assert tolerance.relative(sample.latents, expected) <= tolerance.through(model._pipeline.transformer)
        if loras:  # they are heard
            assert apart(sample.latents, drawn_by_library(tiny.folder, spec, face)[0]) > 0.01


@pytest.mark.parametrize("scope", ["unet", pytest.param("blocks", marks=pytest.mark.slow)])
def test_rows_that_graphs_compute_wear_their_own(tiny: TinyKlein, scope: str) -> None:
    alone = KleinModel.load(tiny.config())
    compiled = KleinModel.load(tiny.config(compile_scope=scope))
    compiled.compile(SHAPE, 4, backend="eager")
    worn = [("original", "peft"), (None, None), ("kohya", None)]
    rows = [
        (spec_of(seed, lora=lora, speed_lora=speed, num_inference_steps=2), person(seed, side=HEAD_SIDE))
        for seed, (lora, speed) in enumerate(worn, 1)
    ]
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for together in (rows, rows[1:2]):  # then one that wears none
        for row, sample in zip(together, drawn(compiled, *together), strict=True):
            relative = tolerance.relative(sample.latents, drawn(alone, row)[0].latents)
            assert relative <= tolerance.through(alone._pipeline.transformer)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
    torch._dynamo.reset()


def test_weights_kept_as_fp8_wear_loras_in_the_type_that_computes(tiny: TinyKlein) -> None:
    small, rounded = (KleinModel.load(tiny.config(fp8_weights=fp8)) for fp8 in (True, False))
    weights = dict(small._pipeline.transformer.named_parameters())
    assert torch.float8_e4m3fn in {weight.dtype for weight in weights.values()}
    with torch.inference_mode():
        for name, weight in rounded._pipeline.transformer.named_parameters():
            weight.copy_(weights[name])
    row = spec_of(1, lora="original", speed_lora="peft"), person(1)
    ours, expected = (drawn(model, row)[0].latents for model in (small, rounded))
    assert tolerance.relative(ours, expected) <= tolerance.through(rounded._pipeline.transformer)


def test_a_receipt_names_both_loras_of_an_image_and_no_others(tiny: TinyKlein) -> None:
    config = tiny.config()
    metadata = generation_metadata("klein", config)
    weights = of_image(metadata, config, spec_of(1, lora="original", speed_lora="kohya")).weights
    assert {name for name in weights if name.startswith("lora/")} == {"lora/original", "lora/kohya"}
    assert len(metadata.weights) == len(weights) + 1


@pytest.mark.parametrize(
    ("file_format", "name"),
    [
        ("kohya", "lora_unet_double_stream_modulation_img_lin.lora_down.weight"),
        ("original", "diffusion_model.vector_in.lora_A.weight"),
        ("peft", "transformer.transformer_blocks.0.attn.to_q.alpha"),
    ],
)
def test_layers_that_the_library_would_leave_out_are_refused_by_name(
    tiny: TinyKlein, tmp_path: Path, file_format: KleinLoraFormat, name: str
) -> None:
    path = tmp_path / "lora.safetensors"
    save_file({**load_file(tiny.files[file_format]), name: torch.zeros(1, 1)}, path)
    with pytest.raises(ValueError, match=name.removeprefix("diffusion_model.").removeprefix("transformer.")):
        read_parts(path, {TRANSFORMER: tiny.transformer()}, 1.0)
