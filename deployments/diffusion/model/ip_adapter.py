"""IP-Adapter FaceID files, in both published formats."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from deployments.config import FACE_VECTOR

Weights = Mapping[str, torch.Tensor]

FACE_WIDTH = FACE_VECTOR
PROJECTION = ("proj.0.weight", "proj.2.weight", "norm.weight")


@dataclass(frozen=True, slots=True, eq=False)
class FaceIDAdapter:
    """`projection` maps a face vector to tokens; `attention` has the keys and values of these tokens for each
    cross-attention layer and, in some files, LoRA weights for all attention layers. Layers are numbered.
    """

    projection: Weights
    attention: Weights

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises: OSError where the file is missing or broken, ValueError where it is another kind of adapter."""
        try:
            parts = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise OSError(f"{path} is not a file of weights: {error}") from error
        if not _is_faceid(parts):
            raise ValueError(f"{path} is not an IP-Adapter FaceID, which needs nothing but a face vector")
        projection, attention = parts["image_proj"], parts["ip_adapter"]
        if projection["proj.0.weight"].shape[1] != FACE_WIDTH:
            raise ValueError(f"{path} is not made for face vectors of {FACE_WIDTH} numbers")
        return cls(projection, attention)

    def check_fits(self, unet: Any) -> None:
        """Raises: ValueError where the adapter was made for a UNet with other cross-attention layers."""
        wanted = {
            f"{number}.to_k_ip.weight": unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for number, name in enumerate(unet.attn_processors)
            if name.endswith("attn2.processor")
        }
        found = {name: weight.shape for name, weight in self.attention.items() if name.endswith(".to_k_ip.weight")}
        made_for, has = self.projection["norm.weight"].shape[0], unet.config.cross_attention_dim
        if found != wanted or made_for != has:
            raise ValueError(
                f"The face adapter was made for another UNet: for {len(found)} cross-attention layers of width"
                f" {made_for}; this one has {len(wanted)} of width {has}"
            )

    @property
    def has_lora(self) -> bool:
        """Whether the file also holds LoRA weights."""
        return any("_lora." in name for name in self.attention)

    def state_dict(self, with_lora: bool) -> dict[str, dict[str, torch.Tensor]]:
        """The argument of diffusers' `load_ip_adapter`."""
        attention = {name: weight for name, weight in self.attention.items() if with_lora or "_lora." not in name}
        return {"image_proj": dict(self.projection), "ip_adapter": attention}


def _is_faceid(parts: Any) -> bool:
    if not isinstance(parts, dict) or not all(
        isinstance(parts.get(name), dict) for name in ("image_proj", "ip_adapter")
    ):
        return False
    projection = parts["image_proj"]
    # FaceID Plus also has a perceiver: it needs a CLIP image embedding of the photo.
    return all(name in projection for name in PROJECTION) and not any("perceiver" in name for name in projection)


def _read_safetensors(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in load_file(path).items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = weight
    return parts


def _read_pickle(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
