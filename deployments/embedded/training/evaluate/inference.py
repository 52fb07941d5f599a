"""Inference with the exported weights through diffusers' own pipeline, for inspection and measurement."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from deployments.embedded.training.renderer.photo import render_photo
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.train.export import ADAPTER_FILE
from deployments.face.alignment import crop_face, encoder_input

STEPS, GUIDANCE = 12, 1.5
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Reference:
    """A photo and its face's box."""

    name: str
    photo: NDArray[np.uint8]
    box: Box

    @property
    def crop(self) -> NDArray[np.uint8]:
        """The face encoder's input crop, (CROP_SIZE, CROP_SIZE, 3)."""
        return crop_face(self.photo, self.box)


def drawn_reference(name: str, person: Portrait, seed: int) -> Reference:
    """A photo-like picture (256, 256, 3) of a drawn person; the seed fixes pose, light and background."""
    view = render_photo(person, np.random.default_rng(seed), size=256)
    return Reference(name, np.asarray(view.picture, dtype=np.uint8), view.box)


def real_references() -> list[Reference]:
    """Photos that scikit-image and InsightFace ship; the boxes are those of scikit-image's cascade."""
    import insightface
    from skimage.data import astronaut

    images = Path(insightface.__file__).parent / "data" / "images"
    group = np.asarray(Image.open(images / "t1.jpg").convert("RGB"), dtype=np.uint8)
    hanks = np.asarray(Image.open(images / "Tom_Hanks_54745.png").convert("RGB"), dtype=np.uint8)
    boxes: dict[str, Box] = {
        "blond woman": (1114, 277, 1234, 397),
        "fair woman": (51, 268, 173, 390),
        "black-haired man": (452, 277, 583, 408),
        "dark-haired man": (725, 352, 847, 474),
    }
    return [
        Reference("astronaut", np.asarray(astronaut(), dtype=np.uint8), (175, 66, 276, 167)),
        Reference("grey photo", hanks, (21, 17, 98, 94)),
        *(Reference(name, group, box) for name, box in boxes.items()),
    ]


class Studio:
    """The embedded models, loaded as the service loads them."""

    def __init__(self, weights: Path) -> None:
        self.encoder, self.likeness = (
            onnxruntime.InferenceSession(str(weights / "face" / name), providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "likeness.onnx")
        )
        self.pipeline: Any = StableDiffusionPipeline.from_pretrained(
            weights / "diffusion", safety_checker=None, feature_extractor=None, requires_safety_checker=False,
            dtype=torch.float32,
        )  # fmt: skip
        self.pipeline.load_ip_adapter(
            str(weights / "diffusion"), subfolder="", weight_name=ADAPTER_FILE, image_encoder_folder=None
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops (n, CROP_SIZE, CROP_SIZE, 3) -> (n, 512), each of length 1."""
        (embeddings,) = self.encoder.run(None, {"input": encoder_input(crops)})
        return np.asarray(embeddings, dtype=np.float32)

    def liken(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Crops (n, CROP_SIZE, CROP_SIZE, 3) -> (n, width), each of length 1: what `face_similarity` compares."""
        (vectors,) = self.likeness.run(None, {"input": encoder_input(crops)})
        return np.asarray(vectors, dtype=np.float32)

    def draw(
        self, embedding: NDArray[np.float32], prompt: str, seeds: list[int], steps: int = STEPS
    ) -> list[NDArray[np.uint8]]:
        """One picture a seed, (256, 256, 3) each, of one face: the pipeline gives all of its images the same."""
        face = torch.from_numpy(embedding[None, None])
        drawn = self.pipeline(
            [prompt] * len(seeds),
            negative_prompt=[""] * len(seeds),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            ip_adapter_image_embeds=[torch.cat([torch.zeros_like(face), face])],
            output_type="np",
        ).images
        return [np.asarray((picture * 255).round(), dtype=np.uint8) for picture in drawn]


def contact_sheet(rows: list[list[NDArray[np.uint8]]], cell: int = 256) -> Image.Image:
    """Pictures of any size, one row a list, each scaled to `cell` pixels a side; short rows end in white."""
    sheet = Image.new("RGB", (cell * max(len(row) for row in rows), cell * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS), (x * cell, y * cell))
    return sheet
