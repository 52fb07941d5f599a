"""LoRA files for a UNet or FLUX.2's transformer, read by diffusers' own conversions.

Formats: kohya's, those of peft and diffusers, and for FLUX.2 also the original names of its layers, as ai-toolkit has.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import Flux2Transformer2DModel
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.loaders.lora_pipeline import Flux2LoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
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
    "lora_te": "a LoRA of a text encoder",
    "text_encoder": "a LoRA of a text encoder",
    "lora_B.bias": "a LoRA with biases",
}


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


def read_loras(loras: Mapping[str, LoraConfig], network: Any) -> dict[str, dict[str, LoraFactors]]:
    """Those of a model by their names. Raises: as `read_lora`."""
    return {name: read_lora(model_path(lora.file), network, lora.scale) for name, lora in loras.items()}


def styles_of(loras: Mapping[str, LoraConfig]) -> frozenset[str]:
    """The names of those of which no row wears two."""
    return frozenset(name for name, lora in loras.items() if lora.is_style)


def read_lora(path: Path, network: Any, scale: float) -> dict[str, LoraFactors]:
    """The factors of a LoRA by the names of the network's layers. Nothing is executed: safetensors only.

    Raises: OSError where the file is missing or broken; ValueError where it is no LoRA for this network, or has parts
    that are not supported, which are named.
    """
    _check_kind(path)
    is_flux = isinstance(network, Flux2Transformer2DModel)
    weights, alpha_of = _for_flux(path) if is_flux else _for_unet(path, network.config)
    factors, layers = {}, dict(network.named_modules())
    for name in _layers(path, weights):
        down, up = weights[name + DOWN], weights[name + UP].flatten(1)
        if not _fits(layers.get(name), down, up):
            raise ValueError(f"{path} was made for another model: {name} is no layer of this one, or of another size")
        rank = down.shape[0]
        factors[name] = LoraFactors(down, up.float() * (scale * alpha_of(name, rank) / rank))
    return factors


def _for_unet(path: Path, config: Any) -> tuple[dict[str, Tensor], Alphas]:
    """Weights by peft's names; kohya's files have an alpha for each layer."""
    weights, alphas, metadata = _converted(StableDiffusionXLLoraLoaderMixin, path, unet_config=config)
    if metadata or not alphas:
        return _renamed(weights, "unet."), _alphas_of_peft(metadata, "unet.")
    named = _renamed({name.removesuffix(".alpha"): alpha for name, alpha in alphas.items()}, "unet.")
    known = {name.removesuffix(DOWN): alpha for name, alpha in named.items()}
    return _renamed(weights, "unet."), lambda name, rank: known.get(name, rank)


def _for_flux(path: Path) -> tuple[dict[str, Tensor], Alphas]:
    """Weights by peft's names; the alphas of kohya's files are multiplied in already.

    Raises: ValueError where kohya's format has layers that diffusers does not know, and would leave out.
    """
    weights, metadata = _converted(Flux2LoraLoaderMixin, path)
    given = load_file(path)
    if any(name.endswith(KOHYA_DOWN) for name in given):
        Flux2LoraLoaderMixin.lora_state_dict(given)  # it takes out of the dict what it understands
        if given:
            raise ValueError(f"{path} has layers that are not supported: {', '.join(sorted(given)[:3])}")
    return _renamed(weights, "transformer."), _alphas_of_peft(metadata, "transformer.")


def _check_kind(path: Path) -> None:
    """Raises: OSError; ValueError where a name says that it is something else than a LoRA of the network."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: LoRAs are read from .safetensors files only")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise OSError(f"{path} is not a file of weights: {error}") from error
    for part, kind in REFUSED.items():
        if found := next((name for name in names if part in name), None):
            raise ValueError(f"{path} has {kind} ({found}), which is not supported")


def _layers(path: Path, weights: Mapping[str, Tensor]) -> Iterable[str]:
    """The names of the layers. Raises: ValueError where a weight is not of a pair of factors."""
    pairs = {name.removesuffix(DOWN).removesuffix(UP) for name in weights if name.endswith((DOWN, UP))}
    left_over = weights.keys() - {pair + way for pair in pairs for way in (DOWN, UP)}
    lacking = {pair + way for pair in pairs for way in (DOWN, UP)} - weights.keys()
    if left_over or lacking or not pairs:
        wrong = ", ".join(sorted(left_over | lacking)[:3]) or "it has no weights"
        raise ValueError(f"{path} is not a LoRA: {wrong}")
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


def _fits(layer: Any, down: Tensor, up: Tensor) -> bool:
    if up.shape[1] != down.shape[0]:
        return False
    if isinstance(layer, nn.Linear):
        return (tuple(down.shape[1:]), up.shape[0]) == ((layer.in_features,), layer.out_features)
    if isinstance(layer, nn.Conv2d) and layer.groups == 1:
        return (tuple(down.shape[1:]), up.shape[0]) == ((layer.in_channels, *layer.kernel_size), layer.out_channels)
    return False
