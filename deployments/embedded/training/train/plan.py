"""Sizes and paths of the training, and its longest part: the generator, in one process a core."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPTokenizer

from deployments.embedded.training.data.dataset import Folder, person_of
from deployments.embedded.training.data.styled import all_pictures, of_style
from deployments.embedded.training.renderer.appearance import embeddings_of
from deployments.embedded.training.renderer.portrait import Portrait
from deployments.embedded.training.renderer.shaders.styles import STYLES
from deployments.embedded.training.train.checkpoint import Length
from deployments.embedded.training.train.detector import FaceFinder
from deployments.embedded.training.train.diffusion import Batches, Examples, train_diffusion
from deployments.embedded.training.train.face import train_face_encoder
from deployments.embedded.training.train.face_encoder import FaceEncoder
from deployments.embedded.training.train.fewstep import train_fewstep
from deployments.embedded.training.train.likeness import LikenessNet
from deployments.embedded.training.train.lora import ShippedGenerator, fingerprint
from deployments.embedded.training.train.styles import train_style
from deployments.embedded.training.train.together import Together, run_together
from deployments.embedded.training.train.trajectories import Kept
from deployments.embedded.training.train.verifier import FaceVerifier


@dataclass(frozen=True)
class Plan:
    """How much of everything; the seed fixes data, order and noise."""

    cache: Path
    weights: Path
    seed: int
    workers: int
    persons: int
    faces: int
    large: int
    face_steps: int
    face_minutes: float | None
    likeness_steps: int
    likeness_minutes: float | None
    decoder_steps: int
    matting_steps: int
    text_steps: int
    judge_steps: int
    diffusion_steps: int
    minutes: float | None
    batch: int
    from_weights: bool
    heads: int
    canvases: int
    scenes: Path | None
    finder_steps: int
    finder_minutes: float | None
    verifier_steps: int
    verifier_minutes: float | None
    styled: int
    style_steps: int
    style_minutes: float | None
    trajectories: int
    fewstep_steps: int
    fewstep_minutes: float | None
    figures: Path | None
    light: Path | None
    note: str | None

    @property
    def data(self) -> Folder:
        """The drawn training sets, below the cache."""
        return Folder(self.cache / "data")

    @property
    def checkpoint(self) -> Path:
        """Of the generator; it need not exist."""
        return self.cache / "diffusion.pt"

    @property
    def meeting(self) -> Path:
        """The file through which processes that train together find each other."""
        return self.cache / "rendezvous"

    @property
    def faces_in_scenes(self) -> Path:
        """The folder of the face detector's training pictures."""
        return self.cache / "data" / "faces"

    def finder(self) -> FaceFinder:
        """The trained one, in evaluation mode. Raises: FileNotFoundError before it was trained."""
        finder = FaceFinder()
        finder.load_state_dict(torch.load(self.cache / "finder.pt", weights_only=True)["network"])
        return finder.eval()

    def verifier(self) -> FaceVerifier:
        """The trained one, in evaluation mode. Raises: FileNotFoundError before it was trained."""
        verifier = FaceVerifier()
        verifier.load_state_dict(torch.load(self.cache / "verifier.pt", weights_only=True)["network"])
        return verifier.eval()

    def tokenizer(self) -> CLIPTokenizer:
        """The one that `run_tokenizer` saved. Raises: OSError where there is none."""
        return CLIPTokenizer.from_pretrained(self.cache / "tokenizer")

    def face_encoder(self) -> FaceEncoder:
        """The trained one, in evaluation mode. Raises: FileNotFoundError before it was trained."""
        encoder = FaceEncoder()
        encoder.load_state_dict(torch.load(self.cache / "face.pt", weights_only=True)["network"])
        return encoder.eval()

    def likeness(self) -> LikenessNet:
        """The trained one, in evaluation mode. Raises: FileNotFoundError before it was trained."""
        likeness = LikenessNet()
        likeness.load_state_dict(torch.load(self.cache / "likeness.pt", weights_only=True)["network"])
        return likeness.eval()

    def persons_of(self, count: int) -> list[Portrait]:
        """The first of those in the sets of avatars, as photographed."""
        return [person_of(self.seed + 1, index)[0] for index in range(count)]

    def examples(self) -> Examples:
        """The generator learns from the codes of the persons themselves, so that it need not wait for the encoder."""
        persons = self.persons_of(self.persons)
        pictures, portraits = self.data.array("avatars"), self.data.portraits("avatars")
        return Examples(pictures, portraits, persons, embeddings_of(persons))

    def pictures(self, name: str) -> tuple[NDArray[np.uint8], list[Portrait]]:
        """All of the set `large` or `avatars`, (n, side, side, 3 or 4), and whom they show; in styles too.

        Raises: FileNotFoundError before they are drawn.
        """
        return all_pictures(self.data, name, with_styles=self.styled > 0)

    def lora_file(self, name: str) -> Path:
        """Of a style, or `fewstep`; it need not exist."""
        return self.weights / "loras" / f"{name}.safetensors"

    def shipped(self) -> ShippedGenerator:
        """The exported generator. Raises: OSError where there is none."""
        return ShippedGenerator(self.weights / "diffusion")


def run_styles(plan: Plan) -> None:
    """Trains a LoRA for each style on the exported generator and writes it beside; in one process a worker.

    They go on from the checkpoints `style-NAME-BASE.pt`, where BASE stands for the content of the exported files. With
    `styled` 0 there are none.
    """
    run_together(plan.workers, plan.meeting, partial(train_styles, plan))


def run_fewstep(plan: Plan) -> None:
    """Trains the LoRA for four steps, which composes with the styles whose files exist, and writes it beside them."""
    run_together(plan.workers, plan.meeting, partial(train_speed, plan))


def train_styles(plan: Plan) -> None:
    """Trains the styles in this process, one after the other; it may be one of several that average their gradients."""
    shipped, base = plan.shipped(), fingerprint(plan.weights / "diffusion")
    length = Length(plan.style_steps, plan.style_minutes)
    persons = plan.persons_of(plan.styled)
    for style in STYLES if plan.styled else ():
        pictures, portraits = of_style(plan.data, style)
        examples = Examples(pictures, portraits, persons, embeddings_of(persons))
        checkpoint = plan.cache / f"style-{style}-{base}.pt"
        lora = train_style(shipped, examples, length, plan.seed, checkpoint, plan.batch)
        if Together().rank == 0:
            lora.save(plan.lora_file(style))


def train_speed(plan: Plan) -> None:
    """Trains the LoRA for four steps in this process, which may be one of several that average their gradients."""
    shipped, files = plan.shipped(), {str(style): plan.lora_file(style) for style in STYLES}
    styles = {style: shipped.read_lora(path) for style, path in files.items() if path.exists()}
    base = fingerprint(plan.weights / "diffusion", *(files[style] for style in styles))
    lora = train_fewstep(
        shipped,
        styles,
        Batches(plan.examples(), shipped.tokenizer, plan.batch, plan.seed),
        Length(plan.fewstep_steps, plan.fewstep_minutes),
        plan.seed,
        plan.cache / f"fewstep-{base}.pt",
        Kept(plan.cache / f"trajectories-{base}", max(1, plan.trajectories // plan.batch)),
    )
    if Together().rank == 0:
        lora.save(plan.lora_file("fewstep"))


def run_diffusion(plan: Plan) -> None:
    """Trains the generator, in one process a worker."""
    run_together(plan.workers, plan.meeting, partial(train_with, plan))


def run_face(plan: Plan) -> None:
    """Trains the face encoder on the photos, from the checkpoint `face.pt` where it exists, in one process a worker."""
    run_together(plan.workers, plan.meeting, partial(train_face, plan))


def train_face(plan: Plan) -> None:
    """Trains the face encoder in this process, which may be one of several that average their gradients."""
    length = Length(plan.face_steps, plan.face_minutes)
    photos, persons = plan.data.array("photos"), plan.data.portraits("photos")
    train_face_encoder(photos, persons, length, plan.seed, plan.cache / "face.pt")


def train_with(plan: Plan) -> None:
    """Trains the generator in this process, which may be one of several that average their gradients."""
    train_diffusion(
        plan.examples(),
        plan.tokenizer(),
        plan.checkpoint,
        plan.cache / "text.pt",
        plan.diffusion_steps,
        plan.seed,
        plan.minutes,
        plan.batch,
        exported=plan.weights / "diffusion" if plan.from_weights else None,
    )
