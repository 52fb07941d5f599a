"""LoRAs for the shipped UNet: its weights stay as exported, and what is learnt is two small factors a layer."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from deployments.embedded.training.train.diffusion import Generator
from deployments.embedded.training.train.export import adapted_unet, weight_files, write_folder
from deployments.embedded.training.train.precision import autocast

RANK = 8
MATRIX_RATE, OTHER_RATE = 1e-2, 5e-3  # peaks of the learning rates; five times the generator's
Layer = nn.Linear | nn.Conv2d


class Factors(nn.Module):
    """What a LoRA adds to a layer: `up` of `down` of its input; a new one adds nothing."""

    def __init__(self, base: Layer) -> None:
        super().__init__()
        if isinstance(base, nn.Conv2d):
            shape: dict[str, Any] = {name: getattr(base, name) for name in ("stride", "padding", "dilation")}
            self.down: Layer = nn.Conv2d(base.in_channels, RANK, base.kernel_size, bias=False, **shape)  # type: ignore[arg-type]
            self.up: Layer = nn.Conv2d(RANK, base.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(base.in_features, RANK, bias=False)
            self.up = nn.Linear(RANK, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)  # `down` is torch's own, uniform by fan-in

    def forward(self, values: Tensor) -> Tensor:
        """As the layer."""
        out: Tensor = self.up(self.down(values))
        return out


class AdaptedLayer(nn.Module):
    """A frozen layer, and the factors of the LoRAs that are worn."""

    def __init__(self, base: Layer) -> None:
        super().__init__()
        self.base = base
        self.worn: Sequence[Factors] = ()

    def forward(self, values: Tensor) -> Tensor:
        """As the layer that it replaces."""
        out: Tensor = self.base(values)
        for factors in self.worn:
            out = out + factors(values)
        return out


class Lora(nn.Module):
    """Factors for layers of the UNet, by their names."""

    def __init__(self, bases: Mapping[str, Layer]) -> None:
        super().__init__()
        self.factors = {name: Factors(base) for name, base in bases.items()}
        self.layers = nn.ModuleDict({name.replace(".", "/"): each for name, each in self.factors.items()})

    def _weights(self) -> dict[str, Tensor]:
        """By the names that peft and diffusers have; an alpha that is not told is the rank."""
        return {
            f"unet.{name}.{kind}.weight": part.weight
            for name, each in self.factors.items()
            for kind, part in (("lora_A", each.down), ("lora_B", each.up))
        }

    def save(self, path: Path) -> None:
        """In half precision."""
        half = {name: weight.detach().half().contiguous() for name, weight in self._weights().items()}
        write_folder(path.parent, lambda draft: save_file(half, draft / path.name, {"format": "pt"}))

    def load(self, path: Path) -> None:
        """Takes over a file of `save`. Raises: OSError; KeyError where it was made for other layers."""
        saved = load_file(path)
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(saved[name])


class ShippedGenerator(nn.Module):
    """The exported text encoder, UNet and adapter, frozen; its layers may wear LoRAs."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of `export_diffusion`. Raises: OSError where a file is missing."""
        super().__init__()
        self.tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.generator = Generator(self.tokenizer)
        self.generator.unet.load_state_dict(adapted_unet(folder).state_dict())
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
        self.generator.text.load_state_dict(text.state_dict())
        self.generator.requires_grad_(False).eval()
        self._layers: dict[str, AdaptedLayer] = {}
        unet = self.generator.unet
        for name, layer in list(unet.named_modules()):
            if isinstance(layer, nn.Linear | nn.Conv2d) and not is_of_adapter(name):
                parent, _, own = name.rpartition(".")
                self._layers[name] = AdaptedLayer(layer)
                setattr(unet.get_submodule(parent), own, self._layers[name])

    def new_lora(self) -> Lora:
        """For all layers; one that is worn changes nothing until it has learnt something."""
        return Lora({name: layer.base for name, layer in self._layers.items()})

    def read_lora(self, path: Path) -> Lora:
        """That of a file, frozen. Raises: as `Lora.load`."""
        lora = self.new_lora()
        lora.load(path)
        return lora.requires_grad_(False)

    @contextmanager
    def wearing(self, *loras: Lora) -> Iterator[None]:
        """Inside the block these LoRAs are added up; blocks are not nested."""
        for name, layer in self._layers.items():
            layer.worn = [lora.factors[name] for lora in loras]
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.worn = ()

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, faces: Tensor) -> Tensor:
        """As `Generator`, computed as in its training; v in float32."""
        with autocast():
            predicted: Tensor = self.generator(noisy, timesteps, tokens, faces)
        return predicted.float()


def is_of_adapter(name: str) -> bool:
    """Whether a layer of an adapted UNet is none of the plain one."""
    return ".processor." in name or name.startswith("encoder_hid_proj.")


def fingerprint(*files: Path) -> str:
    """12 hex digits of the content of files and folders: what is learnt for one base is not gone on with on another."""
    digest = hashlib.sha256()
    for path in files:
        for each in weight_files(path) if path.is_dir() else [path]:
            digest.update(each.read_bytes())
    return digest.hexdigest()[:12]
