"""IP-Adapter files of two kinds, in both published formats: FaceID, and Plus, which sees pictures of heads."""

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
FACEID = ("proj.0.weight", "proj.2.weight", "norm.weight")
PLUS = ("latents", "proj_in.weight", "proj_out.weight", "norm_out.weight")


@dataclass(frozen=True, slots=True, eq=False)
class IPAdapter:
    """`projection` maps a face to tokens; `attention` has the keys and values of these tokens for each
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
        if not _is_adapter(parts):
            raise ValueError(
                f"{path} is neither an IP-Adapter FaceID, which needs nothing but a face vector, nor an IP-Adapter Plus"
            )
        adapter = cls(parts["image_proj"], parts["ip_adapter"])
        if not adapter.takes_pictures and adapter.input_width != FACE_WIDTH:
            raise ValueError(f"{path} is not made for face vectors of {FACE_WIDTH} numbers")
        return adapter

    @property
    def takes_pictures(self) -> bool:
        """Whether its input is what CLIP sees of a picture (Plus), not a face vector (FaceID)."""
        return "latents" in self.projection

    @property
    def input_width(self) -> int:
        """Numbers of a face vector, or of each patch of CLIP's."""
        return self.projection["proj_in.weight" if self.takes_pictures else "proj.0.weight"].shape[1]

    def check_fits(self, unet: Any) -> None:
        """Raises: ValueError where the adapter was made for a UNet with other cross-attention layers."""
        wanted = {
            f"{number}.to_k_ip.weight": unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for number, name in enumerate(unet.attn_processors)
            if name.endswith("attn2.processor")
        }
        found = {name: weight.shape for name, weight in self.attention.items() if name.endswith(".to_k_ip.weight")}
        norm = self.projection["norm_out.weight" if self.takes_pictures else "norm.weight"]
        made_for, has = norm.shape[0], unet.config.cross_attention_dim
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


def _is_adapter(parts: Any) -> bool:
    if not isinstance(parts, dict) or not all(
        isinstance(parts.get(name), dict) for name in ("image_proj", "ip_adapter")
    ):
        return False
    projection = parts["image_proj"]
    # FaceID Plus takes both: it has a perceiver beside the projection of the vector.
    is_faceid = all(name in projection for name in FACEID) and not any("perceiver" in name for name in projection)
    return is_faceid or all(name in projection for name in PLUS)


def _read_safetensors(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, weight in load_file(path).items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = weight
    return parts


def _read_pickle(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
