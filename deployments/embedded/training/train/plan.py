"""Sizes and paths of the training, and its longest part: the generator, in one process a core."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import CLIPTokenizer

from deployments.embedded.training.data.dataset import Folder, person_of
from deployments.embedded.training.renderer.appearance import embeddings_of
from deployments.embedded.training.train.detector import FaceFinder
from deployments.embedded.training.train.diffusion import Examples, train_diffusion
from deployments.embedded.training.train.face_encoder import FaceEncoder
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
    decoder_steps: int
    matting_steps: int
    text_steps: int
    judge_steps: int
    diffusion_steps: int
    minutes: float | None
    batch: int
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
        encoder.load_state_dict(torch.load(self.cache / "face.pt", weights_only=True))
        return encoder.eval()

    def examples(self) -> Examples:
        """The generator learns from the codes of the persons themselves, so that it need not wait for the encoder."""
        persons = [person_of(self.seed + 1, index)[0] for index in range(self.persons)]
        return Examples(self.data.array("avatars"), self.data.portraits("avatars"), embeddings_of(persons))


def run_diffusion(plan: Plan) -> None:
    """One process a core beats one process with many threads where other work shares the machine."""
    meeting = plan.cache / "rendezvous"
    meeting.unlink(missing_ok=True)
    if plan.workers == 1:
        train_with(plan)
    else:
        spawn(train_as_one_of, (plan, torch.get_num_threads()), nprocs=plan.workers)  # type: ignore[no-untyped-call]


def train_as_one_of(rank: int, plan: Plan, threads: int) -> None:
    """One process of `plan.workers`, which meet through a file in the cache; `threads` are those of all together."""
    torch.set_num_threads(max(1, threads // plan.workers))
    torch.set_flush_denormal(True)
    dist.init_process_group(
        "gloo", init_method=f"file://{plan.cache / 'rendezvous'}", rank=rank, world_size=plan.workers
    )
    train_with(plan)
    dist.destroy_process_group()


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
    )
