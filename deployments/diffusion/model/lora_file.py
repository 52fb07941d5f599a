"""LoRA files for a UNet and its text encoders, or FLUX.2's transformer, read by diffusers' own conversions.

Formats: kohya's, those of peft and diffusers, and for FLUX.2 also the original names of its layers, as ai-toolkit has.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.lora_pipeline import Flux2LoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    DIFFUSERS_OLD_TO_PEFT,
    DIFFUSERS_TO_PEFT,
    convert_state_dict,
    convert_unet_state_dict_to_peft,
)
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from deployments.config import LoraConfig, model_path

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
KOHYA_DOWN = ".lora_down.weight"
# Parts of names of weights that diffusers would leave out in silence, or that are no LoRA.
REFUSED = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_B.bias": "a LoRA with biases",
}
OF_TEXT_ENCODERS = dict.fromkeys(("lora_te", "text_encoder"), "a LoRA of a text encoder")
TEXT_NAMES = (
    DIFFUSERS_OLD_TO_PEFT | DIFFUSERS_TO_PEFT
)  # kohya's files have the old ones, and the new ones of some layers
UNET, TRANSFORMER = "unet", "transformer"


@dataclass(frozen=True, slots=True, eq=False)
class LoraFactors:
    """What a LoRA adds to a layer: `up` x (`down` x input), where `up` is scaled already.

    `down` is (rank, in) or, of a convolution, (rank, in, height, width); `up` is (out, rank).
    """

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """How many numbers there are between the two."""
        return int(self.up.shape[1])


Alphas = Callable[[str, int], float]
"""Of a layer's name and rank: its alpha, by which the factors count `alpha / rank`."""

Lora = Mapping[str, LoraFactors]
"""By the names of a network's layers."""


def read_loras(loras: Mapping[str, LoraConfig], networks: Mapping[str, Any]) -> dict[str, dict[str, Lora]]:
    """By the names of the networks, then of the LoRAs; one of the same file and scale is the same object.

    Raises: as `read_parts`.
    """
    parts_of = cache(lambda file, scale: read_parts(model_path(file), networks, scale))
    read = {name: parts_of(lora.file, lora.scale) for name, lora in loras.items()}
    return {part: {name: parts[part] for name, parts in read.items()} for part in networks}


def styles_of(loras: Mapping[str, LoraConfig]) -> frozenset[str]:
    """The names of those of which no row wears two."""
    return frozenset(name for name, lora in loras.items() if lora.is_style)


def read_parts(path: Path, networks: Mapping[str, Any], scale: float) -> dict[str, Lora]:
    """The factors of a LoRA by the networks of its pipeline and their layers. Nothing is executed: safetensors only.

    `networks` has those that may have a part, which may be empty, by the names that the pipeline has for them.

    Raises: OSError where the file is missing or broken; ValueError where it is no LoRA for these networks, or has parts
    that are not supported, which are named.
    """
    _check_kind(path, REFUSED if len(networks) > 1 else REFUSED | OF_TEXT_ENCODERS)
    parts = _for_flux(path) if TRANSFORMER in networks else _for_unet(path, networks)
    read = {name: _factors(path, network, *parts[name], scale) for name, network in networks.items()}
    if not any(read.values()):
        raise ValueError(f"{path} is not a LoRA: it has no weights")
    return read


def _factors(path: Path, network: Any, weights: Mapping[str, Tensor], alpha_of: Alphas, scale: float) -> Lora:
    factors, layers = {}, dict(network.named_modules())
    for name in _layers(path, weights):
        down, up = weights[name + DOWN], weights[name + UP].flatten(1)
        if not _fits(layers.get(name), down, up):
            raise ValueError(f"{path} was made for another model: {name} is no layer of this one, or of another size")
        rank = down.shape[0]
        factors[name] = LoraFactors(down, up.float() * (scale * alpha_of(name, rank) / rank))
    return factors


Part = tuple[dict[str, Tensor], Alphas]
"""Weights of a network by peft's names."""


def _for_unet(path: Path, networks: Mapping[str, Any]) -> dict[str, Part]:
    """Kohya's files have an alpha for each layer. What is of no text encoder is taken for the UNet's."""
    weights, alphas, metadata = _converted(StableDiffusionXLLoraLoaderMixin, path, unet_config=networks[UNET].config)
    encoders = networks.keys() - {UNET}

    def part_of(key: str) -> str:
        return next((name for name in encoders if key.startswith(f"{name}.")), UNET)

    parts: dict[str, Part] = {}
    for name, network in networks.items():
        prefix, rename = f"{name}.", _renamed if name == UNET else _renamed_text(network)
        own = {key: weight for key, weight in weights.items() if part_of(key) == name}
        given = {key.removesuffix(".alpha"): alpha for key, alpha in (alphas or {}).items() if part_of(key) == name}
        known = {key.removesuffix(DOWN): alpha for key, alpha in rename(given, prefix).items()}
        parts[name] = rename(own, prefix), _alphas_of_kohya(known) if known else _alphas_of_peft(metadata, prefix)
    return parts


def _alphas_of_kohya(known: Mapping[str, float]) -> Alphas:
    return lambda name, rank: known.get(name, rank)


def _for_flux(path: Path) -> dict[str, Part]:
    """Weights by peft's names; the alphas of kohya's files are multiplied in already.

    Raises: ValueError where kohya's format has layers that diffusers does not know, and would leave out.
    """
    weights, metadata = _converted(Flux2LoraLoaderMixin, path)
    given = load_file(path)
    if any(name.endswith(KOHYA_DOWN) for name in given):
        Flux2LoraLoaderMixin.lora_state_dict(given)  # it takes out of the dict what it understands
        if given:
            raise ValueError(f"{path} has layers that are not supported: {', '.join(sorted(given)[:3])}")
    prefix = f"{TRANSFORMER}."
    return {TRANSFORMER: (_renamed(weights, prefix), _alphas_of_peft(metadata, prefix))}


def _check_kind(path: Path, refused: Mapping[str, str]) -> None:
    """Raises: OSError; ValueError where a name says that it is something else than a LoRA of the networks."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: LoRAs are read from .safetensors files only")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise OSError(f"{path} is not a file of weights: {error}") from error
    for part, kind in refused.items():
        if found := next((name for name in names if part in name), None):
            raise ValueError(f"{path} has {kind} ({found}), which is not supported")


def _layers(path: Path, weights: Mapping[str, Tensor]) -> Iterable[str]:
    """The names of the layers. Raises: ValueError where a weight is not of a pair of factors."""
    pairs = {name.removesuffix(DOWN).removesuffix(UP) for name in weights if name.endswith((DOWN, UP))}
    left_over = weights.keys() - {pair + way for pair in pairs for way in (DOWN, UP)}
    lacking = {pair + way for pair in pairs for way in (DOWN, UP)} - weights.keys()
    if left_over or lacking:
        raise ValueError(f"{path} is not a LoRA: {', '.join(sorted(left_over | lacking)[:3])}")
    return sorted(pairs)


def _converted(library: Any, path: Path, **others: Any) -> Any:
    """What diffusers' pipelines of this kind read from the file."""
    where = {"weight_name": path.name, "local_files_only": True, "use_safetensors": True}
    try:
        return library.lora_state_dict(path.parent, return_lora_metadata=True, **where, **others)
    except (ValueError, LookupError, AssertionError) as error:  # of names that it does not know
        raise ValueError(f"{path} is not a LoRA of a known format: {error}") from error


def _alphas_of_peft(metadata: Mapping[str, Any] | None, prefix: str) -> Alphas:
    """By the settings that peft wrote into the file; without them an alpha is the rank."""
    settings = {name.removeprefix(prefix): value for name, value in (metadata or {}).items()}
    common, pattern = settings.get("lora_alpha"), settings.get("alpha_pattern") or {}

    def alpha_of(name: str, rank: int) -> float:
        alpha: float = pattern.get(get_pattern_key(list(pattern), name), rank if common is None else common)
        return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha

    return alpha_of


def _renamed(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """With peft's names."""
    renamed: dict[str, Any] = convert_unet_state_dict_to_peft(
        {name.removeprefix(prefix): value for name, value in values.items()}
    )
    return renamed


def _renamed_text(encoder: Any) -> Callable[[Mapping[str, Any], str], dict[str, Any]]:
    """As `_renamed`, for the layers of a CLIP text encoder, as diffusers' pipelines do it."""

    def renamed(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        own = {name.removeprefix(prefix): value for name, value in values.items()}
        own = convert_state_dict(own, TEXT_NAMES)
        # Newer versions of transformers have no `text_model` in an encoder without a projection.
        inner = "" if hasattr(encoder, "text_model") else "text_model."
        return {name.removeprefix(inner): value for name, value in own.items()}

    return renamed


def _fits(layer: Any, down: Tensor, up: Tensor) -> bool:
    if up.shape[1] != down.shape[0]:
        return False
    if isinstance(layer, nn.Linear):
        return (tuple(down.shape[1:]), up.shape[0]) == ((layer.in_features,), layer.out_features)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return (tuple(down.shape[1:]), up.shape[0]) == ((layer.in_channels, *layer.kernel_size), layer.out_channels)
    return False
