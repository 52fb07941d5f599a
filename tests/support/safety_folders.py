"""Small safety checkers in the formats of the real ones. Weights are random, but the same in every run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch.nn.functional import normalize
from transformers import CLIPConfig, ViTConfig, ViTForImageClassification

from deployments.safety.picture import PictureFormat
from deployments.types import Pixels

SIDE, WIDTH = 32, 16
OF_NO_PICTURE = 2.0  # a threshold that no cosine reaches


def write_preprocessor(folder: Path) -> None:
    """As CLIP's own, but for the sizes."""
    config = {
        "crop_size": SIDE, "size": SIDE, "do_center_crop": True, "do_resize": True, "do_normalize": True, "resample": 3,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def write_concept_checker(
    folder: Path, unsafe: Sequence[Pixels] = (), special: Sequence[Pixels] = (), variant: str | None = None
) -> None:
    """Flags pictures like the `unsafe` ones. Those like the `special` ones are held to stricter thresholds."""
    torch.manual_seed(3)
    model = StableDiffusionSafetyChecker(_clip_config()).eval()
    for weights in model.vision_model.parameters():
        if weights.dim() > 1:
            weights.data *= 10  # so that pictures differ
    write_preprocessor(folder)
    model.concept_embeds_weights.data.fill_(OF_NO_PICTURE)
    model.special_care_embeds_weights.data.fill_(OF_NO_PICTURE)
    for concepts, thresholds, pictures, near in (
        (model.concept_embeds, model.concept_embeds_weights, unsafe, 0.999),
        (model.special_care_embeds, model.special_care_embeds_weights, special, 0.999),
    ):
        for place, picture in enumerate(pictures):
            concepts.data[place] = embedding(model, folder, picture)
            thresholds.data[place] = near
    model.save_pretrained(folder, variant=variant)


def embedding(model: StableDiffusionSafetyChecker, folder: Path, picture: Pixels) -> torch.Tensor:
    with torch.no_grad():
        pooled = model.vision_model(PictureFormat.read(folder).tensor([picture])).pooler_output
        return normalize(model.visual_projection(pooled))[0].clone()


def write_classifier(folder: Path, unsafe: Pixels, labels: Sequence[str] = ("normal", "nsfw")) -> None:
    """A ViT whose last label is sure of pictures like the `unsafe` one, and of nothing else."""
    torch.manual_seed(4)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=SIDE,
            patch_size=8, id2label=dict(enumerate(labels)), label2id={label: at for at, label in enumerate(labels)},
        )
    ).eval()  # fmt: skip
    write_preprocessor(folder)
    with torch.no_grad():
        state = model.vit(PictureFormat.read(folder).tensor([unsafe])).last_hidden_state[0, 0]
    direction = normalize(state, dim=0)
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.zero_()
    model.classifier.weight.data[-1] = 400 * direction
    model.classifier.bias.data[-1] = -400 * 0.995 * state.norm()
    model.save_pretrained(folder)


def _clip_config() -> CLIPConfig:
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8, "projection_dim": 8,
    }  # fmt: skip
    return CLIPConfig(
        vision_config=vision, text_config={"hidden_size": WIDTH, "num_hidden_layers": 1}, projection_dim=8
    )


def flat(*color: int) -> Pixels:
    return np.full((64, 64, 3), color, np.uint8)
