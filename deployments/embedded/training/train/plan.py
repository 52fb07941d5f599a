"""Sizes and paths of the training, and its longest part: the generator, in one process a core."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from deployments.embedded.training.data.dataset import Folder, person_of
from deployments.embedded.training.renderer.appearance import embeddings_of
from deployments.embedded.training.train.checkpoint import Length
from deployments.embedded.training.train.detector import FaceFinder
from deployments.embedded.training.train.diffusion import Examples, train_diffusion
from deployments.embedded.training.train.face import train_face_encoder
from deployments.embedded.training.train.face_encoder import FaceEncoder
from deployments.embedded.training.train.likeness import LikenessNet
from deployments.embedded.training.train.together import run_together
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

    def examples(self) -> Examples:
        """The generator learns from the codes of the persons themselves, so that it need not wait for the encoder."""
        persons = [person_of(self.seed + 1, index)[0] for index in range(self.persons)]
        pictures, portraits = self.data.array("avatars"), self.data.portraits("avatars")
        return Examples(pictures, portraits, persons, embeddings_of(persons))


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
