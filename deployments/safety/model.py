"""Safety checkers: which images are to be withheld."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModelForImageClassification

from deployments.common.device_health import lost_device_errors
from deployments.config import ClassifierConfig, ConceptCheckerConfig, SafetyConfig, model_path
from deployments.safety.checker import SafetyChecker
from deployments.safety.picture import PictureFormat
from deployments.types import Pixels

SPECIAL_CARE = 0.01  # added to the cosine similarities of pictures that are close to a special-care concept
DTYPES = {"float32": torch.float32, "float16": torch.float16}


class ConceptChecker:
    """The checker of Stable Diffusion: CLIP similarity of a picture to seventeen unnamed concepts.

    diffusers' own forward also blackens the pictures and logs; this makes the same decision, vectorised, on the device.
    """

    def __init__(self, model: StableDiffusionSafetyChecker, picture_format: PictureFormat) -> None:
        self._model = model
        self._format = picture_format
        self._concepts = normalize(model.concept_embeds.float())
        self._special = normalize(model.special_care_embeds.float())

    @torch.inference_mode()
    def flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether the cosine with any concept exceeds that concept's own threshold, for each picture (h, w, 3).

        A picture close to a special-care concept has its cosines raised by SPECIAL_CARE. Raises: DeviceLostError.
        """
        with lost_device_errors(self._concepts.device):
            return self._flags(pictures)

    def _flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        inputs = self._format.tensor(pictures).to(self._concepts.device, self._model.dtype)
        pooled = self._model.vision_model(inputs).pooler_output
        embeddings = normalize(self._model.visual_projection(pooled).float())
        special = embeddings @ self._special.T - self._model.special_care_embeds_weights.float()
        care = SPECIAL_CARE * (_rounded(special) > 0).any(dim=1, keepdim=True)
        concepts = embeddings @ self._concepts.T - self._model.concept_embeds_weights.float() + care
        return [bool(flag) for flag in (_rounded(concepts) > 0).any(dim=1).tolist()]


class ImageClassifier:
    """An image classifier of transformers: a picture is withheld where one of `labels` reaches the threshold."""

    def __init__(self, model: Any, picture_format: PictureFormat, labels: Sequence[str], threshold: float) -> None:
        """Raises: ValueError where the model lacks a label."""
        names = {str(name).casefold(): index for index, name in model.config.id2label.items()}
        if unknown := [label for label in labels if label.casefold() not in names]:
            raise ValueError(f"the classifier has no label {', '.join(unknown)}, but {', '.join(names)}")
        self._model = model
        self._format = picture_format
        self._labels = [int(names[label.casefold()]) for label in labels]
        self._threshold = threshold

    @torch.inference_mode()
    def flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        """Whether the softmax of any of `labels` reaches the threshold, for each (h, w, 3). Raises: DeviceLostError."""
        with lost_device_errors(self._model.device):
            return self._flags(pictures)

    def _flags(self, pictures: Sequence[Pixels]) -> list[bool]:
        inputs = self._format.tensor(pictures).to(self._model.device, self._model.dtype)
        chances = self._model(pixel_values=inputs).logits.float().softmax(dim=1)
        return [bool(flag) for flag in (chances[:, self._labels] >= self._threshold).any(dim=1).tolist()]


def load_checker(config: SafetyConfig, device: str) -> SafetyChecker:
    """Raises: OSError where files are missing; ValueError where they are not valid."""
    folder = model_path(config.path)
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    files = {"local_files_only": True, "dtype": DTYPES[config.dtype], "use_safetensors": True}
    picture_format = PictureFormat.read(model_path(config.preprocessor) if config.preprocessor else folder)
    match config:
        case ConceptCheckerConfig():
            checker = StableDiffusionSafetyChecker.from_pretrained(folder, variant=config.variant, **files)
            return ConceptChecker(checker.eval().to(device), picture_format)
        case ClassifierConfig():
            model = AutoModelForImageClassification.from_pretrained(folder, **files)
            return ImageClassifier(model.eval().to(device), picture_format, config.labels, config.threshold)


def _rounded(margins: Tensor) -> Tensor:
    """To three decimals, as diffusers does before it compares with zero."""
    return torch.round(margins, decimals=3)
