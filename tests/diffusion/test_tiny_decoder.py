"""Tiny decoders in the place of a model's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file

from deployments.config import DiffusionModelConfig
from deployments.diffusion.model.denoiser import FaceDiffusionModel
from deployments.diffusion.model.families import check_files
from deployments.diffusion.model.receipt import generation_metadata, of_image
from deployments.diffusion.model.tiny_decoder import read_tiny_decoder
from loadtest.bench.random_face import random_face
from tests.support import tolerance
from tests.support.diffusion_folders import write_faceid_adapter, write_tiny_model
from tests.support.fakes import avatar_spec

SIZE = {"width": 64, "height": 72, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModelConfig:
    """A tiny model, and a file like taesdxl's."""
    folder = tmp_path_factory.mktemp("tiny-decoder")
    write_tiny_model(folder / "model", "sd")
    torch.manual_seed(1)
    save_file(AutoencoderTiny().state_dict(), folder / "taesd.safetensors")
    adapter = write_faceid_adapter(folder, "sd", "safetensors", lora=False)
    return DiffusionModelConfig(
        path=folder / "model", ip_adapter=adapter, threads=1, dtype="float32",
        decoders={"app": folder / "taesd.safetensors"},
    )  # fmt: skip


def test_an_image_is_decoded_by_the_decoder_that_it_names_and_others_by_the_models_own(
    config: DiffusionModelConfig,
) -> None:
    model = FaceDiffusionModel.load(config)
    usual = FaceDiffusionModel.load(config.model_copy(update={"decoders": {}}))
    samples = [model.start(avatar_spec(**SIZE, decoder=name), random_face(7)) for name in ("app", None)]
    for _ in range(2):
        model.step(samples)
    alone = usual.start(avatar_spec(**SIZE), random_face(7))
    for _ in range(2):
        usual.step([alone])
    assert torch.equal(samples[0].latents, samples[1].latents)
    tiny, own, expected = model.decode(samples[0]), model.decode(samples[1]), usual.decode(alone)
    assert np.abs(own.astype(int) - expected).max() <= tolerance.ONE_LEVEL
    library = AutoencoderTiny()
    library.load_state_dict(load_file(config.decoders["app"]))
    with torch.inference_mode():
        picture = library.decode(samples[0].latents).sample[0] / 2 + 0.5
    levels = (picture.clamp(0, 1).permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(tiny.astype(int) - levels).max() <= tolerance.ONE_LEVEL
    assert tolerance.mean_distance(tiny, own) > 1
    with pytest.raises(ValueError, match="no decoder 'else'"):
        model.start(avatar_spec(**SIZE, decoder="else"), random_face(7))


def test_a_receipt_names_the_decoder_that_was_used_and_no_other(config: DiffusionModelConfig) -> None:
    metadata = generation_metadata("tiny", config)
    tiny, own = (
        {name.partition("/")[0] for name in of_image(metadata, config, avatar_spec(decoder=name)).weights}
        for name in ("app", None)
    )
    assert "decoder" in tiny > own - {"vae"}
    assert "vae" in own
    assert not {"vae"} & tiny
    assert "decoder" not in own


def test_a_file_of_other_weights_or_none_is_an_error_at_load(config: DiffusionModelConfig, tmp_path: Path) -> None:
    where = torch.float32, torch.device("cpu")
    with pytest.raises(ValueError, match="no tiny VAE for latents of 16 channels"):
        read_tiny_decoder(config.decoders["app"], 16, *where)
    (tmp_path / "broken.safetensors").write_bytes(config.decoders["app"].read_bytes()[:-9])
    with pytest.raises(OSError, match="not a file of weights"):
        read_tiny_decoder(tmp_path / "broken.safetensors", 4, *where)
    with pytest.raises(FileNotFoundError, match="lacking"):
        check_files(config.model_copy(update={"decoders": {"app": tmp_path / "lacking.safetensors"}}))
