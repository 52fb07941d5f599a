"""LoRA files for a UNet in kohya's format and those of peft and diffusers, read by diffusers' own conversions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
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


def read_lora(path: Path, unet: Any, scale: float) -> dict[str, LoraFactors]:
    """The factors of a LoRA by the names of the UNet's layers. Nothing is executed: safetensors only.

    Raises: OSError where the file is missing or broken; ValueError where it is no LoRA for this UNet, or has parts that
    are not supported, which are named.
    """
    _check_kind(path)
    weights, alphas, metadata = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
        path.parent,
        weight_name=path.name,
        unet_config=unet.config,
        local_files_only=True,
        use_safetensors=True,
        return_lora_metadata=True,
    )
    weights = _renamed(weights)
    alpha_of = _alphas(alphas, metadata)
    factors, layers = {}, dict(unet.named_modules())
    for name in _layers(path, weights):
        down, up = weights[name + DOWN], weights[name + UP].flatten(1)
        if not _fits(layers.get(name), down, up):
            raise ValueError(f"{path} was made for another model: {name} is no layer of this one, or of another size")
        rank = down.shape[0]
        factors[name] = LoraFactors(down, up * (scale * alpha_of(name, rank) / rank))
    return factors


def _check_kind(path: Path) -> None:
    """Raises: OSError; ValueError where a name says that it is something else than a LoRA of the UNet."""
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


def _alphas(alphas: Mapping[str, float] | None, metadata: Mapping[str, Any] | None) -> Any:
    """A function of a layer's name and rank: its alpha, by which the factors count `alpha / rank`.

    kohya's files have one for each layer, those of peft their own settings; without either it is the rank.
    """
    if metadata:
        common, pattern = metadata.get("unet.lora_alpha"), metadata.get("unet.alpha_pattern") or {}
        return lambda name, rank: pattern.get(name, rank if common is None else common)
    named = _renamed({name.removesuffix(".alpha"): alpha for name, alpha in (alphas or {}).items()})
    known = {name.removesuffix(DOWN): alpha for name, alpha in named.items()}
    return lambda name, rank: known.get(name, rank)


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """With peft's names."""
    renamed: dict[str, Any] = convert_unet_state_dict_to_peft(
        {name.removeprefix("unet."): value for name, value in values.items()}
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
