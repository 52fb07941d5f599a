"""Writes diffusion models of any size in the file formats of the published ones.

Those are older than the libraries: tokenizers of two files, other names in text encoders and VAEs, face adapters as
pickles with a LoRA inside.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, Qwen2TokenizerFast

from deployments.diffusion.model.ip_adapter import IPAdapter, Weights
from deployments.diffusion.model.loader import FAMILIES

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
TOKENS = 77  # of a window of the text encoders
VAE_NAMES = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}  # ours to published


class AttentionLora(NamedTuple):
    """LoRA weights of one linear layer (`to_q`, `to_k`, `to_v` or `to_out`) of the attention layer of this number."""

    number: int
    layer: str
    linear: str
    down: torch.Tensor  # (rank, in)
    up: torch.Tensor  # (out, rank)


def byte_tokenizer() -> Qwen2TokenizerFast:
    """Qwen's byte-level tokenizer without merges: a token a byte."""
    with TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
        vocabulary.write_text(json.dumps(letters))
        merges.write_text("#version: 0.2\n")
        tokenizer = Qwen2TokenizerFast(str(vocabulary), str(merges))
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_pipeline(pipeline: Any, folder: Path, variant: str | None = None) -> None:
    """The folder of one of diffusers' pipelines or of our own ones."""
    pipeline.save_pretrained(folder, variant=variant)
    published = {family: name for name, family in FAMILIES.items()}
    if type(pipeline) in published:
        index = folder / "model_index.json"
        values = json.loads(index.read_text()) | {"_class_name": published[type(pipeline)]}
        index.write_text(json.dumps(values, indent=2))
    for path in folder.glob("tokenizer*/tokenizer.json"):
        vocabulary = json.loads(path.read_text())["model"]["vocab"]
        (path.parent / "vocab.json").write_text(json.dumps(vocabulary))
        (path.parent / "merges.txt").write_text("#version: 0.2\n")
        path.unlink()
    for path in folder.glob("text_encoder/*.safetensors"):  # the second one has these names still
        weights = {f"text_model.{name}": weight for name, weight in load_file(path).items()}
        positions = {"text_model.embeddings.position_ids": torch.arange(TOKENS)[None]}
        save_file(weights | positions, path, metadata={"format": "pt"})
    for path in folder.glob("vae/*.safetensors"):
        save_file({_older(name): weight for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})


def save_adapter(adapter: IPAdapter, path: Path) -> None:
    """As a pickle, or as safetensors where the path ends so."""
    parts = {"image_proj": dict(adapter.projection), "ip_adapter": dict(adapter.attention)}
    if path.suffix == ".safetensors":
        flat = {f"{part}.{name}": weight for part, weights in parts.items() for name, weight in weights.items()}
        save_file(flat, path)
    else:
        torch.save(parts, path)


def attention_lora(
    unet: Any, rank: int, std: float, generator: torch.Generator | None = None
) -> Iterator[AttentionLora]:
    """Normal numbers for all attention layers, on the device and in the dtype of the UNet."""
    place: dict[str, Any] = {"generator": generator, "device": unet.device, "dtype": unet.dtype}
    for number, name in enumerate(unet.attn_processors):
        layer = name.removesuffix(".processor")
        attention = unet.get_submodule(layer)
        linears = {
            "to_q": attention.to_q,
            "to_k": attention.to_k,
            "to_v": attention.to_v,
            "to_out": attention.to_out[0],
        }
        for kind, linear in linears.items():
            down = torch.randn(rank, linear.in_features, **place) * std
            up = torch.randn(linear.out_features, rank, **place) * std
            yield AttentionLora(number, layer, kind, down, up)


def numbered(lora: Sequence[AttentionLora]) -> Weights:
    """Named as in an adapter's own file."""
    return {
        f"{each.number}.{each.linear}_lora.{way}.weight": weight
        for each in lora
        for way, weight in {"down": each.down, "up": each.up}.items()
    }


def save_lora(lora: Sequence[AttentionLora], path: Path) -> None:
    """As a file of its own, named as other programs read it."""
    weights: dict[str, torch.Tensor] = {}
    for each in lora:
        name = f"lora_unet_{each.layer}.{each.linear}".replace(".", "_") + ("_0" if each.linear == "to_out" else "")
        weights |= {f"{name}.lora_down.weight": each.down, f"{name}.lora_up.weight": each.up}
    save_file(weights, path)


def face_attention_shapes(unet: Any) -> Mapping[int, torch.Size]:
    """The shapes of the adapter's keys, which are those of its values, by the number of the cross-attention layer."""
    return {
        number: unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for number, name in enumerate(unet.attn_processors)
        if name.endswith("attn2.processor")
    }


def letter_tokenizer(pad: str) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without merges: one token a byte."""
    letters = sorted(ByteLevel.alphabet())
    words = ["!", *(letter for letter in letters if letter != "!"), *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, [], pad_token=pad, model_max_length=TOKENS)


def _older(name: str) -> str:
    for today, before in VAE_NAMES.items():
        name = name.replace(today, before)
    return name
