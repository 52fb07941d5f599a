"""Exports the trained networks in the production formats; each file is replaced atomically."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.embedded.training.data.words import save_tokenizer
from deployments.embedded.training.train.networks import adapter_state, build_scheduler, build_unet, plain_unet_state

ADAPTER_FILE = "ip-adapter-faceid.safetensors"
DEFAULT_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Everything is written beside the target first; readers of a file see the old one or the new one, whole."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        draft = Path(temporary)
        write(draft)
        for path in sorted(p for p in draft.rglob("*") if p.is_file()):
            place = target / path.relative_to(draft)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(path, 0o644)
            os.replace(path, place)


def export_diffusion(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    vae: AutoencoderTiny,
    folder: Path,
) -> None:
    """Half precision on disk; the autoencoder's encoder is exact in it, being made of binary fractions."""
    plain = build_unet()
    plain.load_state_dict(plain_unet_state(unet))
    adapter = adapter_state(unet)
    half = {
        f"{part}.{key}": value.detach().half().contiguous().clone()
        for part, tensors in adapter.items()
        for key, value in tensors.items()
    }

    def write(draft: Path) -> None:
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=plain,
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.save_pretrained(draft)
        plain.half().save_pretrained(draft / "unet")
        plain.float()
        vae.half().save_pretrained(draft / "vae")
        vae.float()
        text_encoder.half().save_pretrained(draft / "text_encoder")
        text_encoder.float()
        save_tokenizer(tokenizer, draft / "tokenizer")
        save_file(half, draft / ADAPTER_FILE)

    write_folder(folder, write)


def adapted_unet(folder: Path) -> UNet2DConditionModel:
    """The UNet of `export_diffusion`'s folder with its adapter. Raises: OSError where a file is missing."""
    unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    adapter: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(folder / ADAPTER_FILE).items():
        part, _, name = key.partition(".")
        adapter[part][name] = value.float()
    unet._load_ip_adapter_weights([adapter])
    return unet


def export_onnx(
    network: nn.Module, example: torch.Tensor, names: tuple[str, str], path: Path, *, sides: bool = False
) -> None:
    """An ONNX file of opset 17 for any batch size, with large weights in float16; `names`: of input and output.

    `sides`: height and width of pictures may differ from the example's. `network` is put into evaluation mode.
    """
    network.eval()
    free = {0: "n", 2: "height", 3: "width"} if sides else {0: "n"}

    def write(draft: Path) -> None:
        torch.onnx.export(
            network,
            (example,),
            str(draft / path.name),
            input_names=[names[0]],
            output_names=[names[1]],
            dynamic_axes={names[0]: free, names[1]: free},
            opset_version=17,
            dynamo=False,
        )
        halve_weights(draft / path.name)

    write_folder(path.parent, write)


def halve_weights(path: Path) -> None:
    """Stores large constants in half precision with a cast to float behind each, folded when a session opens."""
    model = onnx.load(path)
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.raw_data) < 4096:
            continue
        halved = onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}.half"
        )
        casts.append(onnx.helper.make_node("Cast", [halved.name], [tensor.name], to=onnx.TensorProto.FLOAT))
        tensor.CopyFrom(halved)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def sha256_of(path: Path) -> str:
    """Of a file's content, in hex; reads it whole."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Every file below the folder but README.md, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
